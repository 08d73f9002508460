"""The self-test: the clip never changes, the stored masks are the reference's, and wrong networks are found."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.doctor.command import summary
from gmos_deploy.evaluation.doctor.finding import Finding
from gmos_deploy.evaluation.doctor.selftest import (
    CPU_LIMIT_S,
    SideResult,
    run_backend,
    selftest_findings,
    side_finding,
    stored_masks,
)
from gmos_deploy.runtime.video.drawn_clip import FRAMES, VIDEO_HW, drawn_clip

CLIP_SHA256 = "5feeb2721fa929407aa78955056270ba7448071e7b43ea1dddd28c87a46cf6e3"


def test_the_clip_is_the_same_everywhere() -> None:
    """Its masks are stored: another clip would need others."""
    frames = drawn_clip()
    assert len(frames) == FRAMES
    assert frames[0].shape == (*VIDEO_HW, 3)
    assert hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest() == CLIP_SHA256


def test_the_stored_masks_show_what_moves() -> None:
    """Two objects; the one that stops leaves MOS-I and stays in MOS."""
    masks = stored_masks()
    assert masks["mos-i"].shape == masks["mos"].shape == (FRAMES, *VIDEO_HW)
    assert set(np.unique(masks["mos"])) == {0, 1, 2}
    assert set(np.unique(masks["mos-i"][0])) == {0, 1, 2}
    assert set(np.unique(masks["mos-i"][-1])) == {0, 1}
    assert (masks["mos"] == 2).any(axis=(1, 2)).all()


@pytest.fixture(scope="module")
def reference() -> Any:
    """Nano's networks in PyTorch."""
    pytest.importorskip("torch")
    from gmos_deploy.gmos_ref.loading import load_reference
    from gmos_deploy.gmos_ref.reference_config import ReferenceConfig

    return load_reference(ReferenceConfig(variant="gmos", preset="nano", device="cpu", precision="fp32"))


def test_networks_that_compute_something_else_are_found(reference: Any) -> None:
    """A decoder whose masks are moved by a pixel, as a wrong kernel might."""

    class Shifted:
        model, arrays, description = reference.model, reference.arrays, "shifted"

        def runner(self, network: str) -> Any:
            run = reference.runner(network)
            if network != "mask_decoder":
                return run

            def call(inputs: Any) -> Any:
                answer = run(inputs)
                return {**answer, "masks": answer["masks"].roll(1, dims=-1)}

            return call

    result = run_backend(Shifted())  # type: ignore[arg-type]
    assert result.mean_iou < 0.99
    assert any("mos of selftest: mean IoU" in line for line in result.differences)
    finding = side_finding("shifted", result)
    assert (finding.state, finding.group) == ("wrong", "Self-test")


def test_what_a_run_came_to() -> None:
    """Right, and ended before it came to anything."""
    right = SideResult(
        description="ONNX Runtime on cpu, fp32",
        load_s=0.4,
        run_s=4.0,
        frames_per_second=4.0,
        mean_iou=1.0,
        least_iou=0.99994,
        differences=[],
    )
    finding = side_finding("onnxruntime on cpu", right)
    assert finding.state == "ok"
    assert "mean IoU 1.00000, least 0.99994" in finding.found
    assert "4.0 frames/s" in finding.found
    assert side_finding("torch on cpu", None, "crashed with SIGSEGV").state == "wrong"


def test_a_wrong_backend_is_not_ready() -> None:
    """Nor named by the last line."""
    found = [
        Finding(group="What can run here", name=name, state="ok", found="ready")
        for name in ("torch on cpu", "onnxruntime on cpu")
    ]
    assert summary(found) == "ready: torch on cpu, onnxruntime on cpu; nothing is wrong"
    found.append(side_finding("torch on cpu", None, "crashed with SIGSEGV"))
    assert summary(found) == "ready: onnxruntime on cpu; 1 wrong"


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which nobody can write")
def test_no_cache_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's bundle is written for now where the cache cannot be."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    (finding,) = selftest_findings(["onnxruntime on cpu"])
    assert finding.state == "ok", finding.found


def test_damaged_masks_are_refused(tmp_path: Path) -> None:
    """An installation that was cut short."""
    damaged = tmp_path / "masks.npz"
    damaged.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(GmosError, match="install gmos-deploy again"):
        stored_masks(damaged)


def test_the_reference_gives_the_stored_masks() -> None:
    """In a process of its own, as the command runs it. Else tools/selftest_masks.py is to be run again."""
    pytest.importorskip("torch")
    (finding,) = selftest_findings(["torch on cpu"])
    assert finding.state == "ok", finding.found
    assert CPU_LIMIT_S > 60
