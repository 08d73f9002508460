"""Several videos of a command that needs all of their answers together: it goes on after a bad one, and says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import GmosError
from ..runtime.video.inputs import check_rate, resolve_inputs
from ..runtime.video.sequence import SequenceInput
from .listing import list_inputs
from .statuses import FAILED_STATUS, Failure, answer_of

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Several:
    """The videos of a run, and which of them failed so far.

    Args:
        inputs: as gmos-run's.
        fps: frames per second, --fps.
        stride: in frames, --stride.

    Raises:
        GmosError: as `list_inputs`.
    """

    def __init__(self, inputs: Sequence[Path | str], *, fps: float | None, stride: int | None) -> None:
        check_rate(fps, stride)
        self._listing = list_inputs(inputs, has_rate=bool(fps or stride))
        self._fps, self._stride = fps, stride
        self.failed: dict[str, str] = {}
        """Why, by name."""

    def resolve(self, *, pi3_area_px: int, patch_px: int) -> list[SequenceInput]:
        """Check those that have not failed; arguments as `resolve_inputs`.

        Raises:
            GmosError: none of them can be used.
        """
        found = []
        for item in self._listing.items:
            # Called before the next turn of the loop.
            answer = self.attempt(
                item.name,
                lambda item=item: resolve_inputs(  # type: ignore[misc]
                    [item.given],
                    fps=self._fps,
                    stride=self._stride,
                    names=[item.name],
                    pi3_area_px=pi3_area_px,
                    patch_px=patch_px,
                ),
            )
            found += answer or []
        return found

    def attempt(self, name: str, work: Callable[[], Answer]) -> Answer | None:
        """What work on a video answers; None if that failed, now or before.

        Raises:
            GmosError: it failed and is alone, or the last one, or it is the machine's fault.
        """
        if name in self.failed:
            return None
        if self._listing.alone:
            return work()
        answer = answer_of(name, work)
        if not isinstance(answer, Failure):
            return answer
        logger.error("%s: %s", name, answer.reason)
        self.failed[name] = answer.reason
        if len(self.failed) == len(self._listing.items):
            raise GmosError(
                f"none of the {len(self.failed)} videos can be used; the last one, {name}: {answer.reason}"
            )
        return None

    def left(self, sequences: Sequence[SequenceInput]) -> list[SequenceInput]:
        """Those that have not failed."""
        return [sequence for sequence in sequences if sequence.name not in self.failed]

    def status(self, status: int = 0) -> int:
        """The exit status of a command that ends with `status` where no video fails."""
        return status or (FAILED_STATUS if self.failed else 0)
