"""What memory attention takes in long videos: its plan and activations by objects and memories, from real plans.

    python benchmarks/long_memory.py [--preset published] [--precision fp16] [--target sm86] [--cases 1x7,4x24,…]

Exports the network alone, with stand-in weights, and builds it with TensorRT-RTX for the bundle's own shape profiles
and for each case, OBJECTSxMEMORIES with nine pointers more. Times nothing; needs no GPU.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from stand_in_export import stand_in_plan

from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.export.engines.plan import build_plan
from gmos_deploy.export.engines.progress import BuildPhases
from gmos_deploy.export.engines.shapes import engine_profile
from gmos_deploy.export.onnx.exported_network import NetworkExporter
from gmos_deploy.gmos_ref.presets import preset
from gmos_deploy.gmos_ref.sam2.model import build_sam2
from gmos_deploy.runtime.precision import EXPORTED
from gmos_deploy.runtime.tensorrt.library import load_tensorrt

MIB = 1 << 20
POINTERS_MORE = 9
"""A frame reads up to six memories and fifteen pointers of passed frames."""


def main() -> None:
    """Export, build, print a row a plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="published")
    parser.add_argument("--precision", default="fp16", choices=EXPORTED)
    parser.add_argument("--target", default="sm86")
    parser.add_argument("--cases", default="1x7,4x7,1x24,4x24,1x136,4x136")
    given = parser.parse_args()
    sizes, library = preset(given.preset), load_tensorrt("tensorrt-rtx")
    plan, _ = stand_in_plan(sizes, given.precision)
    print(
        f"{given.preset}, {given.precision}; {library.label}, {given.target}; {platform.machine()}, {date.today()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Nothing of the other networks is asked for.
        networks: Any = SimpleNamespace(sam2=build_sam2(sizes.sam2))
        exporter = NetworkExporter(root, plan, networks, cast(Any, None), validated=False)
        network = exporter.export("memory_attention")
        bundle: Any = SimpleNamespace(
            private_graph=lambda _, target: nullcontext(root / network.graphs[target].file)
        )
        rows = [("the bundle's profiles", network.profiles)]
        for case in given.cases.split(","):
            objects, memories = map(int, case.split("x"))
            pointers = memories + POINTERS_MORE
            lengths = {"O": (1, objects, objects), "R": (1, memories, memories), "P": (0, pointers, pointers)}
            rows.append((f"{objects} objects, {memories} memories", (lengths,)))
        for name, profiles in rows:
            built = build_plan(
                library,
                bundle,
                network,
                profiles=[engine_profile(network, ranges) for ranges in profiles],
                options=BuildOptions(targets=(given.target,)),
                phases=BuildPhases(lambda *_: None),
            )
            activations = ", ".join(f"{size / MIB:.0f}" for size in built.activation_bytes)
            fused = built.attention
            print(
                f"{name}: plan {built.data.nbytes / MIB:.1f} MiB, activations {activations} MiB, {fused.fused} of "
                f"{fused.expected} attentions fused, sums {', '.join(fused.sums) or '-'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
