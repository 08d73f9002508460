"""Overlays sound as their videos do, in time with the frames, and are the same bytes whenever they are written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.media import Sound
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer, OverlayFormat
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.sequence import SequenceInput

RATE = 48_000
CLICK_S = 0.5
"""When the sound begins, after the first frame."""
SLACK_S = 0.03
"""A packet of the codecs here is 10 to 26 ms long, and containers round to milliseconds."""


def write(
    path: Path, container: str, codecs: tuple[str, str], *, video_s: float = 0, sound_s: float = 0
) -> Path:
    """Two seconds of grey and of a tone that begins half a second after the first frame.

    The streams begin at these times of the file.
    """
    with av.open(str(path), "w", format=container) as output:
        video: Any = output.add_stream(codecs[0], rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = output.add_stream(codecs[1], rate=RATE)
        sound.layout, sound.bit_rate = "mono", 64_000
        sound.format = sound.codec_context.codec.audio_formats[0]
        if codecs[0] != "mpeg2video":
            video.codec_context.time_base = Fraction(1, 1000)
        times = sound_s + np.arange(2 * RATE) / RATE
        tone = np.where(times >= video_s + CLICK_S, 0.8 * np.sin(2 * np.pi * 440 * times), 0).astype(
            np.float32
        )
        resampler = av.AudioResampler(format=sound.format.name, layout="mono", rate=RATE)
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * (video_s + index / 25)), Fraction(1, 1000)
            output.mux(video.encode(frame))
            start = index * RATE // 25
            samples: Any = av.AudioFrame.from_ndarray(
                tone[None, start : start + RATE // 25].copy(), format="flt", layout="mono"
            )
            samples.sample_rate, samples.time_base = RATE, Fraction(1, RATE)
            samples.pts = round(sound_s * RATE) + start
            for resampled in resampler.resample(samples):
                output.mux(sound.encode(resampled))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    return path


def overlaid(path: Path, source: Path) -> SequenceInput:
    """The overlay of a video in which nothing is found."""
    (sequence,) = resolve_inputs([source], fps=None, stride=None)
    nothing = np.zeros(sequence.video_hw, np.uint8)
    with OverlayFormat().writer(path, "mos", sequence.media) as writer, sequence.open() as frames:
        for frame in frames:
            maps: Any = {"mos": nothing, "mos-i": nothing}
            answer = FrameResult(index=frame.index, time_s=frame.time_s, rgb=frame.rgb, maps=maps, ious={})
            writer.write(answer)
    return sequence


def click_s(path: Path) -> float:
    """When a file's sound begins, after its first frame."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        start_s = float((first.pts or 0) * (first.time_base or 0))
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = np.atleast_2d(frame.to_ndarray())[0].astype(float)
            loud = np.flatnonzero(np.abs(samples) > 0.1 * (1 if samples.max() <= 1 else 32768))
            if loud.size:
                at = float((frame.pts or 0) * (frame.time_base or 0))
                return at + float(loud[0]) / frame.sample_rate - start_s
    raise AssertionError("there is no sound")


KINDS = (
    ("mp4", ("libx264", "aac")),
    ("mov", ("libx264", "alac")),
    ("matroska", ("libx264", "libopus")),
    ("matroska", ("ffv1", "flac")),
    ("webm", ("libvpx-vp9", "libopus")),
    ("mpegts", ("mpeg2video", "mp2")),
    ("mpegts", ("libx264", "aac")),
    ("avi", ("mpeg4", "libmp3lame")),
    ("flv", ("flv", "libmp3lame")),
    ("mpeg", ("mpeg2video", "ac3")),
)


@pytest.mark.parametrize(("container", "codecs"), KINDS)
def test_sound_is_copied_and_in_time(tmp_path: Path, container: str, codecs: tuple[str, str]) -> None:
    """Packet by packet, as it is coded."""
    source = write(tmp_path / "clip", container, codecs)
    sequence = overlaid(tmp_path / "out.mp4", source)
    assert sequence.stream is not None
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        given, written = before.streams.audio[0], after.streams.audio[0]
        codec = given.codec_context.codec.canonical_name
        assert sequence.stream.sound == codec
        # MPEG-1 audio has one name in an .mp4, whatever its layer.
        assert written.codec_context.codec.canonical_name == {"mp2": "mp3"}.get(codec, codec)
        assert len(after.streams.video) == 1
        copied = [bytes(packet) for packet in after.demux(written) if packet.size]
        # The headers that a transport stream has before every packet of AAC are the file's, in an .mp4.
        headers = 7 if (container, codecs[1]) == ("mpegts", "aac") else 0
        assert copied == [bytes(packet)[headers:] for packet in before.demux(given) if packet.size]
    assert click_s(source) == pytest.approx(CLICK_S, abs=SLACK_S)
    assert click_s(tmp_path / "out.mp4") == pytest.approx(click_s(source), abs=SLACK_S)


@pytest.mark.parametrize(("video_s", "sound_s"), [(0.7, 0), (0, 0.3), (2.5, 2.1), (1.4, 1.4)])
@pytest.mark.parametrize("container", ["matroska", "mpegts"])
def test_streams_that_begin_at_other_times_stay_in_time(
    tmp_path: Path, container: str, video_s: float, sound_s: float
) -> None:
    """An overlay begins with its first frame, wherever in a file that is; sound long before it is left out."""
    source = write(tmp_path / "clip", container, ("libx264", "aac"), video_s=video_s, sound_s=sound_s)
    overlaid(tmp_path / "out.mp4", source)
    assert click_s(tmp_path / "out.mp4") == pytest.approx(CLICK_S, abs=SLACK_S)
    with av.open(str(tmp_path / "out.mp4")) as container_:
        sound = container_.streams.audio[0]
        assert float((sound.duration or 0) * (sound.time_base or 0)) <= 2.2 - max(0, video_s - sound_s)


@pytest.mark.parametrize(
    ("container", "channels", "kept"),
    [
        *((container, channels, True) for container in ("avi", "matroska", "mov") for channels in (1, 2)),
        ("mov", 3, True),
        ("matroska", 3, False),
    ],
)
def test_uncompressed_sound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, container: str, channels: int, kept: bool
) -> None:
    """Not every file says what its channels are: two are left and right then, and more are left out."""
    source = tmp_path / "clip"
    layout = {1: "mono", 2: "stereo", 3: "2.1"}[channels]
    with av.open(str(source), "w", format=container) as output:
        video: Any = output.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        sound: Any = output.add_stream("pcm_s16le", rate=RATE, layout=layout)
        for index in range(4):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), format="rgb24")
            output.mux(video.encode(picture))
            noise = np.random.default_rng(index).integers(-999, 999, (1, channels * RATE // 25), np.int16)
            samples: Any = av.AudioFrame.from_ndarray(noise, format="s16", layout=layout)
            samples.sample_rate = RATE
            output.mux(sound.encode(samples))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    with caplog.at_level(logging.INFO, "gmos_deploy"):
        overlaid(tmp_path / "out.mp4", source)
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        assert len(list(after.decode(video=0))) == 4
        if not kept:
            assert not after.streams.audio
            assert "out.mp4: its sound (pcm_s16le) is left out: an .mp4 file cannot hold it" in caplog.text
            return
        after.seek(0)
        given, written = (b"".join(bytes(packet) for packet in one.demux(audio=0)) for one in (before, after))
        assert given == written
        assert len(given) == 4 * channels * RATE // 25 * 2


def test_sound_that_an_mp4_cannot_hold_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a word in the log."""
    source = write(tmp_path / "clip", "asf", ("wmv2", "wmav2"))
    with caplog.at_level(logging.INFO, "gmos_deploy"):
        overlaid(tmp_path / "out.mp4", source)
    assert "out.mp4: its sound (wmav2) is left out: an .mp4 file cannot hold it" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == 50


def test_damaged_sound_ends_no_overlay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What came before it stays, and every frame."""
    source = write(tmp_path / "clip", "mp4", ("libx264", "aac"))
    with av.open(str(source)) as container:
        stream = container.streams.audio[0]

        def packets() -> Iterator[Any]:
            yield from (packet for packet, _ in zip(container.demux(stream), range(9), strict=False))
            raise av.error.InvalidDataError(1, "damaged")

        sound = Sound(stream=stream, packets=packets())
        with Mp4Writer(tmp_path / "out.mp4", video_hw=(48, 64), fps=25, sound=sound) as writer:
            for index in range(50):
                writer.write(np.zeros((48, 64, 3), np.uint8), index / 25)
    assert "out.mp4: its sound ends at 0.1 s, where it is damaged" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as written:
        packets_of = [packet.stream.type for packet in written.demux() if packet.size]
    assert (packets_of.count("audio"), packets_of.count("video")) == (9, 50)


def test_sound_that_is_damaged_from_its_start_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first packet is read before a frame is written."""
    source = write(tmp_path / "clip", "mp4", ("libx264", "aac"))
    with av.open(str(source)) as container:

        def packets() -> Iterator[Any]:
            raise av.error.InvalidDataError(1, "damaged")
            yield

        sound = Sound(stream=container.streams.audio[0], packets=packets())
        with Mp4Writer(tmp_path / "out.mp4", video_hw=(48, 64), fps=25, sound=sound) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8), 0)
    assert "out.mp4: its sound is left out: it is damaged" in caplog.text
    with av.open(str(tmp_path / "out.mp4")) as written:
        assert [stream.type for stream in written.streams] == ["video"]


def test_videos_without_sound_have_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing is said about it."""
    source = tmp_path / "clip.mp4"
    with Mp4Writer(source, video_hw=(48, 64), fps=25) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0)
    sequence = overlaid(tmp_path / "out.mp4", source)
    assert sequence.sound is None
    assert not caplog.text
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_overlays_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    """Also where a process may use one core instead of all, which the encoder would have asked for."""
    blocks = np.random.default_rng(7).integers(0, 255, (18, 22, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    source = write(tmp_path / "clip", "mp4", ("libx264", "aac"))
    written = set()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for allowed in (cores, cores, set(list(cores)[:1])):
        (sequence,) = resolve_inputs([source], fps=None, stride=None)
        try:
            if allowed:
                os.sched_setaffinity(0, allowed)
            assert sequence.sound is not None
            with (
                sequence.sound() as sound,
                Mp4Writer(tmp_path / "out.mp4", video_hw=(144, 176), fps=25, sound=sound) as writer,
            ):
                for index in range(50):
                    writer.write(np.roll(picture, 3 * index, axis=1), index / 25)
        finally:
            if cores:
                os.sched_setaffinity(0, cores)
        written.add((tmp_path / "out.mp4").read_bytes())
    assert len(written) == 1
