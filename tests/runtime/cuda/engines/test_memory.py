"""What a run will take on the device, and what is said when that is too much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.tensorrt import device as engine_device
from gmos_deploy.runtime.tensorrt import runner as engine_runner
from gmos_deploy.runtime.tensorrt.memory import RunSize, fitting_plan, settle_features, settle_live
from gmos_deploy.runtime.tensorrt.runner import EngineOptions

MIB = 1 << 20
SIZE = RunSize(batch_size=4, video_hw=(70, 90), stride=2)
"""A video that Pi3 sees at 154x126 pixels."""


def activation_need(shapes: dict[str, tuple[int, ...]]) -> int:
    """What the fake library asks for: four bytes for each number that is fed."""
    return 4 * sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.fixture
def wide(make_world: Any) -> Any:
    """A world with engines for SIZE."""
    return make_world(pi3_sizes=((154, 126),), memory=200 * MIB)


def test_a_plan_counts_weights_the_largest_activations_and_the_arrays(wide: Any) -> None:
    """Activations are shared, so only the largest network's count."""
    backend = wide.backend()
    backend.load()
    plan = backend.plan(SIZE)
    assert plan.weights == len(wide.bundle.networks) * 3 * MIB
    needs = {context.engine.name: context.update_device_memory_size_for_shapes() for context in wide.contexts}
    assert plan.activations == max(needs.values()) == needs[plan.largest]
    features = sum(
        4 * 4 * int(np.prod(tensor.axes[1:])) for tensor in wide.bundle.networks["sam2_encoder"].outputs
    )
    assert plan.arrays > features
    assert backend.plan(RunSize(batch_size=1, video_hw=(70, 90), stride=2)).arrays < plan.arrays
    backend.close()


def test_the_plan_of_a_large_batch_is_that_of_its_parts(wide: Any) -> None:
    """The profile takes four windows; activations of sixteen are those of four, arrays are not."""
    backend = wide.backend()
    large = backend.plan(RunSize(batch_size=16, video_hw=(70, 90), stride=2))
    assert large.activations == backend.plan(SIZE).activations
    assert large.arrays > 2 * backend.plan(SIZE).arrays
    backend.close()


def test_networks_that_need_much_are_called_with_less_at_a_time(wide: Any) -> None:
    """Half of what weights and arrays leave is for activations; the others keep their batch."""
    backend = wide.backend()
    backend.load()
    full = backend.plan(SIZE)
    assert not full.parts
    assert full.largest == "dino"
    backend.close()
    budget = full.weights + full.arrays + int(1.5 * full.activations)
    tight = wide.backend(memory_budget=budget)
    plan = tight.plan(SIZE)
    assert plan.parts["dino"] == 2
    assert not {"pi3_decoder", "proposer"} & plan.parts.keys(), "they need less than that"
    assert plan.activations < 0.75 * full.activations + 1
    assert f"({plan.largest}; dino 2 at a time" in plan.line(0)
    inputs = np.zeros((4, 3, 126, 154), np.uint8)
    tight.arrays.download(tight.runner("dino")({"frames": tight.arrays.upload(inputs)})["tokens"])
    assert wide.computed["dino"] == 2
    tight.close()


def test_a_call_without_room_is_cut_when_it_comes(wide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More objects than the plan reckoned with: the answer is that of the whole call."""
    for module in (engine_device, engine_runner):
        # As large as all that the tiny networks need.
        monkeypatch.setattr(module, "ACTIVATION_STEP_BYTES", 512)
    spec = wide.bundle.networks["memory_attention"].inputs
    inputs = seeded_inputs("memory_attention", spec, wide.model, {"O": 16, "R": 12, "P": 16})
    needed = activation_need({name: array.shape for name, array in inputs.items()})
    weights = len(wide.bundle.networks) * 3 * MIB
    backend = wide.backend(memory_budget=weights + 2 * needed, cuda_graphs=False)
    backend.load()
    given = {name: backend.arrays.upload(array) for name, array in inputs.items()}
    answer = backend.arrays.download(backend.runner("memory_attention")(given)["conditioned"])
    np.testing.assert_array_equal(answer, wide.compute("memory_attention", inputs)["conditioned"])
    assert wide.computed["memory_attention"] > 1
    backend.close()


def test_a_video_of_another_shape_is_refused_before_it_starts(wide: Any) -> None:
    """With one command that builds all engines that it needs."""
    backend = wide.backend()
    message = (
        r"no engines for a video of 98x70 pixels: dino was called with frames 4x3x112x168.*build them: "
        r"gmos-export .* --networks dino,pi3_decoder,proposer --min-shapes dino.frames=1x3x112x154 "
        r"--max-shapes dino.frames=4x3x126x168 --min-shapes pi3_decoder.tokens=\S+ --max-shapes pi3_decoder.tokens="
    )
    with pytest.raises(GmosError, match=message):
        backend.plan(RunSize(batch_size=4, video_hw=(70, 98), stride=1))
    backend.close()


def test_a_run_that_does_not_fit_is_told_the_batch_size_that_does(wide: Any) -> None:
    """Or that none does."""
    backend = wide.backend()
    backend.load()
    plan = backend.plan(SIZE)
    backend.close()
    tight = wide.backend(memory_budget=plan.weights + plan.arrays)
    with pytest.raises(
        GmosError, match=r"needs \d+ MiB of device memory beside 33 MiB .*batch_size 2 fits \(now 4\)"
    ):
        fitting_plan(tight.plan, SIZE)
    assert fitting_plan(tight.plan, RunSize(batch_size=2, video_hw=(70, 90), stride=2)).left >= 0
    tight.close()
    hopeless = wide.backend(memory_budget=plan.weights + MIB // 8)
    with pytest.raises(
        GmosError, match=r"of --memory_budget 33 on cuda:0 .*no --batch_size fits: export with"
    ):
        fitting_plan(hopeless.plan, SIZE)
    hopeless.close()


def test_features_get_a_share_of_what_is_left(wide: Any) -> None:
    """Or what was asked for, if there is so much."""
    backend = wide.backend(memory_budget=100 * MIB)
    left = backend.plan(SIZE).left
    features, line = settle_features(backend, SIZE, device_budget=None, share=0.25)
    assert features == left // 4
    assert line.startswith("memory: weights 33 MiB, activations ")
    assert f"features up to {-(-features // MIB)} MiB; together up to" in line
    assert line.endswith("MiB of --memory_budget 100 on cuda:0 (Fake GPU)")
    assert settle_features(backend, SIZE, device_budget=7 * MIB, share=0.25)[0] == 7 * MIB
    with pytest.raises(
        GmosError, match=r"--device_budget 90: \d+ MiB are left of --memory_budget 100 .*lower it"
    ):
        settle_features(backend, SIZE, device_budget=90 * MIB, share=0.25)
    backend.close()


def test_a_stream_is_planned_with_its_objects(wide: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One window at a time, the features of a few frames and the memories of all live objects: none of it grows."""
    backend = wide.backend()
    backend.load()
    model, networks = backend.model, wide.bundle.networks

    def of(network: str, *names: str) -> int:
        outputs = [one for one in networks[network].outputs if not names or one.name in names]
        return sum(4 * int(np.prod([n for n in one.axes if isinstance(n, int)])) for one in outputs)

    one = RunSize(batch_size=1, video_hw=SIZE.video_hw, stride=2, conditioning=1)
    an_object = (
        model.memory_frames * of("memory_encoder")
        + model.object_pointers * of("mask_decoder", "pointer")
        + of("mask_decoder", "masks")
    )
    plans = [backend.plan(replace(one, live_objects=objects)) for objects in (0, 1, 10)]
    assert plans[1].arrays - plans[0].arrays == 3 * of("sam2_encoder") + an_object
    assert plans[2].arrays - plans[1].arrays == 9 * an_object
    with caplog.at_level("INFO", "gmos_deploy"):
        options = settle_live(backend, RunOptions(), video_hw=SIZE.video_hw, stride=2, name="street")
    assert options == RunOptions()
    assert f"street: {plans[2].line(0)}" in caplog.text
    backend.close()
    tight = wide.backend(memory_budget=plans[2].weights + plans[1].arrays + plans[1].activations)
    with pytest.raises(GmosError, match=r"^this run needs \d+ MiB of device memory beside 33 MiB of weights"):
        settle_live(tight, RunOptions(), video_hw=SIZE.video_hw, stride=2, name="street")
    tight.close()
    assert settle_live(object(), RunOptions(), video_hw=(2, 2), stride=1, name="x") == RunOptions()  # type: ignore[arg-type]


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(wide: Any) -> None:
    """The network is named."""
    backend = wide.backend(memory_budget=7 * MIB)
    with pytest.raises(
        GmosError, match=r"the weights of \w+ take 3 MiB, and 1 MiB are left .*raise --memory_budget"
    ):
        backend.load()
    assert wide.fake_cuda.outside == 2 * 3 * MIB
    backend.close()


def test_a_call_beyond_the_budget_names_its_network(wide: Any) -> None:
    """In one line, and the device is not lost by it."""
    backend = wide.backend(memory_budget=41 * MIB)
    backend.load()
    side = wide.model.sam2_image_px
    run = backend.runner("sam2_encoder")

    def encode(count: int) -> list[Any]:
        image = np.zeros((4, 3, side, side), np.float32)
        return [run({"images": backend.arrays.upload(image)}) for _ in range(count)]

    with pytest.raises(
        GmosError, match=r"out of memory in sam2_encoder: the memory budget of 41 MiB has no room"
    ):
        encode(20)
    assert encode(1)[0]["f"].shape[0] == 4
    backend.close()


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_is_positive(budget: int) -> None:
    """In MiB on the command line."""
    with pytest.raises(GmosError, match=rf"--memory_budget {budget}: expected more than 0"):
        EngineOptions(memory_budget=budget)
