"""The motion-grouping protocol: foreground J on SegTrackv2 and FBMS-59, boxes of camouflaged animals on MoCA."""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, label

from ...errors import GmosError
from ...runtime.files.regular_file import read_text
from .label_maps import Mask, foreground, open_image, read_binary_mask, read_label_map, resize_label
from .results import Box, FrameBoxes, FrameScore, SequenceScores
from .sequence_trees import FramePairs, list_frames

_EPSILON = 1e-12
"""Added to the union by the protocol, so that two empty masks score 0."""

FRAME_SCORE = "J of the merged objects"

_FBMS_ABOVE = 0.1
"""Grey level, as a share of white, above which a pixel belongs to an object (motion-grouping protocol)."""

_FBMS_ABOVE_IN = {"marple7": 0.05, "marple2": 0.4}
"""Sequences whose objects are drawn darker, or whose background is lighter."""

_WHITE = 0.99
"""PPM files draw the background white: from this grey level on."""

_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")

FOREGROUND_ABOVE = 25.5
"""Grey level of the predicted mask, 0 to 255, above which a pixel is foreground."""

INVERTED_ABOVE = 127.5
"""Grey level of border pixels that speak for an inverted mask."""

SUCCESS_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""A frame succeeds where its box IoU is above these."""

BOX_FRAME_SCORE = "IoU of the boxes"

_FRAME_CELL = re.compile(r"([^/\\\"\[\]]+)[/\\]([^/\\\"\[\]]+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
_BOX_CELL = re.compile(r"^\s*\[[^\[\]]*\]\s*$")
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


def foreground_j(predicted: Mask, annotated: Mask) -> float:
    """Intersection over union of two bool masks (H, W); 0 if both are empty."""
    union = int((predicted | annotated).sum())
    return int((predicted & annotated).sum()) / (union + _EPSILON)


def read_merged_annotation(files: tuple[Path, ...], *, fbms: bool, sequence: str) -> Mask:
    """The union of the mask files of one annotated frame, bool (H, W).

    Raises:
        GmosError: a file is unreadable, or the files differ in size.
    """
    masks = [read_fbms_mask(path, sequence) if fbms else read_binary_mask(path) for path in files]
    if len({mask.shape for mask in masks}) > 1:
        raise GmosError(f"{files[0]}: the masks of this frame's objects differ in size: expected one size")
    return reduce(np.logical_or, masks)


def evaluate_foreground_sequence(name: str, pairs: FramePairs, *, fbms: bool) -> SequenceScores:
    """Read one sequence frame by frame and score it.

    Args:
        name: of the sequence.
        pairs: its frames.
        fbms: annotations follow the reading rules of FBMS-59's own files.

    Raises:
        GmosError: no annotated frame, or a file that is no mask.
    """
    if not pairs.frames:
        raise GmosError(f"{name}: no annotated frame: expected masks in its annotation folder")
    notes, frames = Counter(pairs.notes), []
    for frame in pairs.frames:
        annotated = read_merged_annotation(frame.annotation, fbms=fbms, sequence=name)
        predicted = foreground(read_label_map(frame.prediction))
        if predicted.shape != annotated.shape:
            notes["resized_predictions"] += 1
            height, width = annotated.shape
            predicted = resize_label(predicted.astype(np.uint8), 1, (height, width))
        notes["both_empty_frames"] += not (annotated.any() or predicted.any())
        frames.append(FrameScore(*frame, foreground_j(predicted, annotated)))
    j = float(np.mean([frame.score for frame in frames]))
    return SequenceScores(name=name, metrics={"j": j}, frames=tuple(frames), notes=notes)


def overall_foreground(sequences: list[SequenceScores]) -> dict[str, float]:
    """The protocol's two means: over all frames, and over sequences."""
    return {
        "j_frame_mean": float(np.mean([frame.score for s in sequences for frame in s.frames])),
        "j_sequence_mean": float(np.mean([s.metrics["j"] for s in sequences])),
    }


def fbms_annotations(directory: Path, frame_names: list[str]) -> list[tuple[str, tuple[Path, ...]]]:
    """Annotated frames of one `GroundTruth` folder, as (frame name, files).

    An annotation's number is its frame's position, counted from 1. PPM files are used where there
    are any, without the `PROB` ones.

    Raises:
        GmosError: a file has no number, or a number that no frame has.
    """
    files = [path for path in list_frames(directory, (".ppm",)) if "PROB" not in path.name]
    files = files or list_frames(directory, (".pgm", ".png"))
    numbered: dict[int, Path] = {}
    for path in files:
        match = _LAST_NUMBER.search(path.stem)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(frame_names):
            raise GmosError(
                f"{path}: expected a name that ends in the frame's number, 1 to {len(frame_names)}"
                " (the frames beside GroundTruth); check that the sequence is complete"
            )
        numbered[number] = path
    return [(frame_names[number - 1], (numbered[number],)) for number in sorted(numbered)]


def read_fbms_mask(path: Path, sequence: str) -> Mask:
    """The merged objects of one annotation file, bool (H, W)."""
    grey = np.asarray(open_image(path).convert("L"), dtype=np.float64) / 255
    if path.suffix.lower() == ".ppm":
        grey[grey > _WHITE] = 0.0
    return np.asarray(grey > _FBMS_ABOVE_IN.get(sequence, _FBMS_ABOVE))


def read_boxes(path: Path) -> tuple[dict[str, dict[str, Box]], Counter[str]]:
    """Read MoCA's box CSV: video -> frame name -> box, and what was noted by code.

    Both the original export and the filtered list are read: of each row, the cell that holds a
    frame's path `/<video>/<frame>.jpg`, and the cell that holds `[_, x, y, w, h]` in pixels. x and y are
    clipped at 0.

    Raises:
        GmosError: the file cannot be read or holds no box.
    """
    boxes: dict[str, dict[str, Box]] = {}
    notes: Counter[str] = Counter()
    try:
        for row in csv.reader(read_text(path).splitlines(keepends=True)):
            frame = next((match for cell in row if (match := _FRAME_CELL.search(cell))), None)
            if frame is None or row[0].lstrip().startswith("#"):
                continue
            box = next((box for cell in row if (box := _parse_box(cell))), None)
            if box is None:
                notes["unreadable_box_rows"] += 1
                continue
            x, y, width, height = box
            notes["clipped_boxes"] += x < 0 or y < 0
            x, y = max(x, 0.0), max(y, 0.0)
            boxes.setdefault(frame[1], {})[frame[2]] = (x, y, x + width, y + height)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GmosError(f"{path}: cannot read the box CSV ({error}): check the path") from None
    if not boxes:
        raise GmosError(
            f"{path}: no boxes: expected rows with a frame's path /<video>/<frame>.jpg"
            " and a box [_, x, y, width, height]"
        )
    return boxes, notes


def _parse_box(cell: str) -> tuple[float, float, float, float] | None:
    if not _BOX_CELL.match(cell):
        return None
    try:
        values = ast.literal_eval(cell.strip())
        if len(values) != 5 or not all(isinstance(value, (int, float)) for value in values):
            return None
        _, x, y, width, height = (float(value) for value in values)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return None
    return (x, y, width, height) if width > 0 and height > 0 else None


def foreground_box(grey: npt.NDArray[np.uint8]) -> tuple[tuple[int, int, int, int] | None, bool]:
    """The largest bounding rectangle of a connected piece of foreground, and whether the mask was inverted.

    A mask whose border is foreground for more than half is taken to be inverted. Pieces touch across
    corners too. Of rectangles of equal area the last in reading order wins.

    Args:
        grey: uint8 (H, W), 0 background to 255 foreground.

    Returns:
        x, y of the first and one past the last pixel, None where nothing is foreground; and the flag.
    """
    inner = grey[1:-1, 1:-1]
    border_pixels = grey.size - inner.size
    border_high = int((grey > INVERTED_ABOVE).sum()) - int((inner > INVERTED_ABOVE).sum())
    inverted = border_high / border_pixels > 0.5
    mask = (255 - grey if inverted else grey) > FOREGROUND_ABOVE
    pieces, _ = label(mask, structure=_EIGHT_NEIGHBOURS)
    best: tuple[int, tuple[int, int, int, int]] | None = None
    for rows, columns in find_objects(pieces):
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        if best is None or area >= best[0]:
            best = area, (columns.start, rows.start, columns.stop, rows.stop)
    return (best[1] if best else None), inverted


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes in continuous pixel coordinates."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return intersection / (areas - intersection) if intersection else 0.0


def evaluate_box_sequence(
    name: str, pairs: FramePairs, boxes: Mapping[str, Box], frame_wh: tuple[int, int] | None
) -> SequenceScores:
    """Read one video's predicted masks and score their boxes.

    Args:
        name: of the video.
        pairs: its frames.
        boxes: the annotated one of each frame, by its name.
        frame_wh: the size that they refer to, None where the video's frames are not at hand.

    Raises:
        GmosError: no frame with a box, or a file that is no mask.
    """
    if not pairs.frames:
        raise GmosError(f"{name}: no predicted frame has a box: expected the video's frame names")
    notes, frames = Counter(pairs.notes), []
    for frame in pairs.frames:
        grey = _read_grey(frame.prediction, notes)
        found, inverted = foreground_box(grey)
        notes["inverted_masks"] += inverted
        box: Box | None = None
        height, width = grey.shape
        frame_width, frame_height = frame_wh or (width, height)
        notes["resized_predictions"] += (width, height) != (frame_width, frame_height)
        if found is not None:
            across, down = frame_width / width, frame_height / height
            box = (found[0] * across, found[1] * down, found[2] * across, found[3] * down)
        notes["frame_size_unknown"] += frame_wh is None
        annotated = boxes[frame.name]
        iou = box_iou(annotated, box) if box else 0.0
        frames.append(FrameScore(*frame, iou, boxes=FrameBoxes(annotated, box, frame_width)))
    ious = np.array([frame.score for frame in frames])
    metrics = {"j": float(ious.mean())} | _success_rates(ious)
    return SequenceScores(name=name, metrics=metrics, frames=tuple(frames), notes=notes)


def _read_grey(path: Path, notes: Counter[str]) -> npt.NDArray[np.uint8]:
    """A predicted mask as grey levels: grey files as they are, label maps with every label at 255."""
    image = open_image(path)
    if image.mode == "L":
        grey = np.asarray(image)
        notes["grey_maps"] += 1
        notes["faint_grey_maps"] += bool(grey.any()) and not (grey > FOREGROUND_ABOVE).any()
        return grey
    notes["label_maps_as_foreground"] += 1
    return np.where(foreground(read_label_map(path)), np.uint8(255), np.uint8(0))


def _success_rates(ious: npt.NDArray[np.float64]) -> dict[str, float]:
    rates = {f"success_{threshold}": float((ious > threshold).mean()) for threshold in SUCCESS_THRESHOLDS}
    return rates | {"success_mean": float(np.mean(list(rates.values())))}


def overall_moca(sequences: list[SequenceScores]) -> dict[str, float]:
    """J averaged over videos; success rates over all their frames together."""
    ious = np.array([frame.score for sequence in sequences for frame in sequence.frames])
    return {"j": float(np.mean([s.metrics["j"] for s in sequences]))} | _success_rates(ious)
