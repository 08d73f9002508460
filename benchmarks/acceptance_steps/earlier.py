"""Steps of an earlier run that need not run again: on the same machine, with the same software, bundle and clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.report.files import RESULT_FILE, plain, read_json
from gmos_deploy.runtime.files.made_from import KEY

from .record import FOR_TIME

SAME = ("gmos_deploy", "system", "machine", "cpu", "cores", "python", "packages")
"""Fields of a report's environment that must be equal; of its GPUs these:"""
SAME_OF_GPUS = ("name", "driver_version")

GIVEN = ("bundle", "device", "frames", "usable", KEY)
"""Fields of a result that must be equal."""


def settled(step: Mapping[str, Any]) -> bool:
    """Whether more time or another try would show nothing new: it ended by itself, and nothing failed."""
    items: Sequence[Mapping[str, Any]] = step["items"]
    return bool(items) and not (
        step["fault"]
        or step["unfinished"]
        or any(item["verdict"] == "failed" or item["values"].get(FOR_TIME) for item in items)
    )


def earlier_steps(out: Path, now: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], str]:
    """The settled steps of the result that is in a directory, by name, and why there are none otherwise.

    Each has the date of its run as `earlier`.

    Args:
        out: of the reports.
        now: a result of this run, without its steps.
    """
    path = out / RESULT_FILE
    if not path.is_file():
        return {}, f"{path} is not there yet"
    try:
        before = read_json(path, schema=now["schema"], what="the result of an acceptance run")
        here = json.loads(json.dumps(plain(now)))
        other = [name for name in GIVEN if before[name] != here[name]]
        was, is_now = before["environment"], here["environment"]
        other += [name for name in SAME if was[name] != is_now[name]]
        if _gpus(was) != _gpus(is_now):
            other.append("gpus")
        if other:
            return {}, f"{path} is of another run: {', '.join(other)} differ"
        kept = {
            step["name"]: {**step, "earlier": step["earlier"] or was["date"]}
            for step in before["steps"]
            if settled(step)
        }
    except (GmosError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{path} cannot be gone on from ({error})"
    return kept, "" if kept else f"no step of {path} ended with nothing failed"


def _gpus(environment: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(gpu.get(name) for name in SAME_OF_GPUS) for gpu in environment["gpus"]]
