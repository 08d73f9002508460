"""Everything that can be wrong with the inputs of a run, found before any work."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.sequence import SequenceInput

CASES = Path(__file__).parent / "cases"
"""Small files as cameras, editors and recorders made them."""

MakeVideo = Callable[..., Path]
MakeDirectory = Callable[..., Path]


def resolve(*paths: Path, fps: float | None = None, stride: int | None = None) -> list[SequenceInput]:
    """Resolve with neither --fps nor --stride unless given."""
    return resolve_inputs(list(paths), fps=fps, stride=stride)


def refused(message: str, *paths: Path, fps: float | None = None, stride: int | None = None) -> None:
    """The inputs are refused in one line that matches."""
    with pytest.raises(GmosError, match=message) as caught:
        resolve(*paths, fps=fps, stride=stride)
    assert "\n" not in str(caught.value)


def test_a_video_brings_its_own_rate(make_video: MakeVideo) -> None:
    """29.97 frames per second give stride 3."""
    path = make_video(fps=Fraction(30000, 1001))
    (sequence,) = resolve(path)
    assert sequence == SequenceInput(
        name="clip",
        path=path,
        kind="video",
        open=sequence.open,
        video_hw=(48, 64),
        stride=3,
        output_fps=30000 / 1001,
        time_base_s=Fraction(1, 30000),
        frame_count_estimate=12,
        stream=sequence.stream,
    )
    with sequence.open() as reader:
        assert len(list(reader)) == 12


def test_a_directory_plays_at_the_rate_given(make_directory: MakeDirectory) -> None:
    """--fps sets the stride and the rate of the overlays."""
    path = make_directory()
    (sequence,) = resolve(path, fps=29.97)
    assert (sequence.name, sequence.kind, sequence.video_hw) == ("frames", "directory", (48, 64))
    assert (sequence.stride, sequence.output_fps) == (3, 29.97)
    assert sequence.time_base_s == Fraction(100, 2997)
    assert sequence.frame_count_estimate == 3
    assert [frame.name for frame in sequence.frame_paths] == ["00000.png", "00001.png", "00002.png"]
    with sequence.open() as reader:
        assert [frame.time_s for frame in reader] == [0, 1 / 29.97, 2 / 29.97]


def test_a_directory_with_a_stride_plays_at_24(make_directory: MakeDirectory) -> None:
    """The published default."""
    (sequence,) = resolve(make_directory(), stride=2)
    assert (sequence.stride, sequence.output_fps) == (2, 24.0)


@pytest.mark.parametrize(
    ("fps", "stride", "expected"),
    [
        (None, None, 3),
        (50.0, None, 6),
        (50.0, 2, 2),
        (None, 9, 9),
    ],
)
def test_stride_goes_before_fps_goes_before_the_file(
    make_video: MakeVideo, fps: float | None, stride: int | None, expected: int
) -> None:
    """The overlay of a video keeps the video's rate in every case."""
    (sequence,) = resolve(make_video(), fps=fps, stride=stride)
    assert (sequence.stride, sequence.output_fps) == (expected, 25.0)


@pytest.mark.parametrize("name", ["tick40", "ms40"])
def test_a_24_fps_file_has_the_published_stride(name: str) -> None:
    """In exact ticks, and in whole milliseconds, where the average rate is 23.9952."""
    (sequence,) = resolve(CASES / f"{name}.mp4")
    assert (sequence.stride, round(sequence.output_fps, 2)) == (3, 24.0)


def test_inputs_are_known_by_their_content(make_video: MakeVideo, make_directory: MakeDirectory) -> None:
    """Whatever they are called and wherever they lie."""
    first, second = make_video("1/clip.mp4"), make_video("2/clip.mp4", frames=13)
    identities = [resolve(path)[0].identity() for path in (first, second)]
    assert len(set(identities)) == 2
    moved = first.rename(first.with_name("moved.mp4"))
    assert resolve(moved)[0].settings() == {"input": identities[0], "stride": 3, "fps": 25.0}
    (frames,) = resolve(make_directory(), fps=8)
    before = frames.identity()
    Image.new("RGB", (64, 48), (1, 2, 3)).save(frames.frame_paths[2])
    assert before is not None
    assert frames.identity() not in (before, None)


def test_turned_videos_report_the_size_shown(make_video: MakeVideo) -> None:
    """Masks are as large as the frames that the reader gives."""
    path = make_video()
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert resolve(path)[0].video_hw == (64, 48)


def test_several_inputs_keep_their_order(make_video: MakeVideo) -> None:
    """As given on the command line, upper-case endings among them."""
    paths = [make_video("b.mp4"), make_video("a.MP4"), make_video("sub/c.d.mp4")]
    assert [sequence.name for sequence in resolve(*paths)] == ["b", "a", "c.d"]


def test_names_in_any_language_work(make_video: MakeVideo, make_directory: MakeDirectory) -> None:
    """And with spaces, colons, per cent signs and joined emoji."""
    for name in ("вело гонка", "自転車", "a:b %05d", "👩‍🚀", "été"):
        assert resolve(make_video(f"{name}.mp4"))[0].name == name
        assert resolve(make_directory(name), fps=8)[0].name == name


def test_a_relative_name_with_a_colon_is_a_file(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a network protocol."""
    make_video("http:clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert resolve(Path("http:clip.mp4"))[0].name == "http:clip"


def test_directories_are_named_whatever_way_they_are_written(
    make_directory: MakeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trailing slash, a dot, a detour, a link."""
    directory = make_directory("bear")
    (directory / "sub").mkdir()
    link = directory.parent / "panda"
    link.symlink_to(directory)
    monkeypatch.chdir(directory)
    assert resolve(Path(f"{directory}/"), fps=8)[0].name == "bear"
    assert resolve(Path(), fps=8)[0].name == "bear"
    assert resolve(Path("sub/.."), fps=8)[0].name == "bear"
    assert resolve(link, fps=8)[0].name == "panda"


def test_missing_paths(tmp_path: Path) -> None:
    """Also under a file, and when a link points nowhere."""
    refused("nowhere.mp4 does not exist; expected a video file or a directory", tmp_path / "nowhere.mp4")
    (tmp_path / "file").write_text("x")
    refused("clip.mp4 does not exist", tmp_path / "file" / "clip.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere")
    refused("link.mp4 does not exist", tmp_path / "link.mp4")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://example.com/a.mp4", "http://example.com/a.mp4"),
        ("rtsp://admin:hunter2@camera:554/1?x=y", "rtsp://camera:554/1?…"),
        ("file:///clip.mp4", "file:///clip.mp4"),
    ],
)
def test_addresses(address: str, shown: str) -> None:
    """What can be done with them, without what is secret in them."""
    with pytest.raises(
        GmosError, match=rf"^{re.escape(shown)} is an address, and only files .* download a file"
    ):
        resolve_inputs([address], fps=None, stride=None)


def test_no_inputs() -> None:
    """An empty list is not an empty success."""
    refused("no input was given; expected video files or directories")


def test_other_kinds_of_files(tmp_path: Path, make_directory: MakeDirectory) -> None:
    """The message says what to give instead."""
    (tmp_path / "clip.mov").write_bytes(b"x")
    refused(
        "clip.mov cannot be opened as a video .*; re-encode it, for instance with ffmpeg",
        tmp_path / "clip.mov",
    )
    refused(
        "00000.png is a single image; expected its directory .*frames", make_directory() / "00000.png", fps=8
    )
    os.mkfifo(tmp_path / "pipe.mp4")
    refused("pipe.mp4 is neither a file nor a directory; expected a video file", tmp_path / "pipe.mp4")


def test_mixed_kinds(make_video: MakeVideo, make_directory: MakeDirectory) -> None:
    """One of each is named."""
    refused(
        "clip.mp4 is a video and .*frames is a directory; expected inputs of one kind; run them separately",
        make_video(),
        make_directory(),
        fps=8,
    )


def test_repeated_names(make_video: MakeVideo) -> None:
    """Results would overwrite each other."""
    first, second = make_video("a/clip.mp4"), make_video("b/clip.MP4")
    refused("a/clip.mp4 and .*b/clip.MP4 are both sequence 'clip'.*rename one", first, second)
    refused("are both sequence 'clip'", first, first)


@pytest.mark.parametrize("name", ["..mp4", "...mp4", "new\nline.mp4", "bell\a.mp4"])
def test_names_that_cannot_be_filed(tmp_path: Path, name: str) -> None:
    """Results are filed under the sequence's name, which must not leave the output place."""
    (tmp_path / name).write_bytes(b"x")
    refused("has a name that results cannot be filed under; rename it", tmp_path / name)


def test_the_root_directory_has_no_name() -> None:
    """Nor could it be a directory of frames."""
    refused("has a name that results cannot be filed under", Path("/"), fps=8)


def test_names_that_are_too_long_or_not_text(tmp_path: Path) -> None:
    """File names end at 255 bytes, and results add endings."""
    (tmp_path / f"{'n' * 241}.mp4").write_bytes(b"x")
    refused("a name of 241 bytes; expected at most 240", tmp_path / f"{'n' * 241}.mp4")
    broken = tmp_path / os.fsdecode(b"\xff.mp4")
    broken.write_bytes(b"x")
    refused("not valid UTF-8; rename it", broken)


def test_directories_need_a_rate(make_directory: MakeDirectory) -> None:
    """Images have none of their own."""
    refused("frames is a directory of frames, which has no frame rate; expected --fps", make_directory())


@pytest.mark.parametrize("fps", [0.0, -5.0, 1e-9, 1e308, float("nan"), float("inf")])
def test_impossible_rates(make_video: MakeVideo, fps: float) -> None:
    """Also where --stride makes the rate unnecessary."""
    refused("--fps .*: expected a positive number of frames per second", make_video(), fps=fps, stride=1)


@pytest.mark.parametrize("stride", [0, -1])
def test_impossible_strides(make_video: MakeVideo, stride: int) -> None:
    """A window needs a distance."""
    refused("--stride .*: expected a whole number of frames, at least 1", make_video(), stride=stride)


def test_broken_directories(tmp_path: Path, make_directory: MakeDirectory) -> None:
    """The checks of the directory are made here."""
    (tmp_path / "empty").mkdir()
    refused("empty is an empty directory", tmp_path / "empty", fps=8)
    directory = make_directory()
    Image.new("RGB", (8, 8)).save(directory / "00001.png")
    refused("00001.png is 8x8 pixels and 00000.png is 64x48", directory, fps=8)
    (directory / "00001.png").write_bytes(b"?")
    refused("00001.png cannot be read", directory, fps=8)
    (directory / "00001.jpg").write_bytes(b"?")
    refused("mixes extensions", directory, fps=8)


def test_broken_videos(tmp_path: Path, make_video: MakeVideo) -> None:
    """Empty, text, cut off, never finished."""
    (tmp_path / "empty.mp4").write_bytes(b"")
    refused("empty.mp4 is empty", tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://example.com/video.ts\n")
    refused("text.mp4 is an HLS playlist", tmp_path / "text.mp4")
    path = make_video()
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    refused("clip.mp4 is truncated: 100 of|clip.mp4 has no index|truncated", path)


def test_videos_in_boxes_only(tmp_path: Path, make_video: MakeVideo) -> None:
    """The boxes are in order and their contents are not."""
    path = make_video()
    content = bytearray(path.read_bytes())
    start = content.index(b"moov") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    refused("clip.mp4 (cannot be opened as a video|has no video stream)", path)


def test_audio_only_files(tmp_path: Path) -> None:
    """The message says what is in the file."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    refused("song.mp4 has no video stream, only audio; expected a video", path)


def test_a_file_without_streams(tmp_path: Path) -> None:
    """FFmpeg opens notes on a video as a file with nothing in it."""
    path = tmp_path / "notes.mp4"
    path.write_text(";FFMETADATA1\ntitle=street\n", encoding="utf-8")
    refused("notes.mp4 has no video stream, and no other; expected a video", path)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    """It is a video stream in the file's eyes, marked as attached."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        container.mux(
            cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24"))
        )
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    refused("song.mp4 has no video stream, only audio and video; expected a video", path)


def test_videos_without_a_frame(make_video: MakeVideo) -> None:
    """The index is fine and every frame is damaged."""
    path = make_video(frames=1)
    with av.open(str(path)) as container:
        packet = next(container.demux(video=0))
        position, size = packet.pos or 0, packet.size
    content = bytearray(path.read_bytes())
    content[position : position + size] = bytes(size)
    path.write_bytes(content)
    refused("frame 0 .counted from 0. (cannot be decoded|was dropped)|no frame can be decoded", path)


def test_videos_without_a_rate(make_video: MakeVideo) -> None:
    """A single frame of no duration; --fps or --stride help, and the overlay's rate is noted."""
    path = make_video(frames=1, codec="mjpeg", pix_fmt="yuvj420p")
    content = bytearray(path.read_bytes())
    delta = content.index(b"stts") + 16
    content[delta : delta + 4] = bytes(4)
    path.write_bytes(content)
    refused("clip.mp4 states no frame rate; expected --fps .* or --stride", path)
    (with_fps,) = resolve(path, fps=16)
    assert (with_fps.stride, with_fps.output_fps, with_fps.notes) == (2, 16.0, ())
    (with_stride,) = resolve(path, stride=4)
    assert (with_stride.stride, with_stride.output_fps) == (4, 24.0)
    assert "states no frame rate: overlays play at 24 frames per second" in with_stride.notes[0]


def test_one_pixel_works_and_thin_ones_are_refused(
    make_video: MakeVideo, make_directory: MakeDirectory
) -> None:
    """Pi3 enlarges small videos; what is thinner than its patch allows cannot fit the budget."""
    assert resolve(make_video(hw=(1, 1), codec="mpeg4"))[0].video_hw == (1, 1)
    assert resolve(make_directory("dot", size_wh=(1, 1)), fps=8)[0].video_hw == (1, 1)
    refused(
        "line: a video of 10000x1 pixels is too thin.*crop or pad",
        make_directory("line", size_wh=(10_000, 1)),
        fps=8,
    )


def test_a_smaller_budget_is_the_models(make_directory: MakeDirectory) -> None:
    """Small presets have less room, and say so by their numbers."""
    directory = make_directory(size_wh=(600, 10))
    assert resolve(directory, fps=8)
    with pytest.raises(GmosError, match="over its budget of 2940 pixels"):
        resolve_inputs([directory], fps=8, stride=None, pi3_area_px=2940)


def test_files_that_cannot_be_read(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission denied is a clear line; the tests may run as root, so the error is made."""
    path = make_video()

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    refused("clip.mp4 cannot be read: Permission denied; expected a readable input", path)
