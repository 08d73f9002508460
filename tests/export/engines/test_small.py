"""Engines of the small preset in half precision, every network, built for real by TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmos_deploy.export.engines.build import EngineBuild, build_engines
from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.tensorrt.library import load_tensorrt

pytest.importorskip("tensorrt_rtx")


def test_every_network_builds_and_fuses(tmp_path: Path) -> None:
    """All eleven networks of GMOS parse and build in fp16, and no attention is unfused or sums in float16."""
    reference = ReferenceConfig(variant="gmos", preset="small", device="cpu", precision="fp32")
    # The gate has tests of its own, and half of an export's time.
    bundle = export_bundle(
        ExportConfig(out=tmp_path / "small", reference=reference, precision="fp16", validated=False)
    )
    build = EngineBuild(
        bundle=bundle,
        library=load_tensorrt("tensorrt-rtx"),
        device=None,
        options=BuildOptions(targets=("sm86",)),
    )
    outcomes = build_engines(bundle.root, "tensorrt-rtx", build=build)
    assert {outcome.network for outcome in outcomes} == set(network_specs(bundle.model))
    fused = 0
    for outcome in outcomes:
        assert outcome.action == "built"
        assert outcome.record is not None
        attention = outcome.record.attention
        if outcome.record.precision == "fp16":
            assert attention["lost"] is None, (outcome.network, attention)
            fused += attention["expected"]
    assert fused > 20, "the networks of the small preset have attentions that fuse"
