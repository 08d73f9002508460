"""Progress for people: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from gmos_deploy.runtime.console_progress import LineProgress, TerminalProgress


def test_lines_come_every_ten_seconds_with_speed_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    """4 frames a second of 100: after 12 s there are 52 left, that is 13 s."""
    caplog.set_level(logging.INFO)
    now = 0.0
    with LineProgress(clock=lambda: now) as progress, progress.stage("clip: propose", 100) as advance:
        for _ in range(12):
            now += 1
            advance(4)
    assert caplog.messages == ["clip: propose: 40 frames of 100, 15 s left, 4.00 frames/s"]


def test_an_unknown_length_has_no_time_left(caplog: pytest.LogCaptureFixture) -> None:
    """A file that does not say how long it is."""
    caplog.set_level(logging.INFO)
    now = 0.0
    with LineProgress(clock=lambda: now) as progress, progress.stage("clip: segment", None) as advance:
        now += 20
        advance(5)
    assert caplog.messages == ["clip: segment: 5 frames, 0.25 frames/s"]


def test_a_terminal_shows_what_is_done_even_if_the_estimate_was_wrong() -> None:
    """The bar ends at the frames there were."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with TerminalProgress(console) as progress, progress.stage("clip: propose", 10) as advance:
        advance(3)
        advance(4)
    assert "clip: propose" in screen.getvalue()
    assert "7/7" in screen.getvalue()


def test_brackets_in_a_name_are_no_markup() -> None:
    """As video sites put them into titles."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with TerminalProgress(console) as progress, progress.stage("Title - [abc1]: propose", 10) as advance:
        advance(10)
    assert "Title - [abc1]: propose" in screen.getvalue()


def test_nothing_done_yet_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A stage may look in before its first frame, however long that takes."""
    caplog.set_level(logging.INFO)
    now = 0.0
    with LineProgress(clock=lambda: now) as progress, progress.stage("clip: propose", 10) as advance:
        now += 20
        advance(0)
    assert caplog.messages == []
