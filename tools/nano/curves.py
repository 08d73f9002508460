"""Learning curves from what the training scripts printed, as one SVG."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from training_logs import joined, read_curves

matplotlib.use("svg")
import matplotlib.pyplot as plt

PANEL_IN = (3.4, 2.4)
"""Width and height of a panel, in inches."""


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
