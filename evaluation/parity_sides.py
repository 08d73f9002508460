"""A side of a comparison as it is written on a command line, and the masks that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import GmosError

KINDS = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx", "masks")

FOLDER_OPTION = {"torch": "preset", "masks": "masks"}
"""What a side's only unnamed value means; a bundle for all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side: networks to run, or masks that are there already.

    `kind` is a backend of gmos-run, or `masks`. The other fields are gmos-run's options.
    """

    text: str
    kind: str
    masks: Path | None = None
    bundle: Path | None = None
    preset: str | None = None
    variant: str | None = None
    device: str = "auto"
    precision: str = "auto"
    pi3_ckpt: Path | None = None
    sam2_ckpt: Path | None = None
    gmos_ckpt: Path | None = None
    gmos_s_ckpt: Path | None = None

    def run_options(self) -> dict[str, object]:
        """The options of the run that makes its masks."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("text", "kind", "masks"):
            del named[name]
        return {"backend": self.kind, **named}


PATHS = ("masks", "bundle", "pi3_ckpt", "sam2_ckpt", "gmos_ckpt", "gmos_s_ckpt")

RunVideo = Callable[[Side, Sequence[Path], Path], None]
"""Runs a side on videos, masks into a directory."""


def parse_side(option: str, text: str) -> Side:
    """Read `KIND:VALUE` or `KIND:NAME=VALUE,NAME=VALUE`, such as `torch:nano` or `onnxruntime:bundle=DIR`.

    Args:
        option: that it was given with, for messages.
        text: as given.

    Raises:
        GmosError: the kind or an option of it is not known, or a bundle or directory is missing.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise GmosError(
            f"{option} {text}: expected KIND:VALUE with one of {', '.join(KINDS)}, such as torch:small, "
            "onnxruntime:DIR or masks:DIR"
        )
    values = _values(option, text, kind, rest)
    for name in PATHS:
        if name in values:
            path = Path(values[name])
            if not path.exists():
                raise GmosError(f"{option} {text}: {path} does not exist")
    if kind == "masks" and "masks" not in values:
        raise GmosError(f"{option} {text}: expected masks:DIR with a directory of label-map PNGs")
    if kind not in FOLDER_OPTION and "bundle" not in values:
        raise GmosError(f"{option} {text}: expected {kind}:DIR with a bundle, made by gmos-export onnx")
    paths = {name: Path(value) for name, value in values.items() if name in PATHS}
    words = {name: value for name, value in values.items() if name not in PATHS}
    return Side(text=text, kind=kind, **paths, **words)  # type: ignore[arg-type]  # split by PATHS


def _values(option: str, text: str, kind: str, rest: str) -> Mapping[str, str]:
    known = ["masks"] if kind == "masks" else [field.name for field in fields(Side)][3:]
    values: dict[str, str] = {}
    # A path may hold a comma or an equals sign: the first value may stand alone.
    parts = rest.split(",") if "=" in rest else [f"{FOLDER_OPTION.get(kind, 'bundle')}={rest}"]
    for part in parts if rest else []:
        name, equals, value = part.partition("=")
        if not equals or name not in known or not value:
            raise GmosError(f"{option} {text}: {part!r} is no NAME=VALUE with one of {', '.join(known)}")
        if name in values:
            raise GmosError(f"{option} {text}: {name} is given twice")
        values[name] = value
    return values
