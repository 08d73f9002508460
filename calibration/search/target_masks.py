"""Which networks may compute in eight bits while the masks of the calibration videos hold: `--target_masks`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...evaluation.compare.mask_agreement import Labels, sequence_agreement
from ...evaluation.progress_bar import run_progress
from ...runtime.bundle.manifest import Bundle
from ...runtime.contract import NetworkName
from ...runtime.frame_result import CompactMap
from ...runtime.onnx.backend import open_bundle_backend
from ...runtime.pipeline.clip import ClipRun, label_maps
from ...runtime.pipeline.options import RunOptions
from ...runtime.video.sequence import SequenceInput
from .finished_work import FinishedWork

logger = logging.getLogger(__name__)

BATCH_SIZE = 8
"""Windows per network call."""

VideoLabels = Mapping[tuple[str, str], Sequence[CompactMap]]
"""Label maps by video and result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskScore:
    """How one result of one video agrees with that of the bundle that is quantised."""

    video: str
    result: str
    mean_iou: float
    worst_frame_iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTrial:
    """The networks that computed in eight bits in a trial, the others from eight-bit weights, and what came out."""

    quantised: tuple[NetworkName, ...]
    scores: tuple[MaskScore, ...]

    @property
    def worst(self) -> MaskScore:
        """The result that agrees least."""
        return min(self.scores, key=lambda score: score.mean_iou)

    def holds(self, target: float) -> bool:
        """Whether every result of every video has at least this mean IoU."""
        return self.worst.mean_iou >= target


def hold_masks(
    networks: Sequence[NetworkName],
    run: Callable[[Collection[NetworkName]], Sequence[MaskScore]],
    target: float,
) -> tuple[MaskTrial, ...]:
    """Find networks that may compute in eight bits together.

    Errors do not add up: masks hang on single decisions, such as whether a proposal starts an object. So the answer is
    a set that was tried. All are tried at once; where masks do not hold, none; then one after the other joins those
    with which they hold.

    Args:
        networks: that could, those that gain most first.
        run: gives the scores with some of them in eight bits.
        target: mean IoU of every result.

    Returns:
        All trials. The last one is the answer: a set that holds, or none where weights alone are too much.
    """
    trials: list[MaskTrial] = []

    def tried(quantised: Sequence[NetworkName]) -> MaskTrial:
        trial = MaskTrial(quantised=tuple(quantised), scores=tuple(run(quantised)))
        trials.append(trial)
        logger.info(
            "masks with arithmetic in eight bits in %s: %s of %s has a mean IoU of %.4f, worst frame %.3f: %s",
            ", ".join(quantised) or "no network",
            trial.worst.result,
            trial.worst.video,
            trial.worst.mean_iou,
            trial.worst.worst_frame_iou,
            "they hold" if trial.holds(target) else "they do not hold",
        )
        return trial

    if tried(networks).holds(target) or not networks:
        return tuple(trials)
    best = tried(())
    if best.holds(target):
        for name in networks:
            joined = (*best.quantised, name)
            if len(joined) < len(networks):
                trial = tried(joined)
                best = trial if trial.holds(target) else best
    return (*(trial for trial in trials if trial is not best), best)


class MaskReference:
    """Label maps of the bundle that is quantised, to compare others with; kept in `work` video by video."""

    def __init__(
        self,
        bundle: Bundle,
        sequences: Sequence[SequenceInput],
        work: FinishedWork,
        *,
        frames: int | None,
        device: str,
    ) -> None:
        self._sequences = sequences
        self._frames = frames
        self._device = device
        logger.info("masks of %s, to compare with", bundle.root)
        self._labels = self._run(bundle, work)

    def scores(self, bundle: Path) -> tuple[MaskScore, ...]:
        """How the masks of a bundle with the same sizes agree.

        Raises:
            GmosError: its networks or the videos turn out to be unusable.
        """
        found = []
        labels = self._run(bundle)
        for (video, result), wanted in self._labels.items():
            given = labels[video, result]

            def read(
                index: int, wanted: Sequence[CompactMap] = wanted, given: Sequence[CompactMap] = given
            ) -> tuple[Labels, Labels]:
                return wanted[index].unpack(), given[index].unpack()

            names = [f"{index:05d}" for index in range(len(wanted))]
            agreement = sequence_agreement(video, result, names, read)
            found.append(
                MaskScore(
                    video=video,
                    result=result,
                    mean_iou=agreement.mean_iou,
                    worst_frame_iou=agreement.worst_frame.iou,
                )
            )
        return tuple(found)

    def _run(self, bundle: Path | Bundle, work: FinishedWork | None = None) -> VideoLabels:
        found: dict[tuple[str, str], list[CompactMap]] = {}
        with closing(open_bundle_backend(bundle, device=self._device)) as backend, run_progress() as progress:
            for sequence in self._sequences:
                # A form that overflows is one whose masks do not hold.
                options = RunOptions(batch_size=BATCH_SIZE, allow_nonfinite=True)
                run = ClipRun(backend, sequence, options, progress=progress, frames=self._frames)

                def maps(run: ClipRun = run) -> dict[str, list[CompactMap]]:
                    return {
                        str(result): [labels.compact(frame) for frame in range(len(labels))]
                        for result, labels in label_maps(run).items()
                    }

                labels = (
                    maps()
                    if work is None
                    else work.once(dict[str, list[CompactMap]], maps, "labels", sequence.name)
                )
                found |= {(sequence.name, result): kept for result, kept in labels.items()}
        return found
