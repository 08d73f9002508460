"""Reads what the training scripts print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

STEP = re.compile(r"^(\d+) \d+ s  (.+)$")

Curves = Mapping[str, list[tuple[int, float]]]


def read_curves(lines: Iterable[str]) -> Curves:
    """Step and mean by name. Where steps were done again after a break, the last run counts."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        match = STEP.match(line.strip())
        if match is None:
            continue
        step = int(match[1])
        for values in found.values():
            for later in [at for at in values if at >= step]:
                del values[later]
        for part in match[2].split("  "):
            name, _, value = part.rpartition(" ")
            found.setdefault(name, {})[step] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}


def joined(parts: Iterable[Curves]) -> Curves:
    """Trainings that went on from each other, one after another: steps count through."""
    found: dict[str, list[tuple[int, float]]] = {}
    done = 0
    for part in parts:
        for name, points in part.items():
            found.setdefault(name, []).extend((done + step, value) for step, value in points)
        done += max(points[-1][0] for points in part.values())
    return found
