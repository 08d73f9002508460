"""A video run from a bundle against the PyTorch reference: seconds, memory, and whether the masks are the same.

    python benchmarks/bundle_run.py VIDEO --bundle DIR [--rounds 1] -- PRESET-AND-CHECKPOINT-OPTIONS

Runs `gmos-run` with each in turn, as a user would, each time in a new process. The options are
`gmos-run`'s for the reference, `--preset small` say; the bundle must be of the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from package_commands import installed

from gmos_deploy.evaluation.compare.label_trees import label_pairs
from gmos_deploy.evaluation.compare.mask_agreement import sequence_agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: seconds by stage, and peak resident MiB."""

    stage_s: dict[str, float]
    peak_mib: float

    @property
    def total_s(self) -> float:
        """Seconds of all stages, without loading the networks."""
        return sum(self.stage_s.values())


def run(video: Path, out: Path, options: list[str]) -> Run:
    """Run `gmos-run` and wait for it; its masks are in `out`."""
    command = [installed("gmos-run"), str(video), *options, "--save_dir", str(out), "--save_mode", "mask"]
    process = subprocess.Popen([*command, "--overwrite", "--quiet", "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101 - said to the type checker: it was asked for
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"gmos-run ended with status {os.waitstatus_to_exitcode(status)}")
    (sequence,) = json.loads(answer)["sequences"]
    return Run(stage_s=sequence["stage_s"], peak_mib=usage.ru_maxrss / 1024)


def main() -> None:
    """Print times, the ratio and the agreement of each kind of mask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each (1)")
    parser.add_argument("--keep", type=Path, help="where the masks go (a temporary folder)")
    parser.add_argument("reference", nargs="+", metavar="OPTION", help="--preset NAME --pi3_ckpt FILE ...")
    given = parser.parse_args()
    sides = {"bundle": ["--bundle", str(given.bundle)], "reference": given.reference}
    with tempfile.TemporaryDirectory() as folder:
        root = given.keep or Path(folder)
        runs: dict[str, list[Run]] = {side: [] for side in sides}
        for _ in range(given.rounds):
            for side, options in sides.items():
                runs[side].append(run(given.video, root / side, options))
        for side, done in runs.items():
            best = min(done, key=lambda one: one.total_s)
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in best.stage_s.items())
            print(f"{side:<10}{best.total_s:7.1f} s ({stages}), peak {best.peak_mib:.0f} MiB")
        ratios = [r.total_s / b.total_s for b, r in zip(runs["bundle"], runs["reference"], strict=True)]
        print(
            f"reference over bundle: {statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})"
        )
        for pair in label_pairs(root / "reference", root / "bundle"):
            found = sequence_agreement(pair.sequence, pair.result, pair.frames, pair.read)
            print(
                f"{found.result}: mean IoU {found.mean_iou:.5f}, least {found.worst_frame.iou:.5f}; "
                f"{sum(frame.different for frame in found.frames)} pixels differ ({found.different_share:.1e})"
            )


if __name__ == "__main__":
    main()
