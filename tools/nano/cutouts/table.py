"""Measures the nano networks on held-out cutouts (cutouts.held_out) and on older clips, as a table with its goals.

`python -m cutouts.table held work --old held_old`, in tools/nano. Masks are scored by gmos-eval, as evaluate.py does.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evaluate import (
    FPS,
    Nano,
    foreground_scores,
    measure_pipeline,
    read_folder,
    run_program,
    sequences,
)
from evaluate import (
    KINDS as OLD_KINDS,
)
from PIL import Image

from cutouts.held_out import KINDS
from gmos_deploy.gmos_ref.reference_config import FOLDER

Numbers = dict[str, dict[str, float]]
"""By kind, then by name of the value."""

MOST_LOST = 0.03
"""Of the J of GMOS-S on older clips against the weights before."""

SPEED_WH = (640, 360)
SPEED_FRAMES = (17, 119)
"""Two lengths of a clip: the time of the frames between them has no start of a program in it."""

LEAST_FPS = {"gmos-s": 10.0, "gmos": 4.0}
MOST_MB = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A value of a kind, what is required of it and what would be better still."""

    kind: str
    value: str
    required: float
    stretch: float
    share: bool = False

    def reached(self, found: float) -> str:
        """What a value comes to: shares are to be small, scores large."""
        sign = -1 if self.share else 1
        if sign * found >= sign * self.stretch:
            return "stretch"
        return "required" if sign * found >= sign * self.required else "no"

    def row(self, found: float) -> str:
        """A line of the table."""
        numbers = (
            f"{number:.1%}" if self.share else f"{number:.2f}"
            for number in (found, self.required, self.stretch)
        )
        return f"| {self.kind}: {self.value} | {' | '.join(numbers)} | {self.reached(found)} |"


GOALS = (
    Goal(kind="static", value="j", required=0.80, stretch=0.86),
    Goal(kind="slow", value="j", required=0.50, stretch=0.65),
    Goal(kind="shake", value="j", required=0.40, stretch=0.55),
    Goal(kind="static", value="j_mov MOS-I", required=0.45, stretch=0.60),
    Goal(kind="slow", value="j_mov MOS-I", required=0.30, stretch=0.45),
    Goal(kind="static", value="look-alikes segmented", required=0.03, stretch=0.01, share=True),
    Goal(kind="slow", value="look-alikes segmented", required=0.12, stretch=0.06, share=True),
)


def measured(
    kind: Path, work: Path, weights: Path, *, clips: int, objects: bool, shifts: Sequence[float] = ()
) -> dict[str, float]:
    """Scores of GMOS-S, and of MOS-I if asked for, on the first clips of a kind.

    Each of `shifts` adds the J and the share of look-alikes that GMOS-S would have if its logits were higher by it.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    names = sequences(kind)[:clips]
    nano = Nano("gmos-s", weights)
    pictures = {name: read_folder(kind / "JPEGImages" / name) for name in names}
    maps = {name: nano.probability(pictures[name]) for name in names}
    found = {"clips": float(len(names))}
    for shift in (0.0, *shifts):
        # The stored probability is rounded down: above one half it is 127 or more.
        least = 255 / (1 + math.exp(shift)) - 0.5
        masks = {name: (values >= least).astype(np.uint8) for name, values in maps.items()}
        place = work / f"shift{shift:+.2f}"
        scores = foreground_scores(kind, place, pictures, masks)
        found |= {name if shift == 0 else f"{name} {shift:+.2f}": value for name, value in scores.items()}
    return found | (measure_pipeline(kind, work, weights, names) if objects else {})


def frames_per_second(clip: Path, work: Path, variant: str) -> float:
    """Frames a second of gmos-run on ONNX Runtime with the packaged weights, masks written.

    Args:
        clip: folder of frames; they are repeated and resized to 640 x 360.
        work: folder for the frames and what is made of them.
        variant: `gmos-s` or `gmos`.
    """
    shutil.rmtree(work, ignore_errors=True)
    pictures = [
        Image.fromarray(frame).resize(SPEED_WH, Image.Resampling.BILINEAR) for frame in read_folder(clip)
    ]
    # Forward and back again: no cut between them.
    order = [*range(len(pictures)), *range(len(pictures) - 2, 0, -1)]
    times = []
    for count in SPEED_FRAMES:
        folder = work / f"clip-{count}"
        folder.mkdir(parents=True)
        for index in range(count):
            pictures[order[index % len(order)]].save(folder / f"{index:05d}.png")
        start = time.monotonic()
        run_program(
            "run",
            *(str(folder), "--save_dir", str(work / "run"), "--fps", str(FPS), "--quiet"),
            *("--preset", "nano", "--variant", variant, "--backend", "onnxruntime", "--overwrite"),
        )
        times.append(time.monotonic() - start)
    return (SPEED_FRAMES[1] - SPEED_FRAMES[0]) / (times[1] - times[0])


def report(numbers: Numbers, before: Numbers | None) -> list[str]:
    """The table as lines of Markdown; old kinds are held against those of `before`."""
    lines = ["| | measured | required | stretch | reached |", "|---|---|---|---|---|"]
    lines += [
        goal.row(numbers[goal.kind][goal.value]) for goal in GOALS if goal.value in numbers.get(goal.kind, {})
    ]
    for kind, values in numbers.items():
        if not kind.startswith("old "):
            continue
        was = before[kind]["j"] if before and kind in before else None
        least = "" if was is None else f"{was - MOST_LOST:.2f}"
        reached = "" if was is None else "required" if values["j"] >= was - MOST_LOST else "no"
        lines.append(f"| {kind}: j | {values['j']:.2f} | {least} | | {reached} |")
    size = numbers.get("weights")
    if size:
        reached = "required" if size["MB"] <= MOST_MB else "no"
        lines.append(f"| weights, MB | {size['MB']:.2f} | {MOST_MB:.0f} | | {reached} |")
    for variant, fps in numbers.get("speed", {}).items():
        reached = "required" if fps >= LEAST_FPS[variant] else "no"
        lines.append(f"| {variant}, frames a second | {fps:.1f} | {LEAST_FPS[variant]:.0f} | | {reached} |")
    return lines


def main() -> None:
    """Measure and print the table, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held_out", type=Path, help="folder that cutouts.held_out wrote")
    parser.add_argument("work", type=Path, help="folder for predictions; what is there is replaced")
    parser.add_argument("--old", type=Path, help="folder that held_out.py wrote: GMOS-S on these clips too")
    parser.add_argument(
        "--weights",
        type=Path,
        default=FOLDER,
        help="folder that publish.py wrote (default: the package's own)",
    )
    parser.add_argument(
        "--clips", type=int, default=48, help="of each kind, for GMOS-S (default: %(default)s)"
    )
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help="of held-out cutouts, with commas (default: %(default)s)",
    )
    parser.add_argument(
        "--no_objects",
        action="store_true",
        help="leave out MOS-I, which takes four times as long as the rest",
    )
    parser.add_argument(
        "--speed",
        action="store_true",
        help="measure speed too: on an idle machine, with the packaged weights",
    )
    parser.add_argument(
        "--shifts",
        type=float,
        nargs="+",
        default=(),
        help="what higher logits of GMOS-S would give, into the JSON: for what publish.py takes off them",
    )
    parser.add_argument(
        "--before", type=Path, help="JSON of the weights before, for what older clips may lose"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers: Numbers = {}
    places = [(kind, options.held_out / kind, True) for kind in options.kinds.split(",")]
    if options.old is not None:
        places += [(f"old {kind}", options.old / kind, False) for kind in OLD_KINDS]
    for name, folder, new in places:
        numbers[name] = measured(
            folder,
            options.work / name.replace(" ", "_"),
            options.weights,
            clips=options.clips,
            objects=new and not options.no_objects,
            shifts=options.shifts,
        )
        print(
            name, {key: round(value, 3) for key, value in numbers[name].items()}, file=sys.stderr, flush=True
        )
    size = sum(file.stat().st_size for file in options.weights.glob("*.safetensors"))
    numbers["weights"] = {"MB": size / 1e6}
    if options.speed:
        clip = options.held_out / "static/JPEGImages" / sequences(options.held_out / "static")[0]
        numbers["speed"] = {
            variant: frames_per_second(clip, options.work / "speed", variant) for variant in LEAST_FPS
        }
    before = None if options.before is None else json.loads(options.before.read_text())
    print("\n".join(report(numbers, before)))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
