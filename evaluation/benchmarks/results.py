"""What every evaluator returns: metrics per benchmark, sequence, object and frame, and what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from ...runtime.files.made_from import MadeFrom

Box = tuple[float, float, float, float]
"""x and y of the top-left corner, then of the bottom-right one, in pixels."""

WORST_PER_SEQUENCE = 3
"""How many of the worst frames may come from one sequence."""

METRIC_FORM = ".4f"
"""Four decimals, as the published scripts print."""

NOTE_TEXTS: dict[str, str] = {
    # Pairing of frames.
    "unpaired_annotation_frames": "annotated frames without a predicted frame, not scored",
    "unpaired_prediction_frames": "predicted frames without an annotated frame, not scored",
    "frames_paired_by_position": "frames paired by position, as their names differ",
    "frame_names_unpadded": "folders with frame numbers that lack leading zeros, sorted as text",
    "frame_count_differs_from_csv": "sequences with another number of annotated frames than ann_frames says",
    "unlisted_prediction_sequences": "predicted sequences outside the split, not scored",
    "skipped_sequences": "sequences left out because files are missing",
    # What the predictions are.
    "run_for_another_dataset": "sequences that gmos-run ran for another dataset than they are scored as",
    "foreground_as_objects": "predicted sequences of GMOS-S, one foreground, scored object by object",
    # Labels and sizes.
    "resized_predictions": "predicted frames of another size, resized",
    "ignored_prediction_labels": "predicted frames with labels above 20, which were ignored",
    "ignored_annotation_labels": "annotated frames with labels above 20 (255 is void), which were ignored",
    "void_frames": "annotated frames with void pixels (255), which were not judged",
    "late_annotation_objects": "annotated objects absent from the first frame, not scored",
    "sequences_without_objects": "sequences without an object in the first frame, left out",
    "mixed_palettes": "annotated sequences that draw one label in two colours",
    # MOS-I.
    "rows_without_motion": "sequences of the CSV where nothing moves ({}), not scored",
    "static_annotation_objects": "annotated objects that never move in the CSV, not scored",
    "absent_csv_objects": "moving objects of the CSV without any annotated pixel",
    "object_ids_above_limit": "objects of the CSV with an id above 20, which have no channel",
    "moving_frames_past_end": "moving frames of objects past the last paired frame, ignored",
    "objects_without_moving_frame": "objects that move only past the last paired frame, left out of J_mov",
    "motion_gated_masks": "predicted masks cleared by a ___motion.npy file",
    "non_finite_motion": "values of a ___motion.npy file that are not finite (NaN clears a mask)",
    "occluded_true_positives": "moving masks empty in annotation and prediction: IoU 1, true positives",
    "mtiou_above_one": "sequences with an mtIoU above 1, because of such empty true positives",
    # Motion grouping and MoCA.
    "both_empty_frames": "frames empty in annotation and prediction, where the protocol sets J to 0",
    "label_maps_as_foreground": "predicted frames that are label maps, every label taken as foreground",
    "grey_maps": "predicted frames that are grey maps, cut at 25.5 of 255",
    "faint_grey_maps": "predicted grey frames whose values all lie below the cut, taken as empty",
    "frame_size_unknown": "predicted frames taken to have the video's size, as its frames are not there",
    "inverted_masks": "predicted masks inverted, as more than half of their border was foreground",
    "clipped_boxes": "annotated boxes that start outside the frame, clipped at 0",
    "frames_without_box": "predicted frames without an annotated box, not scored",
    "unreadable_box_rows": "rows of the box CSV without a box",
    # GMOS-2K.
    "unsorted_object_ids": "rows that list their object ids unsorted",
    "overlapping_intervals": "objects with intervals that overlap, whose frames count once",
    "touching_intervals": "objects with intervals that touch",
    "intervals_past_end": "intervals that end after the last annotated frame, cut there",
}
"""What may change a number without being an error. Each text says what was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a metric is shown. A bar is drawn on the scale 0 to 1, or 0 to the largest, or not at all.

    `in_papers` says whether tables of papers have it, `percent` whether they print it in percent.
    """

    title: str
    higher_is_better: bool = True
    in_papers: bool = True
    percent: bool = True
    bar: Literal["unit", "largest", "none"] = "unit"


METRICS: dict[str, Metric] = {
    "j_mov": Metric(title="J_mov"),
    "mtiou": Metric(title="mtIoU"),
    "fp_count": Metric(title="FP count", higher_is_better=False, bar="largest", percent=False),
    "j_mov_frame_level": Metric(title="J_mov, frame match", in_papers=False),
    "mtiou_frame_level": Metric(title="mtIoU, frame match", in_papers=False),
    "fp_count_frame_level": Metric(
        title="FP count, frame match", higher_is_better=False, bar="largest", percent=False, in_papers=False
    ),
    "j_and_f": Metric(title="J&F"),
    "j_mean": Metric(title="J mean"),
    "j_recall": Metric(title="J recall", in_papers=False),
    "j_decay": Metric(title="J decay", higher_is_better=False, bar="none", in_papers=False),
    "f_mean": Metric(title="F mean"),
    "f_recall": Metric(title="F recall", in_papers=False),
    "f_decay": Metric(title="F decay", higher_is_better=False, bar="none", in_papers=False),
    "j_frame_mean": Metric(title="J, mean over frames"),
    "j_sequence_mean": Metric(title="J, mean over sequences"),
    "j": Metric(title="J"),
    "success_0.5": Metric(title="SR 0.5"),
    "success_0.6": Metric(title="SR 0.6"),
    "success_0.7": Metric(title="SR 0.7"),
    "success_0.8": Metric(title="SR 0.8"),
    "success_0.9": Metric(title="SR 0.9"),
    "success_mean": Metric(title="SR mean"),
}
"""Every metric by the name it has in JSON and CSV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScores:
    """One annotated object. `matched` is the predicted label it was matched to, None if that is empty."""

    label: int
    matched: int | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class FrameBoxes:
    """The annotated and the predicted box of a frame, in its pixels; `frame_width` is its width."""

    annotated: Box
    predicted: Box | None
    frame_width: int


@dataclass(frozen=True, slots=True)
class FrameScore:
    """One paired frame. `score` is None where there is nothing to judge.

    `judged` are the annotated labels that count in this frame (None: all). `cleared` are predicted
    labels that a motion file removes. `boxes` belong to box benchmarks.
    """

    name: str
    annotation: tuple[Path, ...]
    prediction: Path
    score: float | None
    judged: tuple[int, ...] | None = None
    cleared: tuple[int, ...] = ()
    boxes: FrameBoxes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceScores:
    """One sequence. `matching` maps predicted labels to annotated ones; empty for merged objects."""

    name: str
    metrics: dict[str, float]
    objects: tuple[ObjectScores, ...] = ()
    frames: tuple[FrameScore, ...] = ()
    notes: Counter[str] = field(default_factory=Counter)
    matching: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One benchmark's answer. `sources` says which folders and files it was made from, by their flag."""

    evaluator: str
    dataset: str
    sources: dict[str, str]
    overall: dict[str, float]
    sequences: tuple[SequenceScores, ...]
    notes: Counter[str]
    seconds: float
    made_from: MadeFrom
    """What the predictions were made from, as the records beside them tell."""
    environment: Mapping[str, Any]
    frame_score: str
    """What `FrameScore.score` means here."""

    def worst_frames(self, count: int) -> list[tuple[SequenceScores, FrameScore]]:
        """The `count` scored frames with the lowest score, lowest first, ties in reading order.

        At most 3 of a sequence, so that one that fails throughout does not hide the others.
        """
        scored = [
            (frame.score, sequence, frame)
            for sequence in self.sequences
            for frame in sequence.frames
            if frame.score is not None
        ]
        worst: list[tuple[SequenceScores, FrameScore]] = []
        taken: Counter[str] = Counter()
        for _, sequence, frame in sorted(scored, key=itemgetter(0)):
            if len(worst) < count and taken[sequence.name] < WORST_PER_SEQUENCE:
                taken[sequence.name] += 1
                worst.append((sequence, frame))
        return worst


def note_lines(notes: Mapping[str, int]) -> list[str]:
    """Notes as lines of text and count, in the order they are declared; counts of zero are left out."""
    return [f"{text}: {notes[code]}" for code, text in NOTE_TEXTS.items() if notes.get(code)]
