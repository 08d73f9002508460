"""`gmos-parity video`: two sides on the same videos, their masks and what the stages before them answered."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...networks import Side, parse_side
from ...runtime.contract import ModelSpec
from ...runtime.pipeline.clip import ClipRun
from ...runtime.pipeline.options import RunOptions
from ...runtime.results.completion import ResultSet, should_skip
from ...runtime.results.outputs import check_save_dir, file_results
from ...runtime.tensorrt.memory import settle_run
from ..progress_bar import run_progress
from .comparison import Comparison, FindStages, compare_trees
from .foreground_agreement import ForegroundAgreement, compare_foreground
from .label_trees import LabelPair
from .limits import MaskLimits
from .mask_agreement import SequenceAgreement
from .proposal_agreement import proposal_agreement
from .sides import Videos, require_same_model
from .stage_agreement import StageAgreement, gmos_s_stage, proposer_stage, tracker_stage
from .stage_recording import RecordedVideo, StageRecords
from .teacher_forcing import Forcing, forced_stages

logger = logging.getLogger(__name__)


def compare_videos(
    *,
    inputs: tuple[Path, ...],
    a: str,
    b: str,
    teacher_forced: bool,
    fps: float | None,
    stride: int | None,
    keep: Path | None,
    **options: Any,
) -> int:
    """Run two sides on videos, compare their masks, show and report it; the exit status. Options as gmos-parity's.

    Raises:
        GmosError: a side cannot be run, or the sides are not of one model.
    """
    sides = (parse_side("--a", a), parse_side("--b", b))
    masks = next((side for side in sides if side.masks is not None), None)
    if teacher_forced and masks is not None:
        raise GmosError(f"--teacher_forced: {masks.text} has no networks; name a backend, or leave it out")
    comparison = Comparison.of("video", a, b, inputs, options)
    videos = Videos(inputs=inputs, fps=fps, stride=stride)
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _Run(side, (keep or Path(folder)) / name, Path(folder) / f"logits-{name}")
            for side, name in zip(sides, "ab", strict=True)
        ]
        trees = [one.masks(videos, like=runs[0] if teacher_forced else one) for one in runs]
        if masks is not None:
            return compare_trees(trees[0], trees[1], comparison)
        stages = _stage_finder(runs, videos, comparison, teacher_forced=teacher_forced)
        return compare_trees(trees[0], trees[1], comparison, stages)


class _Run:
    """One side, its masks, and what its heads answered on the way."""

    def __init__(self, side: Side, directory: Path, logits: Path) -> None:
        self.side = side
        self._directory = directory
        self.records = StageRecords(logits)
        self._model: ModelSpec | None = None

    def masks(self, videos: Videos, *, like: _Run) -> Path:
        """The directory of its masks, made first if the side is none; its networks must be `like`'s."""
        if self.side.masks is not None:
            return self.side.masks
        source = self.side.networks.resolve()
        sequences = videos.sequences(source.model)
        check_save_dir(self._directory)
        results = [
            ResultSet(
                save_dir=self._directory,
                sequence=sequence.name,
                variant=source.model.variant,
                modes=frozenset({"mask"}),
                settings={**source.settings(), "stride": sequence.stride, "fps": sequence.output_fps},
            )
            for sequence in sequences
        ]
        for place in results:
            should_skip(place, "overwrite")
        start = time.monotonic()
        with closing(source.load()) as backend:
            self._model = backend.model
            if like._model is not None:
                require_same_model(like.side, like._model, self.side, self._model)
            logger.info("%s; loaded in %.1f s", backend.description, time.monotonic() - start)
            options = settle_run(backend, RunOptions(), sequences)
            watched = self.records.watch(backend)
            with run_progress() as progress:
                for sequence, place in zip(sequences, results, strict=True):
                    for note in sequence.notes:
                        logger.info("%s: %s", sequence.name, note)
                    run = ClipRun(watched, sequence, options, progress=progress)
                    file_results(iter(run), place, sequence.media, existing="overwrite")
        return self._directory


def _stage_finder(
    runs: Sequence[_Run], videos: Videos, comparison: Comparison, *, teacher_forced: bool
) -> FindStages:
    """What compares stage by stage."""

    def find(pairs: Sequence[LabelPair], found: Sequence[SequenceAgreement]) -> list[StageAgreement]:
        stages = list(_free_stages(runs, videos, pairs, found, comparison))
        if teacher_forced:
            stages += _forced_stages(runs, videos, pairs, comparison)
        return stages

    return find


def _free_stages(
    runs: Sequence[_Run],
    videos: Videos,
    pairs: Sequence[LabelPair],
    found: Sequence[SequenceAgreement],
    comparison: Comparison,
) -> Iterator[StageAgreement]:
    frames = {pair.sequence: pair.frames for pair in pairs}
    recorded = (run.records.videos for run in runs)
    for sequence, a, b in zip(videos.sequences(), *recorded, strict=True):
        name, limits = sequence.name, comparison.limits
        proposals_a, proposals_b = a.proposals(), b.proposals()
        if proposals_a is not None and proposals_b is not None:
            yield proposer_stage(
                proposal_agreement(name, frames[name], proposals_a, proposals_b), "free", limits
            )
            for agreement in found:
                if agreement.sequence == name:
                    yield tracker_stage(agreement, "free", limits)
        else:
            yield from _free_gmos_s(name, frames[name], a, b, limits)


def _free_gmos_s(
    name: str, frames: Sequence[str], a: RecordedVideo, b: RecordedVideo, limits: MaskLimits
) -> Iterator[StageAgreement]:
    logits_a, logits_b, masks_a, masks_b = a.logits(), b.logits(), a.masks, b.masks
    if masks_a is None or masks_b is None or logits_a.shape != logits_b.shape:
        logger.info(
            "probabilities of %s are not compared: A has %s of them, B %s",
            name,
            logits_a.shape,
            logits_b.shape,
        )
        return
    found = tuple(
        compare_foreground(frame, (logits_a[index], logits_b[index]), (masks_a[index], masks_b[index]))
        for index, frame in enumerate(frames)
    )
    yield gmos_s_stage(ForegroundAgreement(sequence=name, frames=found), "free", limits)


def _forced_stages(
    runs: Sequence[_Run],
    videos: Videos,
    pairs: Sequence[LabelPair],
    comparison: Comparison,
) -> Iterator[StageAgreement]:
    frames = {pair.sequence: pair.frames for pair in pairs}
    side_a, side_b = (run.side for run in runs)
    with closing(side_a.load()) as a, closing(side_b.load()) as b, run_progress() as progress:
        for sequence in videos.sequences():
            forcing = Forcing(
                sequence=sequence,
                names=frames[sequence.name],
                profile=comparison.profile,
                limits=comparison.limits,
                options=RunOptions(),
                progress=progress,
            )
            yield from forced_stages(a, b, forcing)
