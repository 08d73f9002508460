"""Every backend of a machine with a GPU: right results, the same video, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.comparison.parity import LIMITS, difference
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.onnx.backend import open_bundle_backend
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.tensorrt.backend import open_engine_backend
from gmos_deploy.runtime.tensorrt.check import check_engines
from gmos_deploy.runtime.tensorrt.library import FLAVOURS, Flavour, load_tensorrt
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity
from gmos_deploy.runtime.tensorrt.runner import EngineOptions
from gmos_deploy.runtime.video.inputs import resolve_inputs

pytestmark = pytest.mark.gpu

FRAMES, VIDEO_HW = 10, (120, 160)

CHANGED_SHARE = 0.02
"""Of pixels: masks in half precision differ from those in float32 at their edges, over a tracked video."""

CASES: dict[str, dict[str, int]] = {
    "sam2_resize": {"B": 2, "H": 120, "W": 160},
    "sam2_encoder": {"B": 2},
    "mask_prompt": {"O": 2},
    "memory_attention": {"O": 2, "R": 3, "P": 4},
    "mask_decoder": {"O": 2},
    "memory_encoder": {"O": 2},
    "tracked_labels": {"O": 2, "H": 120, "W": 160},
}
"""Networks that do not depend on the Pi3 resolution, and lengths to run them at."""

HALF_ROUNDING = 2e-3
"""Of the largest value: TensorRT-RTX changes to faster kernels while it runs, which round differently."""

LEFT_BYTES = 64 << 20
"""Device memory that CUDA and its libraries may keep for themselves after a backend is closed."""


def answer(backend: Any, bundle: Bundle, name: Any, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Outputs of a network; its inputs are rounded to the bundle's precision on the way."""
    entry = bundle.networks[name]
    given = {
        tensor.name: inputs[tensor.name]
        if tensor.host
        else backend.arrays.upload(inputs[tensor.name].astype(tensor.dtype))
        for tensor in entry.inputs
    }
    return {key: backend.arrays.download(array) for key, array in backend.runner(name)(given).items()}


def compare(backend: Any, bundle: Bundle, reference: TorchBackend) -> None:
    """Hold the networks of CASES against the reference."""
    wrong = []
    for name, lengths in CASES.items():
        entry = bundle.networks[name]  # type: ignore[index]
        inputs = seeded_inputs(entry.name, entry.inputs, bundle.model, lengths)
        given = answer(backend, bundle, name, inputs)
        rounded = {t.name: inputs[t.name].astype(t.dtype).astype(inputs[t.name].dtype) for t in entry.inputs}
        hosts = {tensor.name for tensor in entry.inputs if tensor.host}
        tensors = {k: v if k in hosts else reference.arrays.upload(v) for k, v in rounded.items()}
        for output, array in reference.runner(entry.name)(tensors).items():
            found = difference(
                given[output], reference.arrays.download(array), target=name, lengths=lengths, output=output
            )
            excess = found.excess(LIMITS["fp16" if bundle.precision == "fp16" else "fp32"])
            wrong += [f"{name}.{output}: {excess}"] if excess else []
    assert not wrong


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_on_cuda_computes_what_the_reference_does(
    gpu: DeviceIdentity, gpu_bundle: Callable[[str], Bundle], reference: TorchBackend, precision: str
) -> None:
    """Within the limits of the precision; arrays stay on the device."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA")
    bundle = gpu_bundle(precision)
    with closing(open_bundle_backend(bundle.root, device="cuda")) as backend:
        assert "cuda:0" in backend.description
        compare(backend, bundle, reference)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_engines_compute_what_the_reference_does(
    gpu: DeviceIdentity, built: Callable[[Flavour], Bundle], reference: TorchBackend, flavour: Flavour
) -> None:
    """And what ONNX Runtime does, as their own check finds."""
    bundle = built(flavour)
    with opened(flavour) as backend:
        compare(backend, bundle, reference)
    assert all(check.passed for check in check_engines(bundle.root, flavour).values())


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_graphs_change_no_result(
    gpu: DeviceIdentity, built: Callable[[Flavour], Bundle], flavour: Flavour
) -> None:
    """The same call, over and over, with other data in between."""
    bundle = built(flavour)
    spec = bundle.networks["memory_attention"].inputs
    cases = [
        seeded_inputs("memory_attention", spec, bundle.model, {"O": 2, "R": r, "P": p})
        for r, p in ((3, 4), (1, 0), (3, 4))
    ]
    answers = []
    for graphs in (False, True):
        with opened(flavour, cuda_graphs=graphs) as backend:
            rounds = [
                [answer(backend, bundle, "memory_attention", x)["conditioned"] for x in cases]
                for _ in range(6)
            ]
        answers.append(rounds)
        for later in rounds[1:]:
            for a, b in zip(rounds[0], later, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=HALF_ROUNDING * float(np.abs(a).max()))
    for a, b in zip(answers[0][-1], answers[1][-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=HALF_ROUNDING * float(np.abs(a).max()))


def masks_of(backend: Any, clip: Path, out: Path) -> NDArray[np.uint8]:
    """The label maps of a run over the clip."""
    model = backend.model
    (sequence,) = resolve_inputs(
        [clip], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    results = ResultSet(save_dir=out, sequence="clip", variant="gmos", modes=frozenset({"mask"}))
    run = ClipRun(backend, sequence, RunOptions(batch_size=4))
    file_results(iter(run), results, sequence.media)
    frames = []
    for path in sorted((out / "mos_frame/clip").iterdir()):
        with Image.open(path) as image:
            frames.append(np.asarray(image))
    return np.stack(frames)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth texture with a patch that moves."""
    directory = tmp_path_factory.mktemp("gpu") / "clip"
    directory.mkdir()
    rng = np.random.default_rng(4)
    ground, patch = (ndimage.gaussian_filter(rng.random((*VIDEO_HW, 3)), (5, 5, 0)) for _ in range(2))
    for t in range(FRAMES):
        frame = ground.copy()
        frame[30:90, 10 + 6 * t : 70 + 6 * t] = patch[30:90, 10:70]
        scaled = 255 * (frame - ground.min()) / np.ptp(ground)
        Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).save(directory / f"{t:05d}.png")
    return directory


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_video_on_engines_is_the_reference_video(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    reference: TorchBackend,
    clip: Path,
    tmp_path: Path,
    flavour: Flavour,
) -> None:
    """Up to edges; and closing gives the device memory back."""
    bundle = built(flavour)
    cuda = Cuda(0)
    masks_of_engines, free = [], []
    for number in range(2):
        with opened(flavour) as backend:
            masks_of_engines.append(masks_of(backend, clip, tmp_path / f"{flavour}{number}"))
        free.append(cuda.memory_info()[0])
    assert free[0] - free[1] < LEFT_BYTES
    expected = masks_of(reference, clip, tmp_path / "reference")
    assert (masks_of_engines[0] != expected).mean() < CHANGED_SHARE


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_command_runs_engines(
    gpu: DeviceIdentity, built: Callable[[Flavour], Bundle], clip: Path, tmp_path: Path, flavour: Flavour
) -> None:
    """In a process of its own, within a memory budget that it tells before it starts."""
    bundle = built(flavour)
    code = "from gmos_deploy.cli import run; run()"
    arguments = [
        clip,
        "--stride",
        1,
        "--bundle",
        bundle.root,
        "--backend",
        flavour,
        "--save_dir",
        tmp_path / "out",
    ]
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), "--memory_budget", "4096", "--batch_size", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "memory: weights" in found.stderr
    assert "of --memory_budget 4096" in found.stderr
    assert len(list((tmp_path / "out/mos_frame/clip").iterdir())) == FRAMES
