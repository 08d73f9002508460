"""Sides of a comparison or a profile, as `torch:nano` or `masks:DIR`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import GmosError
from .networks import AUTO, BACKENDS, CHECKPOINTS, VARIANTS, NetworkChoice
from .recipes import LEVER_NAMES, with_levers, with_recipe
from .runtime.precision import PRECISIONS

if TYPE_CHECKING:
    from .runtime.backend import Backend
    from .runtime.bundle.manifest import Bundle
    from .runtime.contract import ModelSpec
    from .runtime.files.made_from import MadeFrom
    from .runtime.pipeline.options import RunOptions

SIDE_OPTIONS = (
    "bundle",
    "preset",
    "variant",
    "device",
    "precision",
    "local_layers",
    "share_block",
    *CHECKPOINTS,
)
"""Fields of `NetworkChoice` that a side may name."""

RECIPE = "recipe"
SIDE_LEVERS = (RECIPE, *LEVER_NAMES)
"""What a side may say of how it runs: a recipe, or levers by name."""

SIDE_PATHS = ("masks", "bundle", *CHECKPOINTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a comparison or profile: networks to run, or masks that are there already."""

    text: str
    choice: NetworkChoice | None = None
    masks: Path | None = None
    levers: Mapping[str, int | float] = field(default_factory=dict)
    recipe: str | None = None

    @property
    def networks(self) -> NetworkChoice:
        """Its networks, once it is known to have some."""
        if self.choice is None:
            raise ValueError(f"{self.text} has no networks")
        return self.choice

    @property
    def bundle(self) -> Path | None:
        """The directory of its bundle, if it runs one."""
        return None if self.choice is None else self.choice.bundle

    def made_from(self) -> MadeFrom:
        """The bundle and checkpoints of its networks.

        Raises:
            GmosError: as `gmos-run`.
        """
        return self.networks.resolve().made_from()

    def open_bundle(self) -> Bundle | None:
        """Its bundle, if it runs one, as far as the user trusts it.

        Raises:
            GmosError: it cannot be used.
        """
        from .runtime.bundle.manifest import open_bundle  # noqa: PLC0415 - only bundle runs need it

        return None if self.bundle is None else open_bundle(self.bundle, self.networks.trusted())

    def check(self) -> ModelSpec:
        """The sizes of its networks, once what a moment shows says that they can run.

        Raises:
            GmosError: as `load`.
        """
        source = self.networks.resolve()
        source.check()
        return source.model

    def require_no_levers(self, why: str) -> None:
        """Refuse a side with levers or a recipe.

        Raises:
            GmosError: it has some.
        """
        if self.levers or self.recipe is not None:
            raise GmosError(f"{self.text}: {why}; leave its levers out")

    def options(self, options: RunOptions) -> RunOptions:
        """How it runs: options with its levers, or those of its recipe.

        Raises:
            GmosError: a lever is out of range or not for its variant, or there is no such recipe.
        """
        if not self.levers and self.recipe is None:
            return options
        source = self.networks.resolve()
        own = with_levers(options, self.levers) if self.levers else options
        own = with_recipe(own, self.recipe, source)
        own.require(source.model.variant)
        return own

    def load(self) -> Backend:
        """Load its networks.

        Raises:
            GmosError: as `gmos-run`.
        """
        return self.networks.resolve().load()


def parse_side(option: str, text: str, trust: Mapping[str, Any] | None = None) -> Side:
    """Read `KIND:VALUE` or `KIND:NAME=VALUE,NAME=VALUE`, such as `torch:nano` or `onnxruntime:bundle=DIR`.

    Args:
        option: that it was given with, for messages.
        text: as given.
        trust: `NetworkChoice.trust` and `trust_engines`, which are for sides with a bundle.

    Raises:
        GmosError: the kind or an option of it is not known, or a bundle or directory is missing.
    """
    kind, _, rest = text.partition(":")
    if kind not in (*BACKENDS, "masks"):
        raise GmosError(
            f"{option} {text}: expected KIND:VALUE with one of {', '.join((*BACKENDS, 'masks'))}, such as "
            "torch:small, onnxruntime:DIR or masks:DIR"
        )
    lone = "masks" if kind == "masks" else "preset" if BACKENDS[kind].runs == "checkpoints" else "bundle"
    values = _side_values(f"{option} {text}", lone, rest)
    paths = {name: Path(value) for name, value in values.items() if name in SIDE_PATHS}
    for path in paths.values():
        if not path.exists():
            raise GmosError(f"{option} {text}: {path} does not exist")
    if kind == "masks":
        if "masks" not in values:
            raise GmosError(f"{option} {text}: expected masks:DIR with a directory of label-map PNGs")
        return Side(text=text, masks=paths["masks"])
    if lone == "bundle" and "bundle" not in values:
        raise GmosError(f"{option} {text}: expected {kind}:DIR with a bundle, made by gmos-export onnx")
    for name, known in (("variant", VARIANTS), ("precision", (AUTO, *PRECISIONS))):
        if values.get(name, known[0]) not in known:
            raise GmosError(f"{text}: {name} {values[name]}, expected one of {', '.join(known)}")
    levers = {
        name: _number(f"{option} {text}", name, values.pop(name)) for name in LEVER_NAMES if name in values
    }
    recipe = values.pop(RECIPE, None)
    given: dict[str, Any] = {**values, **paths, **((trust or {}) if "bundle" in paths else {})}
    for name, kind_of in (("local_layers", int), ("share_block", bool)):
        if name in given:
            given[name] = kind_of(_number(f"{option} {text}", name, given[name]))
    return Side(text=text, choice=NetworkChoice(backend=kind, **given), levers=levers, recipe=recipe)


def _number(given: str, name: str, text: str) -> int | float:
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError as error:
        raise GmosError(f"{given}: {name} {text}: expected a number") from error


def refuse_idle_trust(sides: Iterable[Side], trust: Mapping[str, Any] | None) -> None:
    """Refuse keys, or leave to run engines, that no side has a bundle for: whoever gave them thinks one was checked.

    Raises:
        GmosError: as said.
    """
    given = [f"--{name}" for name, value in (trust or {}).items() if value]
    if given and all(side.bundle is None for side in sides):
        raise GmosError(f"{given[0]} goes with a side that runs a bundle, and none does; leave it out")


def _side_values(given: str, lone: str, rest: str) -> dict[str, str]:
    known = ("masks",) if lone == "masks" else (*SIDE_OPTIONS, *SIDE_LEVERS)
    values: dict[str, str] = {}
    # A path may hold a comma or an equals sign: the first value may stand alone.
    parts = rest.split(",") if "=" in rest else [f"{lone}={rest}"]
    for part in parts if rest else []:
        name, equals, value = part.partition("=")
        if not equals or name not in known or not value:
            raise GmosError(f"{given}: {part!r} is no NAME=VALUE with one of {', '.join(known)}")
        if name in values:
            raise GmosError(f"{given}: {name} is given twice")
        values[name] = value
    return values
