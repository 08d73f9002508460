"""`gmos-parity masks` and the end of `video`: label maps of two sides in, a verdict and a report out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ...runtime.precision import PrecisionName
from ..progress_bar import counted
from ..report.environment import environment
from ..report.files import publish, report_directory
from .document import parity_document, worst_frames_section
from .label_trees import LabelPair, label_pairs
from .mask_agreement import PROFILES, Labels, MaskLimits, SequenceAgreement, sequence_agreement
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
    profile: PrecisionName
    limits: MaskLimits
    report: Path | None
    worst_frames: int
    wide: bool
    videos: tuple[Path, ...]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, kind: str, a: str, b: str, videos: Sequence[Path], options: Mapping[str, Any]) -> Comparison:
        """From the options of gmos-parity.

        Raises:
            GmosError: no report can be written where one is wanted.
        """
        report_directory(options["report"])
        profile = cast(PrecisionName, options["limits"])
        own = {"frame_iou": options["min_frame_iou"], "mean_iou": options["min_mean_iou"]}
        given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        return cls(
            kind=kind,
            a=a,
            b=b,
            profile=profile,
            limits=replace(PROFILES[profile], **given, ids=not options["any_ids"]),
            report=options["report"],
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
    pictures = (
        None
        if comparison.report is None
        else worst_frames_section(pairs, found, comparison.videos, comparison.worst_frames)
    )
    publish(
        parity_document(report, pictures),
        result_json(report),
        observations(report),
        wide=comparison.wide,
        report=comparison.report,
    )
    return FAILED_STATUS if report.failures else 0


def _compare(pair: LabelPair, advance: Callable[[], None]) -> SequenceAgreement:
    seen: set[int] = set()

    def read(index: int) -> tuple[Labels, Labels]:
        if index not in seen:
            seen.add(index)
            advance()
        return pair.read(index)

    return sequence_agreement(pair.sequence, pair.result, pair.frames, read)
