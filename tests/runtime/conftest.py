"""Small real videos and frame directories, and the golden preprocessing data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"

MakeVideo = Callable[..., Path]
MakeDirectory = Callable[..., Path]


@pytest.fixture(scope="session")
def preprocess_arrays() -> dict[str, NDArray[Any]]:
    """Frames, overlays and Pi3 tensors of the published implementation."""
    with np.load(GOLDEN / "preprocess.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def preprocess_tables() -> dict[str, Any]:
    """Pi3 sizes, windows and strides of the published implementation."""
    tables: dict[str, Any] = json.loads((GOLDEN / "preprocess.json").read_text())
    return tables


@pytest.fixture(scope="session")
def quadrants() -> Callable[..., NDArray[np.uint8]]:
    """A frame with red, green, blue and white quarters: any turn or mirroring shows."""

    def make(height: int, width: int) -> NDArray[np.uint8]:
        frame = np.zeros((height, width, 3), dtype=np.uint8)
        colours = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 220))
        for index, colour in enumerate(colours):
            rows = slice(0, height // 2) if index < 2 else slice(height // 2, None)
            columns = slice(0, width // 2) if index % 2 == 0 else slice(width // 2, None)
            frame[rows, columns] = colour
        return frame

    return make


LUMA_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue by H.273 matrix code: BT.709, BT.601, BT.2020."""


def yuv420(rgb: NDArray[np.uint8], matrix: int, *, full_range: bool) -> NDArray[np.uint8]:
    """(H, W, 3) of even sides to the planes of a 4:2:0 frame, (H * 3/2, W), by the definition."""
    red, green, blue = (rgb[..., channel] / 255 for channel in range(3))
    weight_red, weight_blue = LUMA_WEIGHTS[matrix]
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    chroma = [(blue - luma) / (2 - 2 * weight_blue), (red - luma) / (2 - 2 * weight_red)]
    luma_scale, luma_offset, chroma_scale = (255, 0, 255) if full_range else (219, 16, 224)
    planes = [luma_offset + luma_scale * luma] + [128 + chroma_scale * plane[::2, ::2] for plane in chroma]
    width = rgb.shape[1]
    flat = np.concatenate([plane.ravel() for plane in planes])
    return np.rint(flat).clip(0, 255).astype(np.uint8).reshape(-1, width)


@pytest.fixture
def make_video(tmp_path: Path, quadrants: Callable[..., NDArray[np.uint8]]) -> MakeVideo:
    """Write an H.264 .mp4: textured frames that move, or the frames given."""

    def make(
        name: str = "clip.mp4",
        *,
        frames: int | Sequence[NDArray[np.uint8]] = 12,
        hw: tuple[int, int] = (48, 64),
        fps: Fraction | int = 25,
        times: Sequence[int] | None = None,
        time_base: Fraction | None = None,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        faststart: bool = False,
        matrix: int | None = None,
        full_range: bool = False,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(frames, int):
            texture = np.random.default_rng(7).integers(0, 255, (*hw, 3), dtype=np.uint8)
            frames = [np.roll(texture, i, axis=1) for i in range(frames)]
        options = {"movflags": "faststart"} if faststart else {}
        with av.open(str(path), "w", format="mp4", options=options) as container:
            stream: Any = container.add_stream(codec, rate=fps)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            if time_base is not None:
                stream.codec_context.time_base = time_base
            if matrix is not None:
                stream.codec_context.colorspace = matrix
                stream.codec_context.color_range = 2 if full_range else 1
            for index, pixels in enumerate(frames):
                if matrix is None:
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                else:
                    frame = av.VideoFrame.from_ndarray(
                        yuv420(pixels, matrix, full_range=full_range), format="yuv420p"
                    )
                    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
                if times is not None:
                    frame.pts, frame.time_base = times[index], time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture
def make_directory(tmp_path: Path) -> MakeDirectory:
    """Write a directory of image files; frame i is filled with the grey level 10 i."""

    def make(
        name: str = "frames",
        *,
        count: int = 3,
        suffix: str = ".png",
        size_wh: tuple[int, int] = (64, 48),
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        for index in range(count):
            image = Image.new("RGB", size_wh, (10 * index,) * 3)
            image.save(directory / f"{index:05d}{suffix}", "PNG" if suffix.lower() == ".png" else "JPEG")
        return directory

    return make
