"""Layer times of engines: the library's profiler on the fake library, named by its inspector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.profile.latency import device_timer
from gmos_deploy.evaluation.profile.profiling import _Loaded, _TimedCall
from gmos_deploy.evaluation.profile.roofline import GPU_COPIES, Rates, gpu_rates, on_gpu
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.tensorrt.layers import _listener

LENGTHS = {"B": 1, "h": 4, "w": 6}


def on_device(backend: Any, world: Any, name: str, lengths: dict[str, int]) -> dict[str, Any]:
    values = seeded_inputs(name, world.bundle.networks[name].inputs, world.model, lengths)  # type: ignore[arg-type]
    return {key: backend.arrays.upload(array) for key, array in values.items()}


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_layers_have_their_times(make_world: Any, flavour: str) -> None:
    """Means of a call without the warm-up; the operator where the plan has it."""
    world = make_world(flavour=flavour)
    backend = world.backend()
    inputs = on_device(backend, world, "pi3_decoder", LENGTHS)
    found = backend.layer_times("pi3_decoder", inputs, warm_up=2, iterations=3)
    assert (found.clock, found.iterations) == ("device", 3)
    assert [(layer.name, layer.operator, layer.ms, layer.calls) for layer in found.layers] == [
        ("pi3_decoder_gemm", "gemm", 3.0, 1.0),
        ("__myl_pi3_decoder_AddMul", "", 1.0, 1.0),
    ]
    backend.close()


def test_a_cut_call_counts_all_its_parts(backend: Any, world: Any) -> None:
    """Seven windows on engines for four: each layer runs twice in a call."""
    inputs = on_device(backend, world, "pi3_decoder", {**LENGTHS, "B": 7})
    found = backend.layer_times("pi3_decoder", inputs, warm_up=0, iterations=2)
    assert [(layer.ms, layer.calls) for layer in found.layers] == [(6.0, 2.0), (2.0, 2.0)]


def test_the_next_call_is_not_watched(backend: Any, world: Any) -> None:
    """Calls are captured and computed as before, by the context that was there before."""
    inputs = on_device(backend, world, "pi3_decoder", LENGTHS)
    run = backend.runner("pi3_decoder")
    before = backend.arrays.download(run(inputs)["geometry"])
    backend.layer_times("pi3_decoder", inputs, warm_up=1, iterations=1)
    for _ in range(4):
        np.testing.assert_array_equal(backend.arrays.download(run(inputs)["geometry"]), before)
    assert world.fake_cuda.calls["cudaGraphLaunch"] > 0
    watched = [context for context in world.contexts if context.profiler is not None]
    assert [context.runs for context in watched] == [2]


def test_a_library_that_reports_nothing_is_said(
    backend: Any, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an empty table."""
    name = world.layers("pi3_decoder")[0][0]
    monkeypatch.setattr(type(world), "layers", lambda self, network: [(name, 1.0)][: self.computed["dino"]])
    monkeypatch.setattr("gmos_deploy.runtime.tensorrt.layers._operators", lambda *_: {})
    inputs = on_device(backend, world, "pi3_decoder", LENGTHS)
    with pytest.raises(GmosError, match=r"TensorRT 10\.3\.0 reported no layer times; leave out --layers"):
        backend.layer_times("pi3_decoder", inputs, warm_up=0, iterations=1)


def test_the_device_has_a_clock_of_its_own(backend: Any, world: Any) -> None:
    """The fake's events are 1.5 ms apart: each call is between two of them, the warm-up left out."""
    name = "pi3_decoder"
    entry = _Loaded(
        side=None,  # type: ignore[arg-type]
        backend=backend,
        bundle=world.bundle,
        dtypes={name: {"tokens": "float32"}},
        timer=device_timer(backend),
        rates=Rates(device="gpu", flops=None, bandwidth=1.0, how=""),
    )
    values = seeded_inputs(name, world.bundle.networks[name].inputs, world.model, LENGTHS)  # type: ignore[arg-type]
    call = _TimedCall(entry, name, values)  # type: ignore[arg-type]
    before = world.computed[name]
    for _ in range(3):
        call()
    assert world.computed[name] >= before + 3, "each call was waited for"
    found = call.device_latency(1)
    assert found is not None
    assert found.samples_s == pytest.approx((0.0015, 0.0015))


def test_the_bandwidth_of_an_engines_device(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of engines are on a GPU, and copying them there is timed."""
    monkeypatch.setattr("gmos_deploy.evaluation.profile.roofline.COPY_BYTES", 1 << 16)
    assert on_gpu(backend)
    copies = backend._device.cuda._cuda.calls["cudaMemcpyAsync"]
    assert gpu_rates(backend, "fp32").bandwidth > 0
    assert backend._device.cuda._cuda.calls["cudaMemcpyAsync"] > copies + GPU_COPIES


def test_the_names_of_the_real_library() -> None:
    """What is asked of a context, an engine and the module is there under these names."""
    library = pytest.importorskip("tensorrt_rtx")
    assert hasattr(library.IProfiler, "report_layer_time")
    for name in ("profiler", "enqueue_emits_profile"):
        assert hasattr(library.IExecutionContext, name)
    assert hasattr(library.ICudaEngine, "create_engine_inspector")
    assert hasattr(library.EngineInspector, "get_engine_information")
    assert hasattr(library.LayerInformationFormat, "JSON")
    heard = []
    listener = _listener(library, lambda name, ms: heard.append((name, ms)))
    listener.report_layer_time("a", 1.5)
    assert isinstance(listener, library.IProfiler)
    assert heard == [("a", 1.5)]
