"""Objects of a frame as another library's detections."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.frame_result import FrameResult

HW = (20, 30)


def gmos() -> FrameResult:
    """Object 1 moves, object 2 is still, object 3 is in MOS-I only."""
    mos_i, mos = np.zeros(HW, np.uint8), np.zeros(HW, np.uint8)
    mos[2:6, 3:9] = mos_i[2:6, 3:9] = 1
    mos[10:14, 20:30] = 2
    mos_i[16:18, :5] = 3
    ious = np.float32([0.5, 0.25, 0.75])
    return FrameResult(
        index=0, time_s=0, maps={"mos-i": mos_i, "mos": mos}, ious={"mos-i": ious, "mos": ious}
    )


@pytest.mark.parametrize("compact", [False, True])
def test_detections_of_objects(compact: bool) -> None:
    """Boxes, masks, ids, motion and IoUs, object by object."""
    pytest.importorskip("cv2")
    supervision = pytest.importorskip("supervision")
    answer = gmos().compact() if compact else gmos()
    found = answer.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == [[3, 2, 9, 6], [20, 10, 30, 14], [0, 16, 5, 18]]
    assert found.tracker_id.tolist() == [1, 2, 3]
    assert found.class_id.tolist() == [0, 0, 0]
    assert found.confidence.tolist() == [0.5, 0.25, 0.75]
    assert found.data["moving"].tolist() == [True, False, True]
    for one, mask in zip(answer.objects, found.mask, strict=True):
        np.testing.assert_array_equal(mask, one.mask())
    # Its own selection goes through all of it.
    assert len(found[found.data["moving"]]) == 2


def test_detections_are_drawn_and_tracked() -> None:
    """What people do with them: annotators take them as they are."""
    pytest.importorskip("cv2")
    supervision = pytest.importorskip("supervision")
    frame = np.zeros((*HW, 3), np.uint8)
    drawn = supervision.MaskAnnotator(opacity=1).annotate(frame.copy(), gmos().to_supervision())
    np.testing.assert_array_equal(drawn.any(axis=2), (gmos().mos != 0) | (gmos().mos_i == 3))


@pytest.mark.parametrize("objects", [0, 1])
def test_detections_of_a_foreground(objects: int) -> None:
    """One object without an IoU, or none; masks have the frame's size either way."""
    pytest.importorskip("cv2")
    pytest.importorskip("supervision")
    mask = np.zeros(HW, np.uint8)
    mask[4:9, 5:7] = objects
    found = FrameResult(index=0, time_s=0, maps={"foreground": mask, "probability": mask}).to_supervision()
    assert len(found) == objects
    assert found.mask is not None
    assert found.mask.shape == (objects, *HW)
    assert found.confidence is None
    assert found.tracker_id is not None
    assert found.tracker_id.tolist() == [1] * objects
    assert found.mask.sum() == 10 * objects


def test_without_the_library_there_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra."""
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(GmosError, match=r"needs supervision.*pip install 'gmos-deploy\[supervision\]'"):
        gmos().to_supervision()
