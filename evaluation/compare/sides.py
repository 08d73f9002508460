"""A side of a comparison as it is written on a command line, and the masks that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ...errors import GmosError
from ...runtime.backend import Backend
from ...runtime.bundle.manifest import open_bundle
from ...runtime.bundle.uploading import HOST, Dtypes, dtypes_of
from ...runtime.contract import ModelSpec, NetworkName, network_specs
from ...runtime.video.inputs import resolve_inputs
from ...runtime.video.sequence import SequenceInput

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Videos:
    """What both sides run on: .mp4 files or frame directories; `fps` and `stride` as gmos-run's options."""

    inputs: tuple[Path, ...]
    fps: float | None = None
    stride: int | None = None

    def sequences(self) -> list[SequenceInput]:
        """The checked inputs, in their order.

        Raises:
            GmosError: as `resolve_inputs`.
        """
        return resolve_inputs(self.inputs, fps=self.fps, stride=self.stride)


WrapBackend = Callable[[Backend], Backend]
"""What a backend is wrapped in once it is loaded."""

RunVideo = Callable[[Side, Videos, Path, WrapBackend], None]
"""Runs a side on videos, masks into a directory."""

LoadSide = Callable[[Side], Backend]
"""Loads the networks of a side."""


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


def chosen_networks(names: str | None, model: ModelSpec) -> tuple[NetworkName, ...]:
    """The networks of `--networks`, joined by commas, in the contract's order; all of them for None.

    Raises:
        GmosError: the model has no network of that name.
    """
    known = tuple(network_specs(model))
    if names is None:
        return known
    wanted = names.split(",")
    for name in wanted:
        if name not in known:
            raise GmosError(f"--networks {name}: expected some of {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def require_same_model(a: Side, model_a: ModelSpec, b: Side, model_b: ModelSpec) -> None:
    """Refuse sides that one run cannot compare.

    Raises:
        GmosError: their networks have different sizes, or are of another variant.
    """
    pairs = [
        (field.name, getattr(model_a, field.name), getattr(model_b, field.name))
        for field in fields(ModelSpec)
    ]
    for name, has_a, has_b in pairs:
        if has_a != has_b:
            raise GmosError(
                f"{a.text} has {name} {has_a} and {b.text} {has_b}; expected the same networks: name sides of one "
                "preset and variant, and export a bundle again if its preset has changed"
            )


def input_dtypes(side: Side, model: ModelSpec) -> dict[NetworkName, Dtypes]:
    """The dtype of every input of a side's networks.

    The reference takes float32 for its own precision and rounds it itself.
    """
    if side.bundle is not None:
        networks = open_bundle(side.bundle).networks
        return {name: dtypes_of(network.inputs) for name, network in networks.items()}
    return {
        name: {
            tensor.name: HOST
            if tensor.host
            else "float32"
            if tensor.dtype == "compute"
            else str(tensor.dtype)
            for tensor in spec.inputs
        }
        for name, spec in network_specs(model).items()
    }
