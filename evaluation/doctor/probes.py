"""What libraries answer when they are really used: each question in a process of its own, JSON comes back.

`python -m gmos_deploy.evaluation.doctor.probes NAME … REPORT` asks one. Libraries crash on drivers that do not fit, and
one that is loaded lends its CUDA libraries to the next: neither may colour what is found of another.
"""

from __future__ import annotations

import base64
import ctypes
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ..child_process import ChildRun, child_main, run_child

LIMIT_S = 90.0
"""Of one question: PyTorch takes 20 s to import on a Jetson whose files are not cached."""

CONVOLUTION = base64.b64decode(
    "CAg6YwoPCgF4CgF3EgF5IgRDb252EgFnKhMIAQgBCAEIARABIgQAAABAQgF3WhsKAXgSFgoUCAESEAoCCAEKAggB"
    "CgIIBAoCCARiGwoBeRIWChQIARIQCgIIAQoCCAEKAggECgIIBEIECgAQDQ=="
)
"""An ONNX model, opset 13: y = Conv(x, w) with x (1, 1, 4, 4) float32 and w = 2. On CUDA it needs cuDNN."""

MAJOR_ATTRIBUTE, MINOR_ATTRIBUTE, INTEGRATED_ATTRIBUTE = 75, 76, 18
"""CUdevice_attribute: compute capability, and whether the memory is the host's."""

CUDNN = {"win32": "cudnn64_9.dll"}.get(sys.platform, "libcudnn.so.9")

Answer = dict[str, Any]


def ask(name: str, *arguments: str) -> ChildRun:
    """Put a question to a library in a new process."""
    return run_child(["-m", __name__, name, *arguments], limit_s=LIMIT_S)


def cuda() -> Answer:
    """The driver, its devices, and NVIDIA's Python bindings on it.

    Of the driver by its own library: versions as 1000 times the major number and 10 times the minor one.
    """
    from ...runtime.cuda.driver import DRIVER, WINDOWS_DRIVER  # noqa: PLC0415 - NumPy

    found: Answer = {"driver": None, "unloadable": "", "init": None, "devices": [], "bindings": None}
    library = WINDOWS_DRIVER if sys.platform == "win32" else DRIVER
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        driver, words = None, str(error)
        # Another file that is not there is one that it needs.
        absent = words.startswith(library) and "No such file" in words
        if not (absent or isinstance(error, FileNotFoundError)):
            found["unloadable"] = words
    if driver is not None:
        version = ctypes.c_int()
        driver.cuDriverGetVersion(ctypes.byref(version))
        found["driver"], found["init"] = version.value, int(driver.cuInit(0))
        if not found["init"]:
            found["devices"] = _devices(driver)
    found["bindings"] = _bindings(with_devices=driver is not None)
    return found


def _devices(driver: Any) -> list[Answer]:  # noqa: ANN401 - a library without types
    count, devices = ctypes.c_int(), []
    driver.cuDeviceGetCount(ctypes.byref(count))
    for index in range(count.value):
        device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        values = []
        for attribute in (MAJOR_ATTRIBUTE, MINOR_ATTRIBUTE, INTEGRATED_ATTRIBUTE):
            value = ctypes.c_int()
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            values.append(value.value)
        devices.append(
            {
                "name": name.value.decode(errors="replace"),
                "compute_capability": values[:2],
                "integrated": bool(values[2]),
                "memory_bytes": memory.value,
            }
        )
    return devices


def _bindings(*, with_devices: bool) -> Answer | None:
    try:
        from cuda.bindings import runtime  # noqa: PLC0415 - an extra
    except ImportError as error:
        try:
            return {"version": metadata.version("cuda-bindings"), "error": str(error)}
        except metadata.PackageNotFoundError:
            return None
    found: Answer = {"version": metadata.version("cuda-bindings"), "error": None, "status": None}
    status, version = runtime.cudaRuntimeGetVersion()
    found["runtime"] = None if int(status) else int(version)
    if with_devices:
        # Without a driver older bindings raise errors of their own.
        status, count = runtime.cudaGetDeviceCount()
        found["status"], found["devices"] = int(status), None if int(status) else int(count)
    return found


def onnxruntime(device: str) -> Answer:
    """A convolution on ONNX Runtime, opened as the product opens its networks."""
    import numpy as np  # noqa: PLC0415

    from ...runtime.onnx.sessions import (  # noqa: PLC0415
        SessionOptions,
        choose_device,
        load_onnxruntime,
        open_session,
    )

    module = load_onnxruntime()
    found: Answer = {"version": module.__version__, "providers": module.get_available_providers()}
    try:
        session = open_session(CONVOLUTION, choose_device(device, module), SessionOptions(), module).session
        x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
        (y,) = session.run(None, {"x": x})
        found["error"] = (
            None if np.allclose(y, 2 * x) else f"a convolution gives {y.ravel()[:4]}, expected 2 x"
        )
    except GmosError as error:
        found["error"] = str(error)
    # The extension module's exceptions have no common base but this.
    except Exception as error:  # noqa: BLE001
        found["error"] = " ".join(str(error).split())
    return found


def torch() -> Answer:
    """PyTorch, whether it sees the GPU, and what the reference needs beside it."""
    import torch as library  # noqa: PLC0415 - seconds

    found: Answer = {
        "version": library.__version__,
        "cuda": library.version.cuda,
        "missing": [name for name in ("sam2", "safetensors") if find_spec(name) is None],
        "error": None,
        "device": None,
    }
    if not library.cuda.is_available():
        return found
    found["device"] = library.cuda.get_device_name(0)
    try:
        x = library.arange(16.0, device="cuda").reshape(1, 1, 4, 4)
        y = library.nn.functional.conv2d(x, library.full((1, 1, 1, 1), 2.0, device="cuda"))
        if not library.allclose(y, 2 * x):
            found["error"] = "a convolution on the GPU gives wrong values"
    except RuntimeError as error:
        found["error"] = str(error).splitlines()[0]
    return found


def tensorrt(flavour: str, device: str = "") -> Answer:
    """A TensorRT library: loaded, and where there is a GPU, with a builder and a runtime."""
    from ...runtime.tensorrt.library import FLAVOURS, load_tensorrt  # noqa: PLC0415

    (chosen,) = (one for one in FLAVOURS if one == flavour)
    library = load_tensorrt(chosen)
    found: Answer = {"version": library.full_version, "targets": list(library.targets), "error": None}
    if device:
        try:
            library.module.Builder(library.logger)
            library.module.Runtime(library.logger)
        # The bindings' word for what the library could not make.
        except TypeError:
            found["error"] = library.log.reason()
    return found


def cudnn() -> Answer:
    """The cuDNN that a program finds: on the system's path, or in NVIDIA's wheel."""
    wheel = find_spec("nvidia.cudnn") if find_spec("nvidia") is not None else None
    folders = [] if wheel is None else [Path(place) for place in wheel.submodule_search_locations or ()]
    places = [CUDNN, *(str(folder / part / CUDNN) for folder in folders for part in ("lib", "bin"))]
    for place in places:
        try:
            library = ctypes.CDLL(place)
        except OSError:
            continue
        library.cudnnGetVersion.restype = ctypes.c_size_t
        return {"version": int(library.cudnnGetVersion()), "place": place}
    return {"version": None, "place": None}


QUESTIONS: Mapping[str, Callable[..., Answer]] = {
    function.__name__: function for function in (cuda, onnxruntime, torch, tensorrt, cudnn)
}


def main() -> int:
    """Answer one question."""
    name, *arguments, report = sys.argv[1:]
    return child_main(lambda tell: tell(QUESTIONS[name](*arguments)), Path(report))


if __name__ == "__main__":
    sys.exit(main())
