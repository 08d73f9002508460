"""The published checkpoints: recognises which network a file belongs to and loads it strictly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...errors import GmosError
from .files import State, read_state

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

WRAPPER_PREFIX = "module."
"""What distributed training puts before every key."""

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

    Without the heads of Pi3 that GMOS does not use, and without the prefix of distributed training.

    Raises:
        GmosError: the file cannot be read (see `read_state`) or belongs to another network.
    """
    state = read_state(path, wanted=lambda key: network != "Pi3" or not key.startswith(PI3_UNUSED_PREFIXES))
    wrapped = sum(key.startswith(WRAPPER_PREFIX) for key in state)
    if wrapped not in (0, len(state)):
        raise GmosError(
            f"{path}: {wrapped} of {len(state)} keys start with {WRAPPER_PREFIX!r}, expected all or none; "
            "the file mixes two state dicts"
        )
    state = {key.removeprefix(WRAPPER_PREFIX): tensor for key, tensor in state.items()}
    if SIGNATURES[network] not in state:
        # Caught before keys are compared one by one.
        for other, key in SIGNATURES.items():
            if key in state:
                raise GmosError(
                    f"{path} looks like a {other} checkpoint and was given as {network}: "
                    f"give it with {FLAGS[other]}, and the {network} checkpoint with {FLAGS[network]}"
                )
    return state


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
        GmosError: as `check_keys`, or a tensor is of no `WEIGHT_DTYPES` where the module's is.
    """
    own = module.state_dict()
    check_keys({key: tuple(tensor.shape) for key, tensor in own.items()}, state, path, what)
    for key, tensor in own.items():
        if (state[key].dtype in WEIGHT_DTYPES) != tensor.is_floating_point():
            raise GmosError(
                f"{path}: {key} of the {what} network is {state[key].dtype}, expected {tensor.dtype}: "
                "quantised weights cannot be loaded, give the original checkpoint"
            )
    module.load_state_dict({key: state[key].to(tensor.dtype) for key, tensor in own.items()}, assign=True)
    module.requires_grad_(False)


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:NAMED_KEYS]) + (", .." if len(keys) > NAMED_KEYS else "")
