"""Milliseconds a frame of the host's work around the networks.

`python benchmarks/host.py [--json FILE]`

Each step is timed alone on one process, best of several repeats in milliseconds, at 854x480 and
1920x1080. Proposal reduction is measured on smooth masks like a trained proposer's and on noise, the
worst case. `benchmarks/memory_growth.py` measures what each further frame costs in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.runtime.label_lookup import look_up
from gmos_deploy.runtime.pi3_frame import pi3_frame, pi3_size_wh
from gmos_deploy.runtime.pipeline.mask_upsampling import argmax_labels
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer
from gmos_deploy.runtime.results.overlay import overlay
from gmos_deploy.runtime.results.png_writer import PngWriter
from gmos_deploy.runtime.video.inputs import resolve_inputs

SIZES_HW = ((480, 854), (1080, 1920))
CLIP_FRAMES = 40
QUERIES = 20
MASK_PX = 256
REPEATS = 9


def moving_scene(video_hw: tuple[int, int], index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A textured frame with three moving boxes, and their labels."""
    height, width = video_hw
    rows, columns = np.mgrid[:height, :width]
    texture = (40 * np.sin(rows / 7) + 40 * np.cos(columns / 11) + 120).astype(np.uint8)
    rgb = np.stack([texture, np.roll(texture, index, 1), texture[::-1]], axis=-1)
    labels = np.zeros(video_hw, np.uint8)
    for number in range(1, 4):
        top = (height * number // 5 + 2 * index) % (height // 2)
        left = (width * number // 5 + 3 * index) % (width // 2)
        box = (slice(top, top + height // 4), slice(left, left + width // 5))
        labels[box] = number
        rgb[box] = rgb[box] // 2 + 60 * number
    return np.ascontiguousarray(rgb), labels


def smooth_masks(rng: np.random.Generator) -> NDArray[np.float32]:
    """20 overlapping blobs with a soft edge."""
    rows, columns = np.mgrid[:MASK_PX, :MASK_PX]
    centres = rng.random((QUERIES, 3)) * [MASK_PX, MASK_PX, 60]
    masks = [(10 + r - np.hypot(rows - y, columns - x)) / 4 for y, x, r in centres]
    return np.stack(masks).astype(np.float32)


def best_ms(work: Callable[[], object]) -> tuple[float, float]:
    """Best and median of the repeats after one warm-up, in milliseconds."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), statistics.median(times)


def write_clip(path: Path, video_hw: tuple[int, int]) -> None:
    """A short H.264 clip of the scene."""
    with Mp4Writer(path, video_hw=video_hw, fps=25) as writer:
        for index in range(CLIP_FRAMES):
            writer.write(moving_scene(video_hw, index)[0], index / 25)


def decode_ms(path: Path) -> tuple[float, float]:
    """Per frame, over the whole clip."""
    sequence = resolve_inputs([path], fps=None, stride=1)[0]

    def decode() -> None:
        with sequence.open() as reader:
            for _ in reader:
                pass

    best, median = best_ms(decode)
    return best / CLIP_FRAMES, median / CLIP_FRAMES


def encode_ms(folder: Path, video_hw: tuple[int, int]) -> tuple[float, float]:
    """Per frame of overlay mp4, over a whole clip."""
    frames = [overlay(*moving_scene(video_hw, index)) for index in range(CLIP_FRAMES)]

    def encode() -> None:
        with Mp4Writer(folder / "encoded.mp4", video_hw=video_hw, fps=25) as writer:
            for index, frame in enumerate(frames):
                writer.write(frame, index / 25)

    best, median = best_ms(encode)
    return best / CLIP_FRAMES, median / CLIP_FRAMES


def steps(video_hw: tuple[int, int], folder: Path) -> dict[str, tuple[float, float]]:
    """All steps at one size: best and median milliseconds a frame."""
    rng = np.random.default_rng(0)
    rgb, labels = moving_scene(video_hw, 3)
    size_wh = pi3_size_wh(video_hw[1], video_hw[0])
    smooth, noise = smooth_masks(rng), rng.standard_normal((QUERIES, MASK_PX, MASK_PX), dtype=np.float32)
    clip = folder / f"{video_hw[0]}.mp4"
    write_clip(clip, video_hw)
    mask_writer = PngWriter(folder / f"mask{video_hw[0]}", "palette")
    probability_writer = PngWriter(folder / f"prob{video_hw[0]}", "grey")
    probability = (np.arange(labels.size, dtype=np.int64).reshape(video_hw) // 97 % 256).astype(np.uint8)
    table = np.arange(256, dtype=np.uint8)[::-1].copy()
    numbers: Iterator[int] = iter(range(10_000))
    return {
        "decode": decode_ms(clip),
        "Pi3 resize (Lanczos)": best_ms(lambda: pi3_frame(rgb, size_wh)),
        "proposal reduction, smooth masks": best_ms(lambda: argmax_labels(smooth, video_hw)),
        "proposal reduction, noise": best_ms(lambda: argmax_labels(noise, video_hw)),
        "labels through a table, by bytes": best_ms(lambda: look_up(labels, table)),
        "labels through a table, indexed": best_ms(lambda: table[labels]),
        "overlay": best_ms(lambda: overlay(rgb, labels)),
        "write palette PNG": best_ms(lambda: mask_writer.write(next(numbers), labels)),
        "write grey PNG": best_ms(lambda: probability_writer.write(next(numbers), probability)),
        "write mp4": encode_ms(folder, video_hw),
    }


def main() -> None:
    """Run everything and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}"
    print(f"{machine}; Python {platform.python_version()}; best (median) ms a frame of {REPEATS}")
    figures: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for video_hw in SIZES_HW:
            figures[f"{video_hw[1]}x{video_hw[0]}"] = steps(video_hw, Path(folder))
    names = list(next(iter(figures.values())))
    print(f"{'':34}" + "".join(f"{size:>20}" for size in figures))
    for name in names:
        row = "".join(
            f"{best:10.1f} ({median:5.1f})  " for best, median in (f[name] for f in figures.values())
        )
        print(f"{name:34}{row}")
    if options.json:
        report = {"machine": machine, "ms_best_median": figures}
        options.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
