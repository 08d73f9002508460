"""One tracker step for several objects in one call of each network, against one step per object.

    python benchmarks/tracker_objects.py --bundle DIR [--objects 4] [--rounds 9] [--device cpu]

A step is memory attention over a full memory (7 frames, 16 pointers), mask decoder and memory encoder.
Both forms run in every round, in alternating order, on the same inputs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.onnx.backend import OnnxBackend, open_bundle_backend

NETWORKS: tuple[NetworkName, ...] = ("memory_attention", "mask_decoder", "memory_encoder")

Inputs = dict[NetworkName, dict[str, Any]]


def one_object(inputs: Inputs, backend: OnnxBackend, index: int, axes: dict[str, tuple[Any, ...]]) -> Inputs:
    """The inputs with only one of the objects."""
    return {
        network: {
            name: backend.arrays.stack([backend.arrays.unstack(array)[index]])
            if axes[f"{network}.{name}"][0] == "O"
            else array
            for name, array in arrays.items()
        }
        for network, arrays in inputs.items()
    }


def step_s(backend: OnnxBackend, calls: list[Inputs]) -> float:
    """Seconds for every network on every entry, until the device is done."""
    start = time.perf_counter()
    for inputs in calls:
        for network in NETWORKS:
            backend.runner(network)(inputs[network])
    backend.arrays.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print the medians and the ratio with its spread."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--objects", type=int, default=4, help="(4)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds after one that warms up (9)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N (cpu)")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    backend = open_bundle_backend(options.bundle, device=options.device)
    lengths = {"O": options.objects, "R": bundle.model.memory_frames, "P": bundle.model.object_pointers}
    entries = {network: bundle.networks[network].inputs for network in NETWORKS}
    axes = {f"{network}.{tensor.name}": tensor.axes for network, entry in entries.items() for tensor in entry}
    together: Inputs = {
        network: {
            name: backend.arrays.upload(value)
            for name, value in seeded_inputs(network, entry, bundle.model, lengths).items()
        }
        for network, entry in entries.items()
    }
    apart = [one_object(together, backend, index, axes) for index in range(options.objects)]
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(options.rounds + 1):
        for form in (0, 1) if number % 2 else (1, 0):
            taken = step_s(backend, apart if form else [together])
            if number:
                found[form].append(taken)
    ratios = [separate / batched for batched, separate in zip(*found, strict=True)]
    batched_s, separate_s = (float(np.median(times)) for times in found)
    print(
        f"{bundle.model.preset}, {backend.description}: {options.objects} objects {batched_s * 1e3:.1f} ms in one "
        f"call, {separate_s * 1e3:.1f} ms one by one: {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f}..{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
