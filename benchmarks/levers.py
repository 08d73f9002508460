"""What levers cost in masks and bring in time, alone and together; and how stage 2 grows with the length of a video.

    python benchmarks/levers.py VIDEO… [--variant gmos-s] [--frames N] [--rounds 3] [--levers "geometry_every=2 …"]
                                [--other BUNDLE]
    python benchmarks/levers.py VIDEO --growth 132,264,528,1000 [--bounds 0,8] [--report DIR]

The first runs each line of levers (SETTINGS, or those of --levers, which may be repeated; "" is none), other bundles of
the same networks, and the exact run in turns through the pipeline, and prints a row a line: how many times as fast, by
the clock and by the processor's time, the mean IoU of each result of each video with the exact run, the pixels that
differ, and the shares of frames that were decoded and proposed.

The second plays the video to and fro to each length, prompts a tenth of its frames in stage 2 whatever their IoU, and
prints milliseconds a frame of stage 2, of the processor, so that others on the machine count less, with at most so
many conditioning memories (0: all), and how its masks agree with those of all; --report writes it as a page with the
plot. Networks are nano's on ONNX Runtime, or --bundle.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.evaluation.compare.mask_agreement import sequence_agreement
from gmos_deploy.evaluation.report.document import Column, Document, Plot, Section, Table
from gmos_deploy.evaluation.report.environment import environment
from gmos_deploy.evaluation.report.files import publish
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.recipes import with_levers
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.pipeline.clip import ClipRun, label_maps
from gmos_deploy.runtime.pipeline.label_store import LabelStore
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.pipeline.thresholds import Thresholds
from gmos_deploy.runtime.progress import Advance
from gmos_deploy.runtime.video.inputs import resolve_frames, resolve_inputs
from gmos_deploy.runtime.video.reader import VideoReader
from gmos_deploy.runtime.video.sequence import SequenceInput

SETTINGS = {
    "gmos-s": (
        "geometry_every=2",
        "geometry_every=3",
        "geometry_every=4",
        "geometry_every=2 geometry_change=0.12",
        "geometry_every=2 geometry_change=0.05",
        "geometry_every=3 geometry_change=0.1",
    ),
    "gmos": (
        "mos_i_only",
        "geometry_every=2",
        "geometry_every=3",
        "propose_every=2",
        "propose_every=3",
        "propose_every=5",
        "propose_every=3 geometry_every=3",
        "propose_every=6 geometry_every=6",
        "max_conditioning=8",
        "max_conditioning=4",
    ),
}
"""By variant, when none are named."""

STAGE_2 = "track MOS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: label maps by result, seconds by the clock and of the processor, and shares of frames."""

    maps: dict[str, LabelStore]
    wall_s: float
    cpu_s: float
    decoded: float
    proposed: float
    stage_2_ms: float
    memories: int | None


class ProcessorTimes:
    """A `Progress` that tells seconds of the processor by stage."""

    def __init__(self) -> None:
        self.stage_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, _frames: int | None) -> Iterator[Advance]:
        """A stage, whatever its length."""
        start, stage = time.process_time(), name.rpartition(": ")[2]
        yield lambda _done: None
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + time.process_time() - start


def options_of(text: str) -> RunOptions:
    """Options from words such as `geometry_every=2 mos_i_only`."""
    words = text.split()
    levers = {
        name: float(value) if "." in value else int(value)
        for name, _, value in (word.partition("=") for word in words if "=" in word)
    }
    return replace(with_levers(RunOptions(), levers), mos_i_only="mos_i_only" in words)


def run(backend: Backend, sequence: SequenceInput, options: RunOptions, frames: int | None = None) -> Run:
    """A video through the pipeline."""
    wall, cpu = time.perf_counter(), time.process_time()
    times = ProcessorTimes()
    clip = ClipRun(backend, sequence, options, progress=times, frames=frames)
    maps: dict[str, LabelStore] = {str(name): store for name, store in label_maps(clip).items()}
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    summary = clip.summary
    count = summary.frames
    return Run(
        maps=maps,
        wall_s=wall,
        cpu_s=cpu,
        decoded=1.0 if summary.decoded_frames is None else summary.decoded_frames / count,
        proposed=1.0 if summary.proposed_frames is None else summary.proposed_frames / count,
        stage_2_ms=1000 * times.stage_s.get(STAGE_2, 0.0) / count,
        memories=summary.conditioning_memories,
    )


def agreement(name: str, exact: LabelStore, found: LabelStore) -> float:
    """Mean IoU of a result over the frames."""
    names = [str(index) for index in range(len(exact))]
    return sequence_agreement(name, name, names, lambda index: (exact[index], found[index])).mean_iou


def prices(
    given: argparse.Namespace, backend: Backend, videos: Sequence[SequenceInput], others: dict[str, Backend]
) -> None:
    """A row for each line of levers and each of other networks."""
    asked = SETTINGS[backend.model.variant] if given.levers is None else filter(None, given.levers)
    lines = (*asked, *others)
    first: dict[str, list[Run]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for number in range(given.rounds):
        for line in ("", *lines):
            own, options = others.get(line, backend), options_of("" if line in others else line)
            runs = [run(own, video, options, given.frames) for video in videos]
            seconds.setdefault(line, []).append(
                (sum(one.wall_s for one in runs), sum(one.cpu_s for one in runs))
            )
            first.setdefault(line, runs)
            if number == given.rounds - 1:
                print(row(line, videos, first, seconds), flush=True)


def row(
    line: str,
    videos: Sequence[SequenceInput],
    runs: dict[str, list[Run]],
    seconds: dict[str, list[tuple[float, float]]],
) -> str:
    """A line of Markdown."""
    wall, cpu = (
        statistics.median(
            exact[place] / own[place] for exact, own in zip(seconds[""], seconds[line], strict=False)
        )
        for place in (0, 1)
    )
    kept = "; ".join(
        f"{video.name} "
        + ", ".join(f"{name} {agreement(name, exact.maps[name], own.maps[name]):.3f}" for name in own.maps)
        for video, exact, own in zip(videos, runs[""], runs[line], strict=True)
    )
    pixels = sum(
        int((exact.maps[name][i] != own.maps[name][i]).sum())
        for exact, own in zip(runs[""], runs[line], strict=True)
        for name in own.maps
        for i in range(len(own.maps[name]))
    )
    shares = [statistics.fmean(getattr(one, name) for one in runs[line]) for name in ("decoded", "proposed")]
    return f"| {line or 'exact'} | {wall:.2f} | {cpu:.2f} | {kept} | {pixels} | {shares[0]:.0%} | {shares[1]:.0%} |"


def to_and_fro(frames: Sequence[NDArray[np.uint8]], count: int) -> Iterator[NDArray[np.uint8]]:
    """So many frames, forward and backward in turns."""
    return itertools.islice(itertools.cycle([*frames, *frames[-2:0:-1]]), count)


def growth(given: argparse.Namespace, backend: Backend, video: Path) -> None:
    """Stage 2 by length and bound."""
    with VideoReader(video) as reader:
        frames = [frame.rgb for frame in reader]
    rows: list[dict[str, Any]] = []
    for length in (int(one) for one in given.growth.split(",")):
        exact: LabelStore | None = None
        for bound in (int(one) for one in given.bounds.split(",")):
            sequence = resolve_frames(
                list(to_and_fro(frames, length)),
                name=f"{length} frames",
                fps=None,
                stride=given.stride or 3,
                pi3_area_px=backend.model.pi3_area_px,
                patch_px=backend.model.patch_px,
            )
            options = RunOptions(max_conditioning=bound or None, thresholds=Thresholds(stage2_iou=0.0))
            found = run(backend, sequence, options)
            exact = found.maps["mos"] if not bound else exact
            kept = None if exact is None else agreement("mos", exact, found.maps["mos"])
            rows.append(
                {
                    "frames": length,
                    "bound": bound,
                    "ms": found.stage_2_ms,
                    "kept": kept,
                    "memories": found.memories,
                }
            )
            print(rows[-1], flush=True)
    made_on = environment()
    plots = [
        Plot(
            points=[
                (one["frames"], one["ms"], f"{one['ms']:.1f} ms") for one in rows if one["bound"] == bound
            ],
            across="frames",
            up="ms a frame of stage 2, of the processor",
            caption=f"At most {bound} conditioning memories" if bound else "All conditioning memories",
        )
        for bound in dict.fromkeys(one["bound"] for one in rows)
    ]
    table = Table(
        columns=[
            Column("frames", lambda one: one["frames"], "d"),
            Column("bound", lambda one: one["bound"] or "all", "d"),
            Column("memories", lambda one: one["memories"], "d", "of an object"),
            Column("stage 2", lambda one: one["ms"], ".1f", "ms a frame, of the processor"),
            Column("MOS", lambda one: one["kept"], ".3f", "mean IoU with all"),
        ],
        entries=rows,
    )
    document = Document(
        title="Stage 2 by the length of the video",
        lead=f"{made_on['date']}, {backend.description}",
        sections=[Section("Time", [*plots, table])],
        environment=made_on,
    )
    publish(document, {"rows": rows, "environment": made_on}, None, wide=True, report=given.report)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--variant", default="gmos", choices=("gmos", "gmos-s"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--levers", action="append")
    parser.add_argument("--other", action="append", type=Path, default=[])
    parser.add_argument("--growth")
    parser.add_argument("--bounds", default="0,8")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    source = NetworkChoice(variant=None if given.bundle else given.variant, bundle=given.bundle).resolve()
    limits = {"pi3_area_px": source.model.pi3_area_px, "patch_px": source.model.patch_px}
    videos = resolve_inputs(given.videos, fps=None, stride=given.stride, **limits)
    with closing(source.load()) as backend:
        if given.growth:
            growth(given, backend, given.videos[0])
            return
        print(f"{backend.description}; {', '.join(f'{one.name}, stride {one.stride}' for one in videos)}")
        print(
            "| levers | x, clock | x, processor | agreement | pixels differ | decoded | proposed |\n"
            "|---|---|---|---|---|---|---|"
        )
        with ExitStack() as stack:
            others = {
                str(path): stack.enter_context(closing(NetworkChoice(bundle=path).resolve().load()))
                for path in given.other
            }
            prices(given, backend, videos, others)


if __name__ == "__main__":
    main()
