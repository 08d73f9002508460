"""Small pictures of single frames, annotation beside prediction, for the HTML report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ...runtime.results.palette import davis_palette
from ..report.pictures import reduced, strip_png
from .label_maps import Mask, foreground, read_label_map
from .moca import FOREGROUND_ABOVE
from .motion_grouping import read_merged_annotation
from .results import FrameBoxes, FrameScore, SequenceScores

_COLOURS = 32
"""Of a picture; what it shows has fewer."""

_UNJUDGED = (70, 70, 70)
_UNMATCHED = (255, 0, 255)
_MERGED = (64, 160, 255)
_ANNOTATED_BOX = (0, 220, 0)
_PREDICTED_BOX = (255, 80, 80)

_Rgb = npt.NDArray[np.uint8]


def frame_picture(sequence: SequenceScores, frame: FrameScore, *, merged: bool, fbms: bool) -> bytes:
    """A PNG with the annotation on the left and the prediction on the right.

    A predicted object has the colour of the annotated object it was matched to. Objects that do not
    count in this frame are dark grey, predicted ones without a match magenta.

    Args:
        sequence: the frame's sequence, for its matching.
        frame: the frame.
        merged: all labels are one foreground.
        fbms: the annotation follows FBMS-59's own reading rules.
    """
    if frame.boxes is not None:
        pictures = [_box_picture(frame.prediction, frame.boxes)]
    elif merged:
        annotated = read_merged_annotation(frame.annotation, fbms=fbms, sequence=sequence.name)
        pictures = [_mask_picture(annotated), _mask_picture(foreground(read_label_map(frame.prediction)))]
    else:
        pictures = [_annotation_picture(frame), _prediction_picture(frame, sequence.matching)]
    return strip_png(pictures, colours=_COLOURS)


def _annotation_picture(frame: FrameScore) -> Image.Image:
    colours = davis_palette()
    if frame.judged is not None:
        unjudged = np.ones(256, dtype=bool)
        unjudged[[0, *frame.judged]] = False
        colours[unjudged] = _UNJUDGED
    return _coloured(read_label_map(frame.annotation[0]).labels, colours)


def _prediction_picture(frame: FrameScore, matching: dict[int, int]) -> Image.Image:
    palette = davis_palette()
    colours = np.empty_like(palette)
    colours[:] = _UNMATCHED
    colours[0] = palette[0]
    colours[list(frame.cleared)] = _UNJUDGED
    for predicted, annotated in matching.items():
        if predicted not in frame.cleared and (frame.judged is None or annotated in frame.judged):
            colours[predicted] = palette[annotated]
    return _coloured(read_label_map(frame.prediction).labels, colours)


def _mask_picture(mask: Mask) -> Image.Image:
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[1] = _MERGED
    return _coloured(mask.astype(np.uint8), colours)


def _box_picture(prediction: Path, boxes: FrameBoxes) -> Image.Image:
    """The predicted foreground with both boxes, in the coordinates of the video's frame."""
    with Image.open(prediction) as image:
        is_grey = image.mode == "L"
        mask = np.asarray(image) > FOREGROUND_ABOVE if is_grey else np.asarray(image) != 0
    picture = _mask_picture(np.asarray(mask))
    scale = picture.width / boxes.frame_width
    draw = ImageDraw.Draw(picture)
    for box, colour in ((boxes.annotated, _ANNOTATED_BOX), (boxes.predicted, _PREDICTED_BOX)):
        if box is not None:
            draw.rectangle([side * scale for side in box], outline=colour, width=2)
    return picture


def _coloured(labels: npt.NDArray[np.uint8], colours: _Rgb) -> Image.Image:
    """A label map as RGB at picture width, nearest neighbour so that thin objects keep their colour."""
    return reduced(Image.fromarray(colours[labels]), Image.Resampling.NEAREST)
