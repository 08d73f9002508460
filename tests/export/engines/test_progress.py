"""The builder's nested phases as one share that never falls, and lines by the clock."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from gmos_deploy.export.engines.progress import BuildPhases, logged_build, terminal_build


def test_shares_nest_and_never_fall() -> None:
    """A phase within a phase counts as the part of a step that it is."""
    told: list[tuple[float, str]] = []
    phases = BuildPhases(lambda share, phase: told.append((round(share, 4), phase)))
    phases.start("build", None, 4)
    assert phases.step("build")
    phases.start("optimise", "build", 2)
    phases.start("time", "optimise", 10)
    for _ in range(5):
        phases.step("time")
    assert told[-1] == (round((1 + (0 + 0.5) / 2) / 4, 4), "time")
    phases.finish("time")
    assert told[-1] == (0.3125, "optimise")
    phases.step("optimise")
    phases.finish("optimise")
    phases.step("build")
    assert told[-1] == (0.5, "build")
    phases.finish("build")
    shares = [share for share, _ in told]
    assert shares == sorted(shares)


def test_phases_of_the_same_name_and_unknown_ones_do_no_harm() -> None:
    """Builders repeat names, report more steps than they announced, and none at all."""
    told: list[float] = []
    phases = BuildPhases(lambda share, _: told.append(share))
    phases.start("build", None, 0)
    phases.start("build", "build", 1)
    for _ in range(3):
        phases.step("build")
    phases.step("never started")
    phases.finish("never started")
    phases.finish("build")
    phases.finish("build")
    assert max(told) <= 1
    assert told == sorted(told)


def test_a_cancelled_build_is_told_to_stop() -> None:
    """At its next step."""
    phases = BuildPhases(lambda *_: None)
    phases.start("build", None, 2)
    assert phases.step("build")
    phases.cancel()
    assert not phases.step("build")


def test_lines_come_by_the_clock(caplog: pytest.LogCaptureFixture) -> None:
    """Also while the builder is silent in a long step: network, phase, percent, seconds."""
    caplog.set_level("INFO")
    with logged_build("dino", interval_s=0.01) as report:
        report(0.25, "Timing tactics")
        deadline = time.monotonic() + 5
        while len(caplog.records) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(caplog.records) >= 2
    assert caplog.records[-1].getMessage().startswith("dino: 25%, Timing tactics, 0 s")
    assert "build-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_terminal_shows_bar_percent_phase() -> None:
    """And that an engine is done."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with terminal_build("pi3_decoder", console) as report:
        report(0.5, "Optimizing graph")
    text = screen.getvalue()
    assert "pi3_decoder" in text
    assert "100%" in text
    assert "done" in text
