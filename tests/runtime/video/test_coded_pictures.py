"""Samples that owe no picture, and pictures that are owed and do not come."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.coded_pictures import picture_test
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


def test_pictures_that_are_gone_at_a_splice_are_told_from_damage() -> None:
    """Two parts of an open-GOP clip joined as they are."""
    message = r"frame \d+ .* which found no damage: where videos are cut and joined .* re-encode it"
    with VideoReader(CASES / "splice_og264.mp4") as reader, pytest.raises(GmosError, match=message):
        list(reader)


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


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "vp8"])
def test_noise_is_no_traceback(codec: str) -> None:
    """Whatever a sample holds."""
    random = np.random.default_rng(0)
    for size in range(1, 300):
        noise = random.integers(0, 256, size, dtype=np.uint8).tobytes()
        picture_test(codec, noise[:40])(noise)
        picture_test(codec, AVCC)(b"\0\0\1\x20" + noise + b"\0\0\1\xb6" + noise)
