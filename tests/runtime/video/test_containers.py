"""Video files by what is in them: every container and codec, whole ones only, and none that names others."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.containers import NAMES_OTHERS, NO_PROTOCOL, allowed_formats, check_whole
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import FrameLedger, VideoReader
from gmos_deploy.runtime.video.sequence import SequenceInput
from gmos_deploy.runtime.video.stream_facts import rate_note

CASES = Path(__file__).parent / "cases"
MakeVideo = Callable[..., Path]

FRAMES = 30
KINDS = (
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "libx265", "yuv420p"),
    ("mov", "libx264", "yuv420p"),
    ("mov", "prores_ks", "yuv422p10le"),
    ("mov", "qtrle", "rgb24"),
    ("3gp", "mpeg4", "yuv420p"),
    ("matroska", "libx264", "yuv420p"),
    ("matroska", "ffv1", "yuv420p"),
    ("webm", "libvpx", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("webm", "libsvtav1", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("avi", "libx264", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"),
    ("avi", "rawvideo", "bgr24"),
    ("mpegts", "libx264", "yuv420p"),
    ("mpegts", "mpeg2video", "yuv420p"),
    ("mpeg", "mpeg1video", "yuv420p"),
    ("flv", "flv", "yuv420p"),
    ("gif", "gif", "rgb8"),
    ("apng", "apng", "rgb24"),
    ("nut", "huffyuv", "yuv422p"),
    ("mxf", "mpeg2video", "yuv420p"),
    ("asf", "wmv2", "yuv420p"),
    ("yuv4mpegpipe", "wrapped_avframe", "yuv420p"),
    ("h264", "libx264", "yuv420p"),
    ("matroska", "libx265", "yuv420p10le"),
    ("matroska", "ffv1", "yuv444p12le"),
    ("mp4", "libx264", "yuv422p10le"),
    ("nut", "ffvhuff", "gray"),
)
"""Containers, encoders and pixel formats."""


def write(path: Path, container: str, codec: str, pixels: str, colorspace: int = 2) -> Path:
    """Blocks of colour that move 3 pixels a frame, 64x48 at 25 frames per second."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    blocks = np.random.default_rng(7).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.colorspace = colorspace
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * index, axis=1), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def resolve(path: Path, **given: Any) -> SequenceInput:
    """One input, with neither --fps nor --stride unless given."""
    (sequence,) = resolve_inputs([path], **{"fps": None, "stride": None, **given})
    return sequence


def refused(path: Path) -> str:
    """What is said about a file that is refused, in one line."""
    with pytest.raises(GmosError) as caught:
        resolve(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("container", "codec", "pixels"), KINDS)
def test_every_container_and_codec_is_read(tmp_path: Path, container: str, codec: str, pixels: str) -> None:
    """Under a name that says nothing: the frames that FFmpeg gives, in their order, at their times."""
    path = write(tmp_path / "clip.bin", container, codec, pixels)
    sequence = resolve(path)
    with av.open(str(path), format=None) as plain:
        expected = [frame.to_ndarray(format="rgb24") for frame in plain.decode(video=0)]
    with sequence.open() as reader:
        frames = list(reader)
    assert len(expected) == FRAMES
    for frame, pixels_of_frame in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.rgb, pixels_of_frame)
    assert [round(frame.time_s * 25, 2) for frame in frames] == list(range(FRAMES))
    assert not reader.is_variable_rate
    assert (sequence.name, sequence.stride, sequence.output_fps) == ("clip", 3, 25.0)
    assert sequence.notes == ()


def planes(frame: av.VideoFrame) -> bytes:
    """The decoded samples without the padding of lines, as ffmpeg writes raw video."""
    parts = []
    kinds = frame.format.components
    for index, plane in enumerate(frame.planes):
        bits = 8 * -(-kinds[index].bits // 8) if len(frame.planes) > 1 else frame.format.padded_bits_per_pixel
        lines = np.frombuffer(plane, np.uint8)[: plane.line_size * plane.height].reshape(plane.height, -1)
        parts.append(lines[:, : plane.width * bits // 8].tobytes())
    return b"".join(parts)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg to compare with")
@pytest.mark.parametrize(("container", "codec", "pixels"), KINDS)
def test_decoded_planes_are_those_of_ffmpeg(tmp_path: Path, container: str, codec: str, pixels: str) -> None:
    """Bit for bit and before any conversion to RGB: the frames, their order, their number."""
    path = write(tmp_path / "clip.bin", container, codec, pixels)
    with VideoReader(path) as reader:
        frames = list(reader._decoded(FrameLedger()))
    given = (
        "ffmpeg",
        "-v",
        "error",
        "-noautorotate",
        "-i",
        path,
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
    )
    native = ("-f", "rawvideo", "-pix_fmt", frames[0].format.name, "-")
    expected = subprocess.run((*given, *native), check=True, capture_output=True).stdout
    assert len(frames) == FRAMES
    size = len(expected) // FRAMES
    for index, frame in enumerate(frames):
        assert planes(frame) == expected[index * size : (index + 1) * size], index


def hostile(inner: Path) -> dict[str, str]:
    """Files that have FFmpeg read another one, or the network, by the kind that the message names."""
    return {
        "a concat script": f"ffconcat version 1.0\nfile '{inner}'\n",
        "an HLS playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{inner}\n#EXT-X-ENDLIST\n",
        "a DASH manifest": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        f'<AdaptationSet><Representation id="1"><BaseURL>{inner}</BaseURL></Representation></AdaptationSet></Period>'
        "</MPD>",
        "an SDP description": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "a Smooth Streaming manifest": '<?xml version="1.0"?><SmoothStreamingMedia MajorVersion="2"/>',
        "a playlist": f"http://127.0.0.1:9/{inner.name}\n",
    }


def unknown_scripts(inner: Path) -> dict[str, str]:
    """Others, which this FFmpeg has no format for, or which it is told not to try."""
    return {
        "AviSynth": f'FFVideoSource("{inner}")\n',
        "VapourSynth": f"import vapoursynth as vs\nvs.core.ffms2.Source('{inner}').set_output()\n",
        "VobSub": f"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\ntimestamp: 00:00:00:000, "
        f"filepos: 000000000\n# {inner}\n",
        "MicroDVD": f"{{DEFAULT}}{{}}{{F:{inner}}}\n{{0}}{{25}}{inner}\n",
        "SubRip": f"1\n00:00:00,000 --> 00:00:01,000\n<img src='{inner}'>\n",
        "SSA": f"[Script Info]\nVideo File: {inner}\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,a,,0,0,0,,x\n",
        "IMF": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
        f"<Id>urn:uuid:0</Id><Path>{inner}</Path></CompositionPlaylist>",
        "HDS": f'<?xml version="1.0"?><manifest xmlns="http://ns.adobe.com/f4m/1.0"><media url="{inner}"/></manifest>',
        "ASX": f'<asx version="3.0"><entry><ref href="{inner}"/></entry></asx>',
        "XSPF": f'<?xml version="1.0"?><playlist version="1"><trackList><track><location>file://{inner}</location></track>'
        "</trackList></playlist>",
        "filter graph": f"movie={inner}[out0]\n",
        "image pattern": f"{inner.parent}/%03d.png\n",
        "FFmpeg metadata": f";FFMETADATA1\nfile={inner}\n",
        "protocol": f"concat:{inner}|{inner}\n",
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{inner}"/></svg>',
    }


@pytest.mark.parametrize("kind", hostile(Path()))
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "ffconcat", "m3u8", "mpd", "sdp"])
def test_files_that_name_others_are_refused(make_video: MakeVideo, kind: str, ending: str) -> None:
    """Whatever they are called; the file that they name is there and would play."""
    path = make_video("inner.mp4")
    script = path.with_name(f"outer.{ending}")
    script.write_text(hostile(path)[kind])
    message = refused(script)
    assert (
        f"outer.{ending} is {kind}, which names other files; expected a file that holds the video" in message
    )


@pytest.mark.parametrize("kind", unknown_scripts(Path()))
@pytest.mark.parametrize("ending", ["mp4", "own"])
def test_other_scripts_and_subtitles_are_no_videos(make_video: MakeVideo, kind: str, ending: str) -> None:
    """Under a video's name and under their own; nothing is read but the file itself."""
    path = make_video("inner.mp4")
    owns = {
        "AviSynth": "avs",
        "VapourSynth": "vpy",
        "VobSub": "idx",
        "SubRip": "srt",
        "SSA": "ass",
        "SVG": "svg",
    }
    script = path.with_name(f"outer.{owns.get(kind, 'txt') if ending == 'own' else ending}")
    script.write_text(unknown_scripts(path)[kind])
    # What VobSub's format would open beside it.
    script.with_suffix(".sub").write_bytes(path.read_bytes())
    assert re.search(
        "cannot be opened as a video|has no video stream|has video for which|is .*, which names",
        refused(script),
    )


def alias(target: Path) -> bytes:
    """The record of a QuickTime alias, by which a track can be in another file."""
    name, absolute = target.name.encode(), str(target).encode()
    absolute += b"\0" * (len(absolute) % 2)
    return (
        bytes(10) + b"\4disk" + bytes(23) + bytes(12) + bytes((len(name),)) + name.ljust(63, b"\0") + bytes(16)
        + struct.pack(">hh", 1, 1) + bytes(16) + struct.pack(">hH", 2, len(absolute)) + absolute
        + struct.pack(">hH", 18, len(absolute)) + absolute + struct.pack(">hH", -1, 0)
    )  # fmt: skip


def with_reference(content: bytes, entry: bytes) -> bytes:
    """An MP4 whose frames are said to be in another file; the index is at the end, so that nothing else moves."""
    at = content.index(b"dref") - 4
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    (old,) = struct.unpack_from(">I", content, at)
    changed = bytearray(content[:at] + new + content[at + old :])
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = content.rindex(kind, 0, at) - 4
        (size,) = struct.unpack_from(">I", changed, place)
        struct.pack_into(">I", changed, place, size + len(new) - old)
    return bytes(changed)


@pytest.mark.parametrize("kind", [b"alis", b"url "])
@pytest.mark.parametrize("ending", ["mov", "mp4"])
def test_tracks_in_another_file_are_not_opened(make_video: MakeVideo, kind: bytes, ending: str) -> None:
    """The other file is there and whole; of the one given there are only zeros where its frames should be."""
    other = make_video("other.mp4")
    content = bytearray(other.read_bytes())
    with av.open(str(other)) as container:
        for packet in container.demux(video=0):
            if packet.size and packet.pos is not None:
                content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    record = alias(other) if kind == b"alis" else f"file://{other}".encode() + b"\0"
    entry = struct.pack(">I4sI", 12 + len(record), kind, 0) + record
    path = other.with_name(f"outer.{ending}")
    path.write_bytes(with_reference(bytes(content), entry))
    assert re.search("no frame can be decoded|cannot be decoded|cannot be read", refused(path))
    if kind == b"alis":
        # The case is a real one: told to, FFmpeg follows it.
        options = {"enable_drefs": "1", "use_absolute_path": "1"}
        with av.open(str(path), options=options) as container:
            assert len(list(container.decode(video=0))) == 12


@pytest.mark.parametrize("protocol", ["file", "concat", "async", "cache"])
def test_no_protocol_can_be_opened(make_video: MakeVideo, protocol: str) -> None:
    """The allow-list is empty, as FFmpeg itself understands it: without it each of these opens."""
    path = make_video("inner.mp4")
    av.open(f"{protocol}:{path}").close()
    with pytest.raises(av.FFmpegError):
        av.open(f"{protocol}:{path}", container_options={"protocol_whitelist": NO_PROTOCOL})


def test_a_concat_script_would_be_followed(make_video: MakeVideo) -> None:
    """Without the lists: the case is a real one."""
    path = make_video("inner.mp4")
    script = path.with_name("outer.mp4")
    script.write_text(hostile(path)["a concat script"])
    with av.open(str(script), options={"safe": "0"}) as container:
        assert len(list(container.decode(video=0))) == 12


def test_formats_of_others_and_devices_are_on_no_list() -> None:
    """Those that FFmpeg has and a file could start."""
    allowed = set(allowed_formats().split(","))
    assert {"mp4", "mov", "matroska", "webm", "avi", "mpegts", "gif", "ogg", "flv"} <= allowed
    assert not allowed & NAMES_OTHERS
    assert not allowed & {"alsa", "fbdev", "x11grab", "v4l2", "png_pipe", "svg_pipe"}


@pytest.mark.parametrize("name", ["%03d.png", "lavfi:testsrc", "concat:a|b", "-", "pipe:0"])
def test_a_name_is_only_a_name(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither a pattern of pictures nor a protocol."""
    make_video().rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert resolve(Path(name)).stride == 3


def test_other_files_say_what_they_are(tmp_path: Path) -> None:
    """Single images by content; text and noise cannot be opened."""
    picture = tmp_path / "clip.mp4"
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        Image.new("RGB", (64, 48)).save(picture, kind)
        assert "clip.mp4 is a single image; expected its directory" in refused(picture)
    more = [Image.new("RGB", (64, 48), (80 * index, 0, 0)) for index in (1, 2)]
    Image.new("RGB", (64, 48)).save(picture, "WEBP", save_all=True, append_images=more)
    assert "clip.mp4 is an animated WebP" in refused(picture)
    for content in (b"Hello, this is a text file.\n", b"short", bytes(64), b"\x1aE\xdf\xa3"):
        picture.write_bytes(content)
        assert "clip.mp4 cannot be opened as a video (" in refused(picture)


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")]
)
def test_every_cut_of_other_containers_is_seen(tmp_path: Path, container: str, codec: str) -> None:
    """Their headers promise a length too."""
    path = write(tmp_path / "clip", container, codec, "yuv420p")
    content = path.read_bytes()
    check_whole(path)
    for length in [*range(0, len(content), 397), len(content) - 1]:
        path.write_bytes(content[:length])
        assert refused(path)
    assert "is truncated: 1 of" in refused(path)


def test_recordings_of_unknown_length_are_read(tmp_path: Path) -> None:
    """A browser that records WebM cannot go back to write its length."""
    path = write(tmp_path / "clip", "webm", "libvpx", "yuv420p")
    content = bytearray(path.read_bytes())
    start = content.index(b"\x18S\x80g") + 4
    content[start : start + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(content)
    with resolve(path).open() as reader:
        assert len(list(reader)) == FRAMES


def test_what_the_file_says_is_told(tmp_path: Path, make_video: MakeVideo) -> None:
    """Stream, rate with two decimals, turn, pixel aspect, colours."""
    path = make_video(fps=Fraction(30000, 1001), matrix=9, full_range=True)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    facts = resolve(path).stream
    assert facts is not None
    assert (facts.codec, facts.stream, facts.video_streams, facts.rate_fps) == ("h264", 0, 1, 29.97)
    assert (facts.rotation, facts.pixel_aspect, facts.matrix, facts.range) == (
        "90",
        "1:1",
        "bt2020nc",
        "full",
    )
    assert (
        facts.line() == "stream 0 of mov, h264, yuvj420p, 29.97 fps, turned 90, colours bt2020nc, range full"
    )
    wide = resolve(CASES / "sar6.mp4").stream
    assert wide is not None
    assert wide.pixel_aspect == "16:9"
    assert "pixels 16:9" in wide.line()


def test_a_second_video_stream_is_noted(tmp_path: Path) -> None:
    """The first one is taken."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as output:
        streams: list[Any] = [output.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for grey, stream in enumerate(streams):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90 * grey, np.uint8), format="rgb24")
            output.mux([*stream.encode(frame), *stream.encode(None)])
    assert any(
        "has 2 video streams; the first one (stream 0) is taken" in note for note in resolve(path).notes
    )


def test_constant_luminance_is_noted(tmp_path: Path) -> None:
    """Swscale has no such conversion; the nearest one is taken, not that of BT.601."""
    frames = {}
    for matrix in (9, 10):
        path = write(tmp_path / f"{matrix}.mp4", "mp4", "libx264", "yuv420p", colorspace=matrix)
        sequence = resolve(path)
        with sequence.open() as reader:
            frames[matrix] = next(iter(reader)).rgb
    assert "constant luminance" in sequence.notes[0]
    np.testing.assert_array_equal(frames[9], frames[10])


def test_metadata_in_any_encoding(tmp_path: Path) -> None:
    """A handler's name in Latin-1 is no reason; a sibling with a codec that nobody knows is refused in a line."""
    with resolve(CASES / "latin1_handler.mp4").open() as reader:
        assert len(list(reader)) == 12
    assert "no decoder" in refused(CASES / "mut7.mp4")


def test_a_rate_that_no_camera_has_is_noted() -> None:
    """A last sample without a length makes 30 000 frames per second of one frame."""
    assert (
        "states 30000 frames per second, which no camera has" in resolve(CASES / "r_zd1_30000.mp4").notes[0]
    )


def test_a_rate_far_from_the_usual_interval_is_noted(make_video: MakeVideo) -> None:
    """And which stride the usual one would have given; a steady one, and a given one, need no remark."""
    times = [0, 33, 67, 100, 133, 167, 200, 233, 267, 300, 333, 334]
    path = make_video(frames=12, times=times, time_base=Fraction(1, 1000))
    (note,) = resolve(path).notes
    assert "its usual interval that of 30.30; the stride follows the average (" in note
    assert "with --fps 30.30 it is 3)" in note
    assert resolve(path, fps=30).notes == ()
    assert rate_note(Fraction(30), [Fraction(index, 30) for index in range(10)]) is None
    assert rate_note(Fraction(30), [Fraction(0)]) is None
    assert rate_note(None, []) is None


def box(kind: bytes, content: bytes = b"", *, missing: int = 0, wide: bool = False) -> bytes:
    """One box; `missing` bytes are promised and not there; `wide` boxes have 64-bit lengths."""
    length = len(content) + missing + (16 if wide else 8)
    if wide:
        return struct.pack(">I4sQ", 1, kind, length) + content
    return struct.pack(">I4s", length, kind) + content


FTYP, MOOV = box(b"ftyp", b"isom"), box(b"moov", bytes(40))


@pytest.mark.parametrize(
    "content",
    [
        FTYP + MOOV + box(b"mdat", bytes(100)),
        FTYP + box(b"mdat", bytes(100)) + MOOV,
        FTYP + box(b"mdat", bytes(100), wide=True) + MOOV,
        FTYP + MOOV + struct.pack(">I4s", 0, b"mdat") + bytes(100),
        FTYP + MOOV + box(b"mdat", bytes(100)) + bytes(33),
        FTYP + MOOV + box(b"mdat", bytes(100)) + b"\xffjunk after the end",
        MOOV + box(b"mdat", bytes(9)),
    ],
    ids=["faststart", "index last", "64-bit", "open end", "zero padding", "junk", "no ftyp"],
)
def test_whole_files_pass(tmp_path: Path, content: bytes) -> None:
    """Every legal order, and what some tools leave after the end."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    check_whole(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\).*record it again"),
        (FTYP + MOOV + box(b"mdat", bytes(100), missing=77), "truncated: 77 of 245 bytes are missing"),
        (FTYP + box(b"mdat", bytes(100), missing=77, wide=True), "truncated: 77 of 205 bytes are missing"),
        (FTYP + box(b"moov", bytes(10), missing=30), "truncated: 30 of"),
        (FTYP + MOOV + box(b"moof", b"", missing=30), "truncated: 30 of"),
        (FTYP + box(b"mdat", bytes(100)), "no index .no moov box.*never finished"),
        (FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(100), "no index"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty, cut, or left behind by a recorder that crashed."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(GmosError, match=message):
        check_whole(path)


@pytest.mark.parametrize("faststart", [True, False])
def test_every_cut_of_a_real_file_is_seen(make_video: Callable[..., Path], faststart: bool) -> None:
    """Wherever a download stopped."""
    path = make_video(faststart=faststart)
    content = path.read_bytes()
    check_whole(path)
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(GmosError):
            resolve_inputs([path], fps=None, stride=None)


@pytest.mark.parametrize(
    ("ending", "codec", "pixels", "height"),
    [
        ("gif", "gif", "rgb8", 35),
        ("y4m", "wrapped_avframe", "yuv420p", 35),
        ("y4m", "wrapped_avframe", "yuv444p", 35),
        ("y4m", "wrapped_avframe", "yuv411p", 34),
    ],
)
def test_a_cut_gif_or_y4m_is_refused(
    tmp_path: Path, ending: str, codec: str, pixels: str, height: int
) -> None:
    """FFmpeg would give the frames before the cut and say nothing: a shorter video. Frames of odd sizes are whole."""
    path = tmp_path / "clip"
    noise = np.random.default_rng(0).integers(0, 256, (4, height, 51, 3), np.uint8)
    with av.open(str(path), "w", format={"y4m": "yuv4mpegpipe"}.get(ending, ending)) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 51, height, pixels
        for picture in noise:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels))
            )
        container.mux(stream.encode(None))
    content = path.read_bytes()
    check_whole(path)
    # The last byte of a GIF only ends it, and some files lack it.
    for length in (len(content) - 2, len(content) - 500, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(GmosError, match=r"clip is truncated: \d+ of \d+ bytes are missing"):
            resolve_inputs([path], fps=None, stride=None)


def test_boxes_without_number_are_refused_in_seconds(tmp_path: Path) -> None:
    """Millions of boxes of eight bytes: no video has so many, and none is looked for in them."""
    path = tmp_path / "boxes.mp4"
    path.write_bytes(
        struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\2\0") + struct.pack(">I4s", 8, b"free") * 3_000_000
    )
    start = time.process_time()
    with pytest.raises(GmosError, match=r"boxes\.mp4 has more than 1048576 boxes, as no video has"):
        check_whole(path)
    assert time.process_time() - start < 10
