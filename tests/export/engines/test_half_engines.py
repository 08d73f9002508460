"""Engines of every network in half precision, built for real by TensorRT-RTX."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gmos_deploy.export.engines.build import EngineBuild, build_engines
from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.tensorrt.library import load_tensorrt

pytest.importorskip("tensorrt_rtx")

# Self-attention of memory attention is one head over 64 tokens of one frame, which TensorRT-RTX leaves alone.
ATTENTIONS = {"dino": 2, "pi3_decoder": 4, "sam2_encoder": 6, "proposer": 3, "memory_attention": 1}


def test_every_network_builds_and_fuses(half_bundle: Bundle, tmp_path: Path) -> None:
    """All eleven networks of GMOS parse and build in fp16, and no attention is unfused or sums in float16."""
    root = Path(shutil.copytree(half_bundle.root, tmp_path / "half"))
    build = EngineBuild(
        bundle=open_bundle(root),
        library=load_tensorrt("tensorrt-rtx"),
        device=None,
        options=BuildOptions(targets=("sm86", "sm120")),
    )
    outcomes = build_engines(root, "tensorrt-rtx", build=build)
    assert {outcome.network for outcome in outcomes} == set(network_specs(half_bundle.model))
    fused = {}
    for outcome in outcomes:
        assert outcome.action == "built"
        assert outcome.record is not None
        attention = outcome.record.attention
        assert attention["lost"] is None, (outcome.network, attention)
        if attention["expected"]:
            assert attention["sums"] == ["Ampere_hmma_fp32"], (outcome.network, attention)
            fused[outcome.network] = attention["fused"]
    assert fused == ATTENTIONS
