"""Runs of the pipeline with levers: their time, and their label maps held against those of the exact run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..calibration.search.finished_work import FinishedWork
from ..evaluation.compare.mask_agreement import Labels, sequence_agreement
from ..evaluation.progress_bar import run_progress
from ..recipes import with_levers
from ..runtime.frame_result import CompactMap
from ..runtime.pipeline.clip import ClipRun, label_maps
from ..runtime.pipeline.options import RunOptions
from ..runtime.tensorrt.memory import settle_run
from ..runtime.video.sequence import SequenceInput
from .budget import Budget, OutOfTimeError, WithinBudget
from .network_levers import Networks, run_part
from .trial import Score, Trial, VideoTrial

logger = logging.getLogger(__name__)

WRITE = "write"
"""The stage of a run that only hands its answers on."""

Maps = dict[str, list[CompactMap]]
"""Label maps by result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactVideo:
    """The exact run on a video: what it took, and its label maps."""

    trial: VideoTrial
    maps: Maps
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """One more run on all videos: seconds a frame, and what it took."""

    frame_s: float
    took_s: float


class Measures(Protocol):
    """What a search asks of whatever runs videos."""

    def exact(self) -> Trial:
        """The exact run, of which every trial's masks are held against."""
        ...

    def measure(self, levers: Mapping[str, Any]) -> Trial | None:
        """Try levers; None when there is no time left."""
        ...

    def time(self, levers: Mapping[str, Any], number: int) -> TimedRun | None:
        """Run levers once more for their time; None when there is no time left."""
        ...


class Measurer:
    """Runs levers on videos; what it has measured is kept in `work` and never measured again.

    Args:
        networks: the exact ones, loaded, and others that levers choose.
        sequences: the videos.
        frames: of each, at most; None: all.
        work: where measurements are kept.
        budget: of time.
        kind: tells videos of one kind from others in `work`.
    """

    def __init__(
        self,
        networks: Networks,
        sequences: Sequence[SequenceInput],
        *,
        frames: int | None,
        work: FinishedWork,
        budget: Budget,
        kind: str = "tuning",
    ) -> None:
        self._networks = networks
        self._sequences = sequences
        self._frames = frames
        self._work = work
        self._budget = budget
        self._kind = kind
        self._exact: dict[str, Maps] = {}

    def exact(self) -> Trial:
        """The exact run on all videos.

        Raises:
            OutOfTimeError: the budget's limit is reached.
            GmosError: a video or the device fails.
        """
        videos, took = [], 0.0
        for sequence in self._sequences:
            key = (self._kind, "exact", sequence.name)
            found = self._work.known(ExactVideo, *key)
            if found is None:
                self._budget.check()
                logger.info("%s: the exact run", sequence.name)
                with self._budget.running() as taken:
                    trial, maps = self._run(sequence, {})
                    found = ExactVideo(trial=trial, maps=maps, took_s=taken())
                self._work.keep(found, *key)
            else:
                self._budget.spend(found.took_s)
            self._exact[sequence.name] = found.maps
            videos.append(found.trial)
            took += found.took_s
        return Trial(levers={}, videos=tuple(videos), took_s=took)

    def measure(self, levers: Mapping[str, Any]) -> Trial | None:
        """Run levers on all videos, after `exact`; None when there is no time left.

        Raises:
            GmosError: a video or the device fails.
        """
        key = (self._kind, "trial", sorted(levers.items()))
        found = self._work.known(Trial, *key)
        if found is not None:
            self._budget.spend(found.took_s)
            return found
        try:
            self._budget.check()
            with self._budget.running() as taken:
                videos = tuple(self._tried(sequence, levers) for sequence in self._sequences)
                found = Trial(levers=dict(levers), videos=videos, took_s=taken())
        except OutOfTimeError:
            return None
        self._work.keep(found, *key)
        return found

    def time(self, levers: Mapping[str, Any], number: int) -> TimedRun | None:
        """Run levers on all videos once more for their time, for the `number`-th time; None without time.

        Raises:
            GmosError: a video or the device fails.
        """
        key = (self._kind, "time", number, sorted(levers.items()))
        found = self._work.known(TimedRun, *key)
        if found is not None:
            self._budget.spend(found.took_s)
            return found
        try:
            self._budget.check()
            with self._budget.running() as taken:
                runs = [self._run(sequence, levers)[0] for sequence in self._sequences]
                seconds, frames = (sum(getattr(one, name) for one in runs) for name in ("seconds", "frames"))
                found = TimedRun(frame_s=seconds / frames, took_s=taken())
        except OutOfTimeError:
            return None
        self._work.keep(found, *key)
        return found

    def _tried(self, sequence: SequenceInput, levers: Mapping[str, Any]) -> VideoTrial:
        trial, maps = self._run(sequence, levers)
        scores = tuple(
            _score(sequence.name, result, exact, maps[result])
            for result, exact in self._exact[sequence.name].items()
        )
        return replace(trial, scores=scores)

    def _run(self, sequence: SequenceInput, levers: Mapping[str, Any]) -> tuple[VideoTrial, Maps]:
        # Levers that give values which are not finite are ones whose masks do not hold.
        backend = self._networks.backend(levers)
        options = with_levers(RunOptions(allow_nonfinite=bool(levers)), run_part(levers))
        options = settle_run(backend, options, [sequence])
        with run_progress() as progress:
            run = ClipRun(
                backend,
                sequence,
                options,
                progress=WithinBudget(progress, self._budget),
                frames=self._frames,
            )
            maps: Maps = {
                str(result): [labels.compact(frame) for frame in range(len(labels))]
                for result, labels in label_maps(run).items()
            }
        summary = run.summary
        trial = VideoTrial(
            video=sequence.name,
            frames=summary.frames,
            seconds=sum(seconds for stage, seconds in summary.stage_s.items() if stage != WRITE),
            scores=(),
            decoded=summary.decoded_frames,
            proposed=summary.proposed_frames,
            changes=tuple(run.changes),
            prompts=None if run.tracks is None else len(run.tracks.mos_i.prompts),
            memories=summary.conditioning_memories,
            moving=summary.moving_frames,
        )
        return trial, maps


def _score(video: str, result: str, exact: Sequence[CompactMap], found: Sequence[CompactMap]) -> Score:
    def read(index: int) -> tuple[Labels, Labels]:
        return exact[index].unpack(), found[index].unpack()

    agreement = sequence_agreement(video, result, [f"{index:05d}" for index in range(len(exact))], read)
    return Score(result=result, mean_iou=agreement.mean_iou, worst_frame_iou=agreement.worst_frame.iou)
