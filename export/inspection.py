"""What a bundle holds, as a table or as JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from ..runtime.bundle.manifest import TARGETS, Bundle, BundleNetwork, BundleTensor

MIB = 1 << 20


def as_json(bundle: Bundle) -> str:
    """Everything that the table shows, and the specs in full."""
    return json.dumps(
        {
            "path": str(bundle.root),
            "variant": bundle.model.variant,
            "preset": bundle.model.preset,
            "precision": bundle.precision,
            "head_precision": bundle.head_precision,
            "opset": bundle.opset,
            "resolutions": [f"{width}x{height}" for width, height in bundle.resolutions],
            "bytes": sum(bundle.files.size(name) for name in bundle.files),
            "versions": dict(bundle.versions),
            "checkpoints": dict(bundle.checkpoints),
            "calibration": None if bundle.calibration is None else dict(bundle.calibration),
            "networks": {name: _entry(bundle, network) for name, network in bundle.networks.items()},
        },
        indent=2,
        ensure_ascii=False,
    )


def show(bundle: Bundle, console: Console) -> None:
    """Print the bundle as a table."""
    model = bundle.model
    sizes = ", ".join(f"{width}x{height}" for width, height in bundle.resolutions)
    total = sum(bundle.files.size(name) for name in bundle.files)
    weights = ", ".join(bundle.checkpoints) or "untrained stand-in weights"
    console.print(
        f"{model.variant}, {model.preset} size, {bundle.precision} (heads {bundle.head_precision}), opset "
        f"{bundle.opset}, {total / MIB:.1f} MiB; engines for {sizes}; {weights}",
        highlight=False,
        soft_wrap=True,
    )
    if bundle.calibration is not None:
        videos = ", ".join(str(video["name"]) for video in bundle.calibration["videos"])
        console.print(
            f"calibrated on {videos}, ranges {bundle.calibration['ranges']}, seed {bundle.calibration['seed']}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for network in bundle.networks.values():
        numbers = [f"{_own_bytes(bundle, network) / MIB:.1f} MiB"]
        if network.parameters:
            numbers += [f"{network.parameters:,} parameters", f"{network.flops / 1e9:.1f} GFLOP"]
        console.print(
            f"[bold]{network.name:<17}[/] {network.precision:<5} {', '.join(numbers)}; gate {_verdict(network)}",
            highlight=False,
            soft_wrap=True,
        )
        for way, tensors in (("in", network.inputs), ("out", network.outputs)):
            for tensor in tensors:
                console.print(f"  {way:<4}{_shape(tensor)}", highlight=False, markup=False, soft_wrap=True)
    at = {axis: n for network in bundle.networks.values() for axis, n in network.flops_at.items()}
    lengths = ", ".join(f"{axis}={at[axis]}" for axis in ("B", "h", "w", "O", "R", "P") if axis in at)
    console.print(
        f"GFLOP at {lengths}; weights that two networks share count for the first.",
        highlight=False,
        soft_wrap=True,
    )


def _shape(tensor: BundleTensor) -> str:
    return f"{tensor.name} ({','.join(map(str, tensor.axes))}) {tensor.dtype}"


def _own_bytes(bundle: Bundle, network: BundleNetwork) -> int:
    """Length of the network's graphs and of the weights that are stored under its name."""
    names = {network.graphs[target].file for target in TARGETS}
    weights = {name for target in TARGETS for name in network.graphs[target].weights}
    names |= {name for name in weights if name.rpartition(".")[0] == network.name}
    return sum(bundle.files.size(name) for name in names)


def _verdict(network: BundleNetwork) -> str:
    differences = network.gate.get("differences", [])
    if not differences:
        return "not run"
    worst = max(max(found["relative"], found["changed"]) for found in differences)
    return f"{'passed' if network.gate.get('passed') else 'FAILED'}, off by {worst:.0e}"


def _entry(bundle: Bundle, network: BundleNetwork) -> dict[str, Any]:
    def tensors(given: tuple[BundleTensor, ...]) -> list[dict[str, Any]]:
        return [{"name": t.name, "axes": list(t.axes), "dtype": t.dtype, "values": t.values} for t in given]

    return {
        "precision": network.precision,
        "inputs": tensors(network.inputs),
        "outputs": tensors(network.outputs),
        "graphs": {
            target: {
                "file": network.graphs[target].file,
                "weights": list(network.graphs[target].weights),
                "tables": tensors(network.graphs[target].tables),
            }
            for target in TARGETS
        },
        "profiles": [dict(ranges) for ranges in network.profiles],
        "parameters": network.parameters,
        "bytes": _own_bytes(bundle, network),
        "flops": network.flops,
        "flops_at": dict(network.flops_at),
        "gate": dict(network.gate),
    }
