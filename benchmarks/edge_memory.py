"""What running a bundle's engines needs of a Jetson's memory, from real plans: weights, activations, arrays.

    python benchmarks/edge_memory.py --bundle DIR [--bundle DIR2 …] [--resolution 672x378 …]
                                     [--target sm86] [--objects 4] [--video 1080x1920]

Builds every network with TensorRT-RTX for one window at a time, so many tracked objects and videos up to
that size, in a copy of the bundle, and prints a row per bundle and Pi3 resolution. Orin is compute
capability 8.7, which TensorRT-RTX has no target for: 8.6 is its nearest relative, so the figures are
estimates for it. Networks that do not see the Pi3 resolution are built once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from package_commands import installed

from gmos_deploy.export.onnx.shape_profiles import parse_resolution
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.contract import ModelSpec
from gmos_deploy.runtime.precision import ELEMENT_TYPES
from gmos_deploy.runtime.shapes import VIDEO_AXES, letters_of, size_of, with_pi3

MIB = 1 << 20

RESOLUTION_NETWORKS = ("dino", "pi3_decoder", "proposer", "gmos_s")
"""Those whose engines depend on the Pi3 resolution."""

ORIN_GB = (8, 16, 32, 64)

RESERVED_MIB = 3072
"""Taken off what a Jetson has: the system without a desktop, CUDA and TensorRT themselves, the program, frames.
An assumption, to be measured on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes of one network: its weights, its activations, its inputs and outputs at the greatest lengths."""

    weights: int
    activations: int
    arrays: int


def main() -> int:
    """Build and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, action="append")
    parser.add_argument(
        "--resolution", action="append", help="WxH of the Pi3 frames; the bundle's without it"
    )
    parser.add_argument("--target", default="sm86")
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--video", default="1080x1920", help="greatest HxW")
    parser.add_argument("--out", type=Path, help="JSON file for the figures of every network")
    options = parser.parse_args()
    print(
        f"{options.target}, one window a call, {options.objects} objects, videos up to {options.video}; "
        f"{platform.machine()}, {os.cpu_count()} cores, {date.today()}"
    )
    print(
        "| precision | Pi3 resolution | weights | activations (of) | arrays | total |", *fits_header(), sep=""
    )
    print("|---|---|---|---|---|---|" + "---|" * len(ORIN_GB), flush=True)
    results = {}
    for path in options.bundle:
        bundle = open_bundle(path)
        height, width = (int(side) for side in options.video.split("x"))
        lengths = {
            "B": 1,
            "O": options.objects,
            "R": 7,
            "P": bundle.model.object_pointers,
            **dict(zip(VIDEO_AXES, (height, width), strict=True)),
        }
        given = options.resolution or [f"{width}x{height}" for width, height in bundle.resolutions]
        fixed = needs(bundle, options.target, lengths, seeing_resolution=False)
        for text in given:
            grid = grid_of(text, bundle.model)
            found = fixed | needs(bundle, options.target, lengths | grid, seeing_resolution=True)
            print(row(bundle, text, found), flush=True)
            results[f"{bundle.precision} {text}"] = {
                name: [need.weights, need.activations, need.arrays] for name, need in found.items()
            }
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def fits_header() -> list[str]:
    """Column titles of the Jetsons."""
    return [f" {size} GB |" for size in ORIN_GB]


def grid_of(text: str, model: ModelSpec) -> dict[str, int]:
    """The patch grid of a resolution, and its pixels."""
    width, height = parse_resolution(text, model)
    return with_pi3({"Hp": height, "Wp": width}, model.patch_px)


def needs(
    bundle: Bundle, target: str, lengths: dict[str, int], *, seeing_resolution: bool
) -> dict[str, Need]:
    """Build the networks that see the Pi3 resolution, or the others, and read their records."""
    names = [name for name in bundle.networks if (name in RESOLUTION_NETWORKS) == seeing_resolution]
    shapes = []
    for name in names:
        for place in ("min", "opt", "max"):
            shapes += [f"--{place}-shapes={text}" for text in shape_texts(bundle, name, lengths, place)]
    with tempfile.TemporaryDirectory(prefix="edge-", dir=bundle.root.parent) as folder:
        copy = Path(folder) / "bundle"
        shutil.copytree(
            bundle.root, copy, copy_function=os.link, ignore=lambda _, found: {"engines"} & set(found)
        )
        command = ["build-engines", "--bundle", str(copy), "--backend", "tensorrt-rtx", "--target", target]
        command += ["--networks", ",".join(names), "--json", *shapes]
        done = subprocess.run(
            [installed("gmos-export"), *command], stdout=subprocess.PIPE, text=True, check=True
        )
    engines = json.loads(done.stdout)["engines"]
    found = {}
    for name in names:
        axes = {axis for tensor in bundle.networks[name].inputs for axis in tensor.axes}
        batch = lengths["B"] if "B" in axes else lengths["O"]
        found[name] = need_of(engines[name]["record"], shape_texts(bundle, name, lengths, "max"), batch)
    return found


def shape_texts(bundle: Bundle, name: str, lengths: dict[str, int], place: str) -> list[str]:
    """Shapes of all inputs of a network; where a video's size varies it starts at 64 pixels."""
    network = bundle.networks[name]  # type: ignore[index]  # one of its keys
    least = {"O": 1, "R": 1, "P": 0, **dict.fromkeys(VIDEO_AXES, 64)} if place == "min" else {}
    at = {**lengths, **least}
    return [
        f"{name}.{tensor.name}={'x'.join(map(str, size_of(tensor, at)))}"
        for tensor in network.inputs
        if letters_of((tensor,))
    ]


def need_of(record: dict[str, Any], wanted: list[str], batch: int) -> Need:
    """From an engine's record; outputs that vary take the greatest lengths of the inputs they follow.

    A bundle of several resolutions has a profile for each; the one of the `wanted` shapes is read.
    """
    texts = [
        {
            f"{record['network']}.{name}={'x'.join(map(str, ranges['max']))}"
            for name, ranges in profile.items()
        }
        for profile in record["profiles"]
    ]
    index = next(i for i, found in enumerate(texts) if found >= set(wanted))
    profile = record["profiles"][index]
    video = profile.get("video_hw", {}).get("max", [1, 1])
    arrays = 0
    for tensor in record["tensors"]:
        if tensor["mode"] == "input":
            shape = profile[tensor["name"]]["max"] if not tensor["host"] else tensor["shape"]
        elif "video_hw" in profile:
            shape = [batch] * (len(tensor["shape"]) - 2) + list(video)
        else:
            shape = follow(tensor["shape"], profile, batch)
        arrays += math.prod(shape) * ELEMENT_TYPES[tensor["dtype"]].bytes
    return Need(weights=record["weight_bytes"], activations=record["activation_bytes"][index], arrays=arrays)


def follow(shape: list[int], profile: dict[str, Any], batch: int) -> list[int]:
    """An output's shape: its batch, then the grid of the input that has one."""
    grids = [
        ranges["max"] for name, ranges in profile.items() if name in ("position", "rope_cos", "geometry")
    ]
    grid = grids[0][:2] if grids and len(grids[0]) == 3 else [1, 1]
    filled = list(shape)
    filled[0] = batch if filled[0] < 0 else filled[0]
    for i, length in zip([i for i, n in enumerate(filled) if n < 0], grid, strict=False):
        filled[i] = length
    return filled


def row(bundle: Bundle, resolution: str, found: dict[str, Need]) -> str:
    """Contexts share the largest activation memory; weights and arrays of all networks stay."""
    weights = sum(need.weights for need in found.values())
    arrays = sum(need.arrays for need in found.values())
    largest = max(found, key=lambda name: found[name].activations)
    activations = found[largest].activations
    total = weights + activations + arrays
    fits = "".join(f" {verdict(total, size)} |" for size in ORIN_GB)
    return (
        f"| {bundle.precision} | {resolution} | {weights / MIB:.0f} | {activations / MIB:.0f} ({largest}) | "
        f"{arrays / MIB:.0f} | {total / MIB:.0f} |{fits}"
    )


def verdict(total: int, size_gb: int) -> str:
    """What is left for features in MiB, or that it does not fit."""
    left = size_gb * 1000**3 / MIB - RESERVED_MIB - total / MIB
    return f"{left:.0f} left" if left > 0 else "no"


if __name__ == "__main__":
    sys.exit(main())
