"""Frames are counted; lost ones where the time stamps leave room for them; jumps and stalls begin a new sequence."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmos_deploy.runtime.live.numbering import Numbered, Numbering

FPS = 10.0


def numbering(*, counted: bool = False, reset_after_s: float = 2.0, stalls: bool = True) -> Numbering:
    return Numbering(rate_fps=FPS, reset_after_s=reset_after_s, counted=counted, stalls=stalls)


def numbers(stamps: list[float], of: Numbering | None = None) -> list[Numbered]:
    of = of or numbering()
    return [of.number(stamp, 100 + stamp) for stamp in stamps]


@pytest.mark.parametrize(
    ("gap_s", "step"),
    [
        (0.1, 1),
        (0.05, 1),
        (0.149, 1),
        (0.151, 2),
        (0.2, 2),
        (0.24, 2),
        (0.26, 3),
        (1.0, 10),
        (0.0, 1),
        (-0.05, 1),
    ],
)
def test_gaps(gap_s: float, step: int) -> None:
    """Beyond 1.5 intervals there were frames in between; below it, and backwards, there were none."""
    first, second = numbers([5.0, 5.0 + gap_s])
    assert (first.index, second.index) == (0, step)
    assert second.time_s == pytest.approx(max(gap_s, 0.0))
    assert not second.new_sequence


@given(st.lists(st.floats(0.051, 0.149), min_size=1, max_size=60))
def test_jitter_loses_nothing(gaps: list[float]) -> None:
    """However uneven, frames are counted as long as no gap has room for another one."""
    stamps = [sum(gaps[:i]) for i in range(len(gaps) + 1)]
    assert [one.index for one in numbers(stamps)] == list(range(len(stamps)))


def test_whatever_the_times_of_a_file_say_its_frames_are_counted() -> None:
    """Gaps, jumps and times that go back change nothing; times stay the file's, as long as they grow."""
    found = numbers([0.0, 0.1, 5.0, 5.0, 60.0], numbering(counted=True))
    assert [one.index for one in found] == [0, 1, 2, 3, 4]
    assert [one.time_s for one in found] == [0.0, 0.1, 5.0, 5.0, 60.0]
    assert not any(one.new_sequence for one in found)


@pytest.mark.parametrize("jump_s", [2.1, 3600.0, -2.1, -3600.0])
def test_a_jump_of_the_clock(jump_s: float) -> None:
    """A new sequence, whose first frame counts one on; its time goes on by the monotonic clock."""
    one = numbering()
    one.number(50.0, 100.0)
    one.number(50.1, 100.1)
    after = one.number(50.1 + jump_s, 100.3)
    assert (after.index, after.new_sequence) == (2, True)
    assert after.time_s == pytest.approx(0.3)
    later = one.number(50.2 + jump_s, 100.4)
    assert (later.index, later.new_sequence) == (3, False)
    assert later.time_s == pytest.approx(0.4)


def test_a_stall_without_a_jump() -> None:
    """The source held its frames back: their stamps go on, and yet what was before is too old."""
    one = numbering()
    one.number(0.0, 100.0)
    assert one.number(0.1, 103.0, waited_s=2.9).new_sequence
    assert not one.number(0.2, 103.0, waited_s=0.0).new_sequence


def test_a_source_that_waits_does_not_stall() -> None:
    """A pipe that is written slowly is no camera that stood still."""
    one = numbering(stalls=False)
    one.number(0.0, 100.0)
    assert not one.number(0.1, 160.0, waited_s=60.0).new_sequence


def test_a_reconnection() -> None:
    """A new sequence, whatever the times say."""
    one = numbering()
    one.number(7.0, 100.0)
    after = one.number(0.0, 100.5, reconnected=True)
    assert after == Numbered(index=1, time_s=0.5, new_sequence=True)


def test_never() -> None:
    """`--reset_after 0`: gaps are only frames that were lost."""
    first, second = numbers([0.0, 60.0], numbering(reset_after_s=0.0))
    assert (second.index, second.new_sequence) == (600, False)
    assert first.index == 0


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("back_s", [0.4, 1.9, 3600.0])
def test_a_clock_that_is_set_back_in_a_sequence(back_s: float, *, counted: bool) -> None:
    """Times go on, or a segment would never be over; files have their own interval, streams the monotonic clock."""
    one = numbering(reset_after_s=0.0, counted=counted)
    one.number(5000.0, 100.0)
    one.number(5000.1, 100.1)
    found = [one.number(5000.1 - back_s + 0.1 * i, 100.4 + 0.1 * i) for i in range(3)]
    start_s = 0.2 if counted else 0.4
    assert [one.time_s for one in found] == pytest.approx([start_s, start_s + 0.1, start_s + 0.2])
    assert [one.index for one in found] == [2, 3, 4]
    assert not any(one.new_sequence for one in found)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("tick_s", [0.0, 1 / 90_000])
def test_a_clock_that_has_stopped(tick_s: float, *, counted: bool) -> None:
    """A few frames of one time are nothing; then times go on, or a segment would never be over."""
    one = numbering(counted=counted)
    found = [one.number(7.0 + tick_s * i, 100.0 + 0.1 * i) for i in range(30)]
    found.append(one.number(7.0 + tick_s * 29 + 0.1, 103.0))
    assert [one.time_s for one in found[:5]] == pytest.approx([tick_s * i for i in range(5)])
    steps = [after.time_s - before.time_s for before, after in pairwise(found[4:])]
    assert steps == pytest.approx([0.1] * 26)
    assert [one.index for one in found] == list(range(31))


def test_a_frame_that_is_late_in_its_order_sets_no_clock() -> None:
    """Times wait for the others, and are the source's again."""
    found = numbers([0.0, 0.1, 0.3, 0.2, 0.4])
    assert [one.time_s for one in found] == pytest.approx([0.0, 0.1, 0.3, 0.3, 0.4])


def test_a_slow_source_is_not_reset_all_the_time() -> None:
    """A frame every five seconds is as fast as it gets."""
    slow = Numbering(rate_fps=0.2, reset_after_s=2.0, counted=False, stalls=True)
    found = [slow.number(5.0 * i, 5.0 * i, waited_s=5.0) for i in range(4)]
    assert [(one.index, one.new_sequence) for one in found] == [(i, False) for i in range(4)]
    assert slow.limit_s == pytest.approx(15)


def test_without_time_stamps() -> None:
    """Arrivals are too uneven to count by; a long wait is a stall all the same."""
    one = numbering()
    found = [one.number(None, arrival, waited_s=0.1) for arrival in (10.0, 10.35, 10.36, 10.4)]
    assert [found_one.index for found_one in found] == [0, 1, 2, 3]
    assert found[-1].time_s == pytest.approx(0.4)
    assert one.number(None, 13.0, waited_s=2.6).new_sequence


def test_time_stamps_that_come_and_go() -> None:
    """Times go on by the other clock."""
    one = numbering()
    found = [
        one.number(*pair) for pair in ((3.0, 10.0), (3.1, 10.1), (None, 10.2), (None, 10.3), (99.0, 10.4))
    ]
    assert [found_one.time_s for found_one in found] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [found_one.index for found_one in found] == [0, 1, 2, 3, 4]
    assert not any(found_one.new_sequence for found_one in found)


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6) | st.none(), st.floats(0, 10), st.booleans()), min_size=1, max_size=40
    )
)
def test_numbers_and_times_never_go_back(steps: list[tuple[float | None, float, bool]]) -> None:
    """Whatever a source does."""
    one, arrival, last = numbering(), 100.0, None
    for stamp, after, reconnected in steps:
        arrival += after
        now = one.number(stamp, arrival, waited_s=after, reconnected=reconnected)
        if last is not None:
            assert now.index > last.index
            assert now.time_s >= last.time_s
        last = now
