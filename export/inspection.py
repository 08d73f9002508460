"""What a bundle holds, as a table or as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from ..evaluation.report.document import Column, Document, Section, Table, Text
from ..evaluation.report.files import plain
from ..runtime.bundle.manifest import TARGETS, Bundle, BundleNetwork, BundleTensor
from .engines.inspection import engine_facts, engine_sections

MIB = 1 << 20


def as_json(bundle: Bundle) -> str:
    """Everything that the tables show, and the specs in full."""
    values = {
        "path": str(bundle.root),
        "variant": bundle.model.variant,
        "preset": bundle.model.preset,
        "precision": bundle.precision,
        "head_precision": bundle.head_precision,
        "opset": bundle.opset,
        "resolutions": [f"{width}x{height}" for width, height in bundle.resolutions],
        "bytes": sum(bundle.files.size(name) for name in bundle.files),
        "versions": bundle.versions,
        "checkpoints": bundle.checkpoints,
        "calibration": bundle.calibration,
        "networks": {name: _entry(bundle, network) for name, network in bundle.networks.items()},
        "engines": engine_facts(bundle),
    }
    return json.dumps(plain(values), indent=2, ensure_ascii=False)


def inspection(bundle: Bundle) -> Document:
    """A bundle as a document: a row a network, then a row a tensor; engines last."""
    model = bundle.model
    sizes = ", ".join(f"{width}x{height}" for width, height in bundle.resolutions)
    total = sum(bundle.files.size(name) for name in bundle.files)
    weights = ", ".join(bundle.checkpoints) or "untrained stand-in weights"
    notes = [f"engines for {sizes}; {weights}"]
    if bundle.calibration is not None:
        videos = ", ".join(str(video["name"]) for video in bundle.calibration.get("videos", ()))
        notes.append(
            f"calibrated on {videos}, ranges {bundle.calibration.get('ranges')}, seed {bundle.calibration.get('seed')}"
        )
    at = {axis: n for network in bundle.networks.values() for axis, n in network.flops_at.items()}
    lengths = ", ".join(f"{axis}={at[axis]}" for axis in ("B", "h", "w", "O", "R", "P") if axis in at)
    networks: list[Column[BundleNetwork]] = [
        Column("network", lambda network: network.name),
        Column("precision", lambda network: network.precision),
        Column("MiB", lambda network: _own_bytes(bundle, network) / MIB, ".1f"),
        Column("parameters", lambda network: network.parameters or None, ","),
        Column(
            "GFLOP",
            lambda network: network.flops / 1e9 if network.parameters else None,
            ".1f",
            shown="always",
        ),
        Column("validation", _verdict),
        Column("licence", lambda network: network.licence or None),
        Column("source", lambda network: network.source or None, shown="wide"),
    ]
    tensors: list[Column[tuple[str, str, BundleTensor]]] = [
        Column("network", lambda entry: entry[0]),
        Column("", lambda entry: entry[1]),
        Column("tensor", lambda entry: entry[2].name),
        Column("shape", lambda entry: f"({','.join(map(str, entry[2].axes))})"),
        Column("dtype", lambda entry: entry[2].dtype),
    ]
    entries = [
        (network.name, way, tensor)
        for network in bundle.networks.values()
        for way, found in (("in", network.inputs), ("out", network.outputs))
        for tensor in found
    ]
    return Document(
        title=f"{model.variant}, {model.preset} size, {bundle.precision} (heads {bundle.head_precision}), opset "
        f"{bundle.opset}, {total / MIB:.1f} MiB",
        sections=[
            Section("", [Text(note, everywhere=True) for note in notes]),
            Section(
                "Networks",
                [
                    Table(columns=networks, entries=list(bundle.networks.values())),
                    Text(
                        f"GFLOP at {lengths}; weights that two networks share count for the first.",
                        everywhere=True,
                    ),
                ],
            ),
            Section("Tensors", [Table(columns=tensors, entries=entries)]),
            *engine_sections(bundle),
        ],
    )


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
    measured = (found[name] for found in differences for name in ("relative", "changed"))
    # JSON has no infinity: null.
    worst = max(math.inf if value is None else value for value in measured)
    return f"{'passed' if network.gate.get('passed') else 'FAILED'}, off by {worst:.0e}"


def _entry(bundle: Bundle, network: BundleNetwork) -> dict[str, Any]:
    def tensors(given: tuple[BundleTensor, ...]) -> list[dict[str, Any]]:
        return [plain(tensor, omit=("host",)) for tensor in given]

    graphs = {
        target: {"file": graph.file, "weights": graph.weights, "tables": tensors(graph.tables)}
        for target, graph in ((target, network.graphs[target]) for target in TARGETS)
    }
    return {
        **plain(network, omit=("name",)),
        "inputs": tensors(network.inputs),
        "outputs": tensors(network.outputs),
        "graphs": graphs,
        "bytes": _own_bytes(bundle, network),
    }
