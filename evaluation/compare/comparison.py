"""`gmos-parity masks` and the end of `video`: label maps of two sides in, a verdict and a report out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..progress_bar import counted
from ..report.environment import environment
from ..report.files import publish
from .document import parity_document, worst_frames_section
from .label_trees import LabelPair, label_pairs
from .mask_agreement import Labels, SequenceAgreement, sequence_agreement
from .report import Comparison, ParityReport, observations, result_json
from .stage_agreement import StageAgreement

FAILED_STATUS = 1


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
        asked=comparison,
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
