"""Two trees of label maps in, a verdict and a report out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import click

from ...runtime.video.inputs import resolve_inputs
from ..progress_bar import counted
from ..report.environment import environment
from ..report.files import PAGE_FILE, report_directory, write_report
from ..report.terminal import show
from .document import PictureSources, ReadFrames, Rgb, parity_document
from .label_trees import LabelPair, label_pairs
from .limits import PROFILES, MaskLimits, ProfileName
from .mask_agreement import Labels, SequenceAgreement, sequence_agreement
from .report import ParityReport, observations, result_json
from .stage_agreement import StageAgreement

FAILED_STATUS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared and what it is held to.

    `kind` is the command, `a` and `b` the sides as given; `videos` are for pictures of their frames.
    """

    kind: str
    a: str
    b: str
    profile: ProfileName
    limits: MaskLimits
    report: Path | None
    worst_frames: int
    wide: bool = False
    videos: tuple[Path, ...] = ()
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, kind: str, a: str, b: str, videos: Sequence[Path], options: Mapping[str, Any]) -> Comparison:
        """From the options of gmos-parity.

        Raises:
            GmosError: no report can be written where one is wanted.
        """
        report: Path | None = options["report"]
        if report is not None:
            report_directory(report)
        profile = cast(ProfileName, options["limits"])
        limits = PROFILES[profile]
        frame_iou, mean_iou = options["min_frame_iou"], options["min_mean_iou"]
        return cls(
            kind=kind,
            a=a,
            b=b,
            profile=profile,
            limits=replace(
                limits,
                frame_iou=limits.frame_iou if frame_iou is None else frame_iou,
                mean_iou=limits.mean_iou if mean_iou is None else mean_iou,
                ids=not options["any_ids"],
            ),
            report=report,
            worst_frames=options["worst_frames"],
            wide=options["wide"],
            videos=tuple(videos),
        )


FindStages = Callable[[Sequence[LabelPair], Sequence[SequenceAgreement]], Sequence[StageAgreement]]
"""Stage by stage, given the masks and how far they agree."""


def compare_trees(a: Path, b: Path, comparison: Comparison, stages: FindStages = lambda *_: ()) -> int:
    """Compare, show and report; the exit status.

    Raises:
        GmosError: the directories do not hold the same videos and frames, or a report cannot be written.
    """
    pairs = label_pairs(a, b)
    with counted("frames", sum(len(pair.frames) for pair in pairs)) as advance:
        found = tuple(_compare(pair, advance) for pair in pairs)
    report = ParityReport(
        kind=comparison.kind,
        a=comparison.a,
        b=comparison.b,
        profile=comparison.profile,
        limits=comparison.limits,
        found=found,
        stages=tuple(stages(pairs, found)),
        environment=environment(),
        seconds=time.monotonic() - comparison.started,
    )
    show(parity_document(report), wide=comparison.wide)
    if comparison.report is not None:
        _write(comparison.report, report, pairs, comparison)
        click.echo(f"report: {comparison.report / PAGE_FILE}")
    return 0 if report.passed else FAILED_STATUS


def _write(directory: Path, report: ParityReport, pairs: Sequence[LabelPair], comparison: Comparison) -> None:
    by_name = {(pair.result, pair.sequence): pair for pair in pairs}
    sources = PictureSources(
        maps=lambda agreement, index: by_name[agreement.result, agreement.sequence].read(index),
        frames=frame_reader(comparison.videos),
        worst=comparison.worst_frames,
    )
    write_report(directory, parity_document(report, sources), result_json(report), observations(report))


def _compare(pair: LabelPair, advance: Callable[[], None]) -> SequenceAgreement:
    seen: set[int] = set()

    def read(index: int) -> tuple[Labels, Labels]:
        if index not in seen:
            seen.add(index)
            advance()
        return pair.read(index)

    return sequence_agreement(pair.sequence, pair.result, pair.frames, read)


def frame_reader(videos: Sequence[Path]) -> ReadFrames:
    """Reads frames of the video that a sequence was named after, in one pass; none where it was not given."""
    by_name = {video.stem if video.is_file() else video.name: video for video in videos}

    def read(sequence: str, indices: Sequence[int]) -> Mapping[int, Rgb]:
        video = by_name.get(sequence) or (videos[0] if len(by_name) == 1 else None)
        if video is None or not indices:
            return {}
        (sequence_input,) = resolve_inputs([video], fps=None, stride=None if video.is_file() else 1)
        found: dict[int, Rgb] = {}
        with sequence_input.open() as frames:
            for frame in frames:
                if frame.index in indices:
                    found[frame.index] = frame.rgb
                if frame.index >= max(indices):
                    break
        return found

    return read
