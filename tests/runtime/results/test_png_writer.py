"""PNG files as other decoders see them."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.media import Media
from gmos_deploy.runtime.results.overlay import davis_palette
from gmos_deploy.runtime.results.png_writer import MASKS, PngKind, PngWriter, encode_png
from gmos_deploy.runtime.results.tracks_format import TracksFormat
from gmos_deploy.runtime.video.inputs import resolve_inputs


@given(
    values=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    kind=st.sampled_from(["palette", "grey"]),
)
def test_every_array_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: NDArray[np.uint8], kind: PngKind
) -> None:
    """Any size, any values, both kinds, checksums included."""
    path = tmp_path_factory.getbasetemp() / f"{kind}.png"
    path.write_bytes(encode_png(values, kind))
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.mode == ("P" if kind == "palette" else "L")
        np.testing.assert_array_equal(np.asarray(image), values)


def test_label_maps_carry_the_davis_palette(tmp_path: Path) -> None:
    """Viewers show colours, evaluators read labels."""
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / "labels.png"
    path.write_bytes(encode_png(labels, "palette"))
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), davis_palette()[labels])


def test_transposed_and_strided_arrays_are_fine() -> None:
    """Memory layout does not show."""
    values = np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8)
    assert encode_png(values.T, "grey") == encode_png(np.ascontiguousarray(values.T), "grey")
    assert encode_png(values[::2, ::3], "palette") == encode_png(values[::2, ::3].copy(), "palette")


def test_files_are_numbered_with_five_digits(tmp_path: Path) -> None:
    """In any order; a frame written twice counts once."""
    writer = PngWriter(tmp_path / "mos_frame" / "bear", "palette")
    for index in (3, 0, 12345, 3):
        writer.write(index, np.full((2, 2), index % 256, dtype=np.uint8))
    names = sorted(path.name for path in (tmp_path / "mos_frame" / "bear").iterdir())
    assert names == ["00000.png", "00003.png", "12345.png"]
    assert writer.frames_written == 3


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where a directory should be, and a disk without space (a device that is always full)."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(GmosError, match=r"cannot write .*file/bear: a part of this path is a file"):
        PngWriter(tmp_path / "file" / "bear", "grey")
    with pytest.raises(GmosError, match=r"cannot write .*file: there is a file where a directory is needed"):
        PngWriter(tmp_path / "file", "grey")
    writer = PngWriter(tmp_path / "bear", "grey")
    (tmp_path / "bear" / "00000.png").symlink_to("/dev/full")
    with pytest.raises(GmosError, match=r"cannot write .*00000.png: the disk is full; free some space"):
        writer.write(0, np.zeros((4, 4), dtype=np.uint8))


@pytest.mark.parametrize("names", [(), ("00017.jpg", "00019.jpg", "00020 (1).jpg")])
def test_an_index_says_which_frame_is_which(tmp_path: Path, names: tuple[str, ...]) -> None:
    """By its time, and by its name in a directory whose numbers have gaps."""
    media = Media(video_hw=(4, 4), fps=8, frame_names=names)
    with MASKS.writer(tmp_path / "bear", "mos", media) as writer:
        for index in range(3):
            labels = np.zeros((4, 4), np.uint8)
            writer.write(FrameResult(index=index, time_s=index / 8, maps={"mos": labels, "mos-i": labels}))
    with (tmp_path / "bear/index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["output", "frame", "time_s", "name"]
    assert rows[1:] == [
        [f"{index:05d}.png", str(index), f"{index / 8:.6f}", names[index] if names else ""]
        for index in range(3)
    ]
    assert MASKS.is_whole(tmp_path / "bear", 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only there a name need not be text")
def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    """In the index and in the tracks: an escape stands for what UTF-8 does not have."""
    place = tmp_path / "frames"
    place.mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32)).save(os.fsencode(place) + b"/%d\xff, a.png" % number, format="PNG")
    (sequence,) = resolve_inputs([place], fps=8, stride=None)
    assert sequence.media.frame_names == (r"0\udcff, a.png", r"1\udcff, a.png")
    for known in (MASKS, TracksFormat()):
        with known.writer(tmp_path / known.mode, "mos", sequence.media) as writer:
            labels = np.ones((32, 32), np.uint8)
            writer.write(FrameResult(index=0, time_s=0, maps={"mos": labels, "mos-i": labels}))
    assert r"0\udcff, a.png" in (tmp_path / "mask/index.csv").read_text(encoding="utf-8")
    assert r"0\\udcff, a.png" in (tmp_path / "tracks/tracks.json").read_text(encoding="utf-8")
