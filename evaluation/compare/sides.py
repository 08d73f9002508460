"""What two sides have in common: their model, and the networks that are asked about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from ...errors import GmosError
from ...networks import AUTO, BACKENDS
from ...runtime.bundle.uploading import HOST, Dtypes, dtypes_of
from ...runtime.comparison.parity import LIMITS
from ...runtime.contract import ModelSpec, NetworkName, TensorSpec, network_specs
from ...runtime.precision import PRECISIONS, PrecisionName
from ...sides import Side


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


def side_precision(side: Side) -> PrecisionName:
    """What a side computes in: fp32 where nothing is known of it, as of masks.

    Raises:
        GmosError: its networks cannot be used.
    """
    if side.masks is not None:
        return "fp32"
    bundle = side.open_bundle()
    if bundle is not None:
        return PRECISIONS[bundle.precision].name
    given, entry = side.networks.precision, BACKENDS[side.networks.backend]
    if given == AUTO and entry.name == "torch":
        from ...gmos_ref.loading import choose_device, choose_precision  # noqa: PLC0415 - imports PyTorch

        return choose_precision(given, choose_device(side.networks.device))
    return "fp32" if given == AUTO else given


def limits_of(sides: Iterable[Side]) -> PrecisionName:
    """The precision whose limits two sides are held to: that of the less exact one.

    Raises:
        GmosError: as `side_precision`.
    """
    return max(
        (side_precision(side) for side in sides), key=lambda name: (LIMITS[name].relative, name == "fp8")
    )


def require_same_model(a: Side, model_a: ModelSpec, b: Side, model_b: ModelSpec) -> None:
    """Refuse sides that one run cannot compare.

    Raises:
        GmosError: their networks have different sizes, or are of another variant.
    """
    for field in fields(ModelSpec):
        has_a, has_b = getattr(model_a, field.name), getattr(model_b, field.name)
        if has_a != has_b:
            raise GmosError(
                f"{a.text} has {field.name} {has_a} and {b.text} {has_b}; expected the same networks: name sides of "
                "one preset and variant, and export a bundle again if its preset has changed"
            )


def input_dtypes(side: Side, model: ModelSpec) -> dict[NetworkName, Dtypes]:
    """The dtype of every input of a side's networks.

    The reference takes float32 for its own precision and rounds it itself.
    """
    bundle = side.open_bundle()
    if bundle is not None:
        networks = bundle.networks
        return {name: dtypes_of(network.inputs) for name, network in networks.items()}
    return {
        name: {one.name: _dtype(one) for one in spec.inputs} for name, spec in network_specs(model).items()
    }


def _dtype(tensor: TensorSpec) -> str:
    return HOST if tensor.host else "float32" if tensor.dtype == "compute" else str(tensor.dtype)
