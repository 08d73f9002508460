"""What was found, as data, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "optional", "missing", "wrong"]
"""`optional`: not there, and nothing here needs it. `missing`: not there, and this machine could use it.
`wrong`: there, and does not work.
"""

MACHINE, GPU, LIBRARIES, BACKENDS, BUNDLE, SELFTEST = (
    "Machine",
    "GPU",
    "Libraries",
    "What can run here",
    "Bundle",
    "Self-test",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: its state, what was found in words, and the command that mends it, if any."""

    group: str
    name: str
    state: State
    found: str
    mend: str = ""


NEEDS: Mapping[str, tuple[str, ...]] = {
    "torch on cpu": ("python", "torch"),
    "torch on cuda": ("python", "torch", "GPU", "torch CUDA"),
    "onnxruntime on cpu": ("python", "onnxruntime", "onnxruntime CPU"),
    "onnxruntime on cuda": ("python", "onnxruntime", "GPU", "cuda-bindings", "onnxruntime CUDA"),
    "tensorrt": ("python", "GPU", "cuda-bindings", "tensorrt"),
    "tensorrt-rtx": ("python", "GPU", "cuda-bindings", "tensorrt-rtx", "RTX target"),
}
"""What each backend takes, by the names of findings."""


def backend_findings(found: Sequence[Finding]) -> list[Finding]:
    """Which backends can run: those whose needs are all met."""
    by_name = {finding.name: finding for finding in found}
    answers = []
    for backend, needs in NEEDS.items():
        short = [by_name[name] for name in needs if name in by_name and by_name[name].state != "ok"]
        if not short:
            answers.append(Finding(group=BACKENDS, name=backend, state="ok", found="ready"))
            continue
        words = ", ".join(
            finding.name + (" (wrong)" if finding.state == "wrong" else "") for finding in short
        )
        # What is wrong is told once, where it was found. What this machine is not made for lacks nothing.
        state: State = "optional" if any(finding.state == "optional" for finding in short) else "missing"
        answers.append(Finding(group=BACKENDS, name=backend, state=state, found=f"needs {words}"))
    return answers


def ready(found: Sequence[Finding], backend: str) -> bool:
    """Whether a backend can run, and was not found wrong by the self-test."""
    states = {
        one.group: one.state for one in found if one.name == backend and one.group in (BACKENDS, SELFTEST)
    }
    return states.get(BACKENDS) == "ok" and states.get(SELFTEST) != "wrong"


def exit_status(found: Sequence[Finding]) -> int:
    """0: some backend can run and nothing is wrong; else 1.

    What is missing or optional does not count: nobody needs every backend. What is wrong does, whatever else can
    run: it was installed to be used, and a script that asks before it starts must hear of it.
    """
    some = any(finding.group == BACKENDS and finding.state == "ok" for finding in found)
    return 0 if some and not any(finding.state == "wrong" for finding in found) else 1
