"""Samples that owe no picture, and pictures that are owed and do not come."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.coded_pictures import damage_test, picture_test
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import VideoReader

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize(("case", "frames"), [("config_first", 24), ("nvop", 21)])
def test_samples_without_a_picture_are_no_damage(case: str, frames: int) -> None:
    """Parameter sets alone, as phones write them; not-coded VOPs: as many frames as ffmpeg gives, and the same."""
    expected = []
    with av.open(str(CASES / f"{case}.mp4")) as container:
        for packet in container.demux(video=0):
            try:
                expected += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.FFmpegError:  # noqa: PERF203 - ffmpeg goes on after it
                continue
    with VideoReader(CASES / f"{case}.mp4") as reader:
        found = [frame.rgb for frame in reader]
    assert len(found) == len(expected) == frames
    np.testing.assert_array_equal(found, expected)


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    """What FFmpeg gives, which goes on after an error."""
    frames: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
    return frames


def test_pictures_that_are_gone_at_a_splice_are_noted() -> None:
    """Two parts of an open-GOP clip joined as they are: the 42 frames that ffmpeg gives, and a remark."""
    expected = decoded(CASES / "splice_og264.mp4")
    with VideoReader(CASES / "splice_og264.mp4") as reader:
        found = [frame.rgb for frame in reader]
    assert len(found) == len(expected) == 42
    np.testing.assert_array_equal(found, expected)
    assert reader.notes[0] == (
        "pictures are not shown, as in ffmpeg (their number: 6, the first at frame 21, counted from 0): where videos "
        "are cut and joined without encoding them anew, some refer to what is gone"
    )


def test_frames_that_threads_lose_are_no_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread gives more, or fails: that is damage."""
    for answer, message in (((None, 43), "frame 21 .counted from 0. was dropped"), ((7, 12), "frame 7 ")):
        monkeypatch.setattr(VideoReader, "_in_one_thread", lambda _, answer=answer: answer)
        with VideoReader(CASES / "splice_og264.mp4") as reader, pytest.raises(GmosError, match=message):
            list(reader)


GROUPS = {
    "h264": (
        "libx264",
        "matroska",
        {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3"},
    ),
    "hevc": (
        "libx265",
        "matroska",
        {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:log-level=0"},
    ),
    "mpeg2": ("mpeg2video", "mpegts", {"g": "12", "bf": "2"}),
    "mpeg4": ("mpeg4", "matroska", {"g": "12", "bf": "2"}),
    "vp8": ("libvpx", "webm", {"g": "12"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "12"}),
}
"""Encoders whose groups of pictures are open where the codec has such, and where they go."""


@pytest.mark.parametrize("start", ["key frame", "middle"])
@pytest.mark.parametrize("codec", GROUPS)
def test_videos_cut_anywhere_begin_as_in_ffmpeg(tmp_path: Path, codec: str, start: str) -> None:
    """At a key frame whose leading pictures refer to earlier ones, or in the middle of a group."""
    encoder, container, options = GROUPS[codec]
    blocks = np.random.default_rng(7).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(tmp_path / "whole"), "w", format=container) as output:
        stream: Any = output.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for index in range(48):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * index, axis=1), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with (
        av.open(str(tmp_path / "whole")) as given,
        av.open(str(tmp_path / "cut"), "w", format=container) as cut,
    ):
        template = given.streams.video[0]
        copy = cut.add_stream_from_template(template)
        packets: list[Any] = [packet for packet in given.demux(template) if packet.size]
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        assert len(keys) >= 3
        for packet in packets[keys[1] if start == "key frame" else keys[1] - 5 :]:
            packet.stream = copy
            cut.mux(packet)
    (sequence,) = resolve_inputs([tmp_path / "cut"], fps=25, stride=None)
    with sequence.open() as reader:
        found = [frame.rgb for frame in reader]
    expected = decoded(tmp_path / "cut")
    assert 24 <= len(expected) == len(found) < 48
    np.testing.assert_array_equal(found, expected)
    hidden = len(packets) - (keys[1] if start == "key frame" else keys[1] - 5) - len(found)
    noted = [note for note in reader.notes if "pictures before the first frame are not shown" in note]
    # The decoder of MPEG-4 makes pictures of what is before the first key frame, at times of its own.
    if codec != "mpeg4":
        assert [int(note.split("number: ")[1].split(")")[0]) for note in noted] == [hidden] * bool(hidden)


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("matroska", "libx265"), ("avi", "mpeg4")]
)
def test_holes_are_found_before_any_other_work(tmp_path: Path, container: str, codec: str) -> None:
    """Zeros where a download left a gap: the first frame is fine, and the rest is not decoded to find it."""
    path = tmp_path / "clip"
    texture = np.random.default_rng(7).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, index, axis=1), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    content = path.read_bytes()
    with av.open(str(path)) as given:
        samples = [bytes(packet) for packet in given.demux(video=0) if packet.size]
    for place in (9, 29):
        assert content.count(samples[place]) == 1
        path.write_bytes(content.replace(samples[place], bytes(len(samples[place]))))
        with pytest.raises(GmosError, match=r"frame \d+ \(counted from 0\) cannot be (decoded|read)"):
            resolve_inputs([path], fps=None, stride=None)


AVCC, HVCC = b"\1\x64\0\x0a\xff", b"\1" + bytes(20) + b"\3"


def unit(kind: int, length: int = 4) -> bytes:
    """A NAL unit of two bytes after its length, or after a start code if 0."""
    content = bytes((kind, 1))
    return (len(content).to_bytes(length, "big") if length else b"\0\0\1") + content


@pytest.mark.parametrize("extradata", [AVCC, b""])
def test_h264_units(extradata: bytes) -> None:
    """Slices are pictures; parameter sets, SEI, delimiters, ends of sequence and of stream, filler are not."""
    length = 4 if extradata else 0
    owes = picture_test("h264", extradata)
    for kind in (6, 7, 8, 9, 10, 11, 12):
        assert not owes(unit(0x60 | kind, length))
        assert owes(unit(0x60 | kind, length) + unit(0x65, length))
    assert owes(unit(0x41, length))
    # Damage is none of them.
    assert owes(bytes(40))
    assert owes(unit(0x67, length)[:4]) == bool(length)


@pytest.mark.parametrize("extradata", [HVCC, b""])
def test_hevc_units(extradata: bytes) -> None:
    """Types below 32 are slices."""
    length = 4 if extradata else 0
    owes = picture_test("hevc", extradata)
    for kind in (32, 33, 34, 35, 36, 37, 38, 39, 40):
        assert not owes(unit(kind << 1, length))
    for kind in (0, 1, 19, 21):
        assert owes(unit(kind << 1, length))


def test_vp8_and_others() -> None:
    """Alternate references are not shown; of other codecs every sample is a picture."""
    assert [picture_test("vp8", None)(bytes((tag, 0))) for tag in (0x10, 0x00)] == [True, False]
    assert picture_test("prores", None)(b"x")


def test_suspected_samples() -> None:
    """Zeros alone, and units that reach beyond their sample; black pictures are no hole."""
    assert damage_test("h264", AVCC)(bytes(40))
    assert damage_test("h264", AVCC)(unit(0x65)[:-1])
    assert not damage_test("h264", AVCC)(unit(0x67) + unit(0x65))
    assert not damage_test("h264", b"")(unit(0x65, 0))
    assert not damage_test("rawvideo", b"")(bytes(40))
    assert damage_test("prores", None)(bytes(40))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "vp8"])
def test_noise_is_no_traceback(codec: str) -> None:
    """Whatever a sample holds."""
    random = np.random.default_rng(0)
    for size in range(1, 300):
        noise = random.integers(0, 256, size, dtype=np.uint8).tobytes()
        picture_test(codec, noise[:40])(noise)
        picture_test(codec, AVCC)(b"\0\0\1\x20" + noise + b"\0\0\1\xb6" + noise)
