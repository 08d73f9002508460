"""The SAM2 tracker against the published implementation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmos_deploy.gmos_ref.checkpoints.stand_in import fill_deterministic
from gmos_deploy.gmos_ref.presets import Sam2Config
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2
from gmos_deploy.gmos_ref.sam2.tracker import Answer, Sam2Tracker
from gmos_deploy.runtime.tracker import Prompt

GOLDEN = Path(__file__).parents[1] / "golden"
VIDEO_HW = (60, 80)
FRAMES = 8

LOGIT_TOLERANCE = 2e-4
"""Absolute, and relative to the standard deviation: float32 sums in another order, eight steps deep."""
IOU_TOLERANCE = 1e-6

GOLDEN_TRACKER = Sam2Config(
    config="configs/sam2.1/sam2.1_hiera_t.yaml", image_px=256, overrides=("++model.image_size=256",)
)


class StoredFeatures:
    """Features of all frames in a list, with a count of the reads."""

    def __init__(self, predictor: FeaturePredictor, frames: NDArray[np.float32]) -> None:
        with torch.inference_mode():
            encoded = predictor.encode_image(torch.from_numpy(frames))
        self._frames = [{name: maps[i] for name, maps in encoded.items()} for i in range(len(frames))]

    def get(self, frame: int) -> dict[str, Tensor]:
        return self._frames[frame]


@pytest.fixture(scope="module")
def predictor() -> FeaturePredictor:
    model = build_sam2(GOLDEN_TRACKER)
    fill_deterministic(model)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(4.0)
        model.sam_mask_decoder.iou_prediction_head.layers[2].bias.fill_(3.5)
    return model


def make_tracker(predictor: FeaturePredictor, features: StoredFeatures, frames: int = FRAMES) -> Sam2Tracker:
    return Sam2Tracker(predictor, features, frames=frames, video_hw=VIDEO_HW, context=nullcontext)


@pytest.fixture(scope="module")
def features(predictor: FeaturePredictor) -> StoredFeatures:
    shape = (FRAMES, 3, 256, 256)
    return StoredFeatures(predictor, np.random.default_rng(41).standard_normal(shape, dtype=np.float32))


@pytest.fixture(scope="module")
def mixed_features(predictor: FeaturePredictor) -> StoredFeatures:
    shape = (FRAMES, 3, 256, 256)
    return StoredFeatures(predictor, np.random.default_rng(51).standard_normal(shape, dtype=np.float32))


def assert_golden(answer: Answer, logits: NDArray[np.float32], ious: NDArray[np.float32], step: str) -> None:
    found = answer[0].numpy()[:, :, ::2, ::2]
    assert found.shape == logits.shape, step
    tolerance = LOGIT_TOLERANCE * (1 + logits.std())
    assert np.abs(found - logits).max() <= tolerance, step
    assert np.abs(answer[1].numpy() - ious.ravel()).max() <= IOU_TOLERANCE, step


def until(steps: Iterator[tuple[int, Answer]], last: int) -> Iterator[tuple[int, Answer]]:
    for frame, answer in steps:
        yield frame, answer
        if frame == last:
            return


def test_tracking_equals_the_published_result(predictor: FeaturePredictor, features: StoredFeatures) -> None:
    """A second object joins at frame 3 and both are tracked to the end."""
    tracker = make_tracker(predictor, features)
    with np.load(GOLDEN / "sam2_tracking.npz") as golden:
        tracker.prompt_mask(0, Prompt(object_id=0, mask=golden["prompt0"]))
        for frame, answer in until(tracker.propagate_logits(0), 3):
            joined = (
                tracker.prompt_mask(3, Prompt(object_id=1, mask=golden["prompt3"])) if frame == 3 else answer
            )
            assert_golden(joined, golden[f"logits_{frame}"], golden[f"ious_{frame}"], f"frame {frame}")
        for frame, answer in tracker.propagate_logits(4):
            assert_golden(answer, golden[f"logits_{frame}"], golden[f"ious_{frame}"], f"frame {frame}")


def test_mixed_prompts_equal_the_published_result(
    predictor: FeaturePredictor, mixed_features: StoredFeatures
) -> None:
    """New and reinforcing prompts on one frame, frames before a prompt, and a backward pass."""
    tracker = make_tracker(predictor, mixed_features)
    with np.load(GOLDEN / "sam2_tracking_mixed.npz") as golden:

        def check(step: str, answer: Answer) -> None:
            assert tracker._state["obj_ids"] == golden[f"{step}_ids"].tolist()
            assert_golden(answer, golden[f"{step}_logits"], golden[f"{step}_ious"], step)

        def prompt(step: str, frame: int, object_id: int, mask: str) -> None:
            check(step, tracker.prompt_mask(frame, Prompt(object_id=object_id, mask=golden[mask])))

        prompt("prompt_a", 2, 0, "A")
        for frame, answer in until(tracker.propagate_logits(0), 3):
            check(f"f{frame}", answer)
        prompt("prompt_b", 3, 0, "A2")
        prompt("prompt_c", 3, 1, "B")
        for frame, answer in until(tracker.propagate_logits(4), 5):
            check(f"f{frame}", answer)
        prompt("prompt_d", 5, 2, "C")
        prompt("prompt_e", 5, 0, "A3")
        for frame, answer in tracker.propagate_logits(6):
            check(f"f{frame}", answer)
        for frame, answer in tracker.propagate_logits(6, reverse=True):
            check(f"r{frame}", answer)


def test_dropping_old_memories_changes_nothing(
    predictor: FeaturePredictor, mixed_features: StoredFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a short reach, both passes give what they give when every memory is kept."""
    monkeypatch.setattr(predictor, "num_maskmem", 3)
    monkeypatch.setattr(predictor, "max_obj_ptrs_in_encoder", 3)

    def run(reach: int) -> tuple[list[Tensor], int]:
        monkeypatch.setattr(FeaturePredictor, "memory_reach_frames", property(lambda _: reach))
        tracker = make_tracker(predictor, mixed_features)
        with np.load(GOLDEN / "sam2_tracking_mixed.npz") as golden:
            tracker.prompt(1, [Prompt(object_id=0, mask=golden["A"])])
        both = [*tracker.propagate_logits(1), *tracker.propagate_logits(1, reverse=True)]
        held = len(tracker._state["output_dict_per_obj"][0]["non_cond_frame_outputs"])
        return [answer[0] for _, answer in both], held

    everything, all_held = run(1000)
    short, held = run(3)
    assert held < all_held
    assert all(torch.equal(a, b) for a, b in zip(everything, short, strict=True))


def test_a_step_labels_above_minus_one_and_masks_above_zero(
    predictor: FeaturePredictor, features: StoredFeatures
) -> None:
    """The step's masks and labels are those of the tracker's logits."""
    tracker = make_tracker(predictor, features)
    with np.load(GOLDEN / "sam2_tracking.npz") as golden:
        masks = golden["prompt0"], golden["prompt3"]
    step = tracker.prompt(0, [Prompt(object_id=o, mask=mask) for o, mask in enumerate(masks)])
    logits = tracker.prompt_mask(0, Prompt(object_id=1, mask=masks[1]))[0][:, 0].numpy()
    assert step.object_ids == (0, 1)
    assert np.array_equal(step.masks, logits > 0)
    best = logits.argmax(axis=0)
    assert np.array_equal(step.labels, np.where(logits.max(axis=0) > -1, best + 1, 0))
    assert step.ious.tolist() == [1.0, 1.0]


def test_reset_forgets_everything(predictor: FeaturePredictor, features: StoredFeatures) -> None:
    """After a reset the tracker answers as a new one."""
    with np.load(GOLDEN / "sam2_tracking.npz") as golden:
        first, second = golden["prompt0"], golden["prompt3"]
    used, fresh = make_tracker(predictor, features), make_tracker(predictor, features)
    used.prompt(0, [Prompt(object_id=0, mask=first)])
    list(used.propagate(0))
    used.reset()
    prompt = [Prompt(object_id=4, mask=second)]
    assert used.prompt(2, prompt).object_ids == fresh.prompt(2, prompt).object_ids == (4,)
    for a, b in zip(used.propagate(0), fresh.propagate(0), strict=True):
        assert np.array_equal(a.labels, b.labels)


@pytest.mark.parametrize("head", ["pred_obj_score_head", "output_hypernetworks_mlps"])
def test_an_answer_that_is_not_finite_has_an_iou_of_nan(
    predictor: FeaturePredictor, features: StoredFeatures, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score of NaN hides its object: without that it would only seem to be gone."""
    tracker = make_tracker(predictor, features)
    with np.load(GOLDEN / "sam2_tracking.npz") as golden:
        tracker.prompt(0, [Prompt(object_id=0, mask=golden["prompt0"])])
    found = getattr(predictor.sam_mask_decoder, head)
    steps = tracker.propagate(0)
    assert [next(steps).ious.item() for _ in range(2)] == pytest.approx([1, 1], abs=0.5)
    for part in found if isinstance(found, torch.nn.ModuleList) else [found]:
        last = part.layers[2]
        wrong = torch.nn.Parameter(torch.full_like(last.bias, torch.nan), requires_grad=False)
        monkeypatch.setitem(last._parameters, "bias", wrong)
    assert np.isnan(next(steps).ious.item())


def test_memories_stay_float32_in_a_float32_run(
    predictor: FeaturePredictor, features: StoredFeatures
) -> None:
    """The package would round them to bfloat16."""
    tracker = make_tracker(predictor, features)
    with np.load(GOLDEN / "sam2_tracking.npz") as golden:
        tracker.prompt(0, [Prompt(object_id=0, mask=golden["prompt0"])])
    next(tracker.propagate_logits(1))
    outputs = tracker._state["output_dict_per_obj"][0]
    assert outputs["cond_frame_outputs"][0]["maskmem_features"].dtype is torch.float32
    assert outputs["non_cond_frame_outputs"][1]["maskmem_features"].dtype is torch.float32
