"""Networks with local layers: exported, against the reference, and through the pipeline to the same masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
from gmos_deploy.gmos_ref.loading import load_reference
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.levers import Levers
from gmos_deploy.runtime.onnx.backend import open_bundle_backend
from gmos_deploy.runtime.pipeline.clip import ClipRun, label_maps
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.video.drawn_clip import drawn_clip
from gmos_deploy.runtime.video.inputs import resolve_frames
from gmos_deploy.sides import parse_side
from gmos_deploy.tuning.config import TuneConfig
from gmos_deploy.tuning.measuring import Measurer
from gmos_deploy.tuning.tune import tune

FRAMES = 9

MadeOnce = Callable[[str, Callable[[Path], Any]], Any]


@pytest.fixture(scope="session")
def local_bundle(made_once: MadeOnce, tiny_config: Callable[..., ExportConfig]) -> Bundle:
    """GMOS-S at the tiny size with one local layer of two, through the gate."""

    def make(root: Path) -> Path:
        return export_bundle(tiny_config(root / "local", variant="gmos-s", local_layers=1)).root

    return open_bundle(made_once("local", make))


def masks(backend: Backend, levers: Levers = Levers()) -> list[Any]:  # noqa: B008 - frozen
    """Foreground maps of the drawn clip."""
    sequence = resolve_frames(
        list(drawn_clip()[:FRAMES]),
        name="drawn",
        fps=None,
        stride=1,
        pi3_area_px=backend.model.pi3_area_px,
        patch_px=backend.model.patch_px,
    )
    (store,) = label_maps(ClipRun(backend, sequence, RunOptions(levers=levers))).values()
    return [store[frame] for frame in range(len(store))]


@pytest.mark.parametrize("levers", [Levers(), Levers(geometry_every=2, geometry_change=0.05)])
def test_a_bundle_has_the_masks_of_the_reference(local_bundle: Bundle, levers: Levers) -> None:
    """Registers wait beside patches, also where geometry is interpolated."""
    assert (local_bundle.model.local_layers, local_bundle.model.frame_blocks) == (1, 3)
    assert [tensor.name for tensor in local_bundle.networks["pi3_decoder"].inputs] == ["tokens", "registers"]
    choice = NetworkChoice(variant="gmos-s", preset="tiny", backend="torch", device="cpu", local_layers=1)
    source = choice.resolve()
    assert source.settings()["local_layers"] == 1
    reference = source.load()
    assert reference.description.endswith(", 1 local layer")
    found, expected = (
        masks(open_bundle_backend(local_bundle.root, device="cpu"), levers),
        masks(reference, levers),
    )
    differing = sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))
    assert differing <= 1e-4 * sum(one.size for one in expected), "rounding decides some pixels"


def test_the_decoder_is_smaller(local_bundle: Bundle, tiny_bundle: Bundle) -> None:
    """What moved is counted where it went, once for a frame; weights moved with it."""
    both = ("dino", "pi3_decoder")
    weights = [
        sum(bundle.networks[name].parameters for name in both) for bundle in (local_bundle, tiny_bundle)
    ]
    assert weights[0] == pytest.approx(weights[1], rel=0.01)
    local, exact = (bundle.networks["pi3_decoder"].flops for bundle in (local_bundle, tiny_bundle))
    assert local < 0.4 * exact


def test_the_first_block_once_per_frame_changes_nothing() -> None:
    """Byte for byte in the reference, on trained weights; no local layer is what there was."""

    def reference(**fields: Any) -> Backend:
        return load_reference(ReferenceConfig(variant="gmos-s", preset="nano", device="cpu", **fields))

    exact = masks(reference())
    assert any(one.any() for one in exact)
    for fields in ({"share_block": True}, {"local_layers": 0}):
        assert all(np.array_equal(a, b) for a, b in zip(masks(reference(**fields)), exact, strict=True))


def test_what_is_refused(local_bundle: Bundle) -> None:
    """More layers than there are; a bundle that was exported with others."""
    with pytest.raises(
        GmosError, match=r"--local_layers 2: expected 0 to 1, of the tiny size's 2 global layers"
    ):
        ReferenceConfig(variant="gmos", preset="tiny", local_layers=2)
    with pytest.raises(GmosError, match=r"--local_layers 2: .* has 1; export one"):
        NetworkChoice(bundle=local_bundle.root, local_layers=2).resolve()
    side = parse_side("--a", f"onnxruntime:bundle={local_bundle.root},local_layers=1")
    assert side.networks.resolve().model == local_bundle.model


def test_another_bundle_as_a_lever(
    local_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is the fastest that holds, the recipe goes into it; other networks are refused."""
    bundles = [Path(shutil.copytree(local_bundle.root, tmp_path / name)) for name in ("exact", "other")]
    measured = Measurer._run

    def run(self: Measurer, sequence: Any, levers: Any) -> Any:
        trial, maps = measured(self, sequence, levers)
        return replace(trial, seconds=0.5 if "bundle" in levers else 1.0), maps

    monkeypatch.setattr(Measurer, "_run", run)
    video = tmp_path / "clip"
    video.mkdir()
    for number, frame in enumerate(drawn_clip()[:4]):
        Image.fromarray(frame).save(video / f"{number:05d}.png")
    base = {
        "inputs": (video,), "target_masks": 0.5, "levers": ("precision",), "stride": 1, "rounds": 1,
        "networks": NetworkChoice(bundle=bundles[0], backend="onnxruntime", device="cpu"),
    }  # fmt: skip
    tuned = tune(TuneConfig(**base, other_bundles=(bundles[1],)))
    assert tuned.path == bundles[1] / "recipes" / "tuned.json"
    assert (tuned.recipe.levers, tuned.recipe.networks) == ({}, {})
    assert tuned.finalists[0].trial.levers == {"bundle": str(bundles[1])}
    assert tuned.recipe.bundle == local_bundle.identity
    tuned.work.remove()
    edited = json.loads((bundles[1] / "bundle.json").read_text())
    edited["model"]["preset"] = "huge"
    (bundles[1] / "bundle.json").write_text(json.dumps(edited))
    with pytest.raises(
        GmosError, match=r"--other_bundle .* holds gmos-s of the huge size, expected the same"
    ):
        tune(TuneConfig(**base, other_bundles=(bundles[1],)))
