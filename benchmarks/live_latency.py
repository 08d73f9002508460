"""Latency of a stream on this machine: from a frame's arrival to its answer, and what of it the method does not need.

    python benchmarks/live_latency.py [--side nano:gmos-s] [--size 320x180] [--fps 5,30] [--seconds 60]
        [--out live-latency.json]

A camera of the drawn clip keeps its own time; `gmos-run`'s threads read, compute and write, into nothing. At a rate
that the machine keeps up with nothing is dropped; at one that it does not, drops are counted and the delay stays
bounded by two waiting frames. The lines are for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
from live_scene import PacedCamera, load, parse_size

from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.live.reading import ReadingOptions
from gmos_deploy.runtime.live.session import LiveSession
from gmos_deploy.runtime.live.threads.live_run import LiveRun
from gmos_deploy.runtime.live.threads.live_summary import LiveSummary
from gmos_deploy.runtime.live.threads.reading_thread import ReadingThread


def measure(backend: Backend, fps: float, seconds: float, size_wh: tuple[int, int]) -> LiveSummary:
    """Run one paced camera to its end."""
    camera = PacedCamera(fps, seconds, size_wh)
    with ReadingThread(camera.source(), ReadingOptions(), "oldest") as reading:
        start = reading.wait_for_start()
        session = LiveSession(backend, video_hw=start.video_hw, stride=start.stride, fps=fps)
        return LiveRun(reading, session, []).run()


def line(summary: LiveSummary) -> str:
    """One rate, for docs/performance.md."""
    beyond, latency = summary.beyond_delay_ms or {}, summary.latency_ms or {}
    return (
        f"{summary.rate_fps:g} frames/s, stride {summary.stride}: {summary.answered} answered ({summary.fps:.2f}/s), "
        f"{summary.dropped} dropped; beyond the method's delay {beyond.get('p50')}, {beyond.get('p90')} and "
        f"{beyond.get('p99')} ms at percentiles 50, 90 and 99 (greatest {beyond.get('max')}); from arrival "
        f"{latency.get('p50')}, {latency.get('p90')} and {latency.get('p99')} ms"
    )


def main(arguments: Sequence[str]) -> None:
    """Measure each rate, print a line each, write all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--side", default="nano:gmos-s", help="nano:VARIANT, or as for gmos-profile (%(default)s)"
    )
    parser.add_argument("--size", type=parse_size, default=(320, 180), metavar="WxH", help="(320x180)")
    parser.add_argument("--fps", default="5,30", help="rates of the camera, joined by commas (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rate (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("live-latency.json"), help="(%(default)s)")
    given = parser.parse_args(arguments)
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "size_wh": list(given.size),
    }
    with closing(load(given.side)) as backend:
        document |= {
            "backend": backend.description,
            "variant": backend.model.variant,
            "preset": backend.model.preset,
        }
        print(", ".join(str(value) for value in document.values()))
        document["runs"] = []
        for rate in given.fps.split(","):
            summary = measure(backend, float(rate), given.seconds, given.size)
            document["runs"].append(summary.as_json())
            print(line(summary), flush=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
