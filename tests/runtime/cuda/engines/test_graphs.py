"""CUDA graphs: captured when a call comes again, replayed with other data, and never stale."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.bundle.engine_files import opened_cache, sealed_cache
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.tensorrt import graphs as engine_graphs
from gmos_deploy.runtime.tensorrt.graphs import CAPTURE_AT_CALL, GRAPHS_PER_NETWORK, IDLE_CALLS


def decode(backend: Any, world: Any, objects: int, shift: float = 0.0) -> None:
    """One call of the mask decoder, checked."""
    inputs = seeded_inputs(
        "mask_decoder", world.bundle.networks["mask_decoder"].inputs, world.model, {"O": objects}
    )
    inputs = {name: array + np.float32(shift) for name, array in inputs.items()}
    check(backend, world, "mask_decoder", inputs)


def check(backend: Any, world: Any, name: str, inputs: dict[str, NDArray[Any]]) -> None:
    given = {k: v if k == "video_hw" else backend.arrays.upload(v) for k, v in inputs.items()}
    answer = backend.runner(name)(given)
    for output, values in world.compute(name, inputs).items():
        np.testing.assert_array_equal(backend.arrays.download(answer[output]), values)


def launches(world: Any) -> int:
    return world.fake_cuda.calls["cudaGraphLaunch"]


def test_a_call_that_comes_again_is_captured_and_replayed(backend: Any, world: Any) -> None:
    """With other data each time: inputs are copied into the graph's buffers and outputs out of them."""
    for number in range(CAPTURE_AT_CALL + 3):
        decode(backend, world, 2, shift=number)
    assert launches(world) == 4
    assert world.fake_cuda.calls["cudaGraphInstantiate"] == 1


def test_outputs_of_a_graph_are_not_overwritten_by_its_next_run(backend: Any, world: Any) -> None:
    """The tracker keeps masks for many frames."""
    run = backend.runner("memory_encoder")
    spec = world.bundle.networks["memory_encoder"].inputs
    inputs = seeded_inputs("memory_encoder", spec, world.model, {"O": 1})
    kept = []
    for number in range(6):
        inputs["f"] = inputs["f"] + np.float32(number)
        kept.append((dict(inputs), run({k: backend.arrays.upload(v) for k, v in inputs.items()})))
    for given, answer in kept:
        wanted = world.compute("memory_encoder", given)["memory"]
        np.testing.assert_array_equal(backend.arrays.download(answer["memory"]), wanted)


def test_each_shape_has_its_graph_and_its_context(backend: Any, world: Any) -> None:
    """Changing the shape of a context would change what its graph computes."""
    for _ in range(CAPTURE_AT_CALL + 1):
        for objects in (1, 2, 3):
            decode(backend, world, objects)
    assert world.fake_cuda.calls["cudaGraphInstantiate"] == 3
    assert launches(world) == 6


def test_a_replay_costs_no_shapes(backend: Any, world: Any) -> None:
    """Calls at two shapes in turn launch their graphs; no context is set to either again."""
    for _ in range(CAPTURE_AT_CALL):
        decode(backend, world, 1)
        decode(backend, world, 2)
    contexts = [context for context in world.contexts if context.engine.name == "mask_decoder"]
    before = [dict(context.shapes) for context in contexts]
    runs = [context.runs for context in contexts]
    for context in contexts:
        context.shapes = {}
    decode_only = launches(world)
    inputs = seeded_inputs(
        "mask_decoder", world.bundle.networks["mask_decoder"].inputs, world.model, {"O": 2}
    )
    backend.runner("mask_decoder")({name: backend.arrays.upload(array) for name, array in inputs.items()})
    assert launches(world) == decode_only + 1
    assert all(not context.shapes for context in contexts)
    assert [context.runs for context in contexts] == runs
    for context, shapes in zip(contexts, before, strict=True):
        context.shapes = shapes


def test_host_values_are_part_of_a_graph(backend: Any, world: Any) -> None:
    """Another video size is another call, though no shape on the device differs."""
    spec = world.bundle.networks["tracked_labels"].inputs
    for _ in range(CAPTURE_AT_CALL + 1):
        for height in (70, 90):
            inputs = seeded_inputs("tracked_labels", spec, world.model, {"O": 2, "H": height, "W": 80})
            check(backend, world, "tracked_labels", inputs)
    assert launches(world) == 4


def test_graphs_are_few_and_only_idle_ones_make_room(backend: Any, world: Any) -> None:
    """Shapes that take turns do not capture each other away."""
    for _ in range(CAPTURE_AT_CALL + 1):
        for objects in range(1, GRAPHS_PER_NETWORK + 3):
            decode(backend, world, objects)
    assert world.fake_cuda.calls["cudaGraphInstantiate"] == GRAPHS_PER_NETWORK
    for _ in range(IDLE_CALLS):
        decode(backend, world, 12)
    assert world.fake_cuda.calls["cudaGraphInstantiate"] == GRAPHS_PER_NETWORK + 1
    assert world.fake_cuda.calls["cudaGraphExecDestroy"] == 1


def test_a_graph_is_void_when_the_activation_memory_moves(backend: Any, world: Any) -> None:
    """A larger call of another network took the memory that is built into it."""
    for _ in range(CAPTURE_AT_CALL):
        decode(backend, world, 1)
    version = backend._device.activations.version
    large = np.zeros((4, 3, world.model.sam2_image_px, world.model.sam2_image_px), np.float32)
    backend._device.activations.require(64 << 20)
    check(backend, world, "sam2_encoder", {"images": large})
    assert backend._device.activations.version > version
    before = launches(world)
    decode(backend, world, 1, shift=2)
    assert world.fake_cuda.calls["cudaGraphExecDestroy"] == 1
    assert launches(world) == before + 1, "captured anew"


def test_large_calls_are_not_captured(backend: Any, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying their inputs would cost more than launching their kernels."""
    monkeypatch.setattr(engine_graphs, "GRAPH_BYTES", 1000)
    for _ in range(CAPTURE_AT_CALL + 1):
        decode(backend, world, 1)
    assert launches(world) == 0


def test_graphs_can_be_turned_off(world: Any) -> None:
    """With --no_cuda_graphs."""
    backend = world.backend(cuda_graphs=False)
    for _ in range(CAPTURE_AT_CALL + 1):
        decode(backend, world, 1)
    assert world.fake_cuda.calls["cudaStreamBeginCapture"] == 0
    backend.close()


@pytest.mark.parametrize("where", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_what_cannot_be_captured_runs_without(
    backend: Any, world: Any, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """The answer is right, the reason is said once, and nobody tries again."""
    with caplog.at_level(logging.INFO):
        for number in range(CAPTURE_AT_CALL + 3):
            if number == CAPTURE_AT_CALL - 1:
                world.fake_cuda.failures[where] = 901
            decode(backend, world, 1, shift=number)
    assert caplog.text.count("mask_decoder runs without CUDA graphs: ") == 1
    assert f"{where} failed (CUDA error 901, some reason)" in caplog.text
    assert world.fake_cuda.calls["cudaStreamBeginCapture"] == 1


def test_no_memory_for_a_graph_is_no_error(
    backend: Any, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The call runs as before."""
    for _ in range(CAPTURE_AT_CALL - 1):
        decode(backend, world, 3)
    world.no_contexts = True
    with caplog.at_level(logging.INFO):
        decode(backend, world, 3)
    assert "mask_decoder runs without CUDA graphs" in caplog.text
    world.no_contexts = False


@pytest.mark.parametrize("where", ["cudaGraphInstantiate", "cudaGraphLaunch"])
def test_no_memory_to_make_or_launch_a_graph_is_no_error(
    backend: Any, world: Any, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """The call runs without, and what the network's graphs have taken is given back."""
    for _ in range(CAPTURE_AT_CALL):
        decode(backend, world, 2)
    for _ in range(CAPTURE_AT_CALL - 1):
        decode(backend, world, 3)
    world.fake_cuda.failures[where] = 2
    with caplog.at_level(logging.INFO):
        for number in range(3):
            decode(backend, world, 3, shift=number)
            decode(backend, world, 2, shift=number)
    assert caplog.text.count("mask_decoder runs without CUDA graphs: cuda:0 (Fake GPU) has no room left") == 1
    calls = world.fake_cuda.calls
    made = calls["cudaGraphInstantiate"] - (where == "cudaGraphInstantiate")
    assert calls["cudaGraphExecDestroy"] == made


def test_a_library_without_memory_in_the_first_run_of_a_graph_is_no_error(
    backend: Any, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its context takes memory of its own when it runs, beside what the other one has."""
    for _ in range(CAPTURE_AT_CALL - 1):
        decode(backend, world, 3)
    first = len(world.contexts)
    world.starved = lambda: len(world.contexts) > first and world.contexts[-1].runs == 0
    with caplog.at_level(logging.INFO):
        decode(backend, world, 3)
    assert "mask_decoder runs without CUDA graphs: cuda:0 (Fake GPU) has no room left" in caplog.text


def test_a_device_lost_while_capturing_is_an_error(world: Any) -> None:
    """It is no reason to go on without graphs."""
    backend = world.backend()
    for _ in range(CAPTURE_AT_CALL - 1):
        decode(backend, world, 1)
    world.fake_cuda.failures["cudaStreamEndCapture"] = 719
    with pytest.raises(Exception, match=r"CUDA error 719.*cannot be used any more"):
        decode(backend, world, 1)
    backend.close()


def test_the_rtx_library_replays_what_it_has_captured(make_world: Any) -> None:
    """It captures anew when an address changes; the tracker's arrays are at others in every call."""
    world = make_world(flavour="tensorrt-rtx")
    backend = world.backend()
    kept = []
    for number in range(CAPTURE_AT_CALL + 5):
        kept.append(backend.arrays.upload(np.full(1 + 700 * number, number)))
        for objects in (1, 2):
            decode(backend, world, objects, shift=number)
    assert launches(world) == world.fake_cuda.calls["cudaStreamBeginCapture"] == 0
    assert world.captures == {"mask_decoder": 2}
    assert world.replays == {"mask_decoder": 2 * 5}
    backend.close()


def test_kernels_that_the_rtx_library_compiled_are_kept(
    make_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One cache for all contexts of an engine; those compiled in one run serve the next."""
    world = make_world(flavour="tensorrt-rtx")
    backend = world.backend()
    with caplog.at_level(logging.INFO):
        for _ in range(CAPTURE_AT_CALL + 1):
            decode(backend, world, 1)
        for batch in (2, 2, 1):
            images = np.zeros((batch, 3, *[world.model.sam2_image_px] * 2), np.float32)
            check(backend, world, "sam2_encoder", {"images": images})
    side = world.model.sam2_image_px
    assert [message for message in caplog.messages if "kernels are compiled" in message] == [
        f"sam2_encoder: kernels are compiled for images {batch}x3x{side}x{side}, and kept for the next run"
        for batch in (2, 1)
    ]
    decoder = [found for found in world.caches if found[2] == "none"]
    assert [graphs for _, graphs, _ in decoder] == ["disabled", "whole"]
    assert decoder[0][0] is decoder[1][0]
    assert ("disabled", "eager") in {found[1:] for found in world.caches}
    backend.close()
    kept = world.bundle.root / "engines/tensorrt-rtx/sam2_encoder.runtime_cache"
    plan = world.records["sam2_encoder"].plan_sha256
    assert opened_cache(kept.read_bytes(), plan) == (b"compiled here", None)
    kept.write_bytes(sealed_cache(b"compiled before", plan))
    changed = kept.stat().st_mtime_ns
    backend = world.backend(cuda_graphs=False)
    caplog.clear()
    check(backend, world, "sam2_encoder", {"images": images})
    backend.close()
    assert "kernels are compiled" not in caplog.text
    assert world.caches[-1][0].content == b"compiled before"
    assert kept.stat().st_mtime_ns == changed, "nothing new was compiled"


def test_a_runtime_cache_that_cannot_be_kept_costs_no_results(
    make_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One of another machine is ignored; a place that cannot be written is a warning."""
    world = make_world(flavour="tensorrt-rtx")
    kept = world.bundle.root / "engines/tensorrt-rtx/mask_decoder.runtime_cache"
    kept.write_bytes(sealed_cache(b"of another driver", world.records["mask_decoder"].plan_sha256))
    backend = world.backend()
    with caplog.at_level(logging.INFO):
        decode(backend, world, 1)
        kept.unlink()
        kept.mkdir()
        (kept / "in the way").touch()
        backend.close()
    assert "the runtime cache does not fit this machine" in caplog.text
    assert "kernels are compiled again at the next run: cannot write" in caplog.text
