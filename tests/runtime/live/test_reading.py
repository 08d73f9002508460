"""A source is opened, measured, numbered, and opened again where it is lost; what cannot be mended is one line."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.reading import LiveFrames, ReadingOptions
from gmos_deploy.runtime.live.sources.source import SourceLostError

from .scripted import FakeClock, ScriptedSource, Shot, shots

LOST = SourceLostError("the cable was pulled")


class Script:
    """Reads a scripted source to its end."""

    def __init__(self, *connections: Any, options: ReadingOptions | None = None, **source: Any) -> None:
        self.clock = FakeClock()
        self.source = ScriptedSource(self.clock, *connections, **source)
        self.frames = LiveFrames(self.source.input, options, clock=self.clock, pause=self.clock.pause)

    def read(self) -> list[LiveFrame]:
        return list(self.frames)

    @property
    def start(self) -> Any:
        assert self.frames.start is not None
        return self.frames.start


def indices(frames: list[LiveFrame]) -> list[int]:
    return [frame.index for frame in frames]


def test_a_stated_rate_is_taken_at_once() -> None:
    """The first frame comes without another one having been waited for."""
    script = Script(shots(3, 25), rate_fps=23.976)
    first = next(iter(script.frames))
    assert script.start.rate_fps == pytest.approx(23.976)
    assert (script.start.origin, script.start.stride, script.start.video_hw) == ("stated", 2, (4, 6))
    assert (first.index, first.time_s, first.arrival_s) == (0, 0.0, pytest.approx(1000.04))


@pytest.mark.parametrize(
    ("options", "rate", "origin", "stride"),
    [
        (ReadingOptions(), 24.0, "measured", 3),
        (ReadingOptions(fps=50), 50.0, "given", 6),
        (ReadingOptions(stride=1), 24.0, "measured", 1),
        (ReadingOptions(fps=50, stride=2), 50.0, "given", 2),
    ],
)
def test_a_source_that_states_no_rate(options: ReadingOptions, rate: float, origin: str, stride: int) -> None:
    """It is measured, unless a rate is given."""
    script = Script(shots(60, 23.9), rate_fps=None, options=options)
    script.read()
    assert (script.start.rate_fps, script.start.origin, script.start.stride) == (rate, origin, stride)


def test_fps_decides_the_stride_and_not_the_numbers() -> None:
    """As for files: the stride follows --fps, frames that were lost the source's own rate."""
    script = Script([Shot(0.0), Shot(0.04), Shot(0.12)], rate_fps=25.0, options=ReadingOptions(fps=80))
    assert indices(script.read()) == [0, 1, 3]
    assert script.start.stride == 10


def test_no_time_stamps_are_measured_by_arrival() -> None:
    """A camera without a clock."""
    script = Script(shots(40, 16, stamped=False), rate_fps=None)
    assert len(script.read()) == 40 - 14
    assert script.start.rate_fps == 16


def test_what_waits_loses_nothing_while_it_is_measured() -> None:
    """A pipe has every frame answered."""
    script = Script(shots(40, 16), rate_fps=None, waits=True)
    assert indices(script.read()) == list(range(40))


def test_a_camera_keeps_two_frames_while_it_is_measured() -> None:
    """The others would be dropped as the device comes to them; they are counted."""
    script = Script(shots(40, 16), rate_fps=None)
    frames = script.read()
    assert indices(frames) == list(range(14, 40))
    assert [frame.dropped_before for frame in frames[:3]] == [14, 0, 0]


def test_a_short_stream_is_measured_by_what_there_is() -> None:
    """Three frames."""
    script = Script(shots(3, 10), rate_fps=None, waits=True)
    assert indices(script.read()) == [0, 1, 2]
    assert script.start.rate_fps == pytest.approx(10)


@pytest.mark.parametrize(
    ("connection", "fields", "message"),
    [
        ([], {}, "script://host gave no picture; expected a video"),
        (
            [Shot(0.0)],
            {"rate_fps": None},
            "ended before a rate could be measured; expected --fps or --stride",
        ),
        (
            [Shot(None), Shot(None)],
            {"rate_fps": None, "waits": True},
            "states no frame rate, and its frames have no times; give --fps or --stride",
        ),
        (LOST, {}, "script://host cannot be read: the cable was pulled; expected a source that is there"),
        (
            [Shot(0.0), Shot(0.04, hw=(8, 6))],
            {},
            "script://host changed its size from 6x4 to 6x8 pixels; expected one size",
        ),
        ([Shot(0.0), LOST], {"returns": False}, "script://host was lost: the cable was pulled"),
    ],
)
def test_what_cannot_be_used(connection: Any, fields: dict[str, Any], message: str) -> None:
    """One line."""
    script = Script(connection, **fields)
    with pytest.raises(GmosError, match=message):
        script.read()
    # It is closed all the same.
    assert script.source.closed == (script.source.opened if connection is not LOST else 0)


def test_one_frame_with_a_stride() -> None:
    """That is all it takes."""
    script = Script([Shot(0.0)], rate_fps=None, options=ReadingOptions(stride=3))
    assert indices(script.read()) == [0]


def test_a_lost_source_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    """Pauses double; one line when it is lost, and one when it is back; a new sequence begins."""
    script = Script([*shots(3, 25), LOST], LOST, LOST, shots(2, 25))
    with caplog.at_level(logging.INFO, logger="gmos_deploy"):
        frames = script.read()
    assert indices(frames) == [0, 1, 2, 3, 4]
    assert [frame.new_sequence for frame in frames] == [False, False, False, True, False]
    assert script.clock.pauses == [0.5, 1.0, 2.0]
    assert frames[3].time_s == pytest.approx(0.08 + 3.5 + 0.04)
    assert script.frames.reconnects == 1
    assert [record.message for record in caplog.records] == [
        "script://host was lost: the cable was pulled; connecting again for 60 s",
        "script://host is back after 3.5 s",
    ]


def test_a_source_that_opens_and_gives_nothing_is_not_back() -> None:
    """It is the same outage, which ends after `reconnect_s`."""
    script = Script([*shots(3, 25), LOST], [LOST])
    with pytest.raises(GmosError, match="was lost and has not come back for 60 s: the cable was pulled"):
        script.read()
    assert sum(script.clock.pauses) == pytest.approx(60)
    assert max(script.clock.pauses) == 10
    assert script.source.opened == script.source.closed > 5


@pytest.mark.parametrize(
    ("reconnect_s", "message"), [(0.0, "was lost: the cable was pulled$"), (1.0, "for 1 s:")]
)
def test_how_long_it_is_tried(reconnect_s: float, message: str) -> None:
    """0: not at all."""
    script = Script([*shots(3, 25), LOST], LOST, options=ReadingOptions(reconnect_s=reconnect_s))
    with pytest.raises(GmosError, match=message):
        script.read()


def test_for_ever() -> None:
    """A source that comes back after a day."""
    script = Script(
        [*shots(3, 25), LOST], *[LOST] * 9000, shots(1, 25), options=ReadingOptions(reconnect_s=float("inf"))
    )
    assert indices(script.read()) == [0, 1, 2, 3]
    assert sum(script.clock.pauses) > 80_000


def test_it_is_stopped_while_it_waits() -> None:
    """Whoever stops it does not wait for the next attempt."""
    script = Script([*shots(3, 25), LOST])
    frames = LiveFrames(script.source.input, clock=script.clock, pause=lambda _: False)
    assert indices(list(frames)) == [0, 1, 2]


def test_an_end_is_an_end_also_after_a_reconnection() -> None:
    """No attempt is made."""
    script = Script([*shots(3, 25), LOST], [])
    assert len(script.read()) == 3
    assert script.source.opened == 2


def test_a_loss_while_it_is_measured() -> None:
    """Times of two connections are not mixed."""
    script = Script([*shots(5, 25), LOST], shots(40, 16), rate_fps=None, waits=True)
    assert indices(script.read()) == list(range(40))
    assert script.start.rate_fps == 16


def test_stalls_and_jumps() -> None:
    """What comes after is a new sequence; frames that the camera lost keep their numbers."""
    steps = [Shot(0.0), Shot(0.04), Shot(0.12), Shot(0.16, after_s=3.0), Shot(0.2), Shot(9.0), Shot(9.04)]
    frames = Script(steps).read()
    assert indices(frames) == [0, 1, 3, 4, 5, 6, 7]
    assert [frame.new_sequence for frame in frames] == [False, False, False, True, False, True, False]


def test_a_file_is_counted() -> None:
    """No stall, no jump, no lost frame, and its own times."""
    steps = [Shot(0.0), Shot(0.3, after_s=9.0), Shot(7.5)]
    frames = Script(steps, counted=True, waits=True, stride=4).read()
    assert indices(frames) == [0, 1, 2]
    assert [frame.time_s for frame in frames] == [0.0, 0.3, 7.5]
    assert not any(frame.new_sequence for frame in frames)


def test_a_rate_that_is_not_kept_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """After ten seconds, with what to do."""
    Script(shots(400, 15), rate_fps=30.0).read()
    assert [record.message for record in caplog.records] == [
        "script://host delivers 15 frames per second, and the stride is that of 30; if that stays so, give --fps 15"
    ]


def test_a_rate_that_is_kept_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is one that --stride makes meaningless."""
    Script(shots(400, 28), rate_fps=30.0).read()
    Script(shots(400, 15), rate_fps=30.0, options=ReadingOptions(stride=2)).read()
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0.0}, "--timeout 0: expected a positive number"),
        ({"timeout_s": float("inf")}, "--timeout inf"),
        ({"reset_after_s": -1.0}, "--reset_after -1: expected seconds from 0 up"),
        ({"reconnect_s": float("nan")}, "--reconnect nan"),
    ],
)
def test_values_out_of_range(options: dict[str, float], message: str) -> None:
    """One line."""
    with pytest.raises(GmosError, match=message):
        ReadingOptions(**options)
