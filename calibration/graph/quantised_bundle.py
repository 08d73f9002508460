"""Writes the bundle of a calibration: quantised graphs, their weights, and what is known about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ... import __version__
from ...export.onnx.bundle_directory import GRAPH_SUFFIX, new_bundle
from ...export.onnx.weight_files import WeightFiles
from ...runtime.bundle.files import file_sha256
from ...runtime.bundle.manifest import (
    MANIFEST,
    TABLES_FILE,
    TARGETS,
    Bundle,
    BundleNetwork,
    Target,
    open_bundle,
)
from ...runtime.contract import HEADS, NetworkName
from ...runtime.parity import Limits, OutputDifference
from ..quantiser.formats import FORMATS, QuantisedPrecision
from ..quantiser.layer_choice import SiteChoice
from .quantised_graph import quantise


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedNetwork:
    """What was decided about a network: choices of its sites, nodes that stay in half, and how it compared."""

    choices: tuple[SiteChoice, ...]
    kept: frozenset[str]
    limits: Limits
    differences: tuple[OutputDifference, ...]

    def gate(self) -> dict[str, Any]:
        """The comparison with the parent's graph, as it is kept in the bundle."""
        return {
            "passed": all(found.excess(self.limits) is None for found in self.differences),
            "compared": "the graph it was made from, on recorded inputs",
            "limits": asdict(self.limits),
            "differences": [asdict(found) for found in self.differences],
        }


def write_quantised(
    out: Path,
    parent: Bundle,
    networks: Mapping[NetworkName, QuantisedNetwork],
    *,
    precision: QuantisedPrecision,
    calibration: Mapping[str, Any],
) -> Bundle:
    """Write a bundle; it is at `out` when it is complete, and a bundle there stays until then.

    Args:
        out: its directory.
        parent: the bundle it is made from.
        networks: those that are quantised; all others are taken over as they are.
        precision: of the quantised layers.
        calibration: where the numbers come from, for the record.

    Raises:
        GmosError: a file of the parent has changed, or the directory cannot be written.
    """
    manifest = json.loads((parent.root / MANIFEST).read_bytes())
    with new_bundle(out) as root:
        tables = parent.files.verified(TABLES_FILE)
        (root / TABLES_FILE).write_bytes(tables.read_bytes())
        weights = WeightFiles(root)
        for name, entry in parent.networks.items():
            chosen = networks.get(name)
            manifest["networks"][name]["graphs"] = _write(
                root, parent, entry, weights, chosen=chosen, precision=precision
            )
            if chosen is not None:
                manifest["networks"][name]["precision"] = precision
                manifest["networks"][name]["gate"] = chosen.gate()
        manifest["tool"] = f"gmos-deploy {__version__}"
        manifest["precision"] = precision
        if any(name in HEADS for name in networks):
            manifest["head_precision"] = precision
        manifest["versions"] |= {
            "gmos-deploy": __version__,
            "onnx": version("onnx"),
            "onnx-ir": version("onnx-ir"),
        }
        manifest["calibration"] = dict(calibration)
        manifest["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(root.iterdir())
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
        (root / MANIFEST).write_text(text + "\n", encoding="utf-8")
        open_bundle(root)
    return open_bundle(out)


def _write(
    root: Path,
    parent: Bundle,
    entry: BundleNetwork,
    weights: WeightFiles,
    *,
    chosen: QuantisedNetwork | None,
    precision: QuantisedPrecision,
) -> dict[Target, Any]:
    """Both graphs of a network; one file where they are the same."""
    written: dict[Target, Any] = {}
    shared = chosen is None and entry.graphs["standard"] == entry.graphs["onnxruntime"]
    for target in TARGETS[:1] if shared else TARGETS:
        graph = entry.graphs[target]
        model = ir.load(parent.graph_file(entry.name, target))
        if chosen is not None:
            quantise(model, chosen.choices, FORMATS[precision], kept=chosen.kept, target=target)
        # The second graph finds all its tensors written: a file of its own would be empty, and is not kept.
        file = entry.name + ("" if target == "standard" else f".{target}") + ".weights"
        read = weights.move_out(model, file)
        path = root / f"{entry.name}{GRAPH_SUFFIX[target]}"
        ir.save(model, path)
        if target == "standard":
            onnx.checker.check_model(str(path))
        written[target] = {
            "file": path.name,
            "weights": list(read),
            "tables": [asdict(table) for table in graph.tables],
        }
    return written if not shared else dict.fromkeys(TARGETS, written["standard"])
