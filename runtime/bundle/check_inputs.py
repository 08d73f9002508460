"""What the networks saw in a few frames: inputs that a bundle keeps for its engines to be compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..contract import NetworkName
from ..files.array_files import read_arrays
from ..shapes import Axes, Lengths, call_lengths, size_of
from .manifest import ADVICE, Bundle
from .uploading import rounded_to_bfloat16

SUFFIX = ".inputs.npz"
"""`NETWORK.inputs.npz` holds the inputs of one call by name."""

STRETCHED = ("B", "O", "R", "P")
"""Axes along which there may be more or fewer of the same: frames, objects, memories, object pointers."""

MOST_BYTES = 1 << 30
"""Of the inputs of a call, unpacked; ten objects with 18 memories take 184 MiB at published size."""

NUMBERS = "biuf"
"""NumPy's kinds of what a network takes."""

Inputs = Mapping[str, NDArray[Any]]


def inputs_file(network: NetworkName) -> str:
    """Name of the file of a network's inputs."""
    return f"{network}{SUFFIX}"


def write_check_inputs(root: Path, calls: Mapping[NetworkName, Inputs]) -> None:
    """Write the inputs of one call of each network, rounded to numbers that every precision has."""
    for network, inputs in calls.items():
        arrays: dict[str, Any] = {name: _rounded(values) for name, values in inputs.items()}
        np.savez_compressed(root / inputs_file(network), **arrays)


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    """Eight significant bits, as bfloat16 has; in float16 where nothing overflows, as large activations can."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    found = rounded_to_bfloat16(values).astype(np.uint32) << 16
    floats = found.view(np.float32)
    return floats.astype(np.float16) if np.abs(floats).max(initial=0) <= np.finfo(np.float16).max else floats


def read_check_inputs(bundle: Bundle, network: NetworkName) -> Inputs | None:
    """The recorded call of a network; None where the bundle has none.

    Raises:
        GmosError: the file has changed, or holds something else.
    """
    if (file := inputs_file(network)) not in bundle.files:
        return None
    content, tensors = BytesIO(bundle.files.read(file)), bundle.networks[network].inputs
    try:
        stored = read_arrays(content, MOST_BYTES)
        found = {tensor.name: stored[tensor.name] for tensor in tensors}
        lengths = call_lengths(tensors, found)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise GmosError(f"{bundle.root / file} holds no inputs of {network} ({error}); {ADVICE}") from error
    if not all(_fits(tensor, found[tensor.name], lengths) for tensor in tensors):
        raise GmosError(f"{bundle.root / file} holds inputs of another {network}; {ADVICE}")
    return found


def _fits(tensor: Axes, values: NDArray[Any], lengths: Lengths) -> bool:
    return values.dtype.kind in NUMBERS and (tensor.host or values.shape == size_of(tensor, lengths))


def stretched(inputs: Inputs, tensors: Sequence[Axes], lengths: Lengths) -> dict[str, NDArray[Any]] | None:
    """Recorded inputs with as many frames, objects, memories and pointers: the first ones, or all in turns.

    Their values stay what a network sees, whatever their number. None where there is nothing to take them from.

    Args:
        inputs: of a call.
        tensors: its inputs.
        lengths: of the stretched axes, by letter.
    """
    found = dict(inputs)
    for tensor in tensors:
        for place, axis in enumerate(() if tensor.host else tensor.axes):
            if axis not in STRETCHED:
                continue
            have, wanted = found[tensor.name].shape[place], lengths[axis]
            if wanted and not have:
                return None
            found[tensor.name] = found[tensor.name].take(np.arange(wanted) % max(have, 1), axis=place)
    return found
