"""Frames of a video beside their GMOS-S and GMOS overlays from gmos-run, as one picture to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

import av
from PIL import Image

FRAME_WH = (320, 180)


def frames_of(path: Path, count: int) -> list[Image.Image]:
    """That many frames of a video, evenly spread, first and last left out."""
    with av.open(str(path)) as container:
        frames = [frame.to_image().resize(FRAME_WH) for frame in container.decode(video=0)]
    return [frames[round((i + 1) * (len(frames) - 1) / (count + 1))] for i in range(count)]


def main() -> None:
    """Write the picture: one row per video, the same moments in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+", help="the video and its overlays, of the same length")
    parser.add_argument("--out", type=Path, required=True, help="PNG or JPEG to write")
    parser.add_argument("--count", type=int, default=6, help="frames per row (default: 6)")
    options = parser.parse_args()
    width, height = FRAME_WH
    strip = Image.new("RGB", (width * options.count, height * len(options.videos)))
    for row, path in enumerate(options.videos):
        for column, frame in enumerate(frames_of(path, options.count)):
            strip.paste(frame, (column * width, row * height))
    strip.save(options.out)


if __name__ == "__main__":
    main()
