"""What must be installed, and how long until the networks are loaded: a bundle against the reference.

    python benchmarks/start_up.py --bundle DIR [--rounds 5] -- PRESET-AND-CHECKPOINT-OPTIONS

Both run in an environment of their own with nothing but what they need (tools/device_environment.py), in
turns, each time in a new process. The options are `gmos-run`'s for the reference, as
tools/stand_in_checkpoints.py prints them; the bundle should be of the same checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "device_environment.py"
EXTRAS = {"bundle": "cpu", "reference": "ref"}

LOAD = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.contract import network_specs
options = json.loads(sys.argv[1])
paths = {key: Path(value) for key, value in options.items() if key != "preset"}
backend = NetworkChoice(preset=options.get("preset"), device="cpu", **paths).resolve().load()
for network in network_specs(backend.model):
    backend.runner(network)
taken = time.perf_counter() - start
print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
"""Run in the environment: seconds until every network is loaded, and the peak resident MiB."""


def environment(directory: Path, extra: str) -> int:
    """Make an environment; its size in bytes."""
    made = subprocess.run(
        [sys.executable, TOOL, directory, "--extra", extra], check=True, capture_output=True, text=True
    )
    return sum(json.loads(made.stdout).values())


def load(directory: Path, options: Mapping[str, str]) -> tuple[float, float]:
    """Seconds and MiB of one start."""
    ran = subprocess.run(
        [directory / "bin" / "python", "-c", LOAD, json.dumps(options)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    taken, peak = json.loads(ran.stdout.splitlines()[-1])
    return taken, peak


def main() -> None:
    """Print a line for each, and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each, after one that warms up (5)")
    parser.add_argument("reference", nargs="+", metavar="OPTION", help="--preset NAME --pi3_ckpt FILE ...")
    given = parser.parse_args()
    pairs = zip(given.reference[::2], given.reference[1::2], strict=True)
    options = {
        "bundle": {"bundle": str(given.bundle.resolve())},
        "reference": {key.removeprefix("--"): value for key, value in pairs},
    }
    with tempfile.TemporaryDirectory() as folder:
        roots = {side: Path(folder) / side for side in EXTRAS}
        sizes = {side: environment(roots[side], extra) for side, extra in EXTRAS.items()}
        starts: dict[str, list[tuple[float, float]]] = {side: [] for side in EXTRAS}
        for number in range(given.rounds + 1):
            for side, found in starts.items():
                start = load(roots[side], options[side])
                if number:
                    found.append(start)
    for side, found in starts.items():
        seconds = [taken for taken, _ in found]
        print(
            f"{side:<10}{sizes[side] / 2**20:6.0f} MiB installed, networks loaded after "
            f"{statistics.median(seconds):6.2f} s ({min(seconds):.2f}..{max(seconds):.2f}), "
            f"peak {max(peak for _, peak in found):6.0f} MiB"
        )
    ratios = [r[0] / b[0] for b, r in zip(starts["bundle"], starts["reference"], strict=True)]
    print(
        f"reference over bundle: size {sizes['reference'] / sizes['bundle']:.1f}x, start-up "
        f"{statistics.median(ratios):.1f}x ({min(ratios):.1f}..{max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
