"""The contact sheet: where tiles and captions go, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contact_sheet import GAP_PX, write_contact_sheet
from PIL import Image

from gmos_deploy.errors import GmosError

COLOURS = [[(250, 0, 0), (0, 250, 0), (0, 0, 250)], [(90, 90, 0), (0, 90, 90), (90, 0, 90)]]


def test_tiles_are_in_their_places(tmp_path: Path) -> None:
    """Rows and columns as given, captions in ink outside the tiles."""
    rows = [[np.full((48, 64, 3), colour, dtype=np.uint8) for colour in row] for row in COLOURS]
    path = tmp_path / "sheet.png"
    write_contact_sheet(
        path, rows, row_captions=["input", "MOS"], column_captions=["0 s", "1 s", "2 s"], tile_width_px=32
    )
    with Image.open(path) as image:
        sheet = np.asarray(image)
    left = sheet.shape[1] - 3 * (32 + GAP_PX)
    top = sheet.shape[0] - 2 * (24 + GAP_PX)
    for row, colours in enumerate(COLOURS):
        for column, colour in enumerate(colours):
            y, x = top + row * (24 + GAP_PX), left + column * (32 + GAP_PX)
            np.testing.assert_array_equal(sheet[y : y + 24, x : x + 32], np.broadcast_to(colour, (24, 32, 3)))
    assert (sheet[:top, left:] < 128).any()
    assert (sheet[top:, :left] < 128).any()
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


def test_sheets_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    """Sizes, captions and rows must agree."""
    small, large = np.zeros((4, 4, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)
    path = tmp_path / "sheet.png"
    with pytest.raises(GmosError, match="frames of 2 sizes; expected one size"):
        write_contact_sheet(path, [[small, large]], row_captions=["a"], column_captions=["0", "1"])
    with pytest.raises(GmosError, match="frames of 0 sizes"):
        write_contact_sheet(path, [], row_captions=[], column_captions=[])
    with pytest.raises(GmosError, match=r"2 rows of \[1, 2\] frames with 2 row and 2 column captions"):
        write_contact_sheet(
            path, [[small], [small, small]], row_captions=["a", "b"], column_captions=["0", "1"]
        )
    with pytest.raises(GmosError, match="tiles 0 pixels wide"):
        write_contact_sheet(path, [[small]], row_captions=["a"], column_captions=["0"], tile_width_px=0)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_sheet_is_a_clear_error(tmp_path: Path) -> None:
    """Its directory is a file."""
    (tmp_path / "file").write_text("x")
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(GmosError, match=r"cannot write .*sheet.png: "):
        write_contact_sheet(
            tmp_path / "file" / "sheet.png", [[frame]], row_captions=["a"], column_captions=["0"]
        )
