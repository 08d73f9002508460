"""What a live run tells when it ends, and once a second while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...frame_result import FrameResult
from ..incoming import LiveFrame
from .latency import Latencies

RECENT = 32
"""Answers whose rate is that of now."""


@dataclass(slots=True, kw_only=True)
class LiveSummary:
    """The closing summary of a stream.

    `source` as shown; `stride` and `delay_frames` in frames, the latter being how much later an answer comes by the
    method. Counts: `answered`, `moving` (answers with motion), `dropped` (left out because the device was busy), `lost`
    (by the source itself, by its time stamps), `resets` (new sequences), `reconnects`. `latency_ms` is from the arrival
    of a frame to its answer, `beyond_delay_ms` what of it is more than `delay_frames` take at the source's rate; of a
    source that waits, from the arrival of the frame that the window waited for. Answers at the end of a sequence, whose
    windows are clipped, are in neither. `fps` are answers per second of the run, `peak_mib` is the process's resident
    memory, `device_taken_mib` what the run took on the device beside the networks' weights.
    """

    name: str
    source: str
    kind: str
    video_hw: tuple[int, int]
    rate_fps: float
    rate_origin: str
    stride: int
    delay_frames: int
    drop: str
    answered: int = 0
    moving: int = 0
    dropped: int = 0
    lost: int = 0
    resets: int = 0
    reconnects: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    latency_ms: dict[str, float] | None = None
    beyond_delay_ms: dict[str, float] | None = None
    not_finite: dict[str, int] = field(default_factory=dict)
    peak_mib: float | None = None
    device_taken_mib: float | None = None
    ended: str = "interrupted"
    outputs: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        height, width = self.video_hw
        delay_ms = 1e3 * self.delay_frames / self.rate_fps
        found = [
            f"{self.name}: {_count(self.answered, 'answer')} in {self.seconds:.1f} s, {self.fps:.2f} a second; motion "
            f"on {self.moving}; {self.ended}",
            f"  {self.source}: {width}x{height}, {self.rate_fps:.6g} frames per second ({self.rate_origin}), stride "
            f"{self.stride}, so that an answer comes {self.delay_frames} frames ({delay_ms:.0f} ms) later",
            f"  {self.dropped} dropped (--drop {self.drop}), {self.lost} lost by the source, "
            f"{_count(self.resets, 'new sequence')}, {_count(self.reconnects, 'reconnection')}",
        ]
        if self.latency_ms is not None and self.beyond_delay_ms is not None:
            found.append(
                f"  latency {_percentiles(self.latency_ms)}; beyond the method's delay "
                f"{_percentiles(self.beyond_delay_ms)} (percentiles 50, 90, 99)"
            )
        memory = [] if self.peak_mib is None else [f"{self.peak_mib:.0f} MiB of host memory"]
        memory += (
            [] if self.device_taken_mib is None else [f"{self.device_taken_mib:.0f} MiB of device memory"]
        )
        if memory:
            found.append(f"  peak {', '.join(memory)}")
        found += [
            f"  note: values that are not finite on {_count(count, 'frame')} ({network})"
            for network, count in self.not_finite.items()
        ]
        return found + [f"  {path}" for path in self.outputs]


def _percentiles(found: Mapping[str, float]) -> str:
    return f"{found['p50']:.0f}, {found['p90']:.0f} and {found['p99']:.0f} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


class LiveCounts:
    """Counts what passes; used by the thread that computes, and read by others, who may see counts of two moments.

    Args:
        delay_s: by which the method alone delays answers; None: of a source that waits, whose frames come at any rate.
    """

    def __init__(self, delay_s: float | None) -> None:
        self._delay_s = delay_s
        self.answered = self.moving = self.dropped = self.lost = self.resets = 0
        self.latency, self.beyond = Latencies(), Latencies()
        self._last_index: int | None = None
        self._recent_s: deque[float] = deque(maxlen=RECENT)
        self.last_delay_s = 0.0
        """From the arrival of the frame answered last to its answer."""

    def took(self, frame: LiveFrame) -> None:
        """A frame was taken from the queue."""
        self.dropped += frame.dropped_before
        if self._last_index is not None:
            self.lost += frame.index - self._last_index - 1 - frame.dropped_before
        self._last_index = frame.index

    def gave(self, answer: FrameResult, completing: LiveFrame | None) -> None:
        """An answer came out; `completing` is the frame that its window waited for, None at the end of a sequence."""
        self.answered += 1
        self.moving += bool(answer.values("mos-i" if "mos-i" in answer.maps else "foreground").any())
        facts = answer.live
        if facts is None:
            return
        self.resets += facts.reset_before
        self._recent_s.append(facts.answer_s)
        self.last_delay_s = facts.answer_s - facts.arrival_s
        if completing is not None:
            self.latency.add(self.last_delay_s)
            waited_s = completing.arrival_s - facts.arrival_s if self._delay_s is None else self._delay_s
            self.beyond.add(self.last_delay_s - waited_s)

    def recent_fps(self, now_s: float) -> float:
        """Answers per second of late."""
        recent = list(self._recent_s)
        return (len(recent) - 1) / (now_s - recent[0]) if len(recent) > 1 and now_s > recent[0] else 0.0
