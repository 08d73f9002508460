"""Learning curves from what the training scripts printed, as one SVG."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

STEP = re.compile(r"^(\d+) \d+ s  (.+)$")
PANEL_IN = (3.4, 2.4)
"""Width and height of a panel, in inches."""

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


def main() -> None:
    """Draw a panel for each log: everything in it whose name begins with one of the prefixes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "logs",
        nargs="+",
        metavar="TITLE=FILE,…",
        help="a panel's title and its log; several where a training went on from another",
    )
    parser.add_argument(
        "--names", default="head J,J,IoU", help="prefixes of what is drawn; the first that occurs is used"
    )
    parser.add_argument("--out", type=Path, required=True, help="SVG to write")
    options = parser.parse_args()
    # Of the extra "train"; reading logs does without.
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    count = len(options.logs)
    figure, axes = plt.subplots(1, count, figsize=(PANEL_IN[0] * count, PANEL_IN[1]), squeeze=False)
    for axis, log in zip(axes[0], options.logs, strict=True):
        title, _, files = log.partition("=")
        texts = [Path(file).read_text(encoding="utf-8") for file in files.split(",")]
        curves = joined(read_curves(text.splitlines()) for text in texts)
        prefix = next(
            prefix for prefix in options.names.split(",") if any(name.startswith(prefix) for name in curves)
        )
        for name, points in sorted(curves.items()):
            if name.startswith(prefix):
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axis.set(title=title, xlabel="step", ylim=(0, 1))
        axis.legend(fontsize="x-small", frameon=False)
    figure.tight_layout()
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
