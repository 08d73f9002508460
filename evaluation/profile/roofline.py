"""How far a network is from what its device can do: work counted from the graph against measured rates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ...runtime.backend import Backend
from ...runtime.bundle.manifest import BundleNetwork
from ...runtime.host_memory import usable_cores
from ...runtime.precision import ELEMENT_TYPES, PRECISIONS
from ...runtime.shapes import PI3_AXES, size_of

PRODUCT_SIDE = 1536
"""Side of the float32 matrices that the processor's rate is measured with."""

GPU_PRODUCT_SIDE = 8192
"""The same on a GPU: large enough that starting it costs nothing."""

COPY_BYTES = 64 << 20
"""Of each copy that bandwidth is measured with: more than the caches of a processor hold."""

GPU_COPIES = 10
"""Copies before a GPU is waited for."""

ROUNDS = 5
"""Measurements of a rate, of which the best counts: others only say that the machine was busy."""

CPU, GPU = "cpu", "gpu"

Bound = Literal["compute", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a device does at best: operations and bytes per second, and how that was measured.

    `flops` is None where matrix products could not be timed.
    """

    device: str
    flops: float | None
    bandwidth: float
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a call must at least do: a multiply-add is two operations.

    `moved_bytes` are the weights, inputs and outputs, each once: what lies between the layers may stay in
    a cache. Either is None where it is not known. `quantised` products are faster than those that rates are
    measured with.
    """

    flops: float | None
    moved_bytes: float | None
    quantised: bool = False


class Limit(NamedTuple):
    """The least time of a call on a device, and what sets it."""

    seconds: float
    bound: Bound


def limit(work: Work, rates: Rates) -> Limit | None:
    """The roofline of a call; None where its operations or the device's rate for them are not known."""
    if work.quantised or work.flops is None or (work.flops and rates.flops is None):
        return None
    computing_s = work.flops / rates.flops if rates.flops else 0.0
    moving_s = (work.moved_bytes or 0.0) / rates.bandwidth
    if not computing_s and not moving_s:
        return None
    return Limit(computing_s, "compute") if computing_s >= moving_s else Limit(moving_s, "memory")


def network_work(network: BundleNetwork, lengths: Mapping[str, int]) -> Work:
    """The work of a call at these lengths by axis letter, as the bundle counts it.

    Networks without products, such as the resizing ones, count no operations.
    """
    flops = scaled_flops(network, lengths) if network.flops else 0.0
    return Work(
        flops=flops,
        moved_bytes=_moved_bytes(network, _with_grid(network, lengths)),
        quantised=PRECISIONS[network.precision].quantised,
    )


def _with_grid(network: BundleNetwork, lengths: Mapping[str, int]) -> Mapping[str, int]:
    """With the patches of frames whose outputs are counted in them."""
    at = network.flops_at
    return {
        **{
            patches: lengths[pixels] // (at[pixels] // at[patches])
            for pixels, patches in PI3_AXES.items()
            if {patches, pixels} <= at.keys() and pixels in lengths and patches not in lengths
        },
        **lengths,
    }


def scaled_flops(network: BundleNetwork, lengths: Mapping[str, int]) -> float | None:
    """Operations at these lengths: proportional to the batch or the objects, unknown where others differ."""
    scale = 1.0
    for axis, counted in network.flops_at.items():
        length = lengths.get(axis, counted)
        if length == counted:
            continue
        if axis not in ("B", "O"):
            return None
        scale = length / counted
    # Work that all objects of a call share is counted once: proportion would be wrong.
    shared = any(tensor.axes[:1] == (1,) for tensor in network.inputs)
    return None if (shared and scale != 1.0) or not network.flops else network.flops * scale


def _moved_bytes(network: BundleNetwork, lengths: Mapping[str, int]) -> float | None:
    """Weights, inputs and outputs once each; None where an output's length follows from no input."""
    total = float(network.parameters * PRECISIONS[network.precision].weight_bytes)
    for tensor in (*network.inputs, *network.outputs):
        if tensor.host:
            continue
        if any(isinstance(axis, str) and axis not in lengths for axis in tensor.axes):
            return None
        total += math.prod(size_of(tensor, lengths)) * ELEMENT_TYPES[tensor.dtype].bytes
    return total


def host_rates() -> Rates:
    """The rates of this process's processor: float32 products, and copies by all its cores."""
    a = np.random.default_rng(0).standard_normal((PRODUCT_SIDE, PRODUCT_SIDE), dtype=np.float32)
    product = np.empty_like(a)
    flops = 2 * PRODUCT_SIDE**3 / _best(lambda: np.matmul(a, a, out=product))
    how = "NumPy float32 products and copies"
    return Rates(device=CPU, flops=flops, bandwidth=_host_bandwidth(), how=how)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of a few."""
    found = math.inf
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        found = min(found, time.perf_counter() - start)
    return found


def _host_bandwidth() -> float:
    """Bytes read and written per second; NumPy copies without the interpreter's lock."""
    cores = usable_cores()
    parts = [np.ones((2, COPY_BYTES // cores), np.uint8) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(*part), parts))

        return sum(part.nbytes for part in parts) / _best(copy)


def on_gpu(backend: Backend) -> bool:
    """Whether a backend's arrays are on a GPU."""
    array = backend.arrays.upload(np.zeros(1, np.uint8))
    return not isinstance(array, np.ndarray) and bool(getattr(array, "is_cuda", True))


def gpu_rates(backend: Backend, precision: str) -> Rates:
    """The rates of the GPU that a backend runs on: its own copies, and PyTorch's products if that is here.

    Args:
        backend: on a GPU.
        precision: of the products.
    """
    arrays = backend.arrays
    parts = [arrays.upload(np.zeros(COPY_BYTES, np.uint8)) for _ in range(2)]

    def copy() -> None:
        for _ in range(GPU_COPIES):
            arrays.stack(parts)
        arrays.synchronize()

    copy()
    bandwidth = GPU_COPIES * 2 * 2 * COPY_BYTES / _best(copy)
    flops = _torch_flops(precision)
    how = f"copies of the backend, {'no PyTorch' if flops is None else f'PyTorch {precision} products'}"
    return Rates(device=GPU, flops=flops, bandwidth=bandwidth, how=how)


def _torch_flops(precision: str) -> float | None:
    """The rate of matrix products on the current GPU; None where PyTorch sees none."""
    try:
        import torch  # noqa: PLC0415 - a device that runs bundles does not have it
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    dtype: Any = getattr(torch, PRECISIONS[precision].dtype)
    a = torch.randn(GPU_PRODUCT_SIDE, GPU_PRODUCT_SIDE, device="cuda", dtype=dtype)

    def product() -> None:
        torch.matmul(a, a)
        torch.cuda.synchronize()

    product()
    return 2 * GPU_PRODUCT_SIDE**3 / _best(product)
