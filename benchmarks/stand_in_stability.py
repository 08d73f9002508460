"""How far the masks of a stand-in preset hang on rounding: the tracker on features with a little noise.

`python benchmarks/stand_in_stability.py VIDEO [--preset tiny] [--frames 24]`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmos_deploy.gmos_ref.loading import load_reference
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.pipeline.clip import ClipRun, Tracks
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.pipeline.stage_off import StageOff
from gmos_deploy.runtime.pipeline.stage_on import StageOn
from gmos_deploy.runtime.pipeline.thresholds import PUBLISHED
from gmos_deploy.runtime.tracker import FrameFeatures
from gmos_deploy.runtime.video.inputs import resolve_inputs

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
    noisy: list[Maps] = []

    def again(features: FrameFeatures, tracks: Tracks) -> None:
        """Both stages once more, on features that differ a little."""
        proposals = tracks.proposals
        tracker = make_tracker(
            backend, NoisyFeatures(features), frames=len(proposals), video_hw=sequence.video_hw
        )
        mos_i = StageOn(proposals, tracker, PUBLISHED, lambda *_: None).run()
        mos = StageOff(proposals, mos_i, tracker, PUBLISHED, lambda *_: None).run()
        noisy.extend(([mos_i.mos_i(frame).unpack() for frame in range(len(proposals))], list(mos.labels)))

    run = ClipRun(backend, sequence, frames=options.frames, after_tracking=again)
    answers = list(run)
    plain = [answer.mos_i for answer in answers], [answer.mos for answer in answers]
    print(
        f"{options.preset}, {len(answers)} frames of {width}x{height}, features changed by {RELATIVE_NOISE}: "
        f"mean IoU {mean_iou(plain[0], noisy[0]):.5f} in MOS-I, {mean_iou(plain[1], noisy[1]):.5f} in MOS"
    )


if __name__ == "__main__":
    sys.exit(main())
