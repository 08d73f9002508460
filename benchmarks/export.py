"""Exports a preset with stand-in weights as `gmos-export onnx` does, its gate included: seconds, memory, sizes, errors.

    python benchmarks/export.py --preset published --precision fp16 (--out DIR | --networks dino,proposer)
                                [--head_precision fp32] [--no_validation]

Peak memory is that of the whole process while a network is exported, the reference's weights (4 GB at published
size) included. Afterwards each network of the bundle is loaded alone into ONNX Runtime: seconds, and how much the
process grows. With --networks these alone are exported, and thrown away. Linux only: the peak is reset between
networks.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from stand_in_export import stand_in_plan

from gmos_deploy.export.onnx.bundle_export import table_source, write_bundle
from gmos_deploy.export.onnx.exported_network import BundleNetwork, NetworkExporter
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import preset
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.onnx.sessions import OnnxDevice, SessionOptions, load_onnxruntime
from gmos_deploy.runtime.precision import EXPORTED

MIB = 1 << 20


def memory_gib(field: str) -> float:
    """A field of /proc/self/status in GiB: VmHWM is the peak, VmRSS what is held now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 2**20
    raise RuntimeError(f"no {field} in /proc/self/status")


class Meter:
    """Prints a line for each network that is exported."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._began = time.perf_counter()

    def __call__(self, name: NetworkName, network: BundleNetwork) -> None:
        """Take down what the network has cost, and begin anew."""
        found = network.gate["differences"]
        print(
            f"{name:<17}{network.precision:<5}{time.perf_counter() - self._began:8.1f} s, peak "
            f"{memory_gib('VmHWM'):5.2f} GiB, {verdict(found, network.gate)}",
            flush=True,
        )
        self._start()


def verdict(differences: list[Mapping[str, Any]], gate: Mapping[str, Any]) -> str:
    """The largest errors over all cases and outputs."""
    if not differences:
        return "not compared"
    return (
        f"relative error {max(each['relative'] for each in differences):.1e} (limit {gate['limits']['relative']:g}), "
        f"cosine {min(each['cosine'] for each in differences):.7f}, "
        f"changed {max(each['changed'] for each in differences):.1e}"
    )


def load_each(bundle: Bundle) -> None:
    """Load every network alone."""
    print("loaded alone into ONNX Runtime:")
    for name, network in bundle.networks.items():
        weights = {file for graph in network.graphs.values() for file in graph.weights}
        size = sum((bundle.root / file).stat().st_size for file in weights) / MIB
        before, start = memory_gib("VmRSS"), time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        backend = OnnxBackend(bundle, OnnxDevice(kind="cpu"), SessionOptions(), load_onnxruntime())
        backend.runner(name)
        print(
            f"{name:<17}{size:8.1f} MiB of weights, {time.perf_counter() - start:5.1f} s, "
            f"{memory_gib('VmRSS') - before:5.2f} GiB more, peak {memory_gib('VmHWM') - before:5.2f} GiB more",
            flush=True,
        )
        backend.close()
        del backend
        gc.collect()


def main() -> None:
    """Export, then load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="published", help="[published]")
    parser.add_argument("--precision", default="fp32", choices=EXPORTED, help="[fp32]")
    parser.add_argument("--head_precision", choices=EXPORTED, help="of the proposer [that of the rest]")
    parser.add_argument("--no_validation", action="store_true", help="compare nothing: for builds alone")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", type=Path, help="the bundle's directory")
    place.add_argument("--networks", help="names joined by commas")
    options = parser.parse_args()
    sizes = preset(options.preset)
    plan, resolutions = stand_in_plan(sizes, options.precision, options.head_precision)
    print(f"{sizes.name}, {options.precision}; {platform.machine()}, {os.cpu_count()} cores, {date.today()}")
    start = time.perf_counter()
    networks = stand_in_networks(sizes, "gmos")
    print(
        f"{'the reference':<17}     {time.perf_counter() - start:8.1f} s, peak {memory_gib('VmHWM'):5.2f} GiB"
    )
    meter = Meter()
    if options.networks:
        with tempfile.TemporaryDirectory() as folder:
            tables = table_source(networks.pi3)
            exporter = NetworkExporter(
                Path(folder), plan, networks, tables, validated=not options.no_validation
            )
            for name in options.networks.split(","):
                meter(name, exporter.export(name))
        return
    bundle = write_bundle(
        options.out,
        plan,
        networks,
        resolutions=resolutions,
        checkpoints={},
        validated=not options.no_validation,
        exported=meter,
    )
    total = sum(path.stat().st_size for path in bundle.root.iterdir()) / MIB
    print(f"all {time.perf_counter() - start:.0f} s, {total:.0f} MiB on the disk")
    del networks, meter
    gc.collect()
    if options.precision != "bf16":  # ONNX Runtime has no kernels for it on a processor.
        load_each(bundle)


if __name__ == "__main__":
    main()
