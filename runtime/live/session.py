"""One stream on loaded networks: a frame in, the answers that it completes out. No thread, no clock but one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..backend import Backend
from ..frame_result import FrameResult, LiveFacts, MapName
from ..pi3_frame import pi3_frame, pi3_size_wh
from ..pipeline.encode import FrameTokens
from ..pipeline.finite_check import FiniteCheck
from ..pipeline.memory_tracker import OBJECT_LIMIT, make_live_tracker
from ..pipeline.options import RunOptions, prepare_workers
from ..pipeline.proposals import slots_won
from .incoming import LiveFrame
from .stage_live import HeadFrame, StageAnswer, StageLive
from .window_calls import WindowAnswer, WindowCalls
from .windows import DueWindow, LiveWindows

RETIRE_AFTER_S = 10.0
"""Seconds without a pixel after which an object is gone."""


class LiveSession:
    """Answers on a stream while it runs: MOS-I of GMOS, masks of GMOS-S. Any number of sessions share a backend.

    Networks run one window at a time, so that a stream's answers are those of its file at a batch of one; `push_all`
    runs windows of several sessions together. Used by one thread at a time, as its backend is.

    Args:
        backend: runs the networks; not closed.
        video_hw: height and width of every frame in pixels.
        stride: frames between neighbours of a window.
        options: how to run; `batch_size` bounds how many windows of several sessions go together.
        retire_after_s: an object is gone when its mask has been empty for so many seconds of the source's clock, and
            may have to give way when it has been still for so long; 0: never.
        fps: frames per second of the source.
        with_rgb: give answers their frames.
        name: of the stream, in messages.

    Raises:
        GmosError: a value is out of range, or frames are too thin for Pi3.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        video_hw: tuple[int, int],
        stride: int,
        options: RunOptions | None = None,
        retire_after_s: float = RETIRE_AFTER_S,
        fps: float,
        with_rgb: bool = False,
        name: str = "stream",
    ) -> None:
        if stride < 1:
            raise GmosError(f"--stride {stride}: expected 1 frame or more")
        if not 0 <= retire_after_s < float("inf"):
            raise GmosError(f"--retire_after {retire_after_s}: expected seconds from 0 up; 0 means never")
        model, options = backend.model, options or RunOptions()
        if options.thresholds.max_objects > OBJECT_LIMIT:
            raise GmosError(
                f"--thresholds max_objects={options.thresholds.max_objects}: a stream has at most {OBJECT_LIMIT} "
                "objects at a time, as its label maps are 8 bits"
            )
        options.require_stream()
        self.name = name
        self.video_hw = video_hw
        self.stride = stride
        self.fps = fps
        self.delay_frames = model.window // 2 * stride
        """How many frames later an answer comes."""
        self.not_finite: dict[str, int] = {}
        """Frames with values that are not finite, by network, where the run goes on in spite of them."""
        self._backend = backend
        self._calls = WindowCalls(backend, batch_size=options.batch_size)
        area_px = options.levers.sized(model).pi3_area_px
        self._pi3_size_wh = pi3_size_wh(video_hw[1], video_hw[0], area_px, model.patch_px)
        self._check = FiniteCheck(video=name, allowed=options.allow_nonfinite, found=self.not_finite)
        self._with_rgb = with_rgb
        self._stage: StageLive | None = None
        if model.variant == "gmos":
            self._stage = StageLive(
                partial(make_live_tracker, backend, video_hw=video_hw),
                video_hw=video_hw,
                thresholds=options.thresholds,
                retire_after_s=retire_after_s,
                check=self._check,
            )
        self._windows = LiveWindows(stride=stride, window=model.window)
        self._last: int | None = None
        self._begins = False
        self._reset_before = False
        self._open = True

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, frame: LiveFrame) -> LiveFrame:
        """The frame with its Pi3 version, which takes tens of milliseconds of a large one: any thread may make it.

        `push` makes it where it is missing.

        Raises:
            GmosError: as `check_frame`.
        """
        if frame.pi3_rgb is not None:
            return frame
        self.check_frame(frame.rgb)
        return replace(frame, pi3_rgb=pi3_frame(frame.rgb, self._pi3_size_wh))

    def push(self, frame: LiveFrame) -> list[FrameResult]:
        """Take the next frame that was kept; the answers that it completes, in order.

        A frame with `new_sequence` ends the sequence before it first: see `reset`.

        Raises:
            GmosError: the frame has another size, or the device turned out to be unusable.
        """
        return push_all([(self, frame)])[0]

    def reset(self) -> list[FrameResult]:
        """End this sequence; the answers that still waited, with windows clipped to the last frame.

        Objects are gone and ids go on. The first answer of the next sequence says `live.reset_before`.

        Raises:
            GmosError: as `push`.
        """
        self._require_open()
        answers: list[FrameResult] = []
        for due in self._windows.end():
            answers += self._taken(due, *self._calls.answers([due], [self._pi3_size_wh]))
        if self._stage is not None:
            answers += self._tracked(self._stage.end())
        self._begins = self._last is not None
        return answers

    def finish(self) -> list[FrameResult]:
        """End the stream: the answers of `reset`, after which the session takes no more frames.

        Raises:
            GmosError: as `push`.
        """
        answers = self.reset()
        self.close()
        return answers

    def close(self) -> None:
        """Drop everything that is held; frames that still wait get no answer."""
        self._open = False
        self._windows.end()
        if self._stage is not None:
            self._stage.close()

    def check_frame(self, rgb: NDArray[np.uint8]) -> None:
        """Refuse a frame that the session does not take.

        Raises:
            GmosError: it is of another size or kind, or the session has ended.
        """
        self._require_open()
        if rgb.dtype != np.uint8 or rgb.shape != (*self.video_hw, 3):
            height, width = self.video_hw
            raise GmosError(
                f"{self.name}: a frame is {rgb.shape} {rgb.dtype}; expected ({height}, {width}, 3) uint8, as the "
                "session was opened for"
            )

    def _require_open(self) -> None:
        if not self._open:
            raise GmosError(f"{self.name}: this session has ended; open another one")

    def _arrived(self, frame: LiveFrame) -> list[FrameResult]:
        """Look at a frame; the answers of the sequence that it ends."""
        self.check_frame(frame.rgb)
        ended: list[FrameResult] = []
        if self._last is not None and frame.new_sequence:
            ended = self.reset()
        elif self._last is not None and not self._begins and frame.index <= self._last:
            raise GmosError(
                f"{self.name}: frame {frame.index} came after frame {self._last}; expected a greater number"
            )
        return ended

    def _windows_due(self, frame: LiveFrame, tokens: FrameTokens) -> list[DueWindow]:
        """Take a frame with its tokens; the windows that are complete with it."""
        begins, self._begins, self._last = self._begins, False, frame.index
        return self._windows.add(replace(frame, new_sequence=begins, pi3_rgb=None), tokens)

    def _taken(self, due: DueWindow, answer: WindowAnswer) -> list[FrameResult]:
        """The answers that a frame leads to, once its window has been through the head."""
        read, frame = answer.read, due.frame
        if self._stage is None:
            looked_at = {"IoUs": read["ious"], "confidences": read["confidences"], **answer.logits}
            self._check.check(frame.index, looked_at, answer.source)
            return [self._answer(frame, {"foreground": read["mask"], "probability": read["probability"]})]
        looked_at = {"motion logits": read["motion_logits"], "IoUs": read["ious"], **answer.logits}
        self._check.check(frame.index, looked_at, answer.source)
        head = HeadFrame(
            frame=frame,
            labels=read["labels"],
            won=slots_won(read["labels"]),
            motion_logits=read["motion_logits"],
            ious=read["ious"],
            features=answer.features,
        )
        return self._tracked(self._stage.push(head))

    def _tracked(self, answers: Sequence[StageAnswer]) -> list[FrameResult]:
        return [self._answer(one.frame, one.maps, ious=one.ious, ids=one.ids) for one in answers]

    def _answer(
        self,
        frame: LiveFrame,
        maps: Mapping[MapName, NDArray[np.uint8]],
        *,
        ious: Mapping[MapName, NDArray[np.float32]] | None = None,
        ids: Mapping[int, int] | None = None,
    ) -> FrameResult:
        return FrameResult(
            index=frame.index,
            time_s=frame.time_s,
            maps=maps,
            ious=ious or {},
            ids=ids or {},
            rgb=frame.rgb if self._with_rgb else None,
            live=LiveFacts(
                arrival_s=frame.arrival_s,
                answer_s=time.monotonic(),
                dropped_before=frame.dropped_before,
                reset_before=frame.new_sequence,
            ),
        )


def check_together(sessions: Sequence[LiveSession]) -> None:
    """Refuse sessions that cannot be pushed into together.

    Raises:
        GmosError: one comes twice, or they are of different models.
    """
    if len(set(map(id, sessions))) < len(sessions):
        raise GmosError("a session comes twice in one call; push its frames one after the other")
    if len({id(session._backend) for session in sessions}) > 1:
        raise GmosError("these sessions are of different models; push into those of one model together")


def push_all(pairs: Sequence[tuple[LiveSession, LiveFrame]]) -> list[list[FrameResult]]:
    """Push a frame into each of several sessions of one backend; the answers of each, as `LiveSession.push` gives them.

    Windows of equal Pi3 size go through the encoders and the head together, so that they are within the limits of
    parity of those that go alone. What ends a sequence, and the tracker, goes session by session.

    Raises:
        GmosError: as `LiveSession.push`; a session comes twice, or the sessions are of different models.
    """
    sessions = [session for session, _ in pairs]
    check_together(sessions)
    answers = [session._arrived(frame) for session, frame in pairs]
    if not pairs:
        return answers
    calls = sessions[0]._calls
    frames = _prepared(pairs)
    waiting = [
        deque(session._windows_due(frame, tokens))
        for session, frame, tokens in zip(sessions, frames, calls.tokens(frames), strict=True)
    ]
    # Most often each session has one window or none; after frames were dropped a session may have several.
    while any(waiting):
        places = [place for place, windows in enumerate(waiting) if windows]
        due = [waiting[place].popleft() for place in places]
        sizes = [sessions[place]._pi3_size_wh for place in places]
        for place, window, answer in zip(places, due, calls.answers(due, sizes), strict=True):
            answers[place] += sessions[place]._taken(window, answer)
    return answers


def _prepared(pairs: Sequence[tuple[LiveSession, LiveFrame]]) -> list[LiveFrame]:
    """The frames with their Pi3 versions: those of several streams are made beside each other."""
    if len(pairs) == 1:
        return [session.prepare(frame) for session, frame in pairs]
    with ThreadPoolExecutor(min(len(pairs), prepare_workers()), "prepare live") as pool:
        return list(pool.map(lambda pair: pair[0].prepare(pair[1]), pairs))
