"""What gmos-parity found as a document: verdict, results, stages, networks, layers and the worst frames."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...runtime.comparison.parity import LIMITS
from ...runtime.results.overlay import davis_palette
from ...runtime.video.inputs import resolve_inputs
from ..report import document as doc
from ..report.document import Card, Cell, Column, Section, Table
from ..report.origins import origins_section
from ..report.pictures import PICTURE_WIDTH_PX, reduced, strip_png
from .first_divergence import FirstDivergence, LayerError
from .label_trees import LabelPair
from .mask_agreement import Labels, MaskLimits, SequenceAgreement
from .network_parity import OutputParity
from .report import NetworksReport, ParityReport
from .stage_agreement import MODE_WORDS, StageAgreement

ONLY_A, ONLY_B, OTHER_LABEL = (232, 84, 60), (64, 160, 255), (240, 60, 240)
"""Pixels labelled in A only, in B only, and in both with different labels."""

BACKDROP = 0.35
"""Brightness of the frame behind the difference."""

STAGES = (
    "Free-running: every stage of B works on what B's own stages before it gave, as in a run. Teacher-forced: on what "
    "A's gave, so that a stage shows only what is born in it. Red: beyond the limits."
)
PICTURES = (
    "From left to right: the frame if its video was given, A, B, the difference. Red: in A only. Blue: in B only. "
    "Magenta: another object. B's objects have the colours of A's that they were matched to."
)

Rgb = npt.NDArray[np.uint8]


def parity_document(report: ParityReport, pictures: Section | None) -> doc.Document:
    """The document of a comparison of masks; pictures are those of `worst_frames_section`."""
    asked, limits = report.asked, report.asked.limits
    words = f"frame IoU at least {limits.frame_iou:g}, mean at least {limits.mean_iou:g}"
    return doc.Document(
        title=f"gmos-parity {asked.kind}",
        lead=f"{report.environment.get('date', '')}, {report.seconds:.1f} s; limits {asked.profile}: {words}",
        sides={"A": asked.a, "B": asked.b},
        verdict=_verdict(report.failures, asked.profile),
        cards=[
            *(
                Card(f"{birth.sequence} born in", birth.stages[0] if birth.stages else "–")
                for birth in report.births
            ),
            *(
                Card(f"{found.result} of {found.sequence}", f"{found.mean_iou:.5f}", "mean IoU")
                for found in report.found
            ),
        ],
        remarks=Section("Beyond the limits", [doc.Remarks(report.failures, tone="bad")]),
        sections=[
            Section("Results", [Table(columns=_result_columns(limits), entries=report.found)]),
            _stages(report),
            Section("IoU by frame", [_iou(found, limits.frame_iou) for found in report.found]),
            *([] if pictures is None else [pictures]),
            origins_section(report.made_from),
        ],
        environment=report.environment,
    )


def _verdict(failures: Sequence[str], profile: str) -> Card:
    word = "FAIL" if failures else "PASS"
    return Card("Verdict", f"{word} ({profile})", tone="bad" if failures else "good")


def _result_columns(limits: MaskLimits) -> list[Column[SequenceAgreement]]:
    def labels(of: Sequence[int]) -> str | None:
        return ", ".join(map(str, of)) or None

    return [
        Column("result of video", lambda found: f"{found.result} of {found.sequence}"),
        Column("frames", lambda found: len(found.frames), "d"),
        Column("mean IoU", lambda found: found.mean_iou, ".5f", f"limit {limits.mean_iou:g}"),
        Column("least IoU", lambda found: found.worst_frame.iou, ".5f", f"limit {limits.frame_iou:g}"),
        Column("on frame", lambda found: found.worst_frame.name, shown="room"),
        Column("mean F", lambda found: found.mean_boundary_f, ".5f", "", "room"),
        Column("pixels differ", lambda found: found.different, "d"),
        Column("share", lambda found: found.different_share, ".1e", "of pixels", "wide"),
        Column("objects", lambda found: len(found.matching), "d", "matched", "wide"),
        Column("in A only", lambda found: labels(found.only_a)),
        Column("in B only", lambda found: labels(found.only_b)),
    ]


def _iou(found: SequenceAgreement, limit: float) -> doc.Plot:
    worst = found.worst_frame
    return doc.Plot(
        points=[
            (index, frame.iou, f"{frame.name}: {frame.iou:.5f}") for index, frame in enumerate(found.frames)
        ],
        across="frame",
        up=f"IoU of {found.result} of {found.sequence}",
        near_one=True,
        limit=limit,
        caption=f"{len(found.frames)} frames, least {worst.iou:.5f} on {worst.name}; dashed: limit {limit:g}",
    )


def _stages(report: ParityReport) -> Section:
    """A row per stage and mode, then what differs in words and where it is born."""
    stages = report.stages

    def number(stage: StageAgreement, value: float, tone: doc.Tone = "") -> Cell:
        return Cell(f"{value:.5f}" if stage.measure.startswith("IoU") else f"{value:.1e}", value, tone)

    columns: list[Column[StageAgreement]] = [
        Column("stage of video", lambda stage: f"{stage.stage} of {stage.sequence}"),
        Column("mode", lambda stage: MODE_WORDS[stage.mode]),
        Column("measure", lambda stage: stage.measure, shown="room"),
        Column("mean", lambda stage: number(stage, stage.mean), ".5f", "of frames", "room"),
        Column(
            "worst", lambda stage: number(stage, stage.worst, "" if stage.beyond is None else "bad"), ".5f"
        ),
        Column("on frame", lambda stage: stage.frame, shown="room"),
    ]
    # Only a teacher-forced video has all stages, in the order that the pipeline runs them.
    forced_first = sorted(stages, key=lambda stage: stage.mode != "teacher_forced")
    order = list(dict.fromkeys((stage.sequence, stage.stage) for stage in forced_first))
    entries = sorted(stages, key=lambda stage: order.index((stage.sequence, stage.stage)))
    blocks: list[doc.Block] = [
        doc.Text(STAGES),
        Table(columns=columns, entries=entries),
        doc.Remarks([_sentence(stage) for stage in stages if stage.differs], tone="dim"),
        doc.Remarks([f"{birth.sequence}: {birth.words}" for birth in report.births]),
    ]
    if not report.births and report.failures:
        blocks.append(doc.Text("in which stage the difference is born: --teacher_forced", everywhere=True))
    return Section("Stages", blocks if stages else [])


def _sentence(stage: StageAgreement) -> str:
    beyond = "" if stage.beyond is None else f" – beyond the limits: {stage.beyond}"
    return f"{stage.stage} of {stage.sequence}, {MODE_WORDS[stage.mode]}: {stage.words}{beyond}"


def worst_frames_section(
    pairs: Sequence[LabelPair], found: Sequence[SequenceAgreement], videos: Sequence[Path], count: int
) -> Section:
    """Pictures of the frames that agree least, worst first; those that agree in every pixel are left out.

    Args:
        pairs: the label maps.
        found: how far each pair agrees.
        videos: from which frames are taken; those of sequences that none belongs to are left out.
        count: how many at most.

    Raises:
        GmosError: a pictured frame is gone.
    """
    differing = [
        (frame.iou, index, frame, pair, agreement)
        for pair, agreement in zip(pairs, found, strict=True)
        for index, frame in enumerate(agreement.frames)
        if frame.different
    ]
    worst = sorted(differing, key=itemgetter(0))[:count]
    if not worst:
        return Section("Worst frames", [doc.Text("No pixel differs.")])
    shown: dict[str, set[int]] = {}
    for _, index, _, pair, _ in worst:
        shown.setdefault(pair.sequence, set()).add(index)
    rgb = {sequence: _frames_of(sequence, videos, indices) for sequence, indices in shown.items()}
    pictures = []
    for _, index, frame, pair, agreement in worst:
        a, b = pair.read(index)
        caption = (
            f"{pair.result} of {pair.sequence}, frame {frame.name}: IoU {frame.iou:.5f}, {frame.weakest}; "
            f"{frame.different} px differ"
        )
        strip = difference_strip(a, with_labels_of_a(b, agreement), rgb[pair.sequence].get(index))
        pictures.append((strip, caption))
    return Section("Worst frames", [doc.Text(PICTURES), doc.Pictures(pictures=pictures, wide=True)])


def _frames_of(sequence: str, videos: Sequence[Path], indices: Collection[int]) -> dict[int, Rgb]:
    """Frames of the video that a sequence was named after, in one pass; none where it was not given."""
    by_name = {video.stem if video.is_file() else video.name: video for video in videos}
    video = by_name.get(sequence) or (videos[0] if len(by_name) == 1 else None)
    found: dict[int, Rgb] = {}
    if video is None:
        return found
    (given,) = resolve_inputs([video], fps=None, stride=None if video.is_file() else 1)
    with given.open() as frames:
        for frame in frames:
            if frame.index in indices:
                found[frame.index] = frame.rgb
            if frame.index >= max(indices):
                break
    return found


def difference_map(a: Labels, b: Labels, backdrop: Rgb | None) -> Rgb:
    """Where two matched label maps (H, W) differ, by kind, over a darkened frame (H, W, 3) or black."""
    picture = np.zeros((*a.shape, 3), np.uint8)
    if backdrop is not None and backdrop.shape == picture.shape:
        picture = (backdrop * BACKDROP).astype(np.uint8)
    picture[(a != 0) & (b == 0)] = ONLY_A
    picture[(a == 0) & (b != 0)] = ONLY_B
    picture[(a != b) & (a != 0) & (b != 0)] = OTHER_LABEL
    return picture


def difference_strip(a: Labels, b: Labels, frame: Rgb | None) -> bytes:
    """A PNG: the frame if there is one, A, B and the difference, side by side.

    Args:
        a: label map (H, W) of A.
        b: label map (H, W) of B, with A's labels.
        frame: RGB (H, W, 3).
    """
    colours = davis_palette()
    pictures = [] if frame is None else [frame]
    pictures += [colours[a], colours[b], difference_map(a, b, frame)]
    images = [Image.fromarray(picture) for picture in pictures]
    return strip_png(
        [
            # The largest filter keeps single differing pixels visible; small videos stay as they are.
            reduced(image, Image.Resampling.BOX) if image.width > PICTURE_WIDTH_PX else image
            for image in images
        ]
    )


def with_labels_of_a(b: Labels, found: SequenceAgreement) -> Labels:
    """B's label map with matched objects under A's labels; others get labels that A does not use."""
    table = np.zeros(256, np.uint8)
    for a_label, b_label in found.matching.items():
        table[b_label] = a_label
    taken = {0, *found.matching, *found.only_a}
    free = (label for label in range(1, 256) if label not in taken)
    for label in found.only_b:
        table[label] = next(free, 255)
    return np.asarray(table[b])


def networks_document(report: NetworksReport) -> doc.Document:
    """The document of a comparison of networks."""
    limits = LIMITS[report.profile]
    columns: list[Column[OutputParity]] = [
        Column("output", lambda one: f"{one.network}.{one.output}"),
        Column("calls", lambda one: one.calls, "d", "", "room"),
        Column("relative L2", lambda one: one.worst.relative, ".2e", f"limit {limits.relative:g}"),
        Column("cosine", lambda one: one.worst.cosine, ".7f", f"limit {limits.cosine:g}"),
        Column("changed", lambda one: one.worst.changed, ".1e", f"limit {limits.changed:g}"),
        Column("max", lambda one: one.worst.max_abs, ".2e", "absolute", "room"),
        Column("99 %", lambda one: one.p99_abs, ".2e", "absolute", "wide"),
        Column("mean", lambda one: one.worst.mean_abs, ".2e", "absolute", "wide"),
        Column("not finite", lambda one: one.not_finite_a + one.not_finite_b, "d", "", "room"),
    ]
    layers = [] if report.first_layer is None else [_layers(report.first_layer)]
    return doc.Document(
        title="gmos-parity networks",
        lead=f"{report.environment.get('date', '')}, {report.seconds:.1f} s, on {report.frames} frames of "
        f"{report.video}",
        sides={"A": report.a, "B": report.b},
        verdict=_verdict(report.failures, report.profile),
        remarks=Section("Beyond the limits", [doc.Remarks(report.failures, tone="bad")]),
        sections=[
            Section(
                "Outputs",
                [
                    doc.Text(
                        "Each row is the worst of its calls, by relative error; both sides got A's inputs. "
                        "Changed: the share of whole numbers that differ."
                    ),
                    Table(columns=columns, entries=report.found),
                ],
            ),
            *layers,
            origins_section(report.made_from),
        ],
        environment=report.environment,
    )


def _layers(found: FirstDivergence) -> Section:
    """The layers that add most, and the first that differs."""

    def shape(layer: LayerError) -> Cell:
        return Cell("x".join(map(str, layer.shape)), math.prod(layer.shape))

    columns: list[Column[LayerError]] = [
        Column("module", lambda layer: layer.module or "–"),
        Column("operator", lambda layer: layer.operator),
        Column("node", lambda layer: layer.node, shown="wide"),
        Column("shape", shape, "d", "", "room"),
        Column("relative L2", lambda layer: layer.relative, ".2e"),
        Column("added", lambda layer: layer.added, ".2e", "over its inputs"),
    ]
    return Section(
        "First divergence",
        [
            doc.Remarks([str(found)], tone="" if found.first else "dim"),
            doc.Text(
                f"The layers that add most to the error of what they are computed from, call {found.call}."
            ),
            Table(columns=columns, entries=[layer for layer in found.jumps if layer.added > 0]),
        ],
    )
