"""How far the masks of a stand-in preset hang on rounding: the tracker on features with a little noise.

`python benchmarks/stand_in_stability.py VIDEO [--preset tiny] [--frames 24]`
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmos_deploy.gmos_ref.loading import load_reference
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.pipeline.encode import WindowEncoder, frame_preparer
from gmos_deploy.runtime.pipeline.feature_store import FeatureBudget, FeatureStore
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.pipeline.propose import propose
from gmos_deploy.runtime.pipeline.stage_off import StageOff
from gmos_deploy.runtime.pipeline.stage_on import StageOn
from gmos_deploy.runtime.thresholds import PUBLISHED
from gmos_deploy.runtime.tracker import FrameFeatures
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import open_frames

RELATIVE_NOISE = 2e-6
"""Standard deviation of the change, relative to each value: what two float32 implementations differ by."""

Maps = list[NDArray[np.uint8]]


class NoisyFeatures:
    """The stored features, each value changed by the same small amount at every read."""

    def __init__(self, store: FrameFeatures) -> None:
        self._store = store

    def get(self, frame: int) -> dict[str, Tensor]:
        """See `runtime.tracker.FrameFeatures`."""
        generator = torch.Generator().manual_seed(frame)
        return {
            name: array * (1 + RELATIVE_NOISE * torch.randn(array.shape, generator=generator))
            for name, array in self._store.get(frame).items()
        }


def mean_iou(first: Iterable[NDArray[np.uint8]], second: Iterable[NDArray[np.uint8]]) -> float:
    """Over all objects on all frames where either has them."""
    ious = [
        ((a == label) & (b == label)).sum() / ((a == label) | (b == label)).sum()
        for a, b in zip(first, second, strict=True)
        for label in (np.union1d(a, b) if a.any() or b.any() else ())
        if label
    ]
    return float(np.mean(ious))


def main() -> None:
    """Track twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="an .mp4 file")
    parser.add_argument("--preset", default="tiny", help="tiny or small (tiny)")
    parser.add_argument("--frames", type=int, default=24, help="frames from the beginning (24)")
    options = parser.parse_args()
    backend = load_reference(ReferenceConfig(variant="gmos", preset=options.preset, device="cpu"))
    sequence = resolve_inputs([options.video], fps=None, stride=None)[0]
    height, width = sequence.video_hw
    store = FeatureStore(backend.arrays, FeatureBudget(device=1 << 40, host=0))
    with open_frames(sequence) as reader:
        proposals = propose(
            map(frame_preparer(backend.model, sequence.video_hw), itertools.islice(reader, options.frames)),
            WindowEncoder(backend, stride=sequence.stride, batch_size=8),
            backend,
            store,
            video_hw=sequence.video_hw,
            advance=lambda _: None,
        )
    results: list[tuple[Maps, Maps]] = []
    for features in (store, NoisyFeatures(store)):
        tracker = make_tracker(backend, features, frames=len(proposals), video_hw=sequence.video_hw)
        stage1 = StageOn(proposals, tracker, PUBLISHED, lambda *_: None).run()
        stage2 = StageOff(proposals, stage1, tracker, PUBLISHED, lambda *_: None).run()
        mos_i = [stage1.mos_i(frame).unpack() for frame in range(len(proposals))]
        results.append((mos_i, list(stage2.labels)))
    plain, noisy = results
    print(
        f"{options.preset}, {len(proposals)} frames of {width}x{height}, features changed by {RELATIVE_NOISE}: "
        f"mean IoU {mean_iou(plain[0], noisy[0]):.5f} in MOS-I, {mean_iou(plain[1], noisy[1]):.5f} in MOS"
    )


if __name__ == "__main__":
    sys.exit(main())
