"""The tracker over a backend's networks, against the published results and the reference tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import TRACKER_IOU_GAIN, fill_deterministic, stand_in_networks
from gmos_deploy.gmos_ref.presets import TINY, Sam2Config, model_spec
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2
from gmos_deploy.gmos_ref.sam2.tracker import Sam2Tracker
from gmos_deploy.runtime.arrays import NumpyArrays
from gmos_deploy.runtime.backend import Runner
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.pipeline.memory_tracker import MemoryTracker
from gmos_deploy.runtime.tracker import Prompt, Tracker, TrackerStep

GOLDEN = Path(__file__).parents[2] / "golden"
VIDEO_HW = (60, 80)
FRAMES = 8

LOGIT_TOLERANCE = 2e-4
"""Absolute, and relative to the standard deviation: float32 sums in another order, eight steps deep."""
IOU_TOLERANCE = 1e-6
BATCH_TOLERANCE = 1e-4
"""Logits of objects tracked together or one by one: matrix products of other shapes round differently."""

GOLDEN_TRACKER = Sam2Config(
    config="configs/sam2.1/sam2.1_hiera_t.yaml", image_px=256, overrides=("++model.image_size=256",)
)


class WatchedBackend(TorchBackend):
    """A backend that notes every call of a network with its inputs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def runner(self, network: NetworkName) -> Runner:
        run = super().runner(network)

        def call(inputs: Any) -> dict[str, Tensor]:
            self.calls.append((network, dict(inputs)))
            return run(inputs)

        return call

    def batches(self, network: str) -> list[int]:
        """How many objects each call of a network had."""
        objects = {"mask_prompt": "prompt", "memory_attention": "memories", "mask_decoder": "conditioned"}
        name = objects.get(network, "masks")
        return [len(inputs[name]) for called, inputs in self.calls if called == network]

    def logits(self) -> NDArray[np.float32]:
        """The logits (O, H, W) at the video's size behind the last step."""
        _, inputs = [call for call in self.calls if call[0] == "tracked_labels"][-1]
        return F.interpolate(inputs["masks"][None], VIDEO_HW, mode="bilinear", align_corners=False)[0].numpy()


class StoredFeatures:
    """Features of all frames of seeded images in a list."""

    def __init__(self, predictor: FeaturePredictor, seed: int, frames: int) -> None:
        shape = (frames, 3, predictor.image_size, predictor.image_size)
        images = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        with torch.inference_mode():
            encoded = predictor.encode_image(torch.from_numpy(images))
        self._frames = [{name: maps[i] for name, maps in encoded.items()} for i in range(frames)]

    def get(self, frame: int) -> dict[str, Tensor]:
        return self._frames[frame]


def make_backend(predictor: FeaturePredictor) -> WatchedBackend:
    networks = replace(stand_in_networks(TINY, "gmos"), sam2=predictor)
    model = replace(
        model_spec(TINY, "gmos"),
        sam2_image_px=predictor.image_size,
        sam2_channels=predictor.hidden_dim,
        memory_channels=predictor.mem_dim,
        memory_frames=predictor.num_maskmem,
        object_pointers=predictor.max_obj_ptrs_in_encoder,
    )
    return WatchedBackend(model, networks, device=torch.device("cpu"), precision="fp32")


@pytest.fixture(scope="module")
def golden_predictor() -> FeaturePredictor:
    model = build_sam2(GOLDEN_TRACKER)
    fill_deterministic(model)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(4.0)
        model.sam_mask_decoder.iou_prediction_head.layers[2].bias.fill_(3.5)
    return model


@pytest.fixture(scope="module")
def tiny_predictor() -> FeaturePredictor:
    return stand_in_networks(TINY, "gmos").sam2


def until(steps: Iterator[TrackerStep], last: int) -> Iterator[TrackerStep]:
    for step in steps:
        yield step
        if step.frame == last:
            return


class GoldenCheck:
    """Holds steps and the logits behind them against golden ones."""

    def __init__(self, backend: WatchedBackend, golden: Any) -> None:
        self._backend, self._golden = backend, golden

    def __call__(self, step: TrackerStep, logits: str, ious: str, ids: Sequence[int]) -> None:
        found, expected = self._backend.logits(), self._golden[logits][:, 0]
        assert step.object_ids == tuple(ids), logits
        assert found[:, ::2, ::2].shape == expected.shape, logits
        tolerance = LOGIT_TOLERANCE * (1 + expected.std())
        assert np.abs(found[:, ::2, ::2] - expected).max() <= tolerance, logits
        assert np.abs(step.ious - self._golden[ious].ravel()).max() <= IOU_TOLERANCE, logits
        assert np.array_equal(step.masks, found > 0), logits
        labels = np.where(found.max(axis=0) > -1, found.argmax(axis=0) + 1, 0)
        assert np.array_equal(step.labels, labels), logits


def test_tracking_equals_the_published_result(golden_predictor: FeaturePredictor) -> None:
    """A second object joins at frame 3 and both are tracked to the end."""
    backend = make_backend(golden_predictor)
    features = StoredFeatures(golden_predictor, 41, FRAMES)
    tracker = MemoryTracker(backend, features, frames=FRAMES, video_hw=VIDEO_HW)
    with np.load(GOLDEN / "sam2_tracking.npz") as golden:
        check = GoldenCheck(backend, golden)
        tracker.prompt(0, [Prompt(object_id=0, mask=golden["prompt0"])])
        for step in until(tracker.propagate(0), 3):
            if step.frame < 3:
                check(step, f"logits_{step.frame}", f"ious_{step.frame}", [0])
        joined = tracker.prompt(3, [Prompt(object_id=1, mask=golden["prompt3"])])
        check(joined, "logits_3", "ious_3", [0, 1])
        for step in tracker.propagate(4):
            check(step, f"logits_{step.frame}", f"ious_{step.frame}", [0, 1])


def test_mixed_prompts_equal_the_published_result(golden_predictor: FeaturePredictor) -> None:
    """New and reinforcing prompts on one frame, frames before a prompt, and a backward pass."""
    backend = make_backend(golden_predictor)
    features = StoredFeatures(golden_predictor, 51, FRAMES)
    tracker = MemoryTracker(backend, features, frames=FRAMES, video_hw=VIDEO_HW)
    with np.load(GOLDEN / "sam2_tracking_mixed.npz") as golden:
        golden_check = GoldenCheck(backend, golden)

        def check(name: str, step: TrackerStep) -> None:
            golden_check(step, f"{name}_logits", f"{name}_ious", golden[f"{name}_ids"].tolist())

        def prompt(name: str, frame: int, object_id: int, mask: str) -> None:
            check(name, tracker.prompt(frame, [Prompt(object_id=object_id, mask=golden[mask])]))

        prompt("prompt_a", 2, 0, "A")
        for step in until(tracker.propagate(0), 3):
            check(f"f{step.frame}", step)
        prompt("prompt_b", 3, 0, "A2")
        prompt("prompt_c", 3, 1, "B")
        for step in until(tracker.propagate(4), 5):
            check(f"f{step.frame}", step)
        prompt("prompt_d", 5, 2, "C")
        prompt("prompt_e", 5, 0, "A3")
        for step in tracker.propagate(6):
            check(f"f{step.frame}", step)
        for step in tracker.propagate(6, reverse=True):
            check(f"r{step.frame}", step)


SCHEDULE_FRAMES = 12
Schedule = list[tuple[str, int, list[tuple[int, int]]]]
"""("prompt", frame, [(object, mask seed)]); ("forward" or "back", start, [(last, 0)]); ("reset", 0, [])."""


def random_mask(seed: int) -> NDArray[np.bool_]:
    """A rectangle; every fifth is empty."""
    draw = np.random.default_rng(seed)
    mask = np.zeros(VIDEO_HW, np.bool_)
    if seed % 5:
        top, left = draw.integers(0, 40), draw.integers(0, 50)
        mask[top : top + draw.integers(5, 30), left : left + draw.integers(5, 40)] = True
    return mask


def random_schedule(seed: int) -> Schedule:
    """Two rounds like the two stages: prompts on the way, then prompts anywhere and both directions."""
    draw = np.random.default_rng(seed)
    masks = iter(range(1000 * seed + 1, 1000 * seed + 900))

    def prompts(objects: int) -> list[tuple[int, int]]:
        chosen = draw.choice(objects, size=draw.integers(1, objects + 1), replace=False)
        return [(int(o), next(masks)) for o in chosen]

    schedule: Schedule = [("prompt", int(draw.integers(0, 4)), prompts(2))]
    start = 0
    for known, frame in ((3, 4), (4, 8)):
        schedule += [("forward", start, [(frame, 0)]), ("prompt", frame, prompts(known))]
        start = frame + 1
    schedule += [("forward", start, []), ("prompt", 2, prompts(4)), ("prompt", 2, prompts(4))]
    schedule += [("back", 9, []), ("reset", 0, [])]
    schedule += [("prompt", int(frame), prompts(3)) for frame in draw.integers(0, SCHEDULE_FRAMES, 4)]
    middle = int(draw.integers(1, SCHEDULE_FRAMES))
    return [*schedule, ("forward", middle, []), ("back", middle, []), ("forward", 3, [])]


def follow(
    schedule: Schedule,
    prompt: Callable[[int, list[Prompt]], Any],
    propagate: Callable[..., Iterator[tuple[int, Any]]],
    reset: Callable[[], None],
) -> Iterator[tuple[str, Any]]:
    """All answers to a schedule, with what was asked."""
    for action, frame, details in schedule:
        if action == "prompt":
            masks = [Prompt(object_id=o, mask=random_mask(seed)) for o, seed in details]
            yield f"prompt {frame} {details}", prompt(frame, masks)
        elif action == "reset":
            reset()
        else:
            last = details[0][0] if details else None
            for reached, answer in propagate(frame, reverse=action == "back"):
                yield f"{action} from {frame}: {reached}", answer
                if reached == last:
                    break


def set_reach(patch: pytest.MonkeyPatch, predictor: FeaturePredictor, reach: tuple[int, int]) -> None:
    patch.setattr(predictor, "num_maskmem", reach[0])
    patch.setattr(predictor, "max_obj_ptrs_in_encoder", reach[1])


@pytest.mark.parametrize(
    ("seed", "reach", "conditioning"),
    [
        (0, (7, 16), None),
        (1, (3, 5), None),
        (2, (3, 5), 2),
        (3, (7, 16), None),
        (4, (4, 6), 2),
        (5, (7, 16), 3),
    ],
)
def test_any_schedule_equals_the_reference_tracker(
    tiny_predictor: FeaturePredictor,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    reach: tuple[int, int],
    conditioning: int | None,
) -> None:
    """Every answer is the package's, whatever is prompted when, and whether memories are dropped or not read."""
    set_reach(monkeypatch, tiny_predictor, reach)
    backend = make_backend(tiny_predictor)
    features = StoredFeatures(tiny_predictor, 60 + seed, SCHEDULE_FRAMES)
    sizes = {"frames": SCHEDULE_FRAMES, "video_hw": VIDEO_HW, "max_conditioning": conditioning}
    reference = Sam2Tracker(tiny_predictor, features, context=nullcontext, **sizes)
    tracker = MemoryTracker(backend, features, **sizes)

    def reference_prompt(frame: int, prompts: list[Prompt]) -> Any:
        return [reference.prompt_mask(frame, prompt) for prompt in prompts][-1]

    def steps(start: int, *, reverse: bool) -> Iterator[tuple[int, TrackerStep]]:
        for step in tracker.propagate(start, reverse=reverse):
            yield step.frame, step

    schedule = random_schedule(seed)
    expected = follow(schedule, reference_prompt, reference.propagate_logits, reference.reset)
    found = follow(schedule, tracker.prompt, steps, tracker.reset)
    for (name, (logits, ious)), (_, step) in zip(expected, found, strict=True):
        assert step.object_ids == tuple(reference._state["obj_ids"]), name
        # Stand-in networks spread the predicted IoUs, and with them what rounding does to these.
        assert np.abs(step.ious - ious.numpy()).max() <= IOU_TOLERANCE * TRACKER_IOU_GAIN, name
        deviation = np.abs(backend.logits() - logits[:, 0].numpy()).max()
        assert deviation <= LOGIT_TOLERANCE * (1 + logits.std().item()), name


def square(top: int, left: int) -> NDArray[np.bool_]:
    mask = np.zeros(VIDEO_HW, np.bool_)
    mask[top : top + 20, left : left + 20] = True
    return mask


def make_tracker(predictor: FeaturePredictor, frames: int = FRAMES) -> tuple[MemoryTracker, WatchedBackend]:
    backend = make_backend(predictor)
    features = StoredFeatures(predictor, 70, frames)
    return MemoryTracker(backend, features, frames=frames, video_hw=VIDEO_HW), backend


def test_objects_with_equal_memories_share_every_call(tiny_predictor: FeaturePredictor) -> None:
    """Prompts of a frame, their memories, and the tracking of all objects are one call each."""
    tracker, backend = make_tracker(tiny_predictor)
    tracker.prompt(0, [Prompt(object_id=o, mask=square(5 * o, 10 * o)) for o in range(4)])
    list(tracker.propagate(0))
    assert backend.batches("mask_prompt") == [4]
    assert backend.batches("memory_attention") == backend.batches("mask_decoder") == [4] * 7
    assert backend.batches("memory_encoder") == [4] * 8


def test_objects_with_other_memories_have_calls_of_their_own(tiny_predictor: FeaturePredictor) -> None:
    """An object that joins later is tracked apart until it has as many memories and pointers."""
    tracker, backend = make_tracker(tiny_predictor, frames=20)
    tracker.prompt(0, [Prompt(object_id=o, mask=square(5 * o, 0)) for o in range(2)])
    list(until(tracker.propagate(0), 2))
    tracker.prompt(2, [Prompt(object_id=2, mask=square(30, 50))])
    backend.calls.clear()
    list(tracker.propagate(3))
    batches = backend.batches("memory_attention")
    # On 3..17 the first two have more pointers; from 18 on all have the 15 that a frame reads at most.
    assert batches == [2, 1] * 15 + [3] * 2


def test_objects_tracked_together_equal_objects_tracked_alone(tiny_predictor: FeaturePredictor) -> None:
    """Sharing a call changes no mask."""
    prompts = [Prompt(object_id=o, mask=square(7 * o, 14 * o)) for o in range(4)]

    def run(chosen: list[Prompt]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tracker, backend = make_tracker(tiny_predictor)
        tracker.prompt(2, chosen)
        both = [*tracker.propagate(2), *tracker.propagate(2, reverse=True)]
        logits = [inputs["masks"].numpy() for name, inputs in backend.calls if name == "tracked_labels"]
        return np.stack(logits[1:], axis=1), np.stack([step.ious for step in both], axis=1)

    together = run(prompts)
    alone = [run([prompt]) for prompt in prompts]
    for i, difference in enumerate((BATCH_TOLERANCE, IOU_TOLERANCE)):
        assert np.abs(together[i] - np.concatenate([one[i] for one in alone])).max() <= difference


class OnHost:
    """A backend with its arrays on the host, whose decoder's second answer has a NaN for the second object."""

    def __init__(self, backend: TorchBackend, output: str) -> None:
        self.model, self.arrays = backend.model, NumpyArrays()
        self._backend, self._output, self._decoded = backend, output, 0

    def runner(self, network: NetworkName) -> Callable[[Any], dict[str, NDArray[Any]]]:
        run = self._backend.runner(network)

        def call(inputs: Any) -> dict[str, NDArray[Any]]:
            given = {
                name: value if name == "video_hw" else torch.from_numpy(value)
                for name, value in inputs.items()
            }
            out = {name: value.numpy().copy() for name, value in run(given).items()}
            if network == "mask_decoder":
                self._decoded += 1
                if self._decoded == 2:
                    out[self._output].reshape(2, -1)[1, 0] = np.nan
            return out

        return call


@pytest.mark.parametrize("output", ["ious", "score", "masks"])
def test_an_answer_that_is_not_finite_has_an_iou_of_nan(
    tiny_predictor: FeaturePredictor, output: str
) -> None:
    """Which is what is looked at: a score of NaN hides its object, as if it were not there."""
    backend: Any = OnHost(make_backend(tiny_predictor), output)
    tracker = MemoryTracker(
        backend, StoredFeatures(tiny_predictor, 70, FRAMES), frames=FRAMES, video_hw=VIDEO_HW
    )
    tracker.prompt(0, [Prompt(object_id=o, mask=square(10, 30 * o)) for o in range(2)])
    steps = list(until(tracker.propagate(0), 2))
    assert [np.isfinite(step.ious).tolist() for step in steps] == [[True, True], [True, True], [True, False]]


def test_prompts_can_be_added_without_an_answer(tiny_predictor: FeaturePredictor) -> None:
    """No mask is drawn for them, and they track as answered ones do."""
    quiet, backend = make_tracker(tiny_predictor)
    answered, _ = make_tracker(tiny_predictor)
    for frame in (1, 5):
        prompt = [Prompt(object_id=0, mask=square(10, 10 * frame))]
        quiet.add_prompts(frame, prompt)
        answered.prompt(frame, prompt)
    assert backend.batches("tracked_labels") == []
    for a, b in zip(quiet.propagate(3), answered.propagate(3), strict=True):
        assert np.array_equal(a.labels, b.labels)


def test_a_repeated_object_in_one_call_keeps_the_last_prompt(tiny_predictor: FeaturePredictor) -> None:
    """As if they had been made one after the other."""
    once, _ = make_tracker(tiny_predictor)
    twice, _ = make_tracker(tiny_predictor)
    last = Prompt(object_id=3, mask=square(30, 30))
    expected = once.prompt(0, [last])
    found = twice.prompt(0, [Prompt(object_id=3, mask=square(0, 0)), last])
    assert found.object_ids == (3,)
    assert np.array_equal(found.masks, expected.masks)


def test_old_memories_are_dropped(tiny_predictor: FeaturePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held does not grow with the video."""
    set_reach(monkeypatch, tiny_predictor, (3, 4))

    def held(frames: int) -> int:
        tracker, _ = make_tracker(tiny_predictor, frames=frames)
        tracker.prompt(0, [Prompt(object_id=0, mask=square(20, 20))])
        list(tracker.propagate(0))
        return len(tracker._objects[0].tracked)

    assert held(16) == held(20) < 12


def test_reset_forgets_everything(tiny_predictor: FeaturePredictor) -> None:
    """After a reset the tracker answers as a new one."""
    used, _ = make_tracker(tiny_predictor)
    fresh, _ = make_tracker(tiny_predictor)
    used.prompt(0, [Prompt(object_id=0, mask=square(0, 0))])
    list(used.propagate(0))
    used.reset()
    prompt = [Prompt(object_id=4, mask=square(20, 40))]
    assert used.prompt(2, prompt).object_ids == fresh.prompt(2, prompt).object_ids == (4,)
    for a, b in zip(used.propagate(0), fresh.propagate(0), strict=True):
        assert np.array_equal(a.masks, b.masks)


def test_half_precision_keeps_its_dtype_and_its_masks(tiny_predictor: FeaturePredictor) -> None:
    """Memories are bfloat16, also before the first pointer, and the masks are nearly those of float32."""
    networks = replace(stand_in_networks(TINY, "gmos"), sam2=tiny_predictor)
    features = StoredFeatures(tiny_predictor, 70, FRAMES)

    def run(precision: Any) -> tuple[MemoryTracker, list[TrackerStep]]:
        backend = TorchBackend(
            model_spec(TINY, "gmos"), networks, device=torch.device("cpu"), precision=precision
        )
        tracker = MemoryTracker(backend, features, frames=FRAMES, video_hw=VIDEO_HW)
        tracker.prompt(3, [Prompt(object_id=o, mask=square(10, 30 * o)) for o in range(2)])
        return tracker, list(tracker.propagate(0))

    tracker, half = run("bf16")
    memory = tracker._objects[0].tracked[2]
    assert memory.memory.dtype is memory.pointer.dtype is torch.bfloat16
    assert memory.mask.dtype is torch.float32
    _, whole = run("fp32")
    differing = np.mean([(a.masks != b.masks).mean() for a, b in zip(half, whole, strict=True)])
    assert differing < 0.05


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t: t.prompt(0, []), "needs at least one prompt"),
        (lambda t: t.prompt(8, [Prompt(object_id=0, mask=square(0, 0))]), "frame 8, expected 0 to 7"),
        (lambda t: t.prompt(-1, [Prompt(object_id=0, mask=square(0, 0))]), "frame -1, expected 0 to 7"),
        (
            lambda t: t.prompt(0, [Prompt(object_id=0, mask=square(0, 0)[1:])]),
            r"shape \(59, 80\), expected the video's \(60, 80\)",
        ),
        (
            lambda t: t.prompt(0, [Prompt(object_id=o, mask=square(0, 0)) for o in range(256)]),
            "256 objects, expected at most 255",
        ),
        (lambda t: next(t.propagate(0)), "needs a prompt first"),
    ],
)
def test_misuse_is_refused(
    tiny_predictor: FeaturePredictor, act: Callable[[Tracker], object], message: str
) -> None:
    """Nothing is tracked for a caller that asks for something impossible."""
    tracker, backend = make_tracker(tiny_predictor)
    with pytest.raises(ValueError, match=message):
        act(tracker)
    assert backend.calls == []


@pytest.mark.parametrize("kind", ["memory", "reference"])
def test_tracking_resumes_from_an_earlier_frame(tiny_predictor: FeaturePredictor, kind: str) -> None:
    """As if the frames behind it had not been tracked, with prompts of a known and of a new object there."""
    frames, back, late = 26, 4, 23
    features = StoredFeatures(tiny_predictor, 70, frames)
    sizes = {"frames": frames, "video_hw": VIDEO_HW, "look_back": back}

    def steps(tracked: int) -> list[TrackerStep]:
        tracker: Tracker
        if kind == "memory":
            tracker = MemoryTracker(make_backend(tiny_predictor), features, **sizes)
        else:
            tracker = Sam2Tracker(tiny_predictor, features, context=nullcontext, **sizes)
        tracker.prompt(0, [Prompt(object_id=0, mask=square(5, 10))])
        list(until(tracker.propagate(0), tracked))
        prompts = [Prompt(object_id=0, mask=square(8, 12)), Prompt(object_id=1, mask=square(30, 50))]
        return [tracker.prompt(late - back, prompts), *tracker.propagate(late - back + 1)]

    for resumed, fresh in zip(steps(late), steps(late - back), strict=True):
        assert resumed.frame == fresh.frame
        assert np.array_equal(resumed.labels, fresh.labels)
        assert np.array_equal(resumed.ious, fresh.ious)
