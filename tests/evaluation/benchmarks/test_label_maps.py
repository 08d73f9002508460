"""What is taken for a label map and what is refused; the resize of masks, against PyTorch's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.label_maps import (
    PaletteWatch,
    open_image,
    read_binary_mask,
    read_label_map,
    resize_label,
)

SIDES = st.integers(1, 40)
TIE = 1e-6
"""A few roundings of float32 weights; PyTorch's builds differ there among themselves."""


def save(
    path: Path, array: NDArray[np.uint8], mode: str | None = None, palette: list[int] | None = None
) -> Path:
    """Write an image in a mode of its own."""
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    if palette:
        image.putpalette(palette)
    image.save(path)
    return path


def test_palette_file_gives_indices(tmp_path: Path, write_map: Callable[..., Path]) -> None:
    """Labels, their pixel counts and their colours are read."""
    labels = np.array([[0, 1], [3, 255]], np.uint8)
    label_map = read_label_map(write_map(tmp_path / "a.png", labels))
    assert np.array_equal(label_map.labels, labels)
    assert label_map.present == {0: 1, 1: 1, 3: 1, 255: 1}
    assert label_map.colours[3] == (128, 128, 0)
    assert label_map.above_limit == (255,)


@pytest.mark.parametrize("values", [[0, 1, 2, 20], [0, 255], [0, 255, 3], [0, 77]])
def test_grey_label_maps_and_masks_are_read(tmp_path: Path, values: list[int]) -> None:
    """Grey files are labels as long as they look like labels, void, or one foreground value."""
    labels = np.array([values], np.uint8)
    assert np.array_equal(read_label_map(save(tmp_path / "a.png", labels)).labels, labels)


def test_one_bit_files_are_masks(tmp_path: Path) -> None:
    """A bitmap is label 1 on 0."""
    path = save(tmp_path / "a.png", np.array([[0, 255]], np.uint8), mode="1")
    assert read_label_map(path).labels.tolist() == [[0, 1]]


def test_probability_maps_are_refused(tmp_path: Path) -> None:
    """A prob tree given as labels says so and names the tree to give."""
    path = save(tmp_path / "a.png", np.arange(256, dtype=np.uint8)[None])
    with pytest.raises(GmosError, match=r"a\.png: 8-bit grey with 256 values up to 254, a probability map"):
        read_label_map(path)


def test_colour_images_are_refused(tmp_path: Path) -> None:
    """Colours are not labels."""
    path = save(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(GmosError, match=r"a\.png: a RGB image: expected a palette or 8-bit grey label map"):
        read_label_map(path)


def test_quantised_colour_images_are_refused(tmp_path: Path) -> None:
    """A photo reduced to a palette has too many indices."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(photo).quantize(200)
    image.save(tmp_path / "a.png")
    with pytest.raises(GmosError, match=r"palette indices in one frame: expected at most 20 labels"):
        read_label_map(tmp_path / "a.png")


def test_background_that_is_not_black_is_a_wrong_palette(tmp_path: Path) -> None:
    """Editors that renumber a palette move the background."""
    path = save(tmp_path / "a.png", np.zeros((2, 2), np.uint8), palette=[9, 8, 7, 0, 0, 0])
    with pytest.raises(GmosError, match=r"wrong palette, label 0 is drawn as \(9, 8, 7\): expected black"):
        read_label_map(path)


def test_a_label_in_two_colours_is_a_wrong_palette(tmp_path: Path) -> None:
    """A palette that changes within a sequence has renumbered its labels."""
    labels = np.array([[0, 1]], np.uint8)
    first = read_label_map(save(tmp_path / "a.png", labels, palette=[0, 0, 0, 255, 0, 0]))
    second = read_label_map(save(tmp_path / "b.png", labels, palette=[0, 0, 0, 0, 255, 0]))
    watch = PaletteWatch()
    watch.check(first)
    with pytest.raises(GmosError, match=r"b\.png: wrong palette, label 1 .* \(255, 0, 0\) in a\.png"):
        watch.check(second)
    assert not watch.agrees(second)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_broken_files_are_named(tmp_path: Path, content: bytes | str) -> None:
    """Empty, foreign and truncated files give one line with the path."""
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 2, (60, 60), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:120] if isinstance(content, str) else content)
    with pytest.raises(GmosError, match=r"a\.png: unreadable image \(.*\): expected a PNG"):
        read_label_map(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A file that vanished is the same kind of problem."""
    with pytest.raises(GmosError, match=r"gone\.png: unreadable image \(.*No such file"):
        read_label_map(tmp_path / "gone.png")


def test_binary_masks_may_be_colour(tmp_path: Path) -> None:
    """SegTrackv2 ships colour masks: any bright channel is foreground."""
    colour = np.zeros((1, 3, 3), np.uint8)
    colour[0, 1] = (0, 200, 0)
    colour[0, 2] = (100, 100, 100)
    assert read_binary_mask(save(tmp_path / "a.png", colour)).tolist() == [[False, True, False]]
    assert read_binary_mask(save(tmp_path / "b.png", np.array([[0, 5]], np.uint8))).tolist() == [
        [False, True]
    ]


def test_deep_binary_masks_are_refused(tmp_path: Path) -> None:
    """16-bit files would be cut."""
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(GmosError, match="expected a palette, grey or colour mask of 8 bits"):
        read_binary_mask(tmp_path / "a.png")


@given(source=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**16))
@settings(max_examples=300, deadline=None)
def test_equals_torch(source: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    """Every pixel falls on the same side of one half, but for ties that rounding decides."""
    labels = np.random.default_rng(seed).integers(0, 3, source, dtype=np.uint8)
    torch = pytest.importorskip("torch")
    mask = torch.from_numpy((labels == 2).astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(mask, size=target, mode="bilinear", align_corners=False)
    values = expected[0, 0].numpy()
    decided = np.abs(values - 0.5) > TIE
    assert np.array_equal(resize_label(labels, 2, target)[decided], (values > 0.5)[decided])


@pytest.mark.parametrize(("source", "target"), [((240, 427), (480, 854)), ((720, 1280), (480, 854))])
def test_equals_torch_at_video_sizes(source: tuple[int, int], target: tuple[int, int]) -> None:
    """The sizes that occur, ties included."""
    labels = np.random.default_rng(3).integers(0, 2, source, dtype=np.uint8)
    torch = pytest.importorskip("torch")
    mask = torch.from_numpy(labels.astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(mask, size=target, mode="bilinear", align_corners=False)
    assert np.array_equal(resize_label(labels, 1, target), (expected > 0.5)[0, 0].numpy())


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "WEBP"])
def test_other_formats_are_refused_whatever_they_are_called(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no program is started, as Pillow does for EPS."""
    path = tmp_path / "a.png"
    if kind == "EPS":
        path.write_bytes(EPS)
    else:
        Image.new("L", (8, 8)).save(path, kind)
    called = tmp_path / "called"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {called}\n", encoding="ascii")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for read in (read_label_map, read_binary_mask, lambda path: open_image(path, header_only=True)):
        with pytest.raises(GmosError, match=r"a\.png: unreadable image \(it is none of JPEG, PNG, BMP, PPM"):
            read(path)
    assert not called.exists()


def test_formats_of_benchmarks_are_read(tmp_path: Path) -> None:
    """SegTrackv2 has BMP masks, FBMS-59 PGM and PPM."""
    for suffix in (".bmp", ".pgm", ".png"):
        Image.new("L", (8, 4), 255).save(tmp_path / f"a{suffix}")
        assert read_binary_mask(tmp_path / f"a{suffix}").all()


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(GmosError, match=r"unreadable image \(it is a named pipe"):
        open_image(tmp_path / "a.png")
