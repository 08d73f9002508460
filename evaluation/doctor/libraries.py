"""Findings on the libraries that run or export networks, as they really load here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from ...runtime.tensorrt.library import FLAVOURS, MODULES, Flavour
from ..child_process import ChildRun
from .finding import LIBRARIES, Finding, State
from .gpu import JETPACK, target_of
from .system import Jetson

EXPORTERS = ("onnx", "onnxscript")

INSTALL = "pip install 'gmos-deploy[{}]'"

CUDA_PROVIDER = "CUDAExecutionProvider"

LOAD_ERROR = re.compile(r"Failed to load library \S+ with error: (.+)")
"""What ONNX Runtime prints of a provider whose libraries are not there."""

Ask = Callable[..., ChildRun]
"""`probes.ask`."""


def library_findings(
    ask: Ask,
    devices: Sequence[Mapping[str, Any]],
    jetson: Jetson | None,
    *,
    device: int = 0,
    driver: int | None = None,
) -> Iterator[Finding]:
    """All of them.

    Args:
        ask: puts a question to a library.
        devices: the GPUs of this machine.
        jetson: the Jetson that this is.
        device: the number of the GPU that is asked about.
        driver: the newest CUDA that the driver takes, 12060 for 12.6; None without one.
    """
    gpu = devices[device] if device < len(devices) else None
    yield from _torch(ask, has_gpu=gpu is not None)
    missing = [name for name in EXPORTERS if find_spec(name) is None]
    yield _finding(
        "export",
        "optional" if missing else "ok",
        f"gmos-export onnx needs {' and '.join(missing)}" if missing else _versions(EXPORTERS),
        INSTALL.format("export") if missing else "",
    )
    yield from _onnxruntime(ask, jetson, device=None if gpu is None else f"cuda:{device}")
    for flavour in FLAVOURS:
        yield from _tensorrt(ask, flavour, gpu, _install_tensorrt(flavour, jetson, driver))


def _finding(name: str, state: State, found: str, mend: str = "") -> Finding:
    return Finding(group=LIBRARIES, name=name, state=state, found=found, mend=mend)


def _versions(names: Sequence[str]) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _torch(ask: Ask, *, has_gpu: bool) -> Iterator[Finding]:
    mend = INSTALL.format("ref")
    if find_spec("torch") is None:
        yield _finding(
            "torch", "optional", "PyTorch is not installed; the reference and the export need it", mend
        )
        return
    asked = ask("torch")
    if asked.fault:
        yield _finding("torch", "wrong", f"importing PyTorch: {asked.fault}", f"{mend} --force-reinstall")
        return
    found = asked.value
    if found["missing"]:
        words = f"PyTorch {found['version']}, without {' and '.join(found['missing'])}"
        yield _finding("torch", "missing", words, mend)
        return
    yield _finding("torch", "ok", f"PyTorch {found['version']}")
    if not has_gpu:
        return
    if found["cuda"] is None:
        words = "this PyTorch is built for CPUs; https://pytorch.org/get-started names the one for this CUDA"
        yield _finding("torch CUDA", "missing", words)
    elif found["device"] is None:
        words = (
            f"built for CUDA {found['cuda']}, and sees no GPU: the driver is too old for it, or hides the GPU"
        )
        yield _finding("torch CUDA", "wrong", words, "nvidia-smi")
    elif found["error"]:
        yield _finding("torch CUDA", "wrong", f"CUDA {found['cuda']} on {found['device']}: {found['error']}")
    else:
        yield _finding("torch CUDA", "ok", f"CUDA {found['cuda']} on {found['device']}")


def _onnxruntime(ask: Ask, jetson: Jetson | None, *, device: str | None) -> Iterator[Finding]:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    kind = "gpu" if device is not None and jetson is None else "cpu"
    if len(installed) > 1:
        yield _finding(
            "onnxruntime",
            "wrong",
            "onnxruntime and onnxruntime-gpu are both installed, and one overwrites the other",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && {INSTALL.format(kind)}",
        )
        return
    if find_spec("onnxruntime") is None:
        yield _finding("onnxruntime", "missing", "not installed; bundles need it", INSTALL.format(kind))
        return
    asked = ask("onnxruntime", "cpu")
    if asked.fault:
        yield _finding("onnxruntime", "wrong", asked.fault, f"{INSTALL.format(kind)} --force-reinstall")
        return
    found = asked.value
    yield _finding("onnxruntime", "ok", f"{found['version']}, offers {', '.join(found['providers'])}")
    yield _provider("onnxruntime CPU", asked, "")
    if device is None:
        return
    if CUDA_PROVIDER not in found["providers"]:
        words = "this ONNX Runtime is built without CUDA"
        if jetson is not None:
            yield _finding("onnxruntime CUDA", "missing", f"{words}; on a Jetson engines run in its place")
            return
        again = f"pip uninstall -y onnxruntime && {INSTALL.format('gpu')}"
        yield _finding("onnxruntime CUDA", "missing", words, again)
        return
    cuda = "pip install 'onnxruntime-gpu[cuda,cudnn]'" if jetson is None else JETPACK
    yield _provider("onnxruntime CUDA", ask("onnxruntime", device), cuda)


def _provider(name: str, asked: ChildRun, mend: str) -> Finding:
    error = asked.fault or asked.value["error"]
    if error:
        # What ONNX Runtime could not load it only prints.
        lost = LOAD_ERROR.search(asked.log)
        return _finding(name, "wrong", error if lost is None else f"{lost[1].strip()}: {error}", mend)
    return _finding(name, "ok", "a convolution runs and is right")


def _install_tensorrt(flavour: Flavour, jetson: Jetson | None, driver: int | None) -> str:
    """The command that installs a TensorRT library here; empty where it would be of no use."""
    if flavour == "tensorrt-rtx":
        return "" if jetson is not None else INSTALL.format("rtx")
    if jetson is not None:
        return f"{JETPACK} && python3 -m venv --system-site-packages .venv"
    if driver is None:
        return ""
    # Not the extra gpu: its ONNX Runtime would come beside the one that is there.
    return f"pip install 'tensorrt-cu{min(driver // 1000, 13)}>=10.3,<12'"


def _tensorrt(ask: Ask, flavour: Flavour, gpu: Mapping[str, Any] | None, mend: str) -> Iterator[Finding]:
    if find_spec(MODULES[flavour]) is None:
        if gpu is not None and mend:
            yield _finding(flavour, "missing", "not installed", mend)
            return
        use = "builds engines for other machines" if mend else "of no use on this machine"
        yield _finding(flavour, "optional", f"not installed; {use}", mend)
        return
    asked = ask("tensorrt", flavour, *(["cuda"] if gpu is not None else []))
    if asked.fault:
        # Refusals of a version or a missing shared library name their own command.
        yield _finding(flavour, "wrong", asked.fault)
        return
    found = asked.value
    if found["error"]:
        yield _finding(flavour, "wrong", f"{found['version']} does not start: {found['error']}")
        return
    targets = found["targets"]
    ahead = f", builds for {', '.join(targets)}" if targets else ""
    yield _finding(flavour, "ok", f"{found['version']}{ahead}")
    if targets and gpu is not None:
        fits = target_of(gpu) in targets
        words = f"{gpu['name']} is {target_of(gpu)}" + (
            ""
            if fits
            else f", for which TensorRT-RTX {found['version']} has no kernels; use --backend tensorrt"
        )
        yield _finding("RTX target", "ok" if fits else "optional", words)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
