"""The motion-grouping protocol on SegTrackv2 and FBMS-59: foreground J over annotated frames."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from pathlib import Path

import numpy as np

from ...errors import GmosError
from .fbms_annotation import read_fbms_mask
from .label_maps import Mask, foreground, read_binary_mask, read_label_map
from .mask_resize import resize_label
from .results import FrameScore, SequenceScores
from .sequence_trees import FramePairs

_EPSILON = 1e-12
"""Added to the union by the protocol, so that two empty masks score 0."""

FRAME_SCORE = "J of the merged objects"


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
