"""Memory that each further frame of a video costs, features apart.

`python benchmarks/memory_growth.py`

Every case runs twice in processes of its own, on a short and on a long video; the difference of their
peak resident memory over the difference in frames is the growth.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from host import moving_scene

from gmos_deploy.runtime.pipeline.proposals import ProposalCollector
from gmos_deploy.runtime.pipeline.stage_off import StageOff
from gmos_deploy.runtime.pipeline.stage_on import StageOn
from gmos_deploy.runtime.pipeline.thresholds import PUBLISHED
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer
from gmos_deploy.runtime.tracker import Prompt, TrackerStep, step_from_logits

QUERIES = 20
SHORT, LONG = 60, 260
"""Frames of the two videos."""
SIZES_HW = ((480, 854), (1080, 1920))


class BoxTracker:
    """Answers every step with the scene's own boxes: the tracker's cost left out."""

    def __init__(self, frames: int, video_hw: tuple[int, int]) -> None:
        self._frames = frames
        self._video_hw = video_hw
        self._ids: list[int] = []

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        """See `runtime.tracker.Tracker`."""
        self.add_prompts(frame, prompts)
        return self._step(frame)

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:  # noqa: ARG002 - the protocol's
        """See `runtime.tracker.Tracker`."""
        self._ids += [p.object_id for p in prompts if p.object_id not in self._ids]

    def propagate(
        self,
        start: int,
        *,
        reverse: bool = False,
        unprompted: bool = False,  # noqa: ARG002 - nothing is started ahead
    ) -> Iterator[TrackerStep]:
        """See `runtime.tracker.Tracker`."""
        for frame in range(start, -1, -1) if reverse else range(start, self._frames):
            yield self._step(frame)

    def reset(self) -> None:
        """See `runtime.tracker.Tracker`."""
        self._ids.clear()

    def _step(self, frame: int) -> TrackerStep:
        labels = moving_scene(self._video_hw, frame)[1]
        logits = np.stack([np.where(labels == o + 1, 8.0, -8.0) for o in self._ids]).astype(np.float32)
        return step_from_logits(frame, self._ids, logits, np.full(len(self._ids), 0.97, np.float32))


def run_propagation(video_hw: tuple[int, int], frames: int) -> None:
    """Proposals, both stages and their results, with a tracker that costs nothing."""
    collector = ProposalCollector(video_hw)
    motion = np.full(QUERIES, 3, np.float32)
    for index in range(frames):
        collector.add(moving_scene(video_hw, index)[1], motion, np.full(QUERIES, 0.9, np.float32))
    proposals = collector.finish()
    tracker = BoxTracker(frames, video_hw)
    stage1 = StageOn(proposals, tracker, PUBLISHED, lambda *_: None).run()
    stage2 = StageOff(proposals, stage1, tracker, PUBLISHED, lambda *_: None).run()
    if not stage2.objects:
        raise RuntimeError("the benchmark's scene has lost its objects")


def run_gmos_s(video_hw: tuple[int, int], frames: int) -> None:
    """The whole command with GMOS-S at the tiny preset, all modes written."""
    from gmos_deploy.cli import guarded  # noqa: PLC0415 - the other case needs no PyTorch
    from gmos_deploy.commands.run import run_command  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with Mp4Writer(clip, video_hw=video_hw, fps=25) as writer:
            for index in range(frames):
                writer.write(moving_scene(video_hw, index)[0], index / 25)
        arguments = [
            str(clip), "--preset", "tiny", "--variant", "gmos-s", "--device", "cpu", "--quiet",
            "--save_mode", "mask+prob+mp4", "--save_dir", str(Path(folder) / "out"),
        ]  # fmt: skip
        if guarded(run_command, "gmos-run", arguments):
            raise RuntimeError("gmos-run failed")


CASES = {"propagation": run_propagation, "gmos-s": run_gmos_s}


def peak_mb(case: str, video_hw: tuple[int, int], frames: int) -> float:
    """Peak resident memory of one case in a process of its own, in megabytes (10^6 bytes)."""
    command = [sys.executable, __file__, case, *map(str, video_hw), str(frames)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str]) -> None:
    """Without arguments the table; with a case, size and length one measurement."""
    if arguments:
        case, height, width, frames = arguments
        CASES[case]((int(height), int(width)), int(frames))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
        return
    for case in CASES:
        for video_hw in SIZES_HW if case == "propagation" else SIZES_HW[:1]:
            short, long = (peak_mb(case, video_hw, frames) for frames in (SHORT, LONG))
            growth = (long - short) / (LONG - SHORT)
            print(
                f"{case} at {video_hw[1]}x{video_hw[0]}: {growth:.3f} MB a frame "
                f"(peak {short:.0f} MB at {SHORT} frames, {long:.0f} MB at {LONG})"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
