"""Recipes: settings of levers that `gmos-export tune` found, in files of their own or beside a bundle's networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ...errors import GmosError
from ..contract import Variant
from ..files.atomic_file import replaced_at_end
from ..files.made_from import ClipOrigin
from ..files.typed_json import Whole, json_bytes, read_json, typed

FORMAT = 1
"""Of a recipe's file; a reader refuses newer ones."""

FOLDER = "recipes"
"""In a bundle."""

EXACT_RECIPE = "exact"
"""The name of no recipe at all: everything as published."""

NAME = re.compile(r"[\w-][\w.-]{0,63}")

ADVICE = "make it again with gmos-export tune"

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeAgreement:
    """How a result agrees with that of the exact run, as mean IoU: over all videos, and of the worst."""

    result: str
    mean: Share
    worst: Share
    worst_video: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Levers that are not at their exact settings, and what they were found on.

    `levers` by name as options of gmos-run have them. `bundle` is the SHA-256 of the `bundle.json` it was tuned with,
    None of checkpoints. `target_masks` is what every result of every video of `tuned_on` had to keep; `agreement` what
    was seen there, `held_out` on other videos. `speedup` is measured on `device`. `networks` is what checkpoints
    must be loaded as, by names of options: `precision`, `local_layers`.
    """

    format: Whole = FORMAT
    name: str
    variant: Variant
    levers: Mapping[str, Any]
    bundle: str | None
    backend: str
    device: str
    target_masks: Share
    speedup: float
    agreement: tuple[RecipeAgreement, ...]
    held_out: tuple[RecipeAgreement, ...] = ()
    tuned_on: tuple[ClipOrigin, ...] = ()
    held_out_on: tuple[ClipOrigin, ...] = ()
    warnings: tuple[str, ...] = ()
    made: str = ""
    networks: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """What it is, in one line."""
        levers = levers_text({**self.networks, **self.levers}) or "everything exact"
        kept = ", ".join(
            f"{one.result} {one.mean:.3f} (worst video {one.worst:.3f})" for one in self.agreement
        )
        videos = ", ".join(clip.name for clip in self.tuned_on) or "no videos"
        return f"{levers}: {self.speedup:.2f} times as fast on {self.device}, keeps {kept} of masks; tuned on {videos}"


def levers_text(levers: Mapping[str, Any]) -> str:
    """Levers as options have them; nothing where all are exact."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, 'g')}" for name, value in levers.items()
    )


def recipe_path(bundle: Path, name: str) -> Path:
    """Where a bundle has a recipe.

    Raises:
        GmosError: that is no name of a recipe.
    """
    if not NAME.fullmatch(name) or name == EXACT_RECIPE:
        raise GmosError(
            f"recipe {name!r:.80}: expected a name of letters, digits, - and _ other than {EXACT_RECIPE}, or a file"
        )
    return bundle / FOLDER / f"{name}.json"


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write it; a reader sees a whole file or none.

    Raises:
        GmosError: it cannot be written.
    """
    with replaced_at_end(path) as temporary:
        temporary.write_bytes(json_bytes(recipe))


def read_recipe(path: Path) -> Recipe:
    """A recipe's file.

    Raises:
        GmosError: it cannot be read or is no recipe of this version.
    """
    try:
        found = read_json(path, ADVICE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GmosError(f"there is no recipe {path}; {ADVICE}, or leave --recipe out") from error
    recipe = typed(found, Recipe, where=f"{path} is no recipe: {path.name}", advice=ADVICE)
    if recipe.format != FORMAT:
        raise GmosError(f"{path} has recipe format {recipe.format}, expected {FORMAT}; {ADVICE}")
    return recipe


def find_recipe(given: str, bundle: Path | None) -> Recipe:
    """The recipe of `--recipe`: a file, or a name in a bundle.

    Raises:
        GmosError: there is none.
    """
    path = Path(given)
    if path.suffix or len(path.parts) > 1:
        return read_recipe(path)
    if bundle is None:
        raise GmosError(
            f"--recipe {given} is a name, and there is no bundle to look in; give the recipe's file"
        )
    place = recipe_path(bundle, given)
    if not place.exists():
        known = ", ".join(sorted(one.stem for one in place.parent.glob("*.json"))) or "none"
        raise GmosError(
            f"--recipe {given}: {bundle} has no such recipe (there: {known}); {ADVICE}, or give a file"
        )
    return read_recipe(place)


def bundle_recipes(bundle: Path) -> dict[str, Recipe | str]:
    """The recipes of a bundle by name, or why one cannot be read."""
    return {path.stem: _readable(path) for path in sorted((bundle / FOLDER).glob("*.json"))}


def _readable(path: Path) -> Recipe | str:
    try:
        return read_recipe(path)
    except GmosError as error:
        return str(error)
