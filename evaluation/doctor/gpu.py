"""Findings on the GPU: the driver, the devices, NVIDIA's Python bindings against the driver, cuDNN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..child_process import ChildRun
from ..report.environment import nvidia_gpus
from .finding import GPU, Finding, State
from .system import Jetson, has_nvidia_card, install_driver

MIB = 1 << 20

DRIVERS = "https://www.nvidia.com/drivers"

JETPACK = "sudo apt install nvidia-jetpack"
"""CUDA, cuDNN and TensorRT of the JetPack that is installed."""

INSUFFICIENT_DRIVER = 35
"""cudaErrorInsufficientDriver: the runtime is newer than the driver."""


def gpu_findings(asked: ChildRun, cudnn: ChildRun, jetson: Jetson | None) -> Iterator[Finding]:
    """All of them.

    Args:
        asked: what `probes.cuda` answered.
        cudnn: what `probes.cudnn` answered.
        jetson: the Jetson that this is.
    """
    found: Mapping[str, Any] = asked.value or {"driver": None, "devices": [], "bindings": None, "init": None}
    if asked.fault:
        yield _finding("NVIDIA driver", "wrong", f"asking it ended the process: {asked.fault}")
    else:
        yield _driver(found, jetson)
    # A machine that has no NVIDIA GPU and is not meant to have one lacks nothing.
    expected = (
        bool(found["devices"]) or found["driver"] is not None or jetson is not None or has_nvidia_card()
    )
    lost: State = "missing" if expected else "optional"
    yield _devices(found, lost)
    yield _bindings(found["bindings"], found["driver"], jetson, lost)
    yield _cudnn(cudnn, has_device=bool(found["devices"]), jetson=jetson)


def devices_of(asked: ChildRun) -> list[dict[str, Any]]:
    """The GPUs that the driver names."""
    return list(asked.value["devices"]) if asked.value else []


def target_of(device: Mapping[str, Any]) -> str:
    """A GPU's compute capability as `sm86`."""
    major, minor = device["compute_capability"]
    return f"sm{major}{minor}"


def cuda_text(version: int) -> str:
    """A version of CUDA as it is called: 12060 is 12.6."""
    return f"{version // 1000}.{version % 1000 // 10}"


def bindings_command(driver: int | None, jetson: Jetson | None) -> str:
    """What installs bindings that the driver takes: those of CUDA 13 link a runtime that one of CUDA 12 refuses."""
    if driver is not None:
        return "pip install cuda-bindings" if driver >= 13000 else "pip install 'cuda-bindings<13'"
    old = jetson is not None and jetson.jetpack == 6
    return "pip install 'cuda-bindings<13'" if old else "pip install cuda-bindings"


def _finding(name: str, state: State, found: str, mend: str = "") -> Finding:
    return Finding(group=GPU, name=name, state=state, found=found, mend=mend)


def _driver(found: Mapping[str, Any], jetson: Jetson | None) -> Finding:
    name = "NVIDIA driver"
    if found.get("unloadable"):
        words = f"its library cannot be loaded ({found['unloadable']}): look at LD_LIBRARY_PATH, or install it again"
        return _finding(name, "wrong", words)
    if found["driver"] is None:
        if jetson is not None:
            return _finding(name, "wrong", "its library is not there, on a Jetson", JETPACK)
        if has_nvidia_card():
            words = f"not installed, and an NVIDIA card is there ({DRIVERS})"
            return _finding(name, "missing", words, install_driver())
        return _finding(name, "optional", f"none; a machine without an NVIDIA GPU needs none ({DRIVERS})")
    with nvidia_gpus() as (version, _):
        words = f"{version or 'version not told'}, takes CUDA up to {cuda_text(found['driver'])}"
    if found["init"]:
        return _finding(
            name,
            "wrong",
            f"{words}; cuInit failed with error {found['init']}: after an update of the driver, start the machine "
            "again; in a container, start it with --gpus all",
            "nvidia-smi",
        )
    return _finding(name, "ok", words)


def _devices(found: Mapping[str, Any], lost: State) -> Finding:
    if not found["devices"]:
        return _finding("GPU", lost, "CUDA shows none")
    words = [
        f"cuda:{index} {device['name']} ({target_of(device)}, {device['memory_bytes'] // MIB} MiB"
        f"{', the memory of the host' if device['integrated'] else ''})"
        for index, device in enumerate(found["devices"])
    ]
    return _finding("GPU", "ok", "; ".join(words))


def _bindings(
    found: Mapping[str, Any] | None, driver: int | None, jetson: Jetson | None, lost: State
) -> Finding:
    name, mend = "cuda-bindings", bindings_command(driver, jetson)
    if found is None:
        words = "not installed; engines and ONNX Runtime on CUDA need them"
        return _finding(name, lost, words, mend if lost == "missing" else "")
    if found["error"]:
        return _finding(name, "wrong", f"{found['version']} cannot be imported: {found['error']}", mend)
    runtime = found["runtime"]
    words = f"{found['version']}" + ("" if runtime is None else f" with CUDA runtime {cuda_text(runtime)}")
    newer = driver is not None and runtime is not None and runtime // 1000 > driver // 1000
    if newer or found["status"] == INSUFFICIENT_DRIVER:
        limit = "an unknown version" if driver is None else cuda_text(driver)
        return _finding(
            name,
            "wrong",
            f"{words}, and the driver takes CUDA up to {limit}: error {INSUFFICIENT_DRIVER}",
            mend,
        )
    if found["status"]:
        return _finding(name, "wrong", f"{words} find no device: CUDA error {found['status']}", "nvidia-smi")
    return _finding(name, "ok", words)


def _cudnn(asked: ChildRun, *, has_device: bool, jetson: Jetson | None) -> Finding:
    """ONNX Runtime on CUDA needs it; PyTorch brings its own."""
    if asked.fault:
        return _finding("cuDNN", "wrong", f"loading it ended the process: {asked.fault}")
    version = asked.value["version"]
    if version is None:
        use = "ONNX Runtime on CUDA needs it" if has_device else "only ONNX Runtime on CUDA needs it"
        wheel = "pip install nvidia-cudnn-cu13" if has_device else ""
        state: State = "missing" if has_device else "optional"
        return _finding("cuDNN", state, f"no version 9 found; {use}", wheel if jetson is None else JETPACK)
    text = f"{version // 10000}.{version % 10000 // 100}.{version % 100}"
    return _finding("cuDNN", "ok", f"{text}, {asked.value['place']}")
