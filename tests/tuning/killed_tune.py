"""gmos-export tune on networks that see colours, in a process that is killed.

    python tests/tuning/killed_tune.py RUNS GMOS_EXPORT_ARGUMENT...

After so many runs of the pipeline it says "waiting" and waits for its end on standard input; -1: it runs to its end.
Times follow from what was computed, so that a search is the same again.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmos_deploy.networks import BackendEntry, register_backend
from gmos_deploy.tuning.measuring import Measurer

spec = importlib.util.spec_from_file_location("colours", Path(__file__).parents[1] / "conftest.py")
assert spec is not None
assert spec.loader is not None
colours = importlib.util.module_from_spec(spec)
sys.modules["colours"] = colours
spec.loader.exec_module(colours)

register_backend(
    BackendEntry(
        name="colours",
        open=lambda choice, _: colours.ColourBackend(choice.variant or "gmos"),
        runs="checkpoints",
    )
)

allowed = iter(range(count)) if (count := int(sys.argv.pop(1))) >= 0 else itertools.count()
measured = Measurer._run


def tell(word: str) -> None:
    """A line to whoever started this."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def run(self: Measurer, sequence: Any, levers: Any) -> Any:
    """One run, counted."""
    if next(allowed, None) is None:
        tell("waiting")
        sys.stdin.read()
    trial, maps = measured(self, sequence, levers)
    decoded = trial.frames if trial.decoded is None else trial.decoded
    tell("run")
    return replace(trial, seconds=0.1 * decoded + 0.05 * trial.frames), maps


if __name__ == "__main__":
    Measurer._run = run  # type: ignore[method-assign]
    from gmos_deploy.entry import export

    export()
