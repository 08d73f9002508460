"""The roofline: work counted from a bundle's record, and the limit that measured rates set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gmos_deploy.evaluation.profile.roofline import (
    Rates,
    Work,
    gpu_rates,
    host_rates,
    limit,
    network_work,
    on_gpu,
    scaled_flops,
)
from gmos_deploy.runtime.bundle.manifest import BundleNetwork, BundleTensor

Axes = tuple[str | int, ...]


def network(
    *inputs: Axes, outputs: tuple[Axes, ...] = (), at: Mapping[str, int], flops: float = 800.0, **fields: Any
) -> BundleNetwork:
    def tensors(axes: tuple[Axes, ...], dtype: str) -> tuple[BundleTensor, ...]:
        return tuple(
            BundleTensor(name=f"t{index}", axes=shape, dtype=dtype, values="")
            for index, shape in enumerate(axes)
        )

    return BundleNetwork(
        name="dino",
        precision=fields.pop("precision", "fp32"),
        inputs=tensors(inputs, "uint8"),
        outputs=tensors(outputs, "float16"),
        graphs={},
        profiles=(),
        parameters=fields.pop("parameters", 0),
        flops=flops,
        flops_at=at,
        gate={},
    )


def test_flops_are_scaled_or_unknown() -> None:
    """Proportional to the batch; unknown at another grid, and where objects share work."""
    batched = network(("B", "h", "w"), at={"B": 8, "h": 7, "w": 9})
    assert scaled_flops(batched, {"B": 2, "h": 7, "w": 9}) == 200
    assert scaled_flops(batched, {"B": 2, "h": 8, "w": 9}) is None
    shared = network((1, 64), ("O", 64), at={"O": 4})
    assert scaled_flops(shared, {"O": 4}) == 800
    assert scaled_flops(shared, {"O": 1}) is None


def test_bytes_are_weights_inputs_and_outputs() -> None:
    """Each once, in their own width; patches follow from pixels; an unknown length leaves them unknown."""
    at = {"B": 8, "h": 7, "w": 9, "Hp": 98, "Wp": 126}
    seen = network(
        ("B", 3, "Hp", "Wp"), outputs=(("B", "h", "w", 64),), at=at, parameters=1000, precision="fp16"
    )
    work = network_work(seen, {"B": 2, "Hp": 98, "Wp": 126})
    assert work.flops == 200
    assert work.moved_bytes == 1000 * 2 + 2 * 3 * 98 * 126 + 2 * 7 * 9 * 64 * 2
    unknown = network(("B", 3), outputs=(("B", "Q"),), at={"B": 8})
    assert network_work(unknown, {"B": 1}).moved_bytes is None


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_networks_have_bytes_and_no_limit(precision: str) -> None:
    """A byte a weight; their products are faster than those that rates are measured with."""
    seen = network(("B", 3), outputs=(("B", 2),), at={"B": 8}, parameters=1000, precision=precision)
    work = network_work(seen, {"B": 1})
    assert work.moved_bytes == 1000 + 3 * 1 + 2 * 2
    assert work.flops
    assert limit(work, Rates(device="cpu", flops=100.0, bandwidth=10.0, how="")) is None


def test_networks_without_products_are_bound_by_memory() -> None:
    """A resize has no counted operations, and still reads and writes."""
    resize = network(("B", 100), outputs=(("B", 50),), at={"B": 8, "H": 720}, flops=0.0)
    work = network_work(resize, {"B": 1, "H": 480})
    assert (work.flops, work.moved_bytes) == (0.0, 200)
    found = limit(work, Rates(device="gpu", flops=None, bandwidth=100.0, how=""))
    assert found is not None
    assert (found.seconds, found.bound) == (2.0, "memory")


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Work(flops=1000.0, moved_bytes=50.0), (10.0, "compute")),
        (Work(flops=100.0, moved_bytes=50.0), (5.0, "memory")),
        (Work(flops=100.0, moved_bytes=None), (1.0, "compute")),
        (Work(flops=None, moved_bytes=50.0), None),
        (Work(flops=0.0, moved_bytes=None), None),
    ],
)
def test_the_larger_of_both_binds(work: Work, expected: tuple[float, str] | None) -> None:
    """Operations over rate or bytes over bandwidth; nothing where one side of it is not known."""
    found = limit(work, Rates(device="cpu", flops=100.0, bandwidth=10.0, how=""))
    assert (None if found is None else (found.seconds, found.bound)) == expected


def test_an_unknown_rate_is_no_limit() -> None:
    """A GPU without PyTorch has a bandwidth, and no rate of products."""
    rates = Rates(device="gpu", flops=None, bandwidth=10.0, how="")
    assert limit(Work(flops=100.0, moved_bytes=50.0), rates) is None


def test_rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this processor: beyond what any machine since 2005 does, and below what none does."""
    monkeypatch.setattr("gmos_deploy.evaluation.profile.roofline.COPY_BYTES", 8 << 20)
    monkeypatch.setattr("gmos_deploy.evaluation.profile.roofline.PRODUCT_SIDE", 256)
    found = host_rates()
    assert found.flops is not None
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13


def test_the_bandwidth_of_a_gpu_is_that_of_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten copies of two arrays, read and written, in the second that the fake takes to be done."""
    now = 0.0

    class OnGpu:
        @property
        def arrays(self) -> OnGpu:
            return self

        def upload(self, host: Any) -> Any:
            return object()

        def stack(self, arrays: Any) -> Any:
            assert len(arrays) == 2

        def synchronize(self) -> None:
            nonlocal now
            now += 1.0

    monkeypatch.setattr("gmos_deploy.evaluation.profile.roofline.time.perf_counter", lambda: now)
    monkeypatch.setattr("gmos_deploy.evaluation.profile.roofline._torch_flops", lambda precision: None)
    found = gpu_rates(OnGpu(), "fp16")  # type: ignore[arg-type]
    assert found.bandwidth == 10 * 2 * 2 * (64 << 20)
    assert (found.device, found.flops) == ("gpu", None)
    assert "no PyTorch" in found.how


@pytest.mark.parametrize(
    ("array", "expected"),
    [(np.zeros(1), False), (type("T", (), {"is_cuda": False})(), False), (object(), True)],
)
def test_where_arrays_are(array: Any, expected: bool) -> None:
    """NumPy's and PyTorch's own say; others are on a device."""

    class Backend:
        @property
        def arrays(self) -> Backend:
            return self

        def upload(self, host: Any) -> Any:
            return array

    assert on_gpu(Backend()) is expected  # type: ignore[arg-type]
