"""What building or checking engines came to, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ...errors import printable

if TYPE_CHECKING:
    from ...runtime.tensorrt.record import EngineCheck
    from .build import BuildOutcome

MIB = 1 << 20


def check_line(name: str, check: EngineCheck) -> str:
    """How a network's engine compares with ONNX Runtime, in words."""
    # Imported here: --help reads this module, and does not pay for NumPy.
    from ...runtime.comparison.parity import worst_severity  # noqa: PLC0415

    worst = worst_severity(check.outputs)
    verdict = "right" if check.passed else "WRONG"
    return f"{name}: {verdict} against {check.against} on {check.inputs}, off by up to {worst:.1e}"


def outcomes_json(directory: Path, outcomes: Sequence[BuildOutcome]) -> str:
    """What was done with every network's engine, as JSON."""
    engines = {
        outcome.network: {
            "action": outcome.action,
            "record": None if outcome.record is None else asdict(outcome.record),
        }
        for outcome in outcomes
    }
    return json.dumps({"directory": str(directory), "engines": engines}, indent=2, ensure_ascii=False)


def show_outcomes(directory: Path, outcomes: Sequence[BuildOutcome]) -> None:
    """The same in one line of the terminal."""
    counts = {
        action: sum(o.action == action for o in outcomes) for action in ("built", "kept", "would build")
    }
    total = sum(outcome.record.plan_bytes for outcome in outcomes if outcome.record is not None)
    seconds = sum(outcome.record.seconds for outcome in outcomes if outcome.record is not None)
    parts = [f"{count} {action}" for action, count in counts.items() if count]
    if counts["built"]:
        parts.append(f"{total / MIB:.1f} MiB in {seconds:.0f} s")
    text = printable(f"{directory}: {', '.join(parts)}")
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
