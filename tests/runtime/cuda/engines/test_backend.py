"""Engines behind the runtime's backend, on a fake library that computes and a fake device that is late."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.arrays import HostArray
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.bundle.tables import TableMaker
from gmos_deploy.runtime.tensorrt.backend import device_index
from gmos_deploy.runtime.tensorrt.record import engine_directory, plan_path


def inputs_of(world: Any, name: str, lengths: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Seeded inputs, without tables."""
    return seeded_inputs(name, world.bundle.networks[name].inputs, world.model, lengths)


def call(backend: Any, world: Any, name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a network on the device; host inputs stay numpy."""
    hosts = {tensor.name for tensor in world.bundle.networks[name].inputs if tensor.host}
    given = {k: v if k in hosts else backend.arrays.upload(v) for k, v in inputs.items()}
    return {k: backend.arrays.download(v) for k, v in backend.runner(name)(given).items()}


def expected(world: Any, name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the toy network answers to the whole call."""
    maker = TableMaker(world.bundle.table_source(), world.model)
    tables = maker.tables(name, {k: v.shape for k, v in inputs.items()})
    return world.compute(name, {**inputs, **tables})


CALLS = [
    ("sam2_resize", {"B": 2, "H": 90, "W": 120}),
    ("dino", {"B": 3, "Hp": 56, "Wp": 84}),
    ("pi3_decoder", {"B": 2, "h": 4, "w": 6}),
    ("sam2_encoder", {"B": 4}),
    ("proposer", {"B": 2, "h": 4, "w": 6}),
    ("proposal_labels", {"B": 1, "H": 70, "W": 90}),
    ("mask_prompt", {"O": 3}),
    ("memory_attention", {"O": 2, "R": 3, "P": 5}),
    ("memory_attention", {"O": 2, "R": 1, "P": 0}),
    ("mask_decoder", {"O": 2}),
    ("memory_encoder", {"O": 4}),
    ("tracked_labels", {"O": 3, "H": 70, "W": 90}),
]


@pytest.mark.parametrize(("name", "lengths"), CALLS)
def test_a_network_gets_its_inputs_and_gives_its_outputs(
    backend: Any, world: Any, name: str, lengths: dict[str, int]
) -> None:
    """Tables and host inputs too; empty pointers are no inputs without an address."""
    inputs = inputs_of(world, name, lengths)
    given, wanted = call(backend, world, name, inputs), expected(world, name, inputs)
    assert given.keys() == wanted.keys()
    for output, values in wanted.items():
        np.testing.assert_array_equal(given[output], values)
        assert given[output].dtype == values.dtype


def test_nothing_waits_between_networks(backend: Any, world: Any) -> None:
    """Until something is read back nothing has run, and the features were handed on where they lie."""
    frames = backend.arrays.upload(np.zeros((2, 66, 80, 3), np.uint8))
    images = backend.runner("sam2_resize")({"frames": frames})
    features = backend.runner("sam2_encoder")(images)
    copies = world.fake_cuda.calls["cudaMemcpyAsync"]
    side = world.model.sam2_image_px
    prompt = backend.arrays.upload(np.ones((1, side, side), np.uint8))
    backend.runner("mask_prompt")(
        {"prompt": prompt, "f": backend.arrays.stack(backend.arrays.unstack(features["f"])[1:])}
    )
    assert not world.computed
    assert world.fake_cuda.calls["cudaMemcpyAsync"] == copies + 1, "only the prompt was copied"
    assert not any(world.fake_cuda.calls[name] for name in ("cudaStreamSynchronize", "cudaEventSynchronize"))
    backend.arrays.download(features["s0"])
    assert world.computed == {"sam2_resize": 1, "sam2_encoder": 1}, "a download waits for its array only"


def test_a_network_may_be_called_from_any_thread(world: Any) -> None:
    """The device in use is a setting of each thread, and the library takes what is set."""
    backend = world.backend(cuda_graphs=False)
    inputs = {k: backend.arrays.upload(v) for k, v in inputs_of(world, "mask_decoder", {"O": 1}).items()}
    run = backend.runner("mask_decoder")
    run(inputs)
    threads = [threading.Thread(target=run, args=(inputs,), name=f"caller-{i}") for i in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert {("caller-0", 0), ("caller-1", 0)} <= set(world.fake_cuda.entered)
    backend.close()
    assert world.computed["mask_decoder"] == 3


def test_memory_is_taken_once_and_used_again(backend: Any, world: Any) -> None:
    """Over a video's batches nothing new is allocated once the first few are through."""
    resize, encode = backend.runner("sam2_resize"), backend.runner("sam2_encoder")
    allocated = []
    for number in range(8):
        frames = np.full((2, 66, 80, 3), number, np.uint8)
        features = encode(resize({"frames": backend.arrays.upload(frames)}))
        wanted = world.compute("sam2_encoder", expected(world, "sam2_resize", {"frames": frames}))
        np.testing.assert_array_equal(backend.arrays.download(features["f"]), wanted["f"])
        allocated.append(world.fake_cuda.calls["cudaMalloc"])
    assert allocated[3] == allocated[-1]
    assert world.fake_cuda.calls["cudaHostAlloc"] <= 6


def test_a_large_call_is_cut_into_equal_parts(backend: Any, world: Any) -> None:
    """Ten frames where the profile takes four: 4, 3 and 3, written side by side."""
    inputs = inputs_of(world, "dino", {"B": 10, "Hp": 56, "Wp": 84})
    given, wanted = call(backend, world, "dino", inputs), expected(world, "dino", inputs)
    np.testing.assert_array_equal(given["tokens"], wanted["tokens"])
    assert world.computed["dino"] == 3


def test_objects_share_the_features_that_are_not_cut(backend: Any, world: Any) -> None:
    """Twenty objects where the profile takes 16; f has one row for all of them."""
    inputs = inputs_of(world, "memory_attention", {"O": 20, "R": 2, "P": 0})
    given = call(backend, world, "memory_attention", inputs)
    np.testing.assert_array_equal(
        given["conditioned"], expected(world, "memory_attention", inputs)["conditioned"]
    )
    assert world.computed["memory_attention"] == 2


def test_label_maps_at_the_video_size_go_frame_by_frame(backend: Any, world: Any) -> None:
    """Their logits are the largest thing of a run; two frames are two calls."""
    inputs = inputs_of(world, "proposal_labels", {"B": 2, "H": 70, "W": 90})
    given = call(backend, world, "proposal_labels", inputs)
    np.testing.assert_array_equal(given["labels"], expected(world, "proposal_labels", inputs)["labels"])
    assert world.computed["proposal_labels"] == 2


def test_contexts_take_turns_with_one_activation_memory(backend: Any, world: Any) -> None:
    """It has the size of the largest need so far, and nothing else lies in it."""
    call(backend, world, "sam2_encoder", inputs_of(world, "sam2_encoder", {"B": 1}))
    call(backend, world, "sam2_encoder", inputs_of(world, "sam2_encoder", {"B": 4}))
    call(backend, world, "dino", inputs_of(world, "dino", {"B": 1, "Hp": 56, "Wp": 84}))
    contexts = {context.engine.name: context for context in world.contexts}
    assert contexts["dino"].activation == contexts["sam2_encoder"].activation
    side = world.model.sam2_image_px
    assert contexts["dino"].activation[1] - 4 * 4 * 3 * side * side < 2 << 20


def test_an_uploaded_array_may_be_changed_at_once(backend: Any) -> None:
    """The copy runs later, from pinned memory of the backend's own; large arrays go through it in pieces."""
    host = np.random.default_rng(1).integers(0, 255, (5 << 20) + 3, dtype=np.int64)
    before = host.copy()
    array = backend.arrays.upload(host)
    host[:] = 0
    np.testing.assert_array_equal(backend.arrays.download(array), before)


def test_memory_is_not_overwritten_while_it_is_read(backend: Any, world: Any) -> None:
    """Frames of the next call may not reach the device before the network has read those of this one."""
    resize = backend.runner("sam2_resize")
    answers, frames = [], []
    for number in range(6):
        frames.append(np.full((1, 66, 80, 3), 7 * number, np.uint8))
        # The uploaded array is dropped at once, so its memory serves the next one.
        answers.append(resize({"frames": backend.arrays.upload(frames[-1])})["images"])
    for given, answer in zip(frames, answers, strict=True):
        wanted = expected(world, "sam2_resize", {"frames": given})["images"]
        np.testing.assert_array_equal(backend.arrays.download(answer), wanted)


def test_parked_arrays_come_back(backend: Any) -> None:
    """With their dtype; bfloat16 as bytes, and empty ones."""
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    array = backend.arrays.from_host(backend.arrays.to_host(backend.arrays.upload(half)))
    assert (array.shape, array.dtype, backend.arrays.nbytes(array)) == ((2, 3), "float16", 12)
    np.testing.assert_array_equal(backend.arrays.download(array), half.astype(np.float32))
    parked = backend.arrays.to_host(backend.arrays.upload(np.array([1.5, -2], np.float32)))
    upper = HostArray(data=parked.data.reshape(2, 4)[:, 2:].reshape(-1).copy(), shape=(2,), dtype="bfloat16")
    np.testing.assert_array_equal(
        backend.arrays.download(backend.arrays.from_host(upper)), np.float32([1.5, -2])
    )
    empty = HostArray(data=np.empty(0, np.uint8), shape=(3, 0, 8), dtype="bfloat16")
    assert backend.arrays.download(backend.arrays.from_host(empty)).shape == (3, 0, 8)


def test_arrays_are_stacked_and_cut_without_copies_where_they_can_be(backend: Any, world: Any) -> None:
    """Neighbours in memory are one array already."""
    array = backend.arrays.upload(np.arange(24, dtype=np.float32).reshape(4, 3, 2))
    rows = backend.arrays.unstack(array)
    copies = world.fake_cuda.calls["cudaMemcpyAsync"]
    np.testing.assert_array_equal(
        backend.arrays.download(backend.arrays.stack(rows[1:3])), np.arange(6, 18).reshape(2, 3, 2)
    )
    np.testing.assert_array_equal(
        backend.arrays.download(backend.arrays.stack([rows[2]])), [np.arange(12, 18).reshape(3, 2)]
    )
    assert world.fake_cuda.calls["cudaMemcpyAsync"] == copies + 2, "the two downloads"
    mixed = backend.arrays.download(backend.arrays.stack([rows[3], rows[0]]))
    np.testing.assert_array_equal(mixed, np.arange(24).reshape(4, 3, 2)[[3, 0]])


def test_a_profile_is_chosen_by_shape(make_world: Any) -> None:
    """Each Pi3 resolution has one; the context moves from one to the other and back."""
    world = make_world(pi3_sizes=((84, 56), (56, 84)))
    backend = world.backend()
    for height, width in ((56, 84), (84, 56), (56, 84)):
        inputs = inputs_of(world, "dino", {"B": 2, "Hp": height, "Wp": width})
        wanted = expected(world, "dino", inputs)["tokens"]
        np.testing.assert_array_equal(call(backend, world, "dino", inputs)["tokens"], wanted)
    backend.close()


def test_a_shape_without_a_profile_names_what_there_is_and_the_command(make_world: Any) -> None:
    """In one line."""
    world = make_world(pi3_sizes=((84, 56), (56, 84)))
    backend = world.backend()
    message = (
        r"dino was called with frames 1x3x70x70, position 5x5x\d+, and its engine takes frames 1x3x56x84 to 4x3x56x84, "
        r"position .* or frames 1x3x84x56 to .*; build one that takes it: gmos-export build-engines --bundle \S+ "
        r"--backend tensorrt --networks dino --min-shapes dino.frames=1x3x56x70 --max-shapes dino.frames=4x3x70x84"
    )
    with pytest.raises(GmosError, match=message):
        call(backend, world, "dino", inputs_of(world, "dino", {"B": 1, "Hp": 70, "Wp": 70}))
    backend.close()


def test_more_memories_than_the_profile_takes_cannot_be_cut(backend: Any, world: Any) -> None:
    """They are one attention."""
    inputs = inputs_of(world, "memory_attention", {"O": 1, "R": 137, "P": 146})
    with pytest.raises(
        GmosError,
        match=r"memory_positions 1x137.*takes memories .*--max-shapes memory_attention.memories=4x137x\S+ --max-shapes "
        r"memory_attention.pointers=4x146x64$",
    ):
        call(backend, world, "memory_attention", inputs)


def test_labels_over_all_objects_cannot_be_cut(backend: Any, world: Any) -> None:
    """The label of a pixel is the object that is strongest there."""
    inputs = inputs_of(world, "tracked_labels", {"O": 256, "H": 70, "W": 90})
    with pytest.raises(
        GmosError,
        match=r"tracked_labels was called with masks 256x.*takes masks 1x.* to \d+x32x32; build one",
    ):
        call(backend, world, "tracked_labels", inputs)


def test_a_wrong_dtype_is_a_fault_of_the_program(backend: Any, world: Any) -> None:
    """Not of the user."""
    images = backend.arrays.upload(np.zeros((1, 3, 8, 8), np.float16))
    with pytest.raises(ValueError, match="sam2_encoder: images is float16, its engine takes float32"):
        backend.runner("sam2_encoder")({"images": images})


def test_what_the_library_says_reaches_the_user(backend: Any, world: Any) -> None:
    """In one line with what to do."""
    inputs = inputs_of(world, "sam2_encoder", {"B": 1})
    run = backend.runner("sam2_encoder")
    world.broken["sam2_encoder"] = "Cask convolution execution failed"
    with pytest.raises(
        GmosError, match=r"TensorRT 10\.3\.0 could not run in sam2_encoder: Cask .*build the engine again"
    ):
        run({"images": backend.arrays.upload(inputs["images"])})
    world.broken["sam2_encoder"] = "CUDA runtime: out of memory"
    with pytest.raises(GmosError, match=r"out of memory in sam2_encoder: .*Fake GPU.*lower --batch_size"):
        run({"images": backend.arrays.upload(inputs["images"])})


def test_a_device_lost_in_an_engine_is_named_before_the_library_s_reason(world: Any) -> None:
    """The library only says that its work could not be started."""
    backend = world.backend()
    run, images = backend.runner("sam2_encoder"), inputs_of(world, "sam2_encoder", {"B": 1})["images"]
    world.broken["sam2_encoder"] = "enqueueV3 failed"
    world.fake_cuda.failures["cudaGetLastError"] = 700
    with pytest.raises(
        GmosError, match=r"cuda:0 failed in the work given to it \(CUDA error 700, an illegal memory"
    ):
        run({"images": backend.arrays.upload(images)})
    backend.close()


def test_description_names_library_device_and_precision(backend: Any) -> None:
    """For the summary."""
    assert backend.description == "TensorRT 10.3.0 on cuda:0 (Fake GPU), fp32"


def test_closing_gives_everything_back(world: Any) -> None:
    """Device memory, pinned memory and streams; a second time does nothing."""
    backend = world.backend()
    backend.load()
    kept = call(backend, world, "dino", inputs_of(world, "dino", {"B": 2, "Hp": 56, "Wp": 84}))
    array = backend.arrays.upload(np.ones(5, np.float32))
    backend.close()
    assert not world.fake_cuda.device
    assert not world.fake_cuda.pinned
    assert not world.fake_cuda.streams
    del array, kept
    backend.close()


def test_a_lost_device_is_reported_once_and_closed_quietly(world: Any) -> None:
    """Every call after an illegal address fails; the first one says so."""
    backend = world.backend()
    array = backend.arrays.upload(np.ones(5, np.float32))
    world.fake_cuda.failures["cudaEventSynchronize"] = 700
    with pytest.raises(
        GmosError,
        match=r"failed in cudaEventSynchronize \(CUDA error 700, an illegal memory access .*start it again",
    ):
        backend.arrays.download(array)
    backend.close()


def test_an_engine_that_the_library_refuses_is_one_line(world: Any) -> None:
    """At loading, before anything runs."""
    world.broken["pi3_decoder"] = "Serialization assertion failed"
    backend = world.backend()
    with pytest.raises(
        GmosError, match=r"cannot load the engine: Serialization assertion failed; build it again"
    ):
        backend.load()
    backend.close()


def test_a_missing_or_wrong_engine_has_the_command_that_builds_it(world: Any) -> None:
    """A tampered plan is refused before the library sees it."""
    plan = plan_path(engine_directory(world.bundle.root, "tensorrt"), "dino")
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    backend = world.backend()
    with pytest.raises(
        GmosError, match=r"dino.engine has changed .*gmos-export build-engines .*--networks dino"
    ):
        backend.runner("dino")
    assert world.fake_cuda.outside == 0
    backend.close()


@pytest.mark.parametrize("name", ["cpu", "tpu", "cuda:", "cuda:x"])
def test_engines_run_on_cuda_devices_only(name: str) -> None:
    """With what to use instead."""
    with pytest.raises(GmosError, match=rf"--device {name}: --backend tensorrt runs on cuda, cuda:N or auto"):
        device_index(name, "tensorrt")


def test_cuda_devices_have_numbers() -> None:
    """Auto is the first."""
    assert [device_index(name, "tensorrt") for name in ("auto", "cuda", "cuda:3")] == [0, 0, 3]
