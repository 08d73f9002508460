"""Masks of quantised bundles against fp32's, from end to end: export, calibrate, run, compare.

    python benchmarks/quantised_masks.py VIDEO --folder DIR [--preset nano] [--variant gmos-s] [--precisions int8,fp8]
                                         [--target_parity fp16] [--weight_only excluded] [--target_masks 0.97]
                                         [--networks NAMES] [--max_samples 32] [--unseen VIDEO ...]

Runs `gmos-export onnx`, `gmos-export calibrate`, `gmos-run` and `gmos-parity masks` as a user would, on ONNX
Runtime's CPU provider. A line per bundle and result: all weights as a share of fp32's, mean IoU and the worst frame
against fp32's masks. `--target_parity`, `--weight_only` and `--target_masks` add a bundle per precision. Videos of
`--unseen` are compared too and not calibrated on. What is in DIR already is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from package_commands import installed


def command(log: Path, name: str, *arguments: object) -> None:
    """Run a command of the package; its output goes into a log file.

    gmos-parity ends with 1 where limits are exceeded: that is a result here.
    """
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            [installed(name), *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status > (name == "gmos-parity"):
        tail = " ".join(log.read_text(encoding="utf-8").split()[-60:])
        sys.exit(f"{name} {' '.join(map(str, arguments))} ended with {status}: {tail}")


def weight_bytes(bundle: Path) -> int:
    """All weight files of a bundle."""
    return sum(path.stat().st_size for path in bundle.glob("*.weights"))


def make(options: argparse.Namespace) -> list[str]:
    """Export and calibrate what is not there; names of the bundles to compare with fp32."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    same = ("--preset", options.preset, "--variant", options.variant)
    halved = ("--precision", "fp16", "--head_precision", "fp16")
    for name, precision in (("fp32", ()), ("fp16", halved)):
        if not (folder / name).exists():
            command(folder / f"{name}.log", "gmos-export", "onnx", *same, *precision, "--out", folder / name)
    names = ["fp16"]
    networks = ("--networks", options.networks) if options.networks else ()
    for precision in options.precisions.split(","):
        chosen = ("target_parity", "weight_only", "target_masks")
        excluded = [
            (f"--{option}", getattr(options, option)) for option in chosen if getattr(options, option)
        ]
        plain = [] if options.no_plain else [[]]
        for extra in (*plain, *([excluded] if excluded else [])):
            name = ", ".join(
                (precision, *(f"{option.removeprefix('--')} {value}" for option, value in extra))
            )
            names.append(name)
            if (folder / name).exists():
                continue
            command(
                folder / f"{name}.log",
                *("gmos-export", "calibrate", options.video),
                *("--bundle", folder / "fp16", "--out", folder / name),
                *("--precision", precision, "--max_samples", options.max_samples),
                *("--samples", folder / "samples", *networks, *itertools.chain(*extra)),
            )
    return names


def compare(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Run each bundle and print how its masks differ from fp32's."""
    folder: Path = options.folder
    for name in ("fp32", *names):
        out = folder / f"masks of {name}"
        run = ("--bundle", folder / name, "--save_dir", out, "--save_mode", "mask", "--resume")
        command(folder / f"run {name}.log", "gmos-run", options.video, *options.unseen, *run)
        if name == "fp32":
            continue
        report = folder / f"parity of {name}"
        compared = (folder / "masks of fp32", out, "--profile", "int8", "--report", report)
        command(folder / f"parity {name}.log", "gmos-parity", "masks", *compared)
        share = weight_bytes(folder / name) / weight_bytes(folder / "fp32")
        for found in json.loads((report / "result.json").read_text(encoding="utf-8"))["results"]:
            worst = found["worst_frame"]["iou"]
            print(
                f"{name}: {found['result']} of {found['sequence']}: weights {share:.3f}, "
                f"mean IoU {found['mean_iou']:.4f}, worst frame {worst:.3f}",
                flush=True,
            )


def main() -> None:
    """Make, run, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for bundles, samples and masks")
    parser.add_argument("--preset", default="nano", help="[nano]")
    parser.add_argument("--variant", choices=["gmos", "gmos-s"], default="gmos-s", help="[gmos-s]")
    parser.add_argument("--precisions", default="int8,fp8", help="joined by commas [int8,fp8]")
    parser.add_argument("--target_parity", default="", help="profile to keep layers in half for [none]")
    parser.add_argument(
        "--weight_only", default="", help="networks, or excluded, for eight-bit weights only [none]"
    )
    parser.add_argument("--target_masks", default="", help="mean IoU on VIDEO to choose networks for [none]")
    parser.add_argument("--no_plain", action="store_true", help="leave out the bundles without those options")
    parser.add_argument("--networks", default="", help="to quantise, joined by commas [all]")
    parser.add_argument("--max_samples", type=int, default=32, help="calls kept of each network [32]")
    parser.add_argument("--unseen", type=Path, nargs="+", default=[], help="videos to compare only [none]")
    options = parser.parse_args()
    compare(options, make(options))


if __name__ == "__main__":
    main()
