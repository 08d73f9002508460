"""Memory of a stream that goes on and on: one clip over and over through a session, with a curve of what is resident.

    python benchmarks/live_memory.py [--frames 20000] [--preset tiny] [--variant gmos] [--out live-memory]

A disc and a box move to and fro; then nothing is seen for a while, so that objects retire and others start. Every tenth
frame is dropped for a while, and every thousandth begins a new sequence. OUT.csv has the curve, a line every --every
frames; OUT.json has it with what was measured and where. The last line is for docs/performance.md. Ctrl-C ends it with
the curve so far.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

import gmos_deploy as gmos
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.session import LiveSession
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.pipeline.thresholds import Thresholds
from gmos_deploy.runtime.video.drawn_clip import drawn_clip

MIB = 1 << 20
RATE_FPS, STRIDE = 16, 2
REDUCED = 4
"""Every fourth pixel of the drawn clip: 63 rows of 112."""
EMPTY_FRAMES = 48
"""Three seconds in which nothing is seen; objects retire after one."""
SEQUENCE_FRAMES = 1000
WARM_UP = 0.1
"""Share of the frames after which growth is measured: allocators have taken what they need by then."""


COLUMNS = ("frame", "seconds", "resident_mib", "device_free_mib", "blocks", "ids")
"""Of the curve; `blocks` are those of Python's own memory."""


def pictures() -> list[NDArray[np.uint8]]:
    """A loop of the drawn clip, there and back, and some frames of noise in which nothing is seen."""
    there = [np.ascontiguousarray(frame[::REDUCED, ::REDUCED]) for frame in drawn_clip()]
    noise = np.random.default_rng(1).integers(0, 255, there[0].shape, np.uint8)
    return there + there[-2:0:-1] + [noise] * EMPTY_FRAMES


def stream(frames: int) -> Iterator[LiveFrame]:
    """So many frames, numbered; in every third loop each tenth frame is dropped."""
    loop = pictures()
    dropped = 0
    for index in range(frames):
        if index // len(loop) % 3 == 2 and index % 10 == 0:
            dropped += 1
            continue
        yield LiveFrame(
            index=index,
            time_s=index / RATE_FPS,
            arrival_s=time.monotonic(),
            rgb=loop[index % len(loop)],
            dropped_before=dropped,
            new_sequence=index % SEQUENCE_FRAMES == 1,
        )
        dropped = 0


Point = dict[str, float]


class Measured:
    """A session that goes on for long, and what was seen of its memory so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.points: list[Point] = []
        self.about: dict[str, object] = {}
        self._given = given
        self._process = psutil.Process()
        self._start_s = 0.0
        self._answered = self._last_id = self._frames = 0

    def run(self) -> None:
        """Go through all frames; the curve goes into the CSV as it grows."""
        given = self._given
        preset = None if given.preset == "nano" else given.preset
        options = RunOptions(thresholds=Thresholds(max_objects=given.max_objects))
        with gmos.load(variant=given.variant, preset=preset, device=given.device) as model:
            backend, (height, width) = model._opened(), pictures()[0].shape[:2]
            self.about = {
                "backend": model.description,
                "variant": given.variant,
                "preset": given.preset,
                "max_objects": given.max_objects,
                "video_hw": [height, width],
                "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
                "date": datetime.now(timezone.utc).date().isoformat(),
            }
            self._start_s = time.monotonic()
            session = LiveSession(
                backend,
                video_hw=(height, width),
                stride=STRIDE,
                fps=RATE_FPS,
                options=options,
                retire_after_s=1,
            )
            with session, given.out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                for frame in stream(given.frames):
                    self._count(session.push(frame))
                    self._frames = frame.index + 1
                    if frame.index % given.every == 1:
                        writer.writerow(self._point(frame.index, backend))
                        file.flush()
                self._count(session.finish())

    def finish(self) -> str:
        """Write the JSON; what it says in a line."""
        about, points = self.about, self.points
        frames = self._frames
        late = [point["resident_mib"] for point in points if point["frame"] >= WARM_UP * frames]
        grown = {name: round(growth(points, name), 2) for name in ("resident_mib", "blocks")}
        about |= {
            "frames": frames,
            "answered": self._answered,
            "ids": self._last_id,
            "resident_mib": {"least": min(late), "most": max(late)},
            "growth_per_10000_frames": grown,
        }
        document = json.dumps({**about, "curve": points}, indent=1)
        self._given.out.with_suffix(".json").write_text(document + "\n", encoding="utf-8")
        return (
            f"{about['variant']} {about['preset']}, {frames} frames, {self._answered} answered, {self._last_id} ids: "
            f"resident {min(late):.0f} to {max(late):.0f} MiB after the first {WARM_UP:.0%}, "
            f"{grown['resident_mib']:+.2f} MiB and {grown['blocks']:+.0f} blocks per 10 000 frames"
        )

    def _count(self, answers: Sequence[gmos.FrameResult]) -> None:
        for answer in answers:
            self._answered += 1
            self._last_id = max(self._last_id, *answer.ids.values(), 0)

    def _point(self, frame: int, backend: Backend) -> Point:
        gc.collect()
        values = (
            frame,
            round(time.monotonic() - self._start_s, 1),
            round(self._process.memory_info().rss / MIB, 2),
            round(backend.arrays.free_bytes() / MIB),
            sys.getallocatedblocks(),
            self._last_id,
        )
        self.points.append(dict(zip(COLUMNS, values, strict=True)))
        return self.points[-1]


def growth(points: Sequence[Point], name: str) -> float:
    """Slope of a column after the warm-up by least squares, per 10 000 frames."""
    late = [point for point in points if point["frame"] >= WARM_UP * points[-1]["frame"]]
    frames = np.array([point["frame"] for point in late])
    return float(np.polyfit(frames, [point[name] for point in late], 1)[0] * 10_000) if len(late) > 1 else 0.0


def main(arguments: Sequence[str]) -> None:
    """Write the curve and say how much it grows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=20_000, help="frames of the stream (%(default)s)")
    parser.add_argument("--every", type=int, default=100, help="frames between points (%(default)s)")
    parser.add_argument("--preset", choices=("tiny", "nano"), default="tiny", help="networks (%(default)s)")
    parser.add_argument("--variant", choices=("gmos", "gmos-s"), default="gmos", help="(%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--max_objects", type=int, default=2, help="live objects at most (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("live-memory"), help="without suffix (%(default)s)")
    given = parser.parse_args(arguments)
    measured = Measured(given)
    try:
        measured.run()
    except KeyboardInterrupt:
        if not measured.points:
            raise
    print(measured.finish())


if __name__ == "__main__":
    main(sys.argv[1:])
