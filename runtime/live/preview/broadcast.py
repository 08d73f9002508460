"""What viewers see of the latest answer: made once for all of them, in the server's thread."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import psutil
from PIL import Image

from ...frame_result import FrameResult
from ...media import OverlayStyle
from ...results.labelled_overlay import colour_of
from ..objects import drawn, objects_of

LONGEST_PX = 1280
"""Of a picture's longer side: larger ones are made smaller."""
JPEG_QUALITY = 80

BUSY_SHARE = 0.25
"""Of one core, at most, that pictures take: after each one the thread rests."""

TICK_S = 1.0
"""Numbers come this often where no answer does."""

RATE_TICKS = 5
"""Over which answers a second are counted."""

MIB = 1 << 20

Numbers = Mapping[str, str | int | float | None]

COUNTED_HERE = frozenset(("answered", "fps", "delay_ms", "memory_mib"))
"""Counts of a run that the page has of its own, by their latest answer."""


class Latest:
    """The latest answer and what was counted: all that the run's thread has to do with viewers."""

    def __init__(self) -> None:
        self.answer: FrameResult | None = None
        self.answers = 0
        self.dropped = 0
        self.resets = 0
        self.told: Numbers = {}

    def put(self, answer: FrameResult) -> None:
        """Take an answer in place of the one before."""
        if answer.live is not None:
            self.dropped += answer.live.dropped_before
            self.resets += answer.live.reset_before
        self.answer = answer
        self.answers += 1


class Broadcast:
    """Turns the latest answer into messages of a page, as fast as there are viewers for it and no faster."""

    def __init__(self, latest: Latest, style: OverlayStyle) -> None:
        self._latest = latest
        self._style: OverlayStyle = style
        self._viewers: set[asyncio.Event] = set()
        self._news = asyncio.Event()
        self._process = psutil.Process()
        self._counted: deque[tuple[float, int]] = deque(maxlen=RATE_TICKS + 1)
        self._shown = 0
        self.picture = b""
        """The last message with a picture; empty before the first answer was shown."""
        self.pictures = 0
        """Made so far."""
        self.numbers = b""
        """A message with numbers alone, of the last tick."""
        self.ended = False

    @property
    def viewers(self) -> int:
        """How many there are."""
        return len(self._viewers)

    def news(self) -> None:
        """There is an answer, or a viewer, that was not there before."""
        self._news.set()

    def end(self) -> None:
        """Let viewers go."""
        self.ended = True
        self.news()
        self._wake()

    @contextmanager
    def viewer(self) -> Iterator[asyncio.Event]:
        """Count a viewer in; what it gets is set when there is a message."""
        woken = asyncio.Event()
        self._viewers.add(woken)
        self.news()
        try:
            yield woken
        finally:
            self._viewers.discard(woken)

    async def run(self) -> None:
        """Make messages until it ends."""
        while not self.ended:
            try:
                await asyncio.wait_for(self._news.wait(), TICK_S)
            except asyncio.TimeoutError:
                self._tick()
                continue
            self._news.clear()
            if self._viewers and self._latest.answers != self._shown:
                began = time.monotonic()
                self._show()
                self._wake()
                await asyncio.sleep((time.monotonic() - began) * (1 / BUSY_SHARE - 1))
            if not self._counted or time.monotonic() - self._counted[-1][0] >= TICK_S:
                self._tick()

    def _tick(self) -> None:
        self._counted.append((time.monotonic(), self._latest.answers))
        self.numbers = _event("numbers", {"numbers": self._all_numbers()})
        self._wake()

    def _wake(self) -> None:
        for woken in self._viewers:
            woken.set()

    def _show(self) -> None:
        """Draw the latest answer."""
        self._shown, answer = self._latest.answers, self._latest.answer
        if answer is None:
            return
        message = {
            "index": answer.index,
            "time_s": answer.time_s,
            "objects": [
                {
                    "id": one.id,
                    "slot": slot,
                    "moving": one.moving,
                    "area": one.area,
                    "iou": one.iou,
                    "colour": colour_of(one.id),
                }
                for slot, one in objects_of(answer)
            ],
            "numbers": self._all_numbers(),
            "picture": None if answer.rgb is None else _jpeg(answer, self._style),
        }
        self.picture = _event("answer", message)
        self.pictures += 1

    def _all_numbers(self) -> dict[str, str | int | float | None]:
        latest = self._latest
        live = None if latest.answer is None else latest.answer.live
        rate = None
        if len(self._counted) > 1:
            (then_s, then), (now_s, now) = self._counted[0], self._counted[-1]
            rate = (now - then) / (now_s - then_s)
        return {
            "answers a second": rate,
            "delay ms": None if live is None else round(1000 * (live.answer_s - live.arrival_s)),
            "last answer s ago": None if live is None else max(0.0, time.monotonic() - live.answer_s),
            "answers": latest.answers,
            "dropped": latest.dropped,
            "resets": latest.resets,
            "memory MiB": round(self._process.memory_info().rss / MIB),
            "viewers": self.viewers,
            **{name: value for name, value in latest.told.items() if name not in COUNTED_HERE},
        }


def _event(kind: str, message: Mapping[str, Any]) -> bytes:
    """A server-sent event; its data is one line."""
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(message) + b"\n\n"


def _jpeg(answer: FrameResult, style: OverlayStyle) -> str:
    """The drawn answer in base64."""
    picture = Image.fromarray(drawn(answer, style))
    if max(picture.size) > LONGEST_PX:
        picture.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(data.getvalue()).decode("ascii")
