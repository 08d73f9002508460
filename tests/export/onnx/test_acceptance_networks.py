"""The acceptance run's steps on real networks: the tiny reference against its bundle on ONNX Runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.video.inputs import resolve_frames
from gmos_deploy.runtime.video.sequence import SequenceInput

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

FRAMES = 12


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"acceptance_steps.{name}")


@pytest.fixture
def clip(tiny_bundle: Bundle) -> SequenceInput:
    """Noise that moves, small."""
    rng, model = np.random.default_rng(3), tiny_bundle.model
    ground = rng.integers(0, 256, (112, 168, 3), np.uint8)
    frames = [np.roll(ground, 3 * t, axis=1) for t in range(FRAMES)]
    return resolve_frames(
        frames, name="clip", fps=8, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )


def test_networks_on_what_a_video_feeds_them(
    module: Callable[[str], ModuleType],
    torch_backend: TorchBackend,
    onnx_backend: OnnxBackend,
    tiny_bundle: Bundle,
    clip: SequenceInput,
) -> None:
    """All networks that the video called are right; one that answers something else is named."""

    class Wrong:
        model, arrays, description = torch_backend.model, torch_backend.arrays, "wrong"

        def runner(self, network: Any) -> Any:
            run = torch_backend.runner(network)
            if network != "dino":
                return run
            return lambda inputs: {key: 1.1 * values for key, values in run(inputs).items()}

    for backend, failed in ((torch_backend, set()), (Wrong(), {"torch: dino"})):
        notes = module("record").Notes(lambda _: None, seconds=1e6)
        module("networks").compare_recorded(
            "torch", backend, onnx_backend, bundle=tiny_bundle, sequence=clip, notes=notes
        )
        verdicts = {item.name: item.verdict for item in notes.items}
        assert set(verdicts) == {f"torch: {name}" for name in tiny_bundle.networks}
        assert {name for name, verdict in verdicts.items() if verdict == "failed"} == failed
        assert verdicts["torch: pi3_decoder"] == "passed"


def test_memories_on_real_networks(
    module: Callable[[str], ModuleType],
    torch_backend: TorchBackend,
    onnx_backend: OnnxBackend,
    tiny_bundle: Bundle,
) -> None:
    """As many as long videos have, in the reference's own precision of inputs."""
    networks, notes = module("networks"), module("record").Notes(lambda _: None, seconds=1e6)
    dtypes = {
        tensor.name: "host" if tensor.host else tensor.dtype
        for tensor in tiny_bundle.networks["memory_attention"].inputs
    }
    networks.sweep_memories(
        "torch", torch_backend, onnx_backend, bundle=tiny_bundle, dtypes=dtypes, notes=notes
    )
    assert [item.verdict for item in notes.items] == ["passed"] * (len(networks.MEMORIES) + 1)
    assert all("finite, off by up to" in item.words for item in notes.items)
