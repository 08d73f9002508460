"""Untrained networks that give every stage of the pipeline work, for trying it without checkpoints.

Each tensor is drawn from a generator seeded with its own key.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from ...runtime.contract import Variant
from ..gmos.gmos_s import GmosS
from ..gmos.proposer import GmosProposer
from ..networks import ReferenceNetworks
from ..pi3.encoder import Pi3Encoder
from ..presets import Preset, ProposerConfig
from ..sam2.model import FeaturePredictor, build_sam2

MOTION_LOGIT = (1.2, 1.0)
IOU = (0.8, 0.1)
MASK_WEIGHT = (-0.4, 1.0)
"""Mean and standard deviation over the queries: some move, most are trusted, masks leave background."""

OBJECT_SCORE_BIAS = 4.0
TRACKER_IOU_BIAS = 3.5
"""Offsets of SAM2's last biases: tracked objects are there, and good enough to prompt stage 2."""

TRACKER_IOU_GAIN = 8.0
"""Of SAM2's predicted IoUs over frames: stage 2 ranks the frames by them."""

MEMORY_GAIN = 4.0
"""Of the weights between memories and the frame: 4 separates objects, 16 makes tracks drift on rounding."""

TOKEN_GAIN = 8.0
"""Of the query tokens: enough for each query to attend to few others."""

STANDARD_GRID_HW = (7, 9)
"""Pi3 grid of the seeded input on which the proposer's heads are standardised."""

KEPT_BUFFERS = ("image_mean", "image_std")
"""Buffers with values of their own, by the last part of the key."""


def stand_in_networks(sizes: Preset, variant: Variant) -> ReferenceNetworks:
    """All networks with deterministic weights.

    Queries of an untrained decoder are nearly equal: small tokens attend to all others alike. Their
    order, and with it everything after them, would hang on rounding. So the tokens are enlarged, and
    the last layers that read the queries are standardised on one seeded input: queries differ, and two
    implementations of the networks agree on the masks.
    """
    head_class = GmosProposer if variant == "gmos" else GmosS
    with torch.device("meta"):
        pi3 = Pi3Encoder(sizes.pi3)
        head = head_class(sizes.proposer)
    sam2 = build_sam2(sizes.sam2)
    for module in (pi3, head, sam2):
        fill_deterministic(module)
    if isinstance(head, GmosProposer):
        _standardise_queries(head, sizes.proposer)
    for mlp, bias in (
        (sam2.sam_mask_decoder.pred_obj_score_head, OBJECT_SCORE_BIAS),
        (sam2.sam_mask_decoder.iou_prediction_head, TRACKER_IOU_BIAS),
    ):
        _last_linear(mlp).bias.data.add_(bias)
    _last_linear(sam2.sam_mask_decoder.iou_prediction_head).weight.data.mul_(TRACKER_IOU_GAIN)
    _separate_objects(sam2)
    return ReferenceNetworks(pi3=pi3.eval(), sam2=sam2, head=head.eval())


def _separate_objects(sam2: FeaturePredictor) -> None:
    """Let the tracker's masks depend on what the objects' memories hold.

    Untrained attention averages all of a memory, which is much the same for every object.
    """
    weights = [sam2.memory_encoder.out_proj.weight]
    for layer in sam2.memory_attention.layers:
        attention = layer.cross_attn_image
        weights += [attention.q_proj.weight, attention.k_proj.weight, attention.out_proj.weight]
    for weight in weights:
        weight.data.mul_(MEMORY_GAIN)


@torch.inference_mode()
def _standardise_queries(head: GmosProposer, config: ProposerConfig) -> None:
    head.obj_token.data.mul_(TOKEN_GAIN)
    generator = torch.Generator().manual_seed(0)
    geometry = torch.randn(1, *STANDARD_GRID_HW, config.pi3_dim, generator=generator)
    features = torch.randn(1, config.sam2_channels, config.grid, config.grid, generator=generator)
    queries, _ = head.trans_decoder(head.obj_token, head.encode(geometry, features))
    for mlp, (mean, std) in (
        (head.motion_head, MOTION_LOGIT),
        (head.iou_head, IOU),
        (head.upsampling.output_hypernetwork_mlp, MASK_WEIGHT),
    ):
        _standardise(mlp, queries[0], mean=mean, std=std)


def _standardise(mlp: nn.Module, inputs: Tensor, *, mean: float, std: float) -> None:
    """Give each output of an MLP that mean and deviation over the inputs (N, C), by its last layer."""
    outputs = mlp(inputs)
    gain = std / outputs.std(dim=0)
    last = _last_linear(mlp)
    last.weight.data.mul_(gain[:, None])
    last.bias.data.sub_(outputs.mean(dim=0)).mul_(gain).add_(mean)


def _last_linear(mlp: nn.Module) -> nn.Linear:
    *_, last = (module for module in mlp.modules() if isinstance(module, nn.Linear))
    return last


def deterministic_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 values of the parameter or buffer with that state-dict key and shape.

    Standard normals n of a generator seeded with the key's CRC-32, scaled so that activations stay
    finite through any depth: 1 + 0.1 n for one-axis weights and gammas, 0.1 n for other one-axis
    tensors, n / sqrt(fan-in) for weights, 0.5 n for other tensors, and n itself for a scalar.
    """
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    if not shape:
        return torch.tensor(generator.standard_normal(), dtype=torch.float32)
    normals = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    last = key.rpartition(".")[2]
    if len(shape) == 1:
        normals.mul_(0.1)
        return normals.add_(1) if last in ("weight", "gamma") else normals
    return normals.div_(math.sqrt(math.prod(shape[1:]))) if last == "weight" else normals.mul_(0.5)


def _is_drawn(key: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and key.rpartition(".")[2] not in KEPT_BUFFERS


def deterministic_state(module: nn.Module) -> dict[str, Tensor]:
    """A whole state dict of deterministic values on the CPU; buffers that keep their values are copied."""
    return {
        key: deterministic_tensor(key, tuple(tensor.shape)) if _is_drawn(key, tensor) else tensor.clone()
        for key, tensor in module.state_dict().items()
    }


def fill_deterministic(module: nn.Module) -> None:
    """Give every parameter and persistent buffer its deterministic values, one tensor at a time.

    Tensors on the meta device get storage on the CPU, so a large network built under
    `torch.device("meta")` costs its own size once and no random initialisation. Others are written in
    place, whatever their device and dtype. Gradients are switched off.
    """
    for key, tensor in module.state_dict().items():
        if not _is_drawn(key, tensor):
            continue
        values = deterministic_tensor(key, tuple(tensor.shape))
        if not tensor.is_meta:
            tensor.copy_(values)
            continue
        owner_name, _, name = key.rpartition(".")
        owner = module.get_submodule(owner_name)
        if name in owner._parameters:
            values = nn.Parameter(values, requires_grad=False)
        setattr(owner, name, values)
    module.requires_grad_(False)
