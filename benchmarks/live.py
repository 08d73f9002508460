"""How many cameras one device sustains: sessions on one model, pushed together, by variant, stride and size.

    python benchmarks/live.py --side tensorrt:bundle=DIR [--side …] [--fps 30] [--strides 3,2] [--size 1280x720]
        [--seconds 5] [--most 64] [--alone] [--out live.json]

Every camera gives a frame a tick; `push_all` runs their windows together (`--alone`: one after the other, whose results
are those of a file byte for byte). A number of cameras is sustained if nine ticks in ten take no longer than a frame
lasts. The number doubles until that fails, and is halved in between after that. Networks are measured, with what the
session does on the processor; decoding and writing are not: gmos-run has them in threads of their own.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from live_scene import load, parse_size, scene
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.session import LiveSession, push_all

SHARE = 90
"""Percentile of ticks that must be in time."""
LEAST_TICKS = 20


def tick_ms(
    backend: Backend, cameras: int, loop: Sequence[NDArray[np.uint8]], given: argparse.Namespace, stride: int
) -> dict[str, float]:
    """Milliseconds of a tick of so many cameras, after as many ticks as make every window whole."""
    height, width = loop[0].shape[:2]
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(
                LiveSession(
                    backend, video_hw=(height, width), stride=stride, fps=given.fps, name=f"camera {number}"
                )
            )
            for number in range(cameras)
        ]
        warm_up, taken = 4 * stride + 8, []
        index = 0
        while index < warm_up + LEAST_TICKS or sum(taken) < 1e3 * given.seconds:
            frames = [
                LiveFrame(
                    index=index,
                    time_s=index / given.fps,
                    arrival_s=time.monotonic(),
                    # Cameras do not see the same.
                    rgb=loop[(index + 7 * number) % len(loop)],
                )
                for number in range(cameras)
            ]
            start_s = time.perf_counter()
            if given.alone:
                for session, frame in zip(sessions, frames, strict=True):
                    session.push(frame)
            else:
                push_all(list(zip(sessions, frames, strict=True)))
            backend.arrays.synchronize()
            if index >= warm_up:
                taken.append(1e3 * (time.perf_counter() - start_s))
            index += 1
    return {"p50": float(np.percentile(taken, 50)), f"p{SHARE}": float(np.percentile(taken, SHARE))}


def sustained(
    backend: Backend, loop: Sequence[NDArray[np.uint8]], given: argparse.Namespace, stride: int
) -> tuple[int, dict[int, dict[str, float]]]:
    """The most cameras that the device keeps up with, and the ticks of every number that was tried."""
    tried: dict[int, dict[str, float]] = {}

    def fits(cameras: int) -> bool:
        try:
            tried[cameras] = tick_ms(backend, cameras, loop, given, stride)
        except GmosError as error:
            print(f"  {cameras}: {error}")
            return False
        found = tried[cameras]
        print(
            f"  {cameras}: {found['p50']:.1f} ms a tick, {found[f'p{SHARE}']:.1f} at percentile {SHARE}",
            flush=True,
        )
        return found[f"p{SHARE}"] <= 1e3 / given.fps

    good, bad = 0, 1
    while bad <= given.most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, given.most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good, tried


def main(arguments: Sequence[str]) -> None:
    """Print a line for each side and stride, write all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--side", action="append", required=True, help="nano:VARIANT, or as for gmos-profile; repeated"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="of every camera (%(default)s)")
    parser.add_argument(
        "--strides", default="3", help="joined by commas (%(default)s: that of 30 frames a second)"
    )
    parser.add_argument("--size", type=parse_size, default=(1280, 720), metavar="WxH", help="(1280x720)")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured for each number (%(default)s)")
    parser.add_argument("--most", type=int, default=64, help="cameras at most (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="windows of cameras share no call")
    parser.add_argument("--out", type=Path, default=Path("live.json"), help="(%(default)s)")
    given = parser.parse_args(arguments)
    loop = scene(given.size)
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "fps": given.fps,
        "size_wh": list(given.size),
        "alone": given.alone,
        "rows": [],
    }
    for text in given.side:
        with closing(load(text)) as backend:
            for stride in map(int, given.strides.split(",")):
                print(f"{text}, {backend.description}, {backend.model.variant}, stride {stride}:", flush=True)
                cameras, tried = sustained(backend, loop, given, stride)
                document["rows"].append(
                    {
                        "side": text,
                        "backend": backend.description,
                        "variant": backend.model.variant,
                        "preset": backend.model.preset,
                        "stride": stride,
                        "cameras": cameras,
                        "tick_ms": tried,
                    }
                )
                print(f"  {cameras} cameras at {given.fps:g} frames/s", flush=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
