"""The bundles that come with the package are those that an export gives today."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gmos_deploy.export.onnx.bundle_export import PACKAGES, ExportConfig, table_source
from gmos_deploy.export.onnx.exported_network import NetworkExporter, Plan
from gmos_deploy.export.onnx.shape_profiles import shape_profiles
from gmos_deploy.gmos_ref.loading import checkpoint_networks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.gmos_ref.reference_config import FOLDER, PACKED_BUNDLES, ReferenceConfig
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.packed_bundle import unpack_bundle
from gmos_deploy.runtime.contract import NetworkName, Variant, network_specs

STALE = "the export has changed: run tools/nano/pack_bundles.py"


def same_exporter(bundle: Bundle) -> bool:
    """Whether the packages that decide what an export looks like are those that the bundle was made with."""
    return all(bundle.versions[name] == version(name) for name in PACKAGES)


def weights_of(root: Path, file: str) -> dict[str, Any]:
    """The large initializers of a graph by name."""
    model = onnx.load(str(root / file))
    return {
        one.name: numpy_helper.to_array(one) for one in model.graph.initializer if len(one.raw_data) >= 1024
    }


def assert_equal(packed: Bundle, name: NetworkName, root: Path, fresh: Any) -> None:
    """A network of the packed bundle is what an export has just written into a directory."""
    own = packed.networks[name]
    assert (own.inputs, own.outputs, own.profiles) == (fresh.inputs, fresh.outputs, fresh.profiles), STALE
    for target, graph in own.graphs.items():
        file = fresh.graphs[target].file
        if same_exporter(packed):
            # Other versions name and order nodes differently.
            nodes = [
                onnx.load(str(folder / file), load_external_data=False).graph.node
                for folder in (packed.root, root)
            ]
            assert nodes[0] == nodes[1], STALE
        ours, theirs = (
            sorted(weights_of(folder, file).values(), key=lambda values: (values.shape, values.tobytes()))
            for folder, file in ((packed.root, graph.file), (root, file))
        )
        assert len(ours) == len(theirs), STALE
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)), STALE


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Bundle]:
    """The unpacked bundles, made once."""
    folder = tmp_path_factory.mktemp("packed")
    return cache(lambda variant: unpack_bundle(PACKED_BUNDLES, variant, FOLDER, folder / variant))


@pytest.fixture(scope="module")
def fresh(
    nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Variant, NetworkName], tuple[Path, Any]]:
    """A network exported just now and where it is; those of GMOS-S without the gate, which packing went through."""

    def small(name: NetworkName) -> tuple[Path, Any]:
        root = tmp_path_factory.mktemp("fresh")
        reference = ReferenceConfig(variant="gmos-s", preset="nano", device="cpu", precision="fp32")
        config = ExportConfig(out=root / "none", reference=reference)
        networks, sizes = checkpoint_networks(preset("nano"), reference), preset("nano")
        plan = Plan(
            sizes=sizes,
            model=config.model,
            precision="fp32",
            head_precision="fp32",
            opset=config.opset,
            profiles=shape_profiles(config.resolutions, config.model, max_batch=config.max_batch),
        )
        exporter = NetworkExporter(root, plan, networks, table_source(networks.pi3), validated=False)
        return root, exporter.export(name)

    def get(variant: Variant, name: NetworkName) -> tuple[Path, Any]:
        return (nano_bundle.root, nano_bundle.networks[name]) if variant == "gmos" else small(name)

    return get


CASES: list[tuple[Variant, NetworkName]] = [
    *(("gmos", name) for name in network_specs(model_spec(preset("nano"), "gmos"))),
    # Its encoders are GMOS's.
    ("gmos-s", "gmos_s"),
    ("gmos-s", "foreground_map"),
]


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_a_network_is_what_an_export_gives(
    variant: Variant,
    name: NetworkName,
    packed: Callable[[Variant], Bundle],
    fresh: Callable[[Variant, NetworkName], tuple[Path, Any]],
) -> None:
    """Graphs, weights, profiles."""
    assert_equal(packed(variant), name, *fresh(variant, name))
