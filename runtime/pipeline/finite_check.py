"""Values that are not finite end a run with the frame and the network; where they are allowed, they are counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..arrays import Array, Arrays, NumpyArrays
from ..tracker import Prompt, Tracker, TrackerStep
from .encode import Encoded

logger = logging.getLogger(__name__)

TRACKER = "memory_attention, mask_decoder or memory_encoder"
"""Whose answers a tracker's IoUs are: what lies between its networks stays on the device."""


@dataclass(slots=True, kw_only=True)
class FiniteCheck:
    """Looks at the few values of every frame that are on the host anyway: logits of motion, IoUs, confidences.

    Logits of masks are looked at where they are on the host, too; on a device those of the first batch are, which tell
    of weights, as all of them would have to be fetched.

    `video` is named in messages. `allowed`: the run goes on. `found` gets the number of frames by network.
    """

    video: str
    allowed: bool
    found: dict[str, int]
    _seen: bool = field(default=False, init=False)

    def logits_of(self, arrays: Arrays, logits: Array) -> Sequence[Array]:
        """Those of a batch's masks (B, …) that are to be looked at, frame by frame; none if they are not."""
        if self._seen and not isinstance(arrays, NumpyArrays):
            return ()
        self._seen = True
        return arrays.unstack(logits)

    def check(
        self, frame: int, values: Mapping[str, NDArray[np.floating]], network: Callable[[], str]
    ) -> None:
        """Look at values by name; `network` says whose they are, if that has to be known.

        Raises:
            GmosError: one is not finite, and that is not allowed.
        """
        wrong = next((name for name, array in values.items() if not np.isfinite(array).all()), None)
        if wrong is None:
            return
        name = network()
        message = f"{self.video}: from frame {frame} on, {name} gives values that are not finite (seen in the {wrong})"
        if not self.allowed:
            raise GmosError(
                f"{message}; its masks would mean nothing: the weights are damaged, or half precision is too narrow "
                "for this video; try --precision fp32 or another bundle, or go on with --allow_nonfinite"
            )
        if name not in self.found:
            logger.warning("%s; the run goes on", message)
        self.found[name] = self.found.get(name, 0) + 1

    def check_step(self, frame: int, step: TrackerStep) -> None:
        """Look at a tracker's answer, whose IoUs tell of its scores and masks, too; see `check`."""
        self.check(frame, {"object IoUs, scores or masks": step.ious}, lambda: TRACKER)


def source_of(arrays: Arrays, batch: Encoded, position: int, head: str) -> str:
    """The first network whose answer on a frame of a batch is not finite: an encoder, else the head."""
    row = position if batch.chosen is None else batch.chosen.index(position)
    encoded = [
        ("dino or pi3_decoder", batch.geometry, row),
        *(("sam2_encoder", maps, position) for maps in batch.features.values()),
    ]
    for network, answer, place in encoded:
        if not np.isfinite(arrays.download(arrays.unstack(answer)[place])).all():
            return network
    return head


def seen_logits(arrays: Arrays, logits: Sequence[Array], place: int) -> dict[str, NDArray[np.floating]]:
    """Logits of a frame's masks by the name that messages have, if `FiniteCheck.logits_of` gave any."""
    return {"mask logits": arrays.download(logits[place])} if logits else {}


class CheckedTracker:
    """A tracker whose answers are looked at."""

    def __init__(self, tracker: Tracker, check: FiniteCheck) -> None:
        self._tracker = tracker
        self._check = check

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        """See `runtime.tracker.Tracker.prompt`."""
        return self._checked(self._tracker.prompt(frame, prompts))

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        """See `runtime.tracker.Tracker.add_prompts`."""
        self._tracker.add_prompts(frame, prompts)

    def propagate(
        self, start: int, *, reverse: bool = False, unprompted: bool = False
    ) -> Iterator[TrackerStep]:
        """See `runtime.tracker.Tracker.propagate`."""
        yield from map(self._checked, self._tracker.propagate(start, reverse=reverse, unprompted=unprompted))

    def reset(self) -> None:
        """See `runtime.tracker.Tracker.reset`."""
        self._tracker.reset()

    def _checked(self, step: TrackerStep) -> TrackerStep:
        self._check.check_step(step.frame, step)
        return step
