"""One contract per network: the tensors that go in and out, read by export, calibration and runtime.

Axis letters are those of the model description: B batch, T frames in a window, H W pixels, h w patch
grid, C channels, K kept queries, S the SAM2 image side, m the mask side (S/4), O tracked objects, R
memories and P object pointers of an object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import GmosError

Variant = Literal["gmos", "gmos-s"]
Dtype = Literal["uint8", "int64", "compute", "float32"]
NetworkName = Literal[
    "sam2_resize",
    "dino",
    "pi3_decoder",
    "sam2_encoder",
    "proposer",
    "gmos_s",
    "proposal_labels",
    "foreground_map",
    "mask_prompt",
    "memory_attention",
    "mask_decoder",
    "memory_encoder",
    "tracked_labels",
]

HEADS: tuple[NetworkName, ...] = ("proposer", "gmos_s")
"""Networks whose precision is chosen apart from the others': they are published in float32."""

PROPOSAL_LIMIT = 20
"""Queries kept per frame, K = min(20, N)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The sizes of one set of networks: everything the pipeline must know about them.

    Lengths in pixels unless said otherwise. `pi3_area_px` is the area budget of a Pi3 frame.
    `memory_frames` is how many frames back the tracker's memories reach, the frame itself counted;
    `object_pointers` likewise for object pointers (SAM2.1: 7 and 16).
    """

    variant: Variant
    preset: str
    patch_px: int
    window: int
    pi3_channels: int
    pi3_area_px: int
    sam2_image_px: int
    sam2_channels: int
    queries: int
    memory_channels: int
    memory_frames: int = 7
    object_pointers: int = 16

    def __post_init__(self) -> None:
        if self.variant not in ("gmos", "gmos-s"):
            raise GmosError(f"variant {self.variant!r}: expected gmos or gmos-s")
        if self.window % 2 != 1:
            raise GmosError(f"window of {self.window} frames: expected an odd number, it has a middle frame")

    @property
    def kept_queries(self) -> int:
        """K, the proposals a frame can have."""
        return min(PROPOSAL_LIMIT, self.queries)

    @property
    def mask_px(self) -> int:
        """Side of a mask logit map, a quarter of the SAM2 image."""
        return self.sam2_image_px // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of a network.

    `axes` holds an int where the preset fixes the length and a letter where it varies.
    dtype `compute` is the network's own precision. `host` marks a shape-like input that is read on
    the host before the network starts. `values` says the range in words.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: Dtype
    values: str
    host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Name, inputs and outputs of one network, in their order."""

    name: NetworkName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def network_specs(model: ModelSpec) -> dict[NetworkName, NetworkSpec]:
    """The contract of every network that a run of `model.variant` uses."""
    side, mask, channels = model.sam2_image_px, model.mask_px, model.sam2_channels
    grid, kept = side // 16, model.kept_queries
    tokens = TensorSpec(
        name="tokens",
        axes=("B", "h", "w", model.pi3_channels),
        dtype="compute",
        values="DINOv2 patch tokens after the final norm",
    )
    geometry = TensorSpec(
        name="geometry",
        axes=("B", "h", "w", model.pi3_channels),
        dtype="compute",
        values="Pi3 features of the window's middle frame",
    )
    images = TensorSpec(
        name="images",
        axes=("B", 3, side, side),
        dtype="float32",
        values="ImageNet-normalised RGB",
    )
    features = (
        TensorSpec(
            name="s0", axes=("B", channels // 8, mask, mask), dtype="compute", values="stride-4 features"
        ),
        TensorSpec(
            name="s1",
            axes=("B", channels // 4, mask // 2, mask // 2),
            dtype="compute",
            values="stride-8 features",
        ),
        TensorSpec(
            name="f",
            axes=("B", channels, grid, grid),
            dtype="compute",
            values="stride-16 features, without no_mem_embed",
        ),
    )
    video_hw = TensorSpec(
        name="video_hw", axes=(2,), dtype="int64", values="height and width of the video", host=True
    )

    def scores(axis: int, *names: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=name, axes=("B", axis), dtype="float32", values=name.replace("_", " "))
            for name in names
        )

    def mask_logits(axis: int, name: str) -> TensorSpec:
        return TensorSpec(name=name, axes=("B", axis, mask, mask), dtype="float32", values="logits")

    networks = [
        NetworkSpec(
            name="sam2_resize",
            inputs=(
                TensorSpec(
                    name="frames", axes=("B", "H", "W", 3), dtype="uint8", values="RGB 0..255, video size"
                ),
            ),
            outputs=(images,),
        ),
        NetworkSpec(
            name="dino",
            inputs=(
                TensorSpec(
                    name="frames", axes=("B", 3, "H", "W"), dtype="uint8", values="RGB 0..255, Pi3 size"
                ),
            ),
            outputs=(tokens,),
        ),
        NetworkSpec(
            name="pi3_decoder",
            inputs=(
                TensorSpec(
                    name="tokens",
                    axes=("B", model.window, "h", "w", model.pi3_channels),
                    dtype="compute",
                    values="DINOv2 patch tokens of a window",
                ),
            ),
            outputs=(geometry,),
        ),
        NetworkSpec(name="sam2_encoder", inputs=(images,), outputs=features),
    ]
    if model.variant == "gmos":
        networks += [
            NetworkSpec(
                name="proposer",
                inputs=(geometry, *features),
                outputs=(
                    mask_logits(kept, "mask_logits"),
                    *scores(kept, "motion_logits", "ious", "confidences"),
                ),
            ),
            NetworkSpec(
                name="proposal_labels",
                inputs=(mask_logits(kept, "mask_logits"), video_hw),
                outputs=(
                    TensorSpec(
                        name="labels",
                        axes=("B", "H", "W"),
                        dtype="uint8",
                        values="0, or 1 + the slot that wins the pixel",
                    ),
                ),
            ),
            *_tracker_networks(model, features, video_hw),
        ]
    else:
        networks += [
            NetworkSpec(
                name="gmos_s",
                inputs=(geometry, *features),
                outputs=(mask_logits(1, "foreground_logits"), *scores(1, "ious", "confidences")),
            ),
            NetworkSpec(
                name="foreground_map",
                inputs=(mask_logits(1, "foreground_logits"), video_hw),
                outputs=(
                    TensorSpec(name="mask", axes=("B", "H", "W"), dtype="uint8", values="1 where p > 0.5"),
                    TensorSpec(
                        name="probability", axes=("B", "H", "W"), dtype="uint8", values="floor(255 p)"
                    ),
                ),
            ),
        ]
    return {network.name: network for network in networks}


def _tracker_networks(
    model: ModelSpec, features: tuple[TensorSpec, ...], video_hw: TensorSpec
) -> list[NetworkSpec]:
    """SAM2's tracker, cut where its recurrent state passes through the host's memory bank.

    The features are those of one frame and serve all O objects of a call. A prompt needs f alone: its
    mask is the answer, and SAM's decoder runs only as far as the object pointer.
    """
    s0, s1, f = (replace(feature, axes=(1, *feature.axes[1:])) for feature in features)
    side, mask, channels = model.sam2_image_px, model.mask_px, model.sam2_channels
    grid = side // 16
    masks = TensorSpec(name="masks", axes=("O", mask, mask), dtype="float32", values="mask logits")
    pointer = TensorSpec(
        name="pointer", axes=("O", channels), dtype="compute", values="object pointer of the frame"
    )
    score = TensorSpec(
        name="score", axes=("O",), dtype="float32", values="object score logit, > 0 where it is visible"
    )
    conditioned = TensorSpec(
        name="conditioned",
        axes=("O", channels, grid, grid),
        dtype="compute",
        values="f conditioned on the object's memories",
    )
    memory = TensorSpec(
        name="memory",
        axes=("O", model.memory_channels, grid, grid),
        dtype="compute",
        values="memory features of the frame",
    )
    return [
        NetworkSpec(
            name="mask_prompt",
            inputs=(
                TensorSpec(name="prompt", axes=("O", side, side), dtype="uint8", values="mask, 0 or 1"),
                f,
            ),
            outputs=(masks, pointer, score),
        ),
        NetworkSpec(
            name="memory_attention",
            inputs=(
                f,
                TensorSpec(
                    name="memories",
                    axes=("O", "R", model.memory_channels, grid, grid),
                    dtype="compute",
                    values="memory features, in the order of their positions",
                ),
                TensorSpec(
                    name="memory_positions",
                    axes=("O", "R"),
                    dtype="int64",
                    values="row of the temporal table: memory_frames - 1 for prompts, else distance - 1",
                ),
                TensorSpec(
                    name="pointers", axes=("O", "P", channels), dtype="compute", values="object pointers"
                ),
                TensorSpec(
                    name="pointer_distances",
                    axes=("O", "P"),
                    dtype="float32",
                    values="signed distance in frames over the largest one",
                ),
            ),
            outputs=(conditioned,),
        ),
        NetworkSpec(
            name="mask_decoder",
            inputs=(conditioned, s0, s1),
            outputs=(
                masks,
                TensorSpec(name="ious", axes=("O",), dtype="float32", values="best predicted IoU"),
                pointer,
                score,
            ),
        ),
        NetworkSpec(
            name="memory_encoder",
            inputs=(
                f,
                masks,
                score,
                TensorSpec(
                    name="prompted",
                    axes=("O",),
                    dtype="float32",
                    values="1 where the mask was given, else 0: given masks are binarised",
                ),
            ),
            outputs=(memory,),
        ),
        NetworkSpec(
            name="tracked_labels",
            inputs=(masks, video_hw),
            outputs=(
                TensorSpec(name="positive", axes=("O", "H", "W"), dtype="uint8", values="1 where logit > 0"),
                TensorSpec(
                    name="labels",
                    axes=("H", "W"),
                    dtype="uint8",
                    values="0, or 1 + the position of the arg-max object where its logit > -1",
                ),
            ),
        ),
    ]
