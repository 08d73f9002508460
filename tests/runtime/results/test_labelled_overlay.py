"""Overlays for people: colours that show, ids, motion, a legend; and the published pixels for who asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.media import Media
from gmos_deploy.runtime.results.collected import instances
from gmos_deploy.runtime.results.formats import drawing_settings
from gmos_deploy.runtime.results.labelled_overlay import COLOURS, labelled_overlay
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer, OverlayFormat
from gmos_deploy.runtime.results.overlay import overlay
from gmos_deploy.runtime.video.inputs import resolve_inputs

HW = (120, 200)
GREY = 90


def answer(hw: tuple[int, int] = HW) -> FrameResult:
    """Object 1 moves at the left, object 2 is still at the right."""
    height, width = hw
    mos = np.zeros(hw, np.uint8)
    mos[height // 3 : height // 2, width // 8 : width // 3] = 1
    mos[height // 3 : height // 2, width // 2 : width * 3 // 4] = 2
    return FrameResult(
        index=0,
        time_s=0,
        maps={"mos-i": np.where(mos == 1, mos, 0), "mos": mos},
        rgb=np.full((*hw, 3), GREY, np.uint8),
    )


def drawn(one: FrameResult, result: str = "mos") -> NDArray[np.uint8]:
    assert one.rgb is not None
    return labelled_overlay(one.rgb, instances(one, result), result)  # type: ignore[arg-type]


def test_colours_show() -> None:
    """Each is bright, and no two are alike; ten objects is what a video may have."""
    colours = np.array(COLOURS)
    assert len(colours) == 10
    assert (colours @ [0.299, 0.587, 0.114] > 110).all()
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2)
    assert distances[~np.eye(10, dtype=bool)].min() >= 70


def test_moving_objects_are_filled_and_still_ones_hardly() -> None:
    """Inside, on the outline, and just outside; the frame itself is left as it is."""
    one = answer()
    picture = drawn(one).astype(int)
    for number, column, share in ((1, 40, 0.5), (2, 120, 0.15)):
        expected = GREY + share * (np.array(COLOURS[number - 1]) - GREY)
        np.testing.assert_allclose(picture[55, column], expected, atol=1)
    for number, column in ((1, 25), (2, 100)):
        assert tuple(picture[50, column]) == COLOURS[number - 1]
        assert (picture[50, column - 1] < 20).all()
    assert (one.rgb == GREY).all()  # type: ignore[union-attr]


def test_ids_and_motion_are_written_over_the_object() -> None:
    """Another id or another motion is another picture there; MOS-I shows only what moves."""
    tags = [drawn(answer())[20:40, 25:90]]
    tags.append(
        drawn(replace(answer(), maps={**answer().maps, "mos-i": np.zeros(HW, np.uint8)}))[20:40, 25:90]
    )
    assert (tags[0] == COLOURS[0]).all(axis=2).sum() > 100
    assert (tags[0] != tags[1]).any()
    assert (drawn(answer(), "mos-i")[35:65, 95:] == GREY).all()


def test_a_tag_is_over_the_largest_part() -> None:
    """Not over the corner of a box that holds two, where another object may be."""
    mos = np.zeros(HW, np.uint8)
    mos[60:64, 20:24] = 1
    mos[50:70, 120:180] = 1
    one = FrameResult(index=0, time_s=0, maps={"mos-i": mos, "mos": mos}, rgb=np.zeros((*HW, 3), np.uint8))
    tagged = (drawn(one) == COLOURS[0]).all(axis=2)[:49]
    assert tagged[:, 118:].sum() > 200
    assert not tagged[:, :110].any()


def test_a_legend_says_which_result() -> None:
    """In the corner, on white; none where there is no room for letters."""
    corners = [drawn(answer(), result)[-12:, :60] for result in ("mos", "mos-i")]
    assert all((corner == 255).any() for corner in corners)
    assert (corners[0] != corners[1]).any()
    assert not (drawn(answer((60, 90))) == 255).all(axis=2).any()


def test_tags_stay_in_the_frame() -> None:
    """Of an object at the edge, and of one that fills it all."""
    for rows, columns in ((slice(0, 4), slice(196, 200)), (slice(None), slice(None))):
        mos = np.zeros(HW, np.uint8)
        mos[rows, columns] = 3
        one = FrameResult(
            index=0, time_s=0, maps={"mos-i": mos, "mos": mos}, rgb=np.zeros((*HW, 3), np.uint8)
        )
        picture = drawn(one)
        assert picture.shape == (*HW, 3)
        assert (picture == COLOURS[2]).all(axis=2).sum() > 200


@pytest.mark.parametrize("style", ["labelled", "published"])
def test_the_style_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """What reaches the encoder are the published pixels, or the labelled ones."""
    written: list[NDArray[np.uint8]] = []
    monkeypatch.setattr(Mp4Writer, "write", lambda self, rgb, time_s: written.append(rgb))
    media = Media(video_hw=HW, fps=10, overlay=style)  # type: ignore[arg-type]
    with OverlayFormat().writer(tmp_path / "a.mp4", "mos", media) as writer:
        writer.write(answer())
    rgb = answer().rgb
    assert rgb is not None
    expected = overlay(rgb, answer().mos) if style == "published" else drawn(answer())
    np.testing.assert_array_equal(written[0], expected)


def test_only_another_style_is_a_setting() -> None:
    """Results of before stay finished; masks know no style."""
    assert drawing_settings({"mask", "mp4"}, "labelled") == {}
    assert drawing_settings({"mask"}, "published") == {}
    assert drawing_settings({"mask", "mp4"}, "published") == {"overlay": "published"}


def test_overlays_are_the_same_bytes_again(tmp_path: Path) -> None:
    """No dates; the encoder's threads do not show."""
    contents = []
    for name in ("a.mp4", "b.mp4"):
        with OverlayFormat().writer(tmp_path / name, "mos", Media(video_hw=HW, fps=10)) as writer:
            for index in range(12):
                writer.write(replace(answer(), index=index, time_s=index / 10))
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("turned", "expected"), [(False, Fraction(4, 3)), (True, Fraction(3, 4))])
def test_pixels_keep_their_shape(
    tmp_path: Path, make_video: Callable[..., Path], turned: bool, expected: Fraction
) -> None:
    """A video of wide pixels gives an overlay of wide pixels; of high ones where it is turned."""
    path = tmp_path / "wide.mp4"
    with Mp4Writer(path, video_hw=(48, 64), fps=25, pixel_aspect=Fraction(4, 3)) as writer:
        for index in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8), index / 25)
    if turned:
        turn(path)
    (sequence,) = resolve_inputs([path], fps=None, stride=None)
    assert sequence.video_hw == ((64, 48) if turned else (48, 64))
    assert sequence.pixel_aspect == expected
    with OverlayFormat().writer(tmp_path / "out.mp4", "mos", sequence.media) as frames:
        frames.write(answer(sequence.video_hw))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == expected
    (plain,) = resolve_inputs([make_video()], fps=None, stride=None)
    assert plain.pixel_aspect == 1


def turn(path: Path) -> None:
    """Write a quarter turn into the display matrix of the track's header (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one = (1 << 16).to_bytes(4, "big", signed=True)
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    content[at : at + 36] = (
        zero + one + zero + minus + zero + zero + zero + zero + (1 << 30).to_bytes(4, "big")
    )
    path.write_bytes(content)
