"""Builds the engines of a bundle, each in a process of its own: seconds, plan size, memory.

    python benchmarks/engines.py --bundle DIR --backend tensorrt-rtx --target sm86,sm89,sm120
                                 [--networks dino,pi3_decoder] [--out FILE] [-- MORE OPTIONS]

What follows `--` goes to `gmos-export build-engines`. Every engine is built anew. Peak memory is the
build process's resident memory; activations are the builder's own figure for the greatest lengths of
the profiles, the largest over the profiles. Engines stay in the bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from package_commands import installed

from gmos_deploy.runtime.bundle.manifest import open_bundle

MIB, GIB = 1 << 20, 1 << 30


def main() -> int:
    """Build, print a line per engine, and write all of it as JSON if asked."""
    own, passed_on = split_arguments(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--backend", choices=["tensorrt", "tensorrt-rtx"], required=True)
    parser.add_argument("--target", help="as gmos-export build-engines")
    parser.add_argument("--networks", help="names joined by commas; all without it")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args(own)
    bundle = open_bundle(options.bundle)
    names = options.networks.split(",") if options.networks else list(bundle.networks)
    target = ["--target", options.target] if options.target else []
    print(
        f"{bundle.model.variant}, {bundle.model.preset} size, {bundle.precision}; {options.backend} "
        f"{options.target or ''}; {platform.machine()}, {os.cpu_count()} cores, {date.today()}"
    )
    print(HEADER, flush=True)
    results = {}
    for name in names:
        results[name] = build(options.bundle, options.backend, name, [*target, *passed_on])
        print(line(name, results[name]), flush=True)
    print(total(results))
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def split_arguments(given: list[str]) -> tuple[list[str], list[str]]:
    """Those of this program and those after `--`."""
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]


HEADER = "network             build s   parse+build peak GiB   plan MiB   weights MiB   activations MiB   attention"


def build(bundle: Path, backend: str, name: str, options: list[str]) -> dict[str, Any]:
    """Build one engine; what its record says, with the process's wall time and peak memory."""
    command = ["build-engines", "--bundle", str(bundle), "--backend", backend, "--networks", name]
    command += ["--force", "--json", "--no-check", *options]
    start = time.perf_counter()
    with subprocess.Popen([installed("gmos-export"), *command], stdout=subprocess.PIPE, text=True) as process:
        stdout = process.stdout
        if stdout is None:
            raise RuntimeError("the build has no output")
        text = stdout.read()
        # Not RUSAGE_CHILDREN: that is the largest child so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    record: dict[str, Any] = json.loads(text)["engines"][name]["record"]
    return {"wall_s": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * 1024, **record}


def line(name: str, result: dict[str, Any]) -> str:
    """A row of the table."""
    attention = result["attention"]
    fused = f"{attention['fused']} of {attention['expected']} fused" if attention["expected"] else "-"
    lost = f" ({attention['lost']})" if attention["lost"] and result["precision"] != "fp32" else ""
    return (
        f"{name:<17}{result['seconds']:10.1f}{result['peak_bytes'] / GIB:23.2f}{result['plan_bytes'] / MIB:11.1f}"
        f"{result['weight_bytes'] / MIB:14.1f}{max(result['activation_bytes'], default=0) / MIB:18.1f}   {fused}{lost}"
    )


def total(results: dict[str, dict[str, Any]]) -> str:
    """Sums, and maxima where memory is used one after the other."""
    rows = results.values()
    return (
        f"{'total':<17}{sum(row['seconds'] for row in rows):10.1f}"
        f"{max(row['peak_bytes'] for row in rows) / GIB:23.2f}{sum(row['plan_bytes'] for row in rows) / MIB:11.1f}"
        f"{sum(row['weight_bytes'] for row in rows) / MIB:14.1f}"
        f"{max(max(row['activation_bytes'], default=0) for row in rows) / MIB:18.1f}   (peak, activations: the largest)"
    )


if __name__ == "__main__":
    sys.exit(main())
