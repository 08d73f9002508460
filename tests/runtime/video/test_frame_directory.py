"""Directories of frames: what is listed, refused and read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.cli import set_up_logging
from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.frame_directory import check_frames, list_frames, read_frame, read_frames
from gmos_deploy.runtime.video.inputs import resolve_inputs

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".JPG", ".Png"])
def test_frames_are_sorted_by_name(make_directory: Callable[..., Path], suffix: str) -> None:
    """All three extensions, in upper and lower case."""
    directory = make_directory(count=4, suffix=suffix)
    names = [path.name for path in list_frames(directory)]
    assert names == [f"{index:05d}{suffix}" for index in range(4)]


def test_other_files_are_passed_over(make_directory: Callable[..., Path]) -> None:
    """Notes, thumbnails' databases, resource forks and subdirectories are no frames."""
    directory = make_directory(count=2)
    (directory / "notes.txt").write_text("x")
    (directory / "Thumbs.db").write_bytes(b"x")
    (directory / "._00000.png").write_bytes(b"x")
    (directory / "00009.png").mkdir()
    assert [path.name for path in list_frames(directory)] == ["00000.png", "00001.png"]


def test_upper_and_lower_case_are_one_extension(make_directory: Callable[..., Path]) -> None:
    """Cameras and tools disagree about case."""
    directory = make_directory(count=2)
    (directory / "00000.png").rename(directory / "00000.PNG")
    assert len(list_frames(directory)) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is an empty directory; expected .jpg, .jpeg or .png frames"),
        (["a.bmp", "b.bmp", "c"], r"holds no frame \(2 .bmp, 1 without extension\)"),
        (["x/", "y/"], r"holds directories \(2\) and no frame: give these themselves"),
        (["x.mp4"], r"holds .mp4 files \(1\) and no frame: give these themselves"),
        (["a.jpg", "b.png", "c.png"], r"mixes extensions \(1 .jpg, 2 .png\); expected one per directory"),
        (["a.jpg", "b.JPEG"], r"mixes extensions \(1 .jpg, 1 .jpeg\)"),
    ],
)
def test_directories_without_one_kind_of_frame_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    """The message says what is there instead."""
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_bytes(b"")
    with pytest.raises(GmosError, match=message):
        list_frames(tmp_path)


def test_a_directory_that_goes_away_is_an_error(tmp_path: Path) -> None:
    """Listing can fail."""
    with pytest.raises(GmosError, match="gone cannot be listed: No such file or directory"):
        list_frames(tmp_path / "gone")


def test_frames_of_different_sizes_are_named(make_directory: Callable[..., Path]) -> None:
    """Both frames, both sizes."""
    directory = make_directory(count=3)
    Image.new("RGB", (32, 48)).save(directory / "00002.png")
    with pytest.raises(GmosError, match=r"00002.png is 32x48 pixels and 00000.png is 64x48; expected frames"):
        check_frames(list_frames(directory))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_frame_without_an_image_is_named(make_directory: Callable[..., Path], suffix: str) -> None:
    """Found by its header, before any work."""
    directory = make_directory(count=3, suffix=suffix)
    (directory / f"00001{suffix}").write_bytes(b"not an image")
    with pytest.raises(
        GmosError, match=f"00001{suffix} cannot be read: not an image; expected a JPEG or PNG"
    ):
        check_frames(list_frames(directory))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_corrupt_frame_is_named(tmp_path: Path, suffix: str) -> None:
    """Its header is fine, its pixels are cut off: found when it is read."""
    texture = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    paths = [tmp_path / f"{index:05d}{suffix}" for index in range(3)]
    for path in paths:
        Image.fromarray(texture).save(path)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: len(content) // 2])
    video_hw, _ = check_frames(paths)
    frames = read_frames(paths, video_hw)
    assert next(frames).shape == (48, 64, 3)
    with pytest.raises(GmosError, match=f"00001{suffix} cannot be read: .*replace or remove it"):
        next(frames)


@pytest.mark.parametrize("position", range(8, 200, 7))
def test_any_damaged_byte_in_a_header_is_a_clear_error(tmp_path: Path, position: int) -> None:
    """PNG chunks carry checksums: a changed byte never becomes a traceback or another image."""
    path = tmp_path / "00000.png"
    texture = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(texture).save(path)
    content = bytearray(path.read_bytes())
    content[position] ^= 0x55
    path.write_bytes(content)
    message = ""
    try:
        check_frames([path])
        np.testing.assert_array_equal(read_frame(path), texture)
    except GmosError as error:
        message = str(error)
    assert message == "" or ("00000.png" in message and "\n" not in message)


def test_every_8_bit_mode_becomes_rgb(tmp_path: Path) -> None:
    """Grey is repeated, palettes are looked up, alpha is dropped and not blended."""
    rgb = Image.new("RGB", (4, 3), (200, 100, 50))
    palette = rgb.quantize(4)
    transparent = palette.copy()
    transparent.info["transparency"] = bytes([0, 128, 255, 255])
    cases = {
        "grey": (Image.new("L", (4, 3), 90), (90, 90, 90)),
        "one_bit": (Image.new("1", (4, 3), 1), (255, 255, 255)),
        "palette": (palette, (200, 100, 50)),
        "transparent_palette": (transparent, (200, 100, 50)),
        "alpha": (Image.new("RGBA", (4, 3), (200, 100, 50, 0)), (200, 100, 50)),
        "grey_alpha": (Image.new("LA", (4, 3), (90, 0)), (90, 90, 90)),
    }
    for name, (image, colour) in cases.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        check_frames([path])
        frame = read_frame(path)
        assert frame.shape == (3, 4, 3)
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
        assert frame.flags.writeable
        np.testing.assert_array_equal(frame, np.broadcast_to(np.array(colour, np.uint8), (3, 4, 3)), name)


def test_16_bit_grey_is_refused(tmp_path: Path) -> None:
    """Converting depth maps and the like would clip them to white."""
    path = tmp_path / "00000.png"
    Image.fromarray(np.full((3, 4), 40_000, dtype=np.uint16)).save(path)
    with pytest.raises(GmosError, match=r"00000.png has more than 8 bits a channel.*convert the frames"):
        check_frames([path])


def test_huge_frames_are_refused(
    make_directory: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's limit is a clear error, not a warning or a traceback."""
    paths = list_frames(make_directory(count=1))
    for limit in (2000, 1000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(GmosError, match=f"00000.png is too large: more than {limit} pixels"):
            check_frames(paths)


def test_unpadded_numbers_are_noted(make_directory: Callable[..., Path]) -> None:
    """Order by name is kept, as published, but the user hears of it."""
    directory = make_directory(count=3)
    for index, name in enumerate(("frame9.png", "frame10.png", "frame11.png")):
        (directory / f"{index:05d}.png").rename(directory / name)
    paths = list_frames(directory)
    assert [path.name for path in paths] == ["frame10.png", "frame11.png", "frame9.png"]
    _, notes = check_frames(paths)
    assert notes == ("frames are sorted by name: frame11.png comes before frame9.png; pad the numbers",)


def test_exif_orientation_is_ignored_and_noted(tmp_path: Path) -> None:
    """Masks match the stored pixels."""
    path = tmp_path / "00000.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(path, exif=exif)
    video_hw, notes = check_frames([path])
    assert video_hw == (48, 64)
    assert read_frame(path).shape == (48, 64, 3)
    assert len(notes) == 1
    assert "EXIF orientation, which is ignored" in notes[0]


def test_what_pillow_warns_of_is_not_printed(tmp_path: Path) -> None:
    """Damaged metadata is of no interest, and a line with a library's path in it is none of ours."""
    path = tmp_path / "00000.jpg"
    entry = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    Image.new("RGB", (64, 48)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + entry * 4)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        check_frames([path])
    set_up_logging("gmos-run", quiet=True)
    _, (note,) = check_frames([path])
    assert "EXIF orientation, which is ignored" in note
    assert read_frame(path).shape == (48, 64, 3)


def test_times_follow_from_the_rate(make_directory: Callable[..., Path]) -> None:
    """Frame i is shown at i / fps."""
    [sequence] = resolve_inputs([make_directory(count=3)], fps=10, stride=None)
    with sequence.open() as reader:
        frames = list(reader)
    assert [(frame.index, frame.time_s) for frame in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert [int(frame.rgb[0, 0, 0]) for frame in frames] == [0, 10, 20]
    assert not reader.notes


def test_a_frame_that_changes_meanwhile_is_an_error(make_directory: Callable[..., Path]) -> None:
    """The size was checked at the start of the run."""
    paths = list_frames(make_directory(count=1))
    with pytest.raises(GmosError, match=r"00000.png is now 64x48 pixels, it was 32x24"):
        list(read_frames(paths, (24, 32)))


def test_no_frames_at_all_is_an_error() -> None:
    """There is no size to report."""
    with pytest.raises(GmosError, match="no frames were given"):
        check_frames([])


@pytest.mark.parametrize("broken", [{5}, set(range(12))])
def test_broken_links_are_named(tmp_path: Path, broken: set[int]) -> None:
    """Passed over, they would shift the numbers of all later masks."""
    for index in range(12):
        path = tmp_path / f"{index:05d}.png"
        if index in broken:
            path.symlink_to(f"/mnt/unmounted/{path.name}")
        else:
            Image.new("RGB", (16, 9)).save(path)
    first = f"{min(broken):05d}.png"
    with pytest.raises(
        GmosError, match=f"{first} is a broken link to /mnt/unmounted/{first}; expected a frame"
    ):
        list_frames(tmp_path)


def test_a_pipe_is_no_frame(make_directory: Callable[..., Path]) -> None:
    """Nor is any other thing that is no file."""
    directory = make_directory(count=2)
    os.mkfifo(directory / "00002.png")
    with pytest.raises(GmosError, match=r"00002.png is no regular file; expected a frame"):
        list_frames(directory)


def test_16_bits_of_colour_are_refused(tmp_path: Path) -> None:
    """Pillow gives the upper 8 of them, which of a 12-bit camera are nearly black."""
    with pytest.raises(GmosError, match=r"rgb16.png has more than 8 bits a channel \(16\).*magick mogrify"):
        check_frames([CASES / "rgb16.png"])


def test_another_format_is_no_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS file under a PNG's name starts no Ghostscript."""
    started = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {started}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for check in (lambda: check_frames([CASES / "eps.png"]), lambda: read_frame(CASES / "eps.png")):
        with pytest.raises(GmosError, match=r"eps.png cannot be read: not an image; expected a JPEG or PNG"):
            check()
    assert not started.exists()


def test_gaps_and_odd_names_are_noted(tmp_path: Path) -> None:
    """They are frames all the same; every fifth frame of a video has no gaps."""
    for name in ("00000", "00001", "00002", "00003", "00003 (1)", "00007", "thumb"):
        Image.new("RGB", (16, 9)).save(tmp_path / f"{name}.jpg")
    _, notes = check_frames(list_frames(tmp_path))
    assert notes == (
        "names unlike the others: 2 of 7, 00003 (1).jpg the first of them",
        "the numbers of frames have gaps (1), the first between 00003.jpg and 00007.jpg; frames are taken as "
        "neighbours, and results are numbered from 0",
    )
    fifth = tmp_path / "fifth"
    fifth.mkdir()
    for index in range(0, 30, 5):
        Image.new("RGB", (16, 9)).save(fifth / f"v2_{index:05d}.png")
    assert check_frames(list_frames(fifth))[1] == ()


def test_exif_orientation_of_any_frame_is_noted(tmp_path: Path) -> None:
    """Not only that of the first."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(4):
        Image.new("RGB", (16, 9)).save(tmp_path / f"{index}.jpg", **({"exif": exif} if index else {}))
    (note,) = check_frames(list_frames(tmp_path))[1]
    assert "1.jpg and 2 more have an EXIF orientation, which is ignored" in note


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is an empty directory"),
        (["a.mkv", "b.mkv"], r"holds .mkv files \(2\) and no frame: give these themselves"),
        (["x/"], r"holds directories \(1\) and no frame"),
    ],
)
def test_directories_without_frames_say_so_before_a_rate_is_asked_for(
    tmp_path: Path, names: list[str], message: str
) -> None:
    """Without --fps."""
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"")
    with pytest.raises(GmosError, match=message):
        resolve_inputs([tmp_path], fps=None, stride=None)
