"""Small pictures of the worst frames, annotation beside prediction, for the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ...runtime.results.overlay import davis_palette
from ..report.pictures import reduced, strip_png
from .label_maps import Labels, Mask, foreground, open_image, read_label_map
from .motion_grouping import FOREGROUND_ABOVE, read_merged_annotation
from .results import METRIC_FORM, Evaluation, FrameBoxes, FrameScore

_COLOURS = 32
"""Of a picture; what it shows has fewer."""

_UNJUDGED = (70, 70, 70)
_UNMATCHED = (255, 0, 255)
_MERGED = (64, 160, 255)
_ANNOTATED_BOX = (0, 220, 0)
_PREDICTED_BOX = (255, 80, 80)


def worst_pictures(
    evaluation: Evaluation, count: int, *, merged: bool, fbms: bool
) -> tuple[list[tuple[bytes, str]], str]:
    """PNGs of the worst frames with their captions, and what their colours mean.

    Args:
        evaluation: whose frames.
        count: how many.
        merged: all labels of this benchmark are one foreground.
        fbms: annotations follow FBMS-59's own reading rules.

    Raises:
        GmosError: a pictured frame is gone.
    """
    worst = evaluation.worst_frames(count)
    if any(frame.boxes is not None for _, frame in worst):
        legend = "Predicted foreground in blue, annotated box in green, predicted box in red."
    elif merged:
        legend = "Left the annotation, right the prediction, all objects merged."
    else:
        legend = (
            "Left the annotation, right the prediction; matched objects share a colour. Dark grey: does not"
            " count in this frame. Magenta: predicted without a match."
        )
    pictures = []
    for sequence, frame in worst:
        if frame.boxes is not None:
            images = [_box_picture(frame.prediction, frame.boxes)]
        elif merged:
            annotated = read_merged_annotation(frame.annotation, fbms=fbms, sequence=sequence.name)
            images = [_mask_picture(annotated), _mask_picture(foreground(read_label_map(frame.prediction)))]
        else:
            images = _label_pictures(frame, sequence.matching)
        caption = f"{sequence.name} / {frame.name}: {frame.score:{METRIC_FORM}}"
        pictures.append((strip_png(images, colours=_COLOURS), caption))
    return pictures, legend


def _label_pictures(frame: FrameScore, matching: Mapping[int, int]) -> list[Image.Image]:
    """Annotation and prediction; a predicted object has the colour of the annotated one it was matched to."""
    palette = davis_palette()
    annotated = palette.copy()
    if frame.judged is not None:
        unjudged = np.ones(256, dtype=bool)
        unjudged[[0, *frame.judged]] = False
        annotated[unjudged] = _UNJUDGED
    predicted = np.empty_like(palette)
    predicted[:] = _UNMATCHED
    predicted[0] = palette[0]
    predicted[list(frame.cleared)] = _UNJUDGED
    for label, match in matching.items():
        if label not in frame.cleared and (frame.judged is None or match in frame.judged):
            predicted[label] = palette[match]
    sides = ((frame.annotation[0], annotated), (frame.prediction, predicted))
    return [_coloured(read_label_map(path).labels, colours) for path, colours in sides]


def _mask_picture(mask: Mask) -> Image.Image:
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[1] = _MERGED
    return _coloured(mask.astype(np.uint8), colours)


def _box_picture(prediction: Path, boxes: FrameBoxes) -> Image.Image:
    """The predicted foreground with both boxes, in the coordinates of the video's frame."""
    image = open_image(prediction)
    mask = np.asarray(image) > (FOREGROUND_ABOVE if image.mode == "L" else 0)
    picture = _mask_picture(mask)
    scale = picture.width / boxes.frame_width
    draw = ImageDraw.Draw(picture)
    for box, colour in ((boxes.annotated, _ANNOTATED_BOX), (boxes.predicted, _PREDICTED_BOX)):
        if box is not None:
            draw.rectangle([side * scale for side in box], outline=colour, width=2)
    return picture


def _coloured(labels: Labels, colours: npt.NDArray[np.uint8]) -> Image.Image:
    """A label map as RGB at picture width, nearest neighbour so that thin objects keep their colour."""
    return reduced(Image.fromarray(colours[labels]), Image.Resampling.NEAREST)
