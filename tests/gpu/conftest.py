"""A real GPU, and a bundle in half precision to run on it.

`pytest -m gpu` runs these on whatever the machine has: CUDA by itself needs `cuda-bindings` alone, the reference
PyTorch, the rest what its skip names. A GPU that is there and cannot be used is a failure. With GMOS_REQUIRE_GPU set,
for machines that should have everything, each skip is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.tensorrt.gpu import find_device
from gmos_deploy.runtime.tensorrt.library import Flavour, TensorRT, load_tensorrt
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity

if TYPE_CHECKING:
    from gmos_deploy.gmos_ref.backend import TorchBackend

REQUIRED = "GMOS_REQUIRE_GPU"
NODES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0")
"""Where Linux has an NVIDIA GPU: a card, or one inside a Jetson."""


@pytest.fixture(scope="session")
def gpu() -> DeviceIdentity:
    """The GPU of this machine."""
    found = find_device()
    if found is not None:
        return found
    if any(Path(node).exists() for node in NODES):
        pytest.fail("a GPU is expected here, and CUDA finds none: check nvidia-smi")
    pytest.skip("no GPU on this machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Where everything is expected, a test that does not run has failed."""
    report: Any = yield
    if report.skipped and os.environ.get(REQUIRED):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{REQUIRED} is set, and this did not run: {reason}"
    return report


@pytest.fixture(scope="session", params=[0, 1])
def cuda(request: pytest.FixtureRequest, gpu: DeviceIdentity) -> Cuda:
    """Each of the first two GPUs."""
    if find_device(request.param) is None:
        pytest.skip("this machine has one GPU")
    return Cuda(request.param)


@pytest.fixture(scope="session")
def installed(gpu: DeviceIdentity) -> Callable[[Flavour], TensorRT]:
    """The library of a flavour, if it is there and has kernels for the GPU; a broken installation is a failure."""

    def load(flavour: Flavour) -> TensorRT:
        try:
            library = load_tensorrt(flavour)
        except GmosError as error:
            if "No module named" not in str(error):
                pytest.fail(str(error))
            pytest.skip(f"{flavour} is not installed")
        if library.builds_ahead and gpu.target not in library.targets:
            pytest.skip(f"{library.label} has no kernels for {gpu}")
        return library

    return load


@pytest.fixture(scope="session")
def built(
    installed: Callable[[Flavour], TensorRT], gpu_bundle: Callable[[str], Bundle]
) -> Callable[[Flavour], Bundle]:
    """The half-precision bundle with the engines of a flavour, built once; skips without its library."""
    done: set[Flavour] = set()

    def build(flavour: Flavour) -> Bundle:
        from gmos_deploy.export.engines.build import build_engines

        installed(flavour)
        bundle = gpu_bundle("fp16")
        if flavour not in done:
            build_engines(bundle.root, flavour, device=0)
            done.add(flavour)
        return bundle

    return build


@pytest.fixture(scope="session")
def opened(built: Callable[[Flavour], Bundle]) -> Callable[..., Any]:
    """Opens the engines of a flavour, to be closed by `with`; keywords are `EngineOptions`'."""
    from gmos_deploy.runtime.tensorrt.backend import open_engine_backend
    from gmos_deploy.runtime.tensorrt.runner import EngineOptions

    def open_(flavour: Flavour, **options: Any) -> Any:
        root = built(flavour).root
        return closing(open_engine_backend(root, flavour, options=EngineOptions(**options)))

    return open_


@pytest.fixture(scope="session")
def gpu_bundle(gpu: DeviceIdentity, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Bundles of the small preset by precision, with stand-in weights, exported once."""
    pytest.importorskip("torch")
    from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
    from gmos_deploy.gmos_ref.reference_config import ReferenceConfig

    made: dict[str, Bundle] = {}

    def get(precision: str) -> Bundle:
        if precision not in made:
            reference = ReferenceConfig(variant="gmos", preset="small", device="cpu", precision="fp32")
            fields: dict[str, Any] = {"precision": precision, "aspect": ("4:3",)}
            out = tmp_path_factory.mktemp("gpu") / precision
            made[precision] = export_bundle(ExportConfig(out=out, reference=reference, **fields))
        return made[precision]

    return get


@pytest.fixture(scope="session")
def make_reference() -> Callable[..., TorchBackend]:
    """What the bundles were exported from, on a device and in a precision."""
    torch = pytest.importorskip("torch")
    from gmos_deploy.gmos_ref.backend import TorchBackend
    from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
    from gmos_deploy.gmos_ref.presets import model_spec, preset

    def make(device: str = "cpu", precision: Any = "fp32") -> TorchBackend:
        if device != "cpu" and not torch.cuda.is_available():
            pytest.skip(f"this PyTorch ({torch.__version__}) sees no CUDA device")
        small = preset("small")
        networks = stand_in_networks(small, "gmos")
        return TorchBackend(
            model_spec(small, "gmos"), networks, device=torch.device(device), precision=precision
        )

    return make


@pytest.fixture(scope="session")
def reference(make_reference: Callable[..., TorchBackend]) -> TorchBackend:
    """In float32 on the CPU."""
    return make_reference()
