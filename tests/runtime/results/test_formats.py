"""Save modes and the places of results."""

from __future__ import annotations

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.results.completion import targets
from gmos_deploy.runtime.results.formats import parse_save_mode


@pytest.mark.parametrize(
    ("text", "variant", "expected"),
    [
        (None, "gmos", {"mask"}),
        (None, "gmos-s", {"prob"}),
        ("mask+mp4", "gmos", {"mask", "mp4"}),
        ("MP4 + mask", "gmos", {"mask", "mp4"}),
        ("prob+mask+mp4", "gmos-s", {"prob", "mask", "mp4"}),
    ],
)
def test_modes_are_joined_by_plus(text: str | None, variant: Variant, expected: set[str]) -> None:
    """Defaults, case and blanks included."""
    assert parse_save_mode(text, variant) == expected


@pytest.mark.parametrize(
    ("text", "variant", "message"),
    [
        (
            "prob",
            "gmos",
            "--save-mode 'prob': gmos has no mode 'prob'; expected mask, mp4, tracks, coco, ytvis, yolo, npz, or",
        ),
        (
            "png",
            "gmos-s",
            "'png' is no mode; expected mask, mp4, prob, tracks, coco, ytvis, yolo, npz, or several joined by [+]",
        ),
        ("mask,mp4", "gmos", "'mask,mp4' is no mode"),
        ("", "gmos", "'' is no mode"),
        ("mask+", "gmos", "'' is no mode"),
        ("mask+mp4+mask", "gmos", "'mask' is named twice"),
    ],
)
def test_other_texts_are_refused(text: str, variant: Variant, message: str) -> None:
    """The message lists what the variant has."""
    with pytest.raises(GmosError, match=message):
        parse_save_mode(text, variant)


@pytest.mark.parametrize(
    ("variant", "modes", "expected"),
    [
        (
            "gmos",
            {"mask", "mp4"},
            ["mos-i_frame/bear", "mos-i_mp4/bear.mp4", "mos_frame/bear", "mos_mp4/bear.mp4"],
        ),
        ("gmos-s", {"mask", "mp4", "prob"}, ["frame/bear", "mp4/bear.mp4", "prob/bear"]),
    ],
)
def test_results_are_filed_as_published(variant: Variant, modes: set[str], expected: list[str]) -> None:
    """The same folders, so that existing evaluation code finds them."""
    assert sorted(map(str, targets(variant, frozenset(modes), "bear"))) == expected
