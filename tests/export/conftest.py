"""Tiny bundles, exported once per run: capturing a network takes seconds whatever its size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle, table_source
from gmos_deploy.export.onnx.exported_network import NetworkExporter, Plan
from gmos_deploy.export.onnx.shape_profiles import shape_profiles
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.loading import load_reference
from gmos_deploy.gmos_ref.networks import ReferenceNetworks
from gmos_deploy.gmos_ref.presets import model_spec, preset, with_frame_blocks
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.bundle.manifest import MANIFEST, Bundle, BundleNetwork, open_bundle
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.onnx.backend import OnnxBackend, open_bundle_backend

MadeOnce = Callable[[str, Callable[[Path], Any]], Any]

TINY = preset("tiny")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they give at these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., ExportConfig]:
    """An export of the tiny preset with stand-in weights; keywords replace its fields."""

    def make(out: Path, **fields: Any) -> ExportConfig:
        reference = ReferenceConfig(
            variant=fields.pop("variant", "gmos"),
            preset="tiny",
            device="cpu",
            precision="fp32",
            local_layers=fields.pop("local_layers", 0),
        )
        return ExportConfig(out=out, reference=reference, **fields)

    return make


@pytest.fixture(scope="session")
def tiny_bundle(made_once: MadeOnce, tiny_config: Callable[..., ExportConfig]) -> Bundle:
    """All networks of GMOS at the tiny size in fp32, each through the gate. Left as it is by every test."""

    def make(root: Path) -> Path:
        return export_bundle(tiny_config(root / "tiny", aspect=("4:3", "16:9"))).root

    return open_bundle(made_once("tiny", make))


@pytest.fixture
def bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle.root, tmp_path / "copy"))


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change the `bundle.json` of a bundle through a function on its content."""

    def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
        content = json.loads((root / MANIFEST).read_text())
        change(content)
        (root / MANIFEST).write_text(json.dumps(content))

    return edit


@pytest.fixture(scope="session")
def tiny_networks() -> ReferenceNetworks:
    """The reference that the tiny bundle was exported from."""
    return stand_in_networks(TINY, "gmos")


@pytest.fixture(scope="session")
def tiny_small_networks() -> ReferenceNetworks:
    """The same for GMOS-S."""
    return stand_in_networks(TINY, "gmos-s")


@pytest.fixture(scope="session")
def torch_backend(tiny_networks: ReferenceNetworks) -> TorchBackend:
    """The reference behind the tiny bundle."""
    return TorchBackend(model_spec(TINY, "gmos"), tiny_networks, device=torch.device("cpu"), precision="fp32")


@pytest.fixture(scope="session")
def onnx_backend(tiny_bundle: Bundle) -> OnnxBackend:
    """The tiny bundle on the CPU."""
    return open_bundle_backend(tiny_bundle.root, device="cpu")


@pytest.fixture(scope="session")
def nano_reference() -> TorchBackend:
    """The reference with the nano weights of the package."""
    return load_reference(ReferenceConfig(variant="gmos", preset="nano", device="cpu"))


@pytest.fixture(scope="session")
def nano_bundle(made_once: MadeOnce) -> Bundle:
    """GMOS with the nano weights, exported through the gate. Left as it is by every test."""

    def make(root: Path) -> Path:
        reference = ReferenceConfig(variant="gmos", preset="nano", device="cpu", precision="fp32")
        return export_bundle(ExportConfig(out=root / "nano", reference=reference)).root

    return open_bundle(made_once("nano", make))


@pytest.fixture(scope="session")
def nano_onnx(nano_bundle: Bundle) -> OnnxBackend:
    """The nano bundle on the CPU."""
    return open_bundle_backend(nano_bundle.root, device="cpu")


@pytest.fixture
def exporter(
    tiny_networks: ReferenceNetworks, tiny_small_networks: ReferenceNetworks, tmp_path: Path
) -> Callable[..., NetworkExporter]:
    """An exporter of single tiny networks into the test's directory; keywords replace fields of the plan."""

    def make(*, validated: bool = True, left: Path | None = None, **fields: Any) -> NetworkExporter:
        variant = fields.pop("variant", "gmos")
        networks = fields.pop("networks", tiny_networks if variant == "gmos" else tiny_small_networks)
        model = model_spec(TINY, variant)
        plan: dict[str, Any] = {
            "sizes": TINY,
            "model": model,
            "precision": "fp32",
            "head_precision": "fp32",
            "opset": 20,
            "profiles": shape_profiles(((168, 112),), model, max_batch=2),
            **fields,
        }
        tables = table_source(networks.pi3)
        return NetworkExporter(tmp_path, Plan(**plan), networks, tables, validated=validated, left=left)

    return make


@pytest.fixture(scope="session")
def half_network(half_bundle: Bundle, made_once: MadeOnce) -> Callable[..., tuple[BundleNetwork, Path]]:
    """A network in half precision that passed the gate, and its directory; each is exported once.

    Takes the name and fields of the plan, the preset among them (tiny), and local layers (none). Those of the half
    bundle come from there.
    """

    def make(name: NetworkName, **fields: Any) -> tuple[BundleNetwork, Path]:
        if fields == {"precision": "fp16", "head_precision": "fp16"}:
            return half_bundle.networks[name], half_bundle.root
        key = "-".join((name, *(f"{field}={value}" for field, value in sorted(fields.items()))))
        variant, local = fields.pop("variant", "gmos"), fields.pop("local_layers", 0)
        sizes = with_frame_blocks(preset(fields.pop("preset", "tiny")), local_layers=local)
        model = model_spec(sizes, variant)
        plan: dict[str, Any] = {
            "sizes": sizes,
            "model": model,
            "head_precision": "fp32",
            "opset": 20,
            "profiles": shape_profiles(((168, 112),), model, max_batch=2),
            **fields,
        }

        def export(root: Path) -> tuple[BundleNetwork, Path]:
            networks = stand_in_networks(sizes, variant)
            tables = table_source(networks.pi3)
            return NetworkExporter(root, Plan(**plan), networks, tables, validated=True).export(name), root

        made: tuple[BundleNetwork, Path] = made_once(key, export)
        return made

    return make
