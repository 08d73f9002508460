"""The tracker's networks against the package's own methods, at the golden size and at the tiny one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmos_deploy.gmos_ref.checkpoints.stand_in import fill_deterministic
from gmos_deploy.gmos_ref.presets import TINY, Sam2Config, model_spec
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2
from gmos_deploy.gmos_ref.sam2.tracker_layers import Float32Tables, mix_narrow_values
from gmos_deploy.gmos_ref.sam2.tracker_networks import (
    ASSUMED_OPTIONS,
    quarter,
    tracked_labels,
    tracker_networks,
)
from gmos_deploy.runtime.contract import ModelSpec, network_specs

GOLDEN_TRACKER = Sam2Config(
    config="configs/sam2.1/sam2.1_hiera_t.yaml", image_px=256, overrides=("++model.image_size=256",)
)

TOLERANCE = 2e-5
"""Absolute, for values around 1: float32 sums in another order through four layers (measured: 5e-6)."""
LOGIT_TOLERANCE = 2e-6
"""Absolute, for +-10: the package rounds the border's weights, which are sevenths, before it adds."""

O = 3  # noqa: E741
"""Objects of a call."""

NAMES = ("mask_prompt", "memory_attention", "mask_decoder", "memory_encoder", "tracked_labels")

DYNAMIC = {"O": 1, "R": 1, "P": 0}
"""Smallest length of each axis that varies."""

Normal = Callable[[int, tuple[int, ...]], Tensor]


@pytest.fixture(scope="module", params=[GOLDEN_TRACKER, TINY.sam2], ids=["golden", "tiny"])
def predictor(request: pytest.FixtureRequest, normal: Normal) -> FeaturePredictor:
    model = build_sam2(request.param)
    fill_deterministic(model)
    balance(model, normal)
    return model


@torch.no_grad()
def balance(model: FeaturePredictor, normal: Normal) -> None:
    """Shift the heads' last biases: half of all objects are visible, and each mask is sometimes the best."""
    frame = Frame(model, normal)
    conditioned = normal(5, (8, model.hidden_dim, frame.grid, frame.grid))
    decoded = model._forward_sam_heads(
        conditioned,
        high_res_features=[feature.expand(8, -1, -1, -1) for feature in (frame.s0, frame.s1)],
        multimask_output=True,
    )
    decoder = model.sam_mask_decoder
    decoder.pred_obj_score_head.layers[2].bias.sub_(decoded[6].quantile(0.5))
    decoder.iou_prediction_head.layers[2].bias[1:].sub_(decoded[2].logit().mean(dim=0))


class Frame:
    """Features of one frame, as the networks take them and as the package does."""

    def __init__(self, predictor: FeaturePredictor, normal: Normal) -> None:
        self.grid, self.mask_px = predictor.sam_image_embedding_size, predictor.image_size // 4
        channels = predictor.hidden_dim
        self.f = normal(1, (1, channels, self.grid, self.grid))
        self.s0 = normal(2, (1, channels // 8, self.mask_px, self.mask_px))
        self.s1 = normal(3, (1, channels // 4, self.mask_px // 2, self.mask_px // 2))

    def of_all(self, feature: Tensor) -> Tensor:
        return feature.expand(O, -1, -1, -1)

    def tokens(self, feature: Tensor) -> Tensor:
        return self.of_all(feature).flatten(2).permute(2, 0, 1)


@pytest.fixture
def frame(predictor: FeaturePredictor, normal: Normal) -> Frame:
    return Frame(predictor, normal)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@torch.inference_mode()
def test_mask_prompt_equals_the_package(predictor: FeaturePredictor, frame: Frame, normal: Normal) -> None:
    """Logits, pointer and score of given masks, one of them empty."""
    size = (predictor.image_size, predictor.image_size)
    prompt = (F.interpolate(normal(4, (O, 1, 5, 5)), size, mode="bilinear") > 0.1).to(torch.uint8)
    prompt[1] = 0
    masks, pointer, score = tracker_networks(predictor)["mask_prompt"](prompt[:, 0], frame.f)
    high_res = [frame.of_all(frame.s0), frame.of_all(frame.s1)]
    expected = predictor._use_mask_as_output(frame.of_all(frame.f), high_res, prompt.float())
    assert_close(masks, expected[3][:, 0], LOGIT_TOLERANCE)
    assert torch.equal(masks > 0, expected[3][:, 0] > 0)
    assert_close(pointer, expected[5])
    assert torch.equal(score, expected[6][:, 0])
    assert score.tolist() == [10, -10, 10]


MEMORIES = [
    pytest.param((20, (0, 3), tuple(range(5, 20)), False), id="after two prompts"),
    pytest.param((6, (0, 30), (1, 2, 5), False), id="between prompts, with gaps"),
    pytest.param((0, (3,), (), False), id="before every prompt"),
    pytest.param((1, (0,), (), False), id="just after the prompt"),
    pytest.param((4, (20, 2), (5, 6, 7, 9), True), id="backward"),
    pytest.param((9, tuple(range(10, 22)), (), True), id="backward, many prompts"),
]
"""The frame, frames with a conditioning prompt, tracked frames, and whether the pass is backward."""


@pytest.mark.parametrize("case", MEMORIES)
@torch.inference_mode()
def test_memory_attention_equals_the_package(
    predictor: FeaturePredictor,
    frame: Frame,
    normal: Normal,
    case: tuple[int, tuple[int, ...], tuple[int, ...], bool],
) -> None:
    """Any number of memories and pointers, none included, of several objects at once."""
    t, conditioning, tracked, reverse = case
    grid, channels, memory_channels = frame.grid, predictor.hidden_dim, predictor.mem_dim
    zeros = torch.zeros(O, 1, grid, grid)

    def output(seed: int) -> dict[str, Any]:
        return {
            "maskmem_features": normal(100 + seed, (O, memory_channels, grid, grid)),
            "maskmem_pos_enc": [predictor.memory_encoder.position_encoding(zeros)],
            "obj_ptr": normal(200 + seed, (O, channels)),
        }

    prompts, steps = ({s: output(s) for s in frames} for frames in (conditioning, tracked))
    expected = predictor._prepare_memory_conditioned_features(
        t,
        False,
        [frame.tokens(frame.f)],
        [frame.tokens(predictor.image_encoder.neck.position_encoding(frame.f))],
        [(grid, grid)],
        {"cond_frame_outputs": prompts, "non_cond_frame_outputs": steps},
        50,
        reverse,
    )
    sign = -1 if reverse else 1
    near = [(d, steps[t - sign * d]) for d in range(1, 16) if t - sign * d in steps]
    memories = [(6, out) for out in prompts.values()] + [(d - 1, out) for d, out in near[::-1] if d < 7]
    pointers = [(sign * (t - s), out) for s, out in prompts.items() if sign * (t - s) >= 0] + near
    found = tracker_networks(predictor)["memory_attention"](
        frame.f,
        torch.stack([out["maskmem_features"] for _, out in memories], dim=1),
        torch.tensor([[row for row, _ in memories]] * O),
        torch.stack([out["obj_ptr"] for _, out in pointers], dim=1)
        if pointers
        else torch.zeros(O, 0, channels),
        torch.tensor([[d / 15 for d, _ in pointers]] * O),
    )
    assert_close(found, expected)


@torch.inference_mode()
def test_values_may_be_projected_after_they_are_mixed(predictor: FeaturePredictor) -> None:
    """The narrow form of memory attention equals the wide one."""
    wide, narrow = (tracker_networks(predictor)["memory_attention"] for _ in range(2))
    mix_narrow_values(narrow)
    spec = model_spec(TINY, "gmos")
    spec = replace(
        spec,
        sam2_image_px=predictor.image_size,
        sam2_channels=predictor.hidden_dim,
        memory_channels=predictor.mem_dim,
    )
    inputs = example(spec, "memory_attention", objects=2, memories=3, pointers=2)
    widths: list[int] = []
    for layer in narrow.layers:
        layer.cross_attention.attend.register_forward_hook(
            lambda _, given, __: widths.append(given[2].shape[-1])
        )
    assert_close(narrow(*inputs), wide(*inputs))
    assert widths == [predictor.mem_dim] * len(narrow.layers)


@torch.inference_mode()
def test_mask_decoder_equals_the_package(predictor: FeaturePredictor, frame: Frame, normal: Normal) -> None:
    """The best of three masks, its IoU and pointer, with and without a visible object."""
    conditioned = normal(5, (8, predictor.hidden_dim, frame.grid, frame.grid))
    masks, ious, pointer, score = tracker_networks(predictor)["mask_decoder"](conditioned, frame.s0, frame.s1)
    high_res = [feature.expand(8, -1, -1, -1) for feature in (frame.s0, frame.s1)]
    expected = predictor._forward_sam_heads(conditioned, high_res_features=high_res, multimask_output=True)
    assert_close(masks, expected[3][:, 0])
    assert_close(ious, expected[2].amax(dim=1))
    assert_close(pointer, expected[5])
    assert_close(score, expected[6][:, 0])
    visible = score > 0
    assert visible.any()
    assert not visible.all()
    assert (masks[~visible] == -1024).all()
    assert len(expected[2].argmax(dim=1).unique()) > 1


@pytest.mark.parametrize("prompted", [0, 1])
@torch.inference_mode()
def test_memory_encoder_equals_the_package(
    predictor: FeaturePredictor, frame: Frame, normal: Normal, prompted: int
) -> None:
    """Given masks are binarised, predicted ones are not; a hidden object is marked."""
    masks = 5 * normal(6, (O, frame.mask_px, frame.mask_px))
    score = torch.tensor([2.0, -0.5, 0.0])
    given = torch.full((O,), float(prompted))
    found = tracker_networks(predictor)["memory_encoder"](frame.f, masks, score, given)
    size = (predictor.image_size, predictor.image_size)
    expected, _ = predictor._encode_new_memory(
        [frame.tokens(frame.f)],
        [(frame.grid, frame.grid)],
        F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False),
        score[:, None],
        bool(prompted),
    )
    assert_close(found, expected)


@torch.inference_mode()
def test_given_and_predicted_masks_mix_in_one_call(
    predictor: FeaturePredictor, frame: Frame, normal: Normal
) -> None:
    """Each object is treated as alone."""
    encode = tracker_networks(predictor)["memory_encoder"]
    masks, score = normal(7, (2, frame.mask_px, frame.mask_px)), torch.ones(2)
    both = encode(frame.f, masks, score, torch.tensor([1.0, 0.0]))
    for o, prompted in enumerate((1.0, 0.0)):
        alone = encode(frame.f, masks[o : o + 1], score[:1], torch.tensor([prompted]))
        assert_close(both[o : o + 1], alone)
    assert (both[0] - encode(frame.f, masks, score, torch.zeros(2))[0]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("side", [8, 64, 256])
def test_the_quarter_filter_equals_an_antialiased_resize(side: int, uniform: Normal) -> None:
    """Exactly so inside, where every weight is a multiple of a thirty-second."""
    mask = (uniform(8, (2, side, side)) > 0.5).float()
    size = (side // 4, side // 4)
    expected = F.interpolate(mask[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    found = quarter(mask)
    assert_close(found, expected, LOGIT_TOLERANCE)
    assert torch.equal(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])


def test_labels_start_above_minus_one_and_masks_above_zero() -> None:
    """A pixel belongs to its best object, also where that object's logit is slightly negative."""
    levels = torch.tensor([[-3.0, -1.0, -0.5, 2.0], [-2.0, -1.5, -0.9, 3.0]])
    masks = levels[:, None, :].expand(2, 4, 4)
    positive, labels = tracked_labels(masks, (4, 4))
    assert positive.dtype is labels.dtype is torch.uint8
    assert positive[:, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert labels[0].tolist() == [0, 0, 1, 2]
    bigger, _ = tracked_labels(masks, (9, 6))
    assert bigger.shape == (2, 9, 6)


@pytest.fixture(scope="module")
def tiny() -> FeaturePredictor:
    model = build_sam2(TINY.sam2)
    fill_deterministic(model)
    return model


def test_weights_are_the_predictors_own(tiny: FeaturePredictor) -> None:
    """A network is a view: only the projections that a rotation needs in another order are copies."""
    own = {parameter.data_ptr() for parameter in tiny.parameters()}
    for name, network in tracker_networks(tiny).items():
        for key, parameter in network.named_parameters():
            reordered = "_attention.q_proj." in key or "_attention.k_proj." in key
            assert (parameter.data_ptr() in own) is not reordered, f"{name}: {key}"


def test_the_predictor_is_left_as_it_was(tiny: FeaturePredictor) -> None:
    """Its own layers are not exchanged."""
    before = [type(module) for module in tiny.modules()]
    keys = list(tiny.state_dict())
    tracker_networks(tiny)
    assert [type(module) for module in tiny.modules()] == before
    assert list(tiny.state_dict()) == keys


def test_tables_stay_float32_in_half_networks(tiny: FeaturePredictor) -> None:
    """Their values are not rounded on the way, and the answers come in the network's own dtype."""
    whole = tracker_networks(tiny)["memory_attention"]
    half = copy.deepcopy(whole).bfloat16()
    assert isinstance(half, Float32Tables)
    for (name, table), (_, expected) in zip(half.named_buffers(), whole.named_buffers(), strict=True):
        assert table.dtype is torch.float32, name
        assert torch.equal(table, expected), name
    spec = network_specs(model_spec(TINY, "gmos"))["memory_attention"]
    inputs = example(model_spec(TINY, "gmos"), "memory_attention", objects=2, memories=3, pointers=2)
    inputs = [
        x.bfloat16() if tensor.dtype == "compute" else x
        for x, tensor in zip(inputs, spec.inputs, strict=True)
    ]
    assert half(*inputs).dtype is torch.bfloat16


def example(
    model: ModelSpec, name: str, *, objects: int, memories: int = 1, pointers: int = 0
) -> list[Tensor]:
    """Seeded inputs of a network with the axes and dtypes of the contract."""
    lengths = {"O": objects, "R": memories, "P": pointers}
    draw = torch.Generator().manual_seed(objects)
    inputs = []
    for tensor in network_specs(model)[name].inputs:
        shape = [axis if isinstance(axis, int) else lengths[axis] for axis in tensor.axes]
        if tensor.name == "video_hw":
            inputs.append(torch.tensor([20, 20 + memories]))
        elif tensor.dtype == "int64":
            inputs.append(torch.randint(0, model.memory_frames, shape, generator=draw))
        elif tensor.dtype == "uint8":
            inputs.append((torch.rand(shape, generator=draw) > 0.5).to(torch.uint8))
        else:
            inputs.append(torch.randn(shape, generator=draw))
    return inputs


@pytest.mark.parametrize("name", NAMES)
def test_networks_have_the_contracts_tensors(tiny: FeaturePredictor, name: str) -> None:
    """Every output has the axes and dtype that its specification says."""
    lengths = {"O": 2, "R": 3, "P": 4, "H": 20, "W": 23}
    inputs = example(model_spec(TINY, "gmos"), name, objects=2, memories=3, pointers=4)
    outputs = tracker_networks(tiny)[name](*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    for tensor, output in zip(network_specs(model_spec(TINY, "gmos"))[name].outputs, outputs, strict=True):
        shape = tuple(axis if isinstance(axis, int) else lengths[axis] for axis in tensor.axes)
        assert tuple(output.shape) == shape, tensor.name
        assert output.dtype is (torch.uint8 if tensor.dtype == "uint8" else torch.float32), tensor.name


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_serves_every_number_of_objects_memories_and_pointers(
    tiny: FeaturePredictor, name: str
) -> None:
    """Traced once with dynamic axes, a network equals itself at other lengths, 0 pointers included."""
    network: nn.Module = tracker_networks(tiny)[name]
    axes = {letter: torch.export.Dim(letter, min=minimum, max=64) for letter, minimum in DYNAMIC.items()}
    dynamic = tuple(
        {i: axes[axis] for i, axis in enumerate(tensor.axes) if axis in axes}
        for tensor in network_specs(model_spec(TINY, "gmos"))[name].inputs
    )
    traced_on = example(model_spec(TINY, "gmos"), name, objects=2, memories=3, pointers=4)
    graph = torch.export.export(network, tuple(traced_on), dynamic_shapes=dynamic).module()
    for objects, memories, pointers in ((1, 1, 0), (3, 1, 0), (1, 7, 15), (4, 9, 16)):
        inputs = example(
            model_spec(TINY, "gmos"), name, objects=objects, memories=memories, pointers=pointers
        )
        torch.testing.assert_close(graph(*inputs), network(*inputs), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("option", ["memory_temporal_stride_for_eval", "use_multimask_token_for_obj_ptr"])
def test_other_options_are_refused(
    tiny: FeaturePredictor, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """A predictor that tracks by other rules is not silently tracked by these."""
    assert option in ASSUMED_OPTIONS
    monkeypatch.setattr(tiny, option, 3)
    with pytest.raises(ValueError, match=f"SAM2 option {option} is 3, expected .* as in SAM2.1"):
        tracker_networks(tiny)
