"""A run's options as a recipe has them: what `--recipe` does to what else was asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import GmosError
from .runtime.levers import LEVERS, Levers

if TYPE_CHECKING:
    from .networks import NetworkSource
    from .runtime.pipeline.options import RunOptions

logger = logging.getLogger(__name__)

CONDITIONING = "max_conditioning"

LEVER_NAMES = (*LEVERS, CONDITIONING)
"""What a recipe may set, by the names of options."""


def with_levers(options: RunOptions, values: Mapping[str, Any]) -> RunOptions:
    """Options with levers by name, in place of those that they have.

    Raises:
        GmosError: a lever is not known, or its value is out of range.
    """
    unknown = sorted(values.keys() - set(LEVER_NAMES))
    if unknown:
        raise GmosError(
            f"{unknown[0]} is no lever of this version; expected some of {', '.join(LEVER_NAMES)}"
        )
    levers = Levers(**{name: value for name, value in values.items() if name in LEVERS})
    return replace(options, levers=levers, max_conditioning=values.get(CONDITIONING))


def levers_of(options: RunOptions) -> dict[str, Any]:
    """The levers of options that are not at their exact settings, by name."""
    bounded = {} if options.max_conditioning is None else {CONDITIONING: options.max_conditioning}
    return {**options.levers.settings(), **bounded}


def with_recipe(options: RunOptions, recipe: str | None, source: NetworkSource) -> RunOptions:
    """The options that a recipe makes of others, for networks that are known.

    Args:
        options: as asked for; levers among them would contradict the recipe.
        recipe: a name in the networks' bundle, a file, or "exact"; None changes nothing.
        source: the networks.

    Raises:
        GmosError: there is no such recipe, it is of another variant, or levers were given as well.
    """
    if recipe is None:
        return options
    from .runtime.bundle.recipe import EXACT_RECIPE, find_recipe  # noqa: PLC0415 - only runs with a recipe read one

    given = levers_of(options)
    if given:
        raise GmosError(
            f"--recipe {recipe} and --{next(iter(given))} were both given; a recipe sets all levers: give one"
        )
    if recipe == EXACT_RECIPE:
        return options
    bundle = source.bundle()
    found = find_recipe(recipe, None if bundle is None else bundle.root)
    if found.variant != source.model.variant:
        raise GmosError(
            f"--recipe {recipe} was tuned for {found.variant}, and the networks are {source.model.variant}; "
            "tune one for them, or leave it out"
        )
    if found.bundle != (None if bundle is None else bundle.identity):
        logger.warning(
            "recipe %s was tuned with other networks than these: what it keeps of their masks is not known",
            found.name,
        )
    for name, value in found.networks.items():
        if {"local_layers": source.model.local_layers, "precision": source.choice.precision}.get(
            name
        ) != value:
            raise GmosError(
                f"--recipe {recipe} was tuned with --{name} {value}, and these networks have another; give "
                f"--{name} {value} with it, or tune them"
            )
    logger.info("recipe %s: %s", found.name, found.line())
    return with_levers(options, found.levers)
