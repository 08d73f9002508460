"""The published checkpoints: networks are recognised and loaded strictly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...errors import GmosError
from .reading import KEY_LETTERS, State, read_state

Network = Literal["Pi3", "SAM2", "GMOS", "GMOS-S"]

FLAGS: dict[Network, str] = {
    "Pi3": "--pi3_ckpt",
    "SAM2": "--sam2_ckpt",
    "GMOS": "--gmos_ckpt",
    "GMOS-S": "--gmos_s_ckpt",
}
"""The command-line option that each checkpoint goes with."""

SIGNATURES: dict[Network, str] = {
    "Pi3": "encoder.patch_embed.proj.weight",
    "SAM2": "image_encoder.trunk.patch_embed.proj.weight",
    "GMOS": "obj_token",
    "GMOS-S": "fg_out.weight",
}
"""A key that only that network has, at any size."""

PI3_UNUSED_PREFIXES = (
    "point_decoder.",
    "point_head.",
    "conf_decoder.",
    "conf_head.",
    "camera_decoder.",
    "camera_head.",
)
"""Heads of the published Pi3 checkpoint that GMOS does not use."""

WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model|ema|net)\.)+")
"""What distributed training, torch.compile and trainers put before every key, also several of them."""

SAM2_SIZES = {(96, 12): "Hiera-T", (96, 16): "Hiera-S", (112, 24): "Hiera-B+", (144, 48): "Hiera-L"}
"""The published image encoders by channels of their first layer and number of blocks."""

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored as; 8-bit floats need scales that a state dict does not name."""

NAMED_KEYS = 3
"""How many offending keys a message names."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_network(path: Path, network: Network, build: Callable[[], ModuleT]) -> ModuleT:
    """A network from its published file, safetensors or pickled. Half-precision files become float32.

    Args:
        path: of the checkpoint.
        network: whose it is.
        build: makes the module; its weights need no memory.

    Raises:
        GmosError: the file cannot be used; see `network_state` and `assign_strict`.
    """
    state = network_state(path, network)
    with torch.device("meta"):
        module = build()
    assign_strict(module, state, path, network)
    return module.eval()


def network_state(path: Path, network: Network) -> State:
    """The state dict of a checkpoint, not yet held against a network: use `assign_strict`.

    Without the heads of Pi3 that GMOS does not use, and without what all keys have before the network's own.

    Raises:
        GmosError: the file cannot be read (see `read_state`) or belongs to another network.
    """

    def is_wanted(key: str) -> bool:
        return network != "Pi3" or not key.removeprefix(_wrapper(key)).startswith(PI3_UNUSED_PREFIXES)

    state = read_state(path, wanted=is_wanted)
    prefix = _common_prefix(state)
    wrapped = sum(key.startswith(prefix) for key in state)
    if wrapped != len(state):
        raise GmosError(
            f"{path}: {wrapped} of {len(state)} keys start with {prefix[:KEY_LETTERS]!r}, expected all or none; "
            "the file mixes two state dicts"
        )
    state = {
        key.removeprefix(prefix): tensor
        for key, tensor in state.items()
        if is_wanted(key.removeprefix(prefix))
    }
    if SIGNATURES[network] not in state:
        # Caught before keys are compared one by one.
        for other, key in SIGNATURES.items():
            if key in state:
                raise GmosError(
                    f"{path} looks like a {other} checkpoint and was given as {network}: "
                    f"give it with {FLAGS[other]}, and the {network} checkpoint with {FLAGS[network]}"
                )
    return state


def _wrapper(key: str) -> str:
    """What wrappers have put before a key; empty where nothing is."""
    found = WRAPPERS.match(key)
    return found[0] if found else ""


def _common_prefix(state: State) -> str:
    """What stands before the key by which a network is known, whatever it is; else the words of a wrapper."""
    before = {
        key.removesuffix(signature)
        for key in state
        for signature in SIGNATURES.values()
        if key == signature or key.endswith(f".{signature}")
    }
    return max(before, key=len, default="") or next((found for key in state if (found := _wrapper(key))), "")


def sam2_name(keys: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which of the published SAM2 networks has keys of these shapes; None if none has."""
    width = next(iter(keys.get(SIGNATURES["SAM2"], ())), 0)
    blocks = len({key.split(".")[3] for key in keys if key.startswith("image_encoder.trunk.blocks.")})
    size = SAM2_SIZES.get((width, blocks))
    version = "2.1" if any(key.startswith("obj_ptr_tpos_proj.") for key in keys) else "2.0"
    return None if size is None else f"SAM {version} {size}"


def check_keys(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], path: Path, what: str
) -> None:
    """Hold the keys and shapes of a checkpoint against those of the network.

    Args:
        expected: shape by key.
        given: tensors by key.
        path: the file, for the message.
        what: the network's name, for the message.

    Raises:
        GmosError: names the first keys that are missing, unexpected or of another shape, and counts them.
    """
    misshapen = [
        f"{key} is {list(given[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in given and tuple(given[key].shape) != tuple(shape)
    ]
    findings = (
        ("missing", [key for key in expected if key not in given]),
        ("unexpected", [key for key in given if key not in expected]),
        ("of another shape", misshapen),
    )
    faults = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in findings if keys]
    if faults:
        wanted, found = sam2_name(expected), sam2_name({key: tuple(one.shape) for key, one in given.items()})
        if found is not None and found != wanted:
            raise GmosError(
                f"{path} is {found}, expected {wanted or f'the {what} network of the preset'}: give its checkpoint"
            )
        raise GmosError(
            f"{path} does not fit the {what} network: keys {'; '.join(faults)}; "
            "check that the file and the preset belong together"
        )


def assign_strict(module: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load a state dict that must match the module key by key and shape by shape.

    Tensors are taken over as they are, without a copy, so the module may be on the meta device and
    memory holds the weights once. Those of another floating dtype than the module's are converted.
    Gradients are switched off.

    Raises:
        GmosError: as `check_keys`, a tensor is of no `WEIGHT_DTYPES` where the module's is, or has values that are
            not finite.
    """
    own = module.state_dict()
    check_keys({key: tuple(tensor.shape) for key, tensor in own.items()}, state, path, what)
    for key, tensor in own.items():
        if (state[key].dtype in WEIGHT_DTYPES) != tensor.is_floating_point():
            raise GmosError(
                f"{path}: {key} of the {what} network is {state[key].dtype}, expected {tensor.dtype}: "
                "quantised weights cannot be loaded, give the original checkpoint"
            )
    converted = {key: state[key].to(tensor.dtype) for key, tensor in own.items()}
    for key, tensor in converted.items():
        if not is_finite(tensor):
            raise GmosError(
                f"{path}: {key} of the {what} network has values that are not finite: the checkpoint is damaged or its "
                "training diverged, give another one"
            )
    module.load_state_dict(converted, assign=True)
    module.requires_grad_(False)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; takes no memory beside the tensor's."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(key[:KEY_LETTERS] for key in keys[:NAMED_KEYS]) + (
        ", .." if len(keys) > NAMED_KEYS else ""
    )
