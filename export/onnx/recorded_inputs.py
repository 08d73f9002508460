"""What networks with weights see in a few frames of a clip, recorded with the reference."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...gmos_ref.backend import TorchBackend
from ...gmos_ref.networks import ReferenceNetworks
from ...runtime.arrays import Array, Arrays
from ...runtime.backend import Runner
from ...runtime.comparison.parity import OutputDifference, compare_outputs
from ...runtime.contract import WITHOUT_WEIGHTS, ModelSpec, NetworkName, network_specs
from ...runtime.pipeline.clip import ClipRun
from ...runtime.pipeline.options import RunOptions
from ...runtime.pipeline.watched_backend import WatchedBackend
from ...runtime.precision import PrecisionName
from ...runtime.shapes import call_lengths
from ...runtime.video.drawn_clip import drawn_clip
from ...runtime.video.inputs import resolve_frames
from .shape_profiles import Resolution

logger = logging.getLogger(__name__)

FRAMES = 5
"""Of the clip: a window. Memories and pointers beyond theirs are the same ones again (`stretched`)."""

OBJECTS = 2
"""Objects of a call that are kept."""


def record_inputs(
    networks: ReferenceNetworks, model: ModelSpec, resolution: Resolution
) -> dict[NetworkName, dict[str, NDArray[Any]]]:
    """Inputs of one call of each network that the clip calls: the one with most memories and pointers, or the last.

    Networks without weights compute the same on any numbers, and labels of objects that are nearly equal hang on the
    last bit: theirs are left out.

    Args:
        networks: the reference, float32 on the CPU.
        model: sizes of the networks.
        resolution: of the Pi3 frames; the clip is as large.
    """
    width, height = resolution
    # Frames of the clip are what Pi3 sees, so that it sees them at the resolution of a shape profile.
    seen = replace(model, pi3_area_px=width * height)
    reference = TorchBackend(seen, networks, device=torch.device("cpu"), precision="fp32")
    saw = _LargestCalls(model, reference.arrays)
    backend = _FirstWindow(reference, saw)
    clip = [_resized(frame, height, width) for frame in drawn_clip()[:FRAMES]]
    sequence = resolve_frames(
        clip,
        name="drawn",
        fps=None,
        stride=1,
        pi3_area_px=seen.pi3_area_px,
        patch_px=seen.patch_px,
    )
    for _ in ClipRun(backend, sequence, RunOptions(batch_size=1)):
        pass
    never = [name for name in network_specs(model) if name not in (*saw.calls, *WITHOUT_WEIGHTS)]
    if never:
        logger.info("nothing to track in the clip: no inputs recorded of %s", ", ".join(never))
    return saw.calls


def own_errors(
    networks: ReferenceNetworks,
    model: ModelSpec,
    calls: Mapping[NetworkName, Mapping[str, NDArray[Any]]],
    precision: PrecisionName,
) -> dict[NetworkName, list[OutputDifference]]:
    """How far the reference itself is off at a precision, on recorded inputs: what rounding alone does to them."""
    exact, rounded = (
        TorchBackend(model, networks, device=torch.device("cpu"), precision=each)
        for each in ("fp32", precision)
    )

    def answers(backend: TorchBackend, name: NetworkName) -> dict[str, NDArray[Any]]:
        inputs = {key: torch.from_numpy(values) for key, values in calls[name].items()}
        return {key: backend.arrays.download(x) for key, x in backend.runner(name)(inputs).items()}

    return {
        name: compare_outputs(
            name, answers(rounded, name), answers(exact, name), target="reference", lengths={}
        )
        for name in calls
    }


def _resized(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The nearest pixels of a frame (H, W, 3)."""
    rows, columns = (
        np.arange(n) * have // n for n, have in zip((height, width), frame.shape[:2], strict=True)
    )
    return np.ascontiguousarray(frame[rows[:, None], columns])


class _FirstWindow(WatchedBackend):
    """Pi3's decoder runs once, as it is most of the work at published size: its first answer stands for all."""

    def runner(self, network: NetworkName) -> Runner:
        """The other backend's runner, watched."""
        run, answers = super().runner(network), list[dict[str, Array]]()

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            answers.append(answers[0] if answers else run(inputs))
            return answers[0]

        return call if network == "pi3_decoder" else run


class _LargestCalls:
    """Keeps inputs on the host as calls are seen."""

    def __init__(self, model: ModelSpec, arrays: Arrays) -> None:
        self._specs = network_specs(model)
        self._arrays = arrays
        self._sizes: dict[NetworkName, tuple[int, ...]] = {}
        self.calls: dict[NetworkName, dict[str, NDArray[Any]]] = {}

    def __call__(self, network: NetworkName, inputs: Mapping[str, Array], _: Mapping[str, Array]) -> None:
        """See `watched_backend.Saw`."""
        if network in WITHOUT_WEIGHTS:
            return
        tensors = self._specs[network].inputs
        lengths = call_lengths(tensors, inputs)
        size = tuple(lengths.get(axis, 0) for axis in ("R", "P", "O"))
        if size < self._sizes.get(network, ()):
            return
        self._sizes[network] = size
        kept = {
            tensor.name: inputs[tensor.name][: OBJECTS if "O" in tensor.axes[:1] else None]
            for tensor in tensors
        }
        # Copied: what is on the host already may be used again.
        self.calls[network] = {
            name: np.array(array if isinstance(array, np.ndarray) else self._arrays.download(array))
            for name, array in kept.items()
        }
