"""Writes the bundle of a calibration: quantised graphs, their weights, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ... import __version__
from ...export.onnx.bundle_directory import save_graph, write_manifest
from ...export.onnx.weight_files import WeightFiles
from ...runtime.bundle.check_inputs import inputs_file
from ...runtime.bundle.manifest import (
    TABLES_FILE,
    TARGETS,
    Bundle,
    BundleFacts,
    BundleGraph,
    BundleNetwork,
    Manifest,
    Target,
    open_bundle,
)
from ...runtime.bundle.new_bundle import new_bundle
from ...runtime.contract import HEADS, NetworkName
from ...runtime.precision import PrecisionName
from ..network_forms import CalibratedNetwork
from ..quantiser.formats import FORMATS
from .quantised_graph import quantise


def write_quantised(
    out: Path,
    parent: Bundle,
    networks: Mapping[NetworkName, CalibratedNetwork],
    *,
    precision: PrecisionName,
    calibration: Mapping[str, Any],
    overwrite: bool = True,
) -> Bundle:
    """Write a bundle; it is at `out` when it is complete, and a bundle there stays until then.

    Args:
        out: its directory.
        parent: the bundle it is made from.
        networks: those that are quantised; all others are taken over as they are.
        precision: of the quantised layers.
        calibration: where the numbers come from, for the record.
        overwrite: whether what is at `out` by the end may be replaced.

    Raises:
        GmosError: a file of the parent has changed, or the directory cannot be written.
    """
    with new_bundle(out, replace=overwrite) as root:
        for file in (TABLES_FILE, *map(inputs_file, parent.networks)):
            if file in parent.files:
                (root / file).write_bytes(parent.files.read(file))
        weights, written = WeightFiles(root), dict[str, BundleNetwork]()
        for name, entry in parent.networks.items():
            chosen = networks.get(name)
            graphs = _write(root, parent, entry, weights, chosen=chosen, precision=precision)
            written[name] = replace(entry, graphs=graphs)
            if chosen is not None:
                written[name] = replace(written[name], precision=precision, gate=chosen.gate())
        facts = {field.name: getattr(parent, field.name) for field in fields(BundleFacts)} | {
            "precision": precision,
            "head_precision": precision if any(name in HEADS for name in networks) else parent.head_precision,
            "versions": dict(parent.versions)
            | {"gmos-deploy": __version__, "onnx": version("onnx"), "onnx-ir": version("onnx-ir")},
            "calibration": dict(calibration),
        }
        write_manifest(root, Manifest(**facts, tool=f"gmos-deploy {__version__}", networks=written, files={}))
    return open_bundle(out)


def _write(
    root: Path,
    parent: Bundle,
    entry: BundleNetwork,
    weights: WeightFiles,
    *,
    chosen: CalibratedNetwork | None,
    precision: PrecisionName,
) -> dict[Target, BundleGraph]:
    """Both graphs of a network; one file where they are the same."""
    written: dict[Target, BundleGraph] = {}
    shared = chosen is None and entry.graphs["standard"] == entry.graphs["onnxruntime"]
    for target in TARGETS[:1] if shared else TARGETS:
        graph = entry.graphs[target]
        model = ir.load(parent.graph_file(entry.name, target))
        if chosen is not None:
            quantise(model, chosen.choices, FORMATS[precision], excluded=chosen.excluded, target=target)
        # The second graph finds all its tensors written: a file of its own would be empty, and is not kept.
        file = entry.name + ("" if target == "standard" else f".{target}") + ".weights"
        read = weights.move_out(model, file)
        path = save_graph(root, entry.name, target, model)
        written[target] = replace(graph, file=path, weights=read)
    return written if not shared else dict.fromkeys(TARGETS, written["standard"])
