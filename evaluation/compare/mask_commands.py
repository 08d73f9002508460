"""`gmos-parity masks` and `video`: label maps of two sides, and what the stages before them answered on videos."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...fleet.several import Several
from ...networks import NetworkSource
from ...runtime.contract import ModelSpec
from ...runtime.levers import EXACT
from ...runtime.pipeline.clip import ClipRun
from ...runtime.pipeline.options import RunOptions
from ...runtime.results.completion import ResultSet, recorded_origins, should_skip
from ...runtime.results.outputs import check_save_dir, file_results
from ...runtime.tensorrt.memory import settle_run
from ...runtime.video.sequence import SequenceInput
from ...sides import Side, parse_side, refuse_idle_trust
from ..progress_bar import counted, run_progress
from ..report.environment import environment
from ..report.files import publish
from .document import parity_document, worst_frames_section
from .head_agreement import compare_foreground, gmos_s_stage, proposer_stage
from .label_trees import LabelPair, label_pairs, read_tree
from .mask_agreement import Labels, MaskLimits, SequenceAgreement, sequence_agreement
from .recording import RecordedVideo, RecordingBackend
from .report import Comparison, ParityReport, observations, result_json
from .sides import limits_of, require_same_model
from .stage_agreement import StageAgreement, tracker_stage
from .teacher_forcing import Forcing, forced_stages

FAILED_STATUS = 1

logger = logging.getLogger(__name__)

FindStages = Callable[[Sequence[LabelPair], Sequence[SequenceAgreement]], Sequence[StageAgreement]]
"""Stage by stage, given the masks and how far they agree."""


def compare_trees(
    a: Path,
    b: Path,
    comparison: Comparison,
    stages: FindStages = lambda *_: (),
    failed: Mapping[str, str] | None = None,
) -> int:
    """Compare, show and report; the exit status. Videos that failed on a side are left out, with why.

    Raises:
        GmosError: the directories do not hold the same videos and frames, or a report cannot be written.
    """
    pairs = label_pairs(a, b, without=failed or ())
    names = {pair.sequence for pair in pairs}
    with counted("frames", sum(len(pair.frames) for pair in pairs)) as advance:
        found = tuple(_compare(pair, advance) for pair in pairs)
    report = ParityReport(
        asked=comparison,
        found=found,
        stages=tuple(stages(pairs, found)),
        made_from=recorded_origins(a, names) | recorded_origins(b, names),
        environment=environment(),
        seconds=time.monotonic() - comparison.started,
        failed=failed or {},
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


def compare_videos(
    *,
    inputs: tuple[Path | str, ...],
    a: str,
    b: str,
    teacher_forced: bool,
    fps: float | None,
    stride: int | None,
    keep: Path | None,
    trust: Mapping[str, Any] | None = None,
    **options: Any,
) -> int:
    """Run two sides on videos, compare their masks, show and report it; the exit status. Options as gmos-parity's.

    Raises:
        GmosError: a side cannot be run, or the sides are not of one model; as far as a moment shows it, before one
            of them runs.
    """
    sides = (parse_side("--a", a, trust), parse_side("--b", b, trust))
    refuse_idle_trust(sides, trust)
    masks = next((side for side in sides if side.masks is not None), None)
    if teacher_forced and masks is not None:
        raise GmosError(f"--teacher_forced: {masks.text} has no networks; name a backend, or leave it out")
    if teacher_forced:
        for side in sides:
            side.require_no_levers("--teacher_forced holds networks against networks, frame by frame")
    comparison = Comparison.of("video", a, b, inputs, options, own=limits_of(sides))
    several = Several(inputs, fps=fps, stride=stride)
    # Where values that are not finite are born is among what is sought.
    asked = RunOptions(allow_nonfinite=teacher_forced)
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _Run(side, (keep or Path(folder)) / name, Path(folder) / f"logits-{name}", several, asked)
            for side, name in zip(sides, "ab", strict=True)
        ]
        for run in runs:
            run.prepare()
        if masks is None:
            ran_a, ran_b = runs
            if teacher_forced:
                require_same_model(ran_a.side, ran_a.model, ran_b.side, ran_b.model)
            elif ran_a.model.variant != ran_b.model.variant:
                raise GmosError(
                    f"{a} is {ran_a.model.variant} and {b} {ran_b.model.variant}, whose results are others; name sides "
                    "of one variant"
                )
        tree_a, tree_b = (run.masks() for run in runs)
        if masks is not None:
            return several.status(compare_trees(tree_a, tree_b, comparison, failed=several.failed))
        stages = partial(_stages, runs, comparison, teacher_forced=teacher_forced)
        return several.status(compare_trees(tree_a, tree_b, comparison, stages, several.failed))


class _Run:
    """One side, its masks, and what its heads answered on the way."""

    def __init__(
        self, side: Side, directory: Path, logits: Path, several: Several, asked: RunOptions
    ) -> None:
        self.side = side
        self.several = several
        self.sequences: list[SequenceInput] = []
        self.recorded: dict[str, RecordedVideo] = {}
        self._directory = directory
        self._logits = logits
        self._places: dict[str, ResultSet] = {}
        self._source: NetworkSource | None = None
        self._asked = asked

    @property
    def source(self) -> NetworkSource:
        """Its networks, once it is prepared."""
        if self._source is None:
            raise ValueError(f"{self.side.text} has no networks, or is not prepared")
        return self._source

    @property
    def model(self) -> ModelSpec:
        """Sizes of its networks."""
        return self.source.model

    def prepare(self) -> None:
        """Find out whether it can run and its masks can be written, before the other one runs for hours.

        Raises:
            GmosError: it cannot, or there are no masks where they should be.
        """
        if self.side.masks is not None:
            read_tree(self.side.masks)
            return
        self._source = self.side.networks.resolve()
        self._source.check()
        self.sequences = self.several.resolve(
            pi3_area_px=self.model.pi3_area_px, patch_px=self.model.patch_px
        )
        check_save_dir(self._directory)
        self._asked = self.side.options(self._asked)
        networks, made_from = self._source.settings() | self._asked.settings(), self._source.made_from()
        for sequence in self.sequences:
            own = sequence.settings()
            self._places[sequence.name] = ResultSet(
                save_dir=self._directory,
                sequence=sequence.name,
                variant=self.model.variant,
                modes=frozenset({"mask"}),
                settings={**networks, **own},
                made_from=made_from | sequence.made_from(own),
            )
        for place in self._places.values():
            should_skip(place, "overwrite")

    def masks(self) -> Path:
        """The directory of its masks, made first if the side is none."""
        if self.side.masks is not None:
            return self.side.masks
        start = time.monotonic()
        with closing(self.source.load()) as backend:
            logger.info("%s; loaded in %.1f s", backend.description, time.monotonic() - start)
            options = settle_run(backend, self._asked, self.several.left(self.sequences))
            # Proposals that come frame by frame can be recorded, and held against others.
            in_order = options.levers.propose_every == EXACT.propose_every
            recorded: list[RecordedVideo] = []
            watched = RecordingBackend(backend, self._logits, recorded) if in_order else backend
            with run_progress() as progress:
                for sequence in self.sequences:
                    for note in sequence.notes:
                        logger.info("%s: %s", sequence.name, note)
                    run = ClipRun(watched, sequence, options, progress=progress)
                    file = partial(
                        file_results,
                        iter(run),
                        self._places[sequence.name],
                        sequence.media,
                        existing="overwrite",
                    )
                    if self.several.attempt(sequence.name, file) is not None and in_order:
                        self.recorded[sequence.name] = recorded[-1]
        return self._directory


def _stages(
    runs: Sequence[_Run],
    comparison: Comparison,
    pairs: Sequence[LabelPair],
    found: Sequence[SequenceAgreement],
    *,
    teacher_forced: bool,
) -> list[StageAgreement]:
    """What compares stage by stage: first as the sides ran, then B's stages on A's inputs if that is asked for."""
    frames = {pair.sequence: pair.frames for pair in pairs}
    limits, sequences = comparison.limits, runs[0].several.left(runs[0].sequences)
    stages: list[StageAgreement] = []
    if not all(run.recorded for run in runs):
        logger.info("proposals are not compared: a side passes frames over")
        names = {one.sequence for one in found} if any(one.result == "mos-i" for one in found) else set()
        return [tracker_stage(one, "free", limits) for one in found if one.sequence in names]
    for name in (sequence.name for sequence in sequences):
        recorded_a, recorded_b = (run.recorded[name] for run in runs)
        proposals_a, proposals_b = recorded_a.proposals(), recorded_b.proposals()
        if proposals_a is not None and proposals_b is not None:
            stages.append(proposer_stage(name, frames[name], (proposals_a, proposals_b), "free", limits))
            stages += [tracker_stage(one, "free", limits) for one in found if one.sequence == name]
        else:
            stages += _free_gmos_s(name, frames[name], recorded_a, recorded_b, limits)
    if teacher_forced:
        side_a, side_b = (run.side for run in runs)
        with closing(side_a.load()) as a, closing(side_b.load()) as b, run_progress() as progress:
            # One that was registered may have other sizes than its preset says.
            require_same_model(side_a, a.model, side_b, b.model)
            for sequence in sequences:
                forcing = Forcing(
                    sequence=sequence,
                    names=frames[sequence.name],
                    profile=comparison.profile,
                    limits=limits,
                    progress=progress,
                )
                stages += forced_stages(a, b, forcing)
    return stages


def _free_gmos_s(
    name: str, frames: Sequence[str], a: RecordedVideo, b: RecordedVideo, limits: MaskLimits
) -> Iterator[StageAgreement]:
    logits_a, logits_b, masks_a, masks_b = a.logits(), b.logits(), a.masks, b.masks
    if masks_a is None or masks_b is None or logits_a.shape != logits_b.shape:
        shapes = (logits_a.shape, logits_b.shape)
        logger.info("probabilities of %s are not compared: A has %s of them, B %s", name, *shapes)
        return
    found = [
        compare_foreground(frame, (logits_a[index], logits_b[index]), (masks_a[index], masks_b[index]))
        for index, frame in enumerate(frames)
    ]
    yield gmos_s_stage(name, found, "free", limits)
