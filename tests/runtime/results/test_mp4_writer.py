"""Overlay videos as players see them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import VideoReader

H264_ERROR = 12.0
"""Mean absolute difference, 0..255, that coding flat colours with soft borders stays well under."""


def write(path: Path, frames: list[NDArray[np.uint8]], fps: float = 25) -> Path:
    """Write frames at an even rate."""
    height, width = frames[0].shape[:2]
    with Mp4Writer(path, video_hw=(height, width), fps=fps) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, index / fps)
    return path


def test_frames_come_back(tmp_path: Path, quadrants: Callable[..., NDArray[np.uint8]]) -> None:
    """Number, size, times and colours."""
    image = quadrants(48, 64)
    with VideoReader(write(tmp_path / "a.mp4", [image] * 10)) as reader:
        frames = list(reader)
        assert reader.stream.average_rate == 25
    assert [frame.time_s for frame in frames] == [index / 25 for index in range(10)]
    assert max(np.abs(frame.rgb.astype(int) - image).mean() for frame in frames) < H264_ERROR


def test_browsers_can_play_it(tmp_path: Path) -> None:
    """H.264, 4:2:0, index before the frames, colours stated."""
    path = write(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 3)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert next(container.decode(stream)).colorspace == 6


@pytest.mark.parametrize(("hw", "written"), [((1, 1), (2, 2)), ((47, 64), (48, 64)), ((48, 63), (48, 64))])
def test_odd_sizes_get_their_edge_once_more(
    tmp_path: Path, quadrants: Callable[..., NDArray[np.uint8]], hw: tuple[int, int], written: tuple[int, int]
) -> None:
    """4:2:0 has no odd sizes; the picture stays where it is."""
    image = quadrants(*hw)
    with VideoReader(write(tmp_path / "a.mp4", [image] * 3)) as reader:
        frame = list(reader)[1].rgb
    assert frame.shape == (*written, 3)
    assert np.abs(frame[: hw[0], : hw[1]].astype(int) - image).mean() < H264_ERROR


@pytest.mark.parametrize("fps", [24, 23.976, 30000 / 1001, 59.94, 12.5, 0.5])
def test_rates_survive(tmp_path: Path, fps: float) -> None:
    """Film and television rates are not integers."""
    path = write(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)] * 8, fps)
    (sequence,) = resolve_inputs([path], fps=None, stride=None)
    assert sequence.output_fps == pytest.approx(fps, rel=1e-4)
    with sequence.open() as reader:
        assert [frame.time_s for frame in reader] == pytest.approx([i / fps for i in range(8)], rel=1e-4)


def test_uneven_times_survive(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    """An overlay runs in step with its video."""
    times = [0, 40, 80, 200, 240, 500, 520, 560]
    path = make_video(frames=8, times=times, time_base=Fraction(1, 1000))
    (sequence,) = resolve_inputs([path], fps=None, stride=None)
    with sequence.open() as reader:
        frames = list(reader)
    with Mp4Writer(
        tmp_path / "a.mp4",
        video_hw=sequence.video_hw,
        fps=sequence.output_fps,
        time_base_s=sequence.time_base_s,
    ) as writer:
        for frame in frames:
            writer.write(frame.rgb, frame.time_s)
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert [frame.time_s for frame in reader] == [frame.time_s for frame in frames]


def test_equal_times_are_kept_apart(tmp_path: Path) -> None:
    """Two frames within one unit of time are still two frames."""
    with Mp4Writer(tmp_path / "a.mp4", video_hw=(16, 16), fps=10) as writer:
        for time_s in (0.0, 0.0, 0.01, 0.3):
            writer.write(np.zeros((16, 16, 3), np.uint8), time_s)
        assert writer.frames_written == 4
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert [frame.time_s for frame in reader] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_better_quality_is_larger(tmp_path: Path) -> None:
    """The constant rate factor arrives."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    sizes = []
    for crf in (10, 40):
        with Mp4Writer(tmp_path / f"{crf}.mp4", video_hw=(64, 64), fps=25, crf=crf) as writer:
            for index, frame in enumerate(noise):
                writer.write(frame, index / 25)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crf": 52}, r"crf 52: expected 0 \(lossless\) to 51"),
        ({"crf": -1}, "crf -1: expected 0"),
        ({"fps": 0}, "frame rate 0 of .*: expected a positive number"),
    ],
)
def test_impossible_settings(tmp_path: Path, settings: dict[str, float], message: str) -> None:
    """Found before the file is made."""
    arguments = {"fps": 25, **settings}
    with pytest.raises(GmosError, match=message):
        Mp4Writer(tmp_path / "a.mp4", video_hw=(16, 16), **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_missing_encoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another codec in its place would not play everywhere."""
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(GmosError, match=r"has no libx264.*leave mp4 out of --save-mode"):
        Mp4Writer(tmp_path / "a.mp4", video_hw=(16, 16), fps=25)


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """A device that is always full; one line that names the file."""
    path = tmp_path / "a.mp4"
    path.symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)

    def fill() -> None:
        with Mp4Writer(path, video_hw=(48, 64), fps=25) as writer:
            for index in range(60):
                writer.write(np.roll(noise, index, axis=1), index / 25)

    with pytest.raises(GmosError, match=r"cannot write .*a.mp4: the disk is full; free some space"):
        fill()


def test_an_impossible_place_is_a_clear_error(tmp_path: Path) -> None:
    """Under a file."""
    (tmp_path / "file").write_text("x")
    writer = Mp4Writer(tmp_path / "file" / "a.mp4", video_hw=(16, 16), fps=25)
    with pytest.raises(GmosError, match=r"cannot write .*a.mp4: "), writer:
        pass


def test_sizes_the_encoder_refuses_are_a_clear_error(tmp_path: Path) -> None:
    """H.264 ends at about 16 thousand pixels a side."""

    def write_wide() -> None:
        with Mp4Writer(tmp_path / "a.mp4", video_hw=(2, 20_000), fps=25) as writer:
            writer.write(np.zeros((2, 20_000, 3), np.uint8), 0)

    with pytest.raises(GmosError, match=r"a.mp4: libx264 cannot encode 20000x2 pixels.*leave mp4 out"):
        write_wide()


def test_frames_of_another_size_are_a_mistake(tmp_path: Path) -> None:
    """The caller mixed up its videos."""
    with Mp4Writer(tmp_path / "a.mp4", video_hw=(16, 16), fps=25) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8), 0)
        with pytest.raises(ValueError, match="frame of shape"):
            writer.write(np.zeros((16, 18, 3), np.uint8), 1)
    with pytest.raises(RuntimeError, match="not open"):
        writer.write(np.zeros((16, 16, 3), np.uint8), 1)
