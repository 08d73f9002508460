"""One contract per network: the tensors that go in and out, read by export, calibration and runtime.

Axis letters are those of the model description: B batch, T frames in a window, H W pixels of the video, Hp Wp
pixels of a Pi3 frame, h w its patch grid, C channels, K kept queries, S the SAM2 image side, m the mask side
(S/4), O tracked objects, R memories and P object pointers of an object. `shapes` binds them to lengths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

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

NETWORK_NAMES: tuple[NetworkName, ...] = get_args(NetworkName)

WITHOUT_WEIGHTS: frozenset[NetworkName] = frozenset(
    {"sam2_resize", "proposal_labels", "foreground_map", "tracked_labels"}
)
"""Networks of operators alone: they resize and draw, always in float32, and there is nothing to quantise."""

FRAME_BY_FRAME: frozenset[NetworkName] = frozenset({"proposal_labels"})
"""Called with one frame at a time: the logits of one frame at the video's size are 160 MB at 1080p."""

PROPOSAL_LIMIT = 20
"""Queries kept per frame, K = min(20, N)."""


SIZES = {
    "patch_px": (1, 256),
    "window": (1, 99),
    "pi3_channels": (1, 1 << 16),
    "pi3_area_px": (1, 1 << 26),
    "sam2_image_px": (16, 1 << 13),
    "sam2_channels": (8, 1 << 16),
    "queries": (1, 1 << 16),
    "memory_channels": (1, 1 << 16),
    "memory_frames": (1, 1 << 10),
    "object_pointers": (1, 1 << 10),
    "frame_blocks": (0, 1 << 10),
    "pi3_registers": (1, 1 << 10),
}
"""Least and greatest of each field of `ModelSpec`: many times what networks have, and none that fills a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The sizes of one set of networks: everything the pipeline must know about them.

    Lengths in pixels unless said otherwise. `pi3_area_px` is the area budget of a Pi3 frame.
    `memory_frames` is how many frames back the tracker's memories reach, the frame itself counted;
    `object_pointers` likewise for object pointers (SAM2.1: 7 and 16). `frame_blocks` of the Pi3 decoder are part of
    `dino`, once per frame; then a frame's `pi3_registers` wait for its windows as its patches do.
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
    frame_blocks: int = 0
    pi3_registers: int = 5

    def __post_init__(self) -> None:
        if self.variant not in ("gmos", "gmos-s"):
            raise GmosError(f"variant {self.variant!r}: expected gmos or gmos-s")
        if not re.fullmatch(r"[\w.-]{1,64}", self.preset):
            raise GmosError(f"preset {self.preset!r:.80}: expected a name of letters, digits and -")
        for name, (least, most) in SIZES.items():
            size = getattr(self, name)
            if not least <= size <= most:
                raise GmosError(f"{name} {size}: expected {least} to {most}")
        if self.window % 2 != 1:
            raise GmosError(f"window of {self.window} frames: expected an odd number, it has a middle frame")
        if self.sam2_image_px % 16:
            raise GmosError(f"sam2_image_px {self.sam2_image_px}: expected a multiple of 16")
        if self.frame_blocks and self.frame_blocks % 2 != 1:
            raise GmosError(
                f"frame_blocks {self.frame_blocks}: expected 0 or an odd number, the last one attends within a frame"
            )

    @property
    def kept_queries(self) -> int:
        """K, the proposals a frame can have."""
        return min(PROPOSAL_LIMIT, self.queries)

    @property
    def local_layers(self) -> int:
        """How many of the decoder's global layers attend within a frame."""
        return self.frame_blocks // 2

    @property
    def approximations(self) -> str:
        """What a description of these networks ends with: nothing where they are the published ones."""
        count = self.local_layers
        return f", {count} local layer{'s' * (count != 1)}" if count else ""

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
    kept = model.kept_queries
    features = _features(model, "B")
    tokens, windows = _frame_tokens(model, "B"), _frame_tokens(model, "B", model.window)
    geometry = _tensor(
        "geometry", "B", "h", "w", model.pi3_channels, values="Pi3 features of the window's middle frame"
    )
    side = model.sam2_image_px
    images = _tensor("images", "B", 3, side, side, dtype="float32", values="ImageNet-normalised RGB")
    video = _tensor("frames", "B", "H", "W", 3, dtype="uint8", values="RGB 0..255, video size")
    frames = _tensor("frames", "B", 3, "Hp", "Wp", dtype="uint8", values="RGB 0..255, Pi3 size")

    def scores(axis: int, *names: str) -> tuple[TensorSpec, ...]:
        return tuple(
            _tensor(name, "B", axis, dtype="float32", values=name.replace("_", " ")) for name in names
        )

    def logits(axis: int, name: str) -> TensorSpec:
        return _tensor(name, "B", axis, model.mask_px, model.mask_px, dtype="float32", values="logits")

    networks = [
        _network("sam2_resize", (video,), (images,)),
        _network("dino", (frames,), tokens),
        _network("pi3_decoder", windows, (geometry,)),
        _network("sam2_encoder", (images,), features),
    ]
    if model.variant == "gmos":
        proposals = logits(kept, "mask_logits")
        labels = _tensor(
            "labels", "B", "H", "W", dtype="uint8", values="0, or 1 + the slot that wins the pixel"
        )
        networks += [
            _network(
                "proposer",
                (geometry, *features),
                (proposals, *scores(kept, "motion_logits", "ious", "confidences")),
            ),
            _network("proposal_labels", (proposals, VIDEO_HW), (labels,)),
            *_tracker_networks(model),
        ]
    else:
        foreground = logits(1, "foreground_logits")
        mask = _tensor("mask", "B", "H", "W", dtype="uint8", values="1 where p > 0.5")
        probability = _tensor("probability", "B", "H", "W", dtype="uint8", values="floor(255 p)")
        networks += [
            _network("gmos_s", (geometry, *features), (foreground, *scores(1, "ious", "confidences"))),
            _network("foreground_map", (foreground, VIDEO_HW), (mask, probability)),
        ]
    return {network.name: network for network in networks}


def _tensor(
    name: str, *axes: str | int, dtype: Dtype = "compute", values: str, host: bool = False
) -> TensorSpec:
    return TensorSpec(name=name, axes=axes, dtype=dtype, values=values, host=host)


def _network(
    name: NetworkName, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> NetworkSpec:
    return NetworkSpec(name=name, inputs=inputs, outputs=outputs)


VIDEO_HW = _tensor("video_hw", 2, dtype="int64", values="height and width of the video", host=True)


def _frame_tokens(model: ModelSpec, *batch: str | int) -> tuple[TensorSpec, ...]:
    """What the Pi3 decoder reads of a frame: its patches, and its registers where blocks were run for it alone."""
    channels, blocks = model.pi3_channels, model.frame_blocks
    if not blocks:
        place = "of a window" if model.window in batch else "after the final norm"
        return (_tensor("tokens", *batch, "h", "w", channels, values=f"DINOv2 patch tokens {place}"),)
    made = f"after {blocks} blocks of the decoder"
    patches = _tensor("tokens", *batch, "h", "w", channels, values=f"patch tokens {made}")
    return patches, _tensor(
        "registers", *batch, model.pi3_registers, channels, values=f"register tokens {made}"
    )


def _features(model: ModelSpec, batch: str | int) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """SAM2's feature maps: s0, s1 and f."""
    mask, channels, grid = model.mask_px, model.sam2_channels, model.sam2_image_px // 16
    return (
        _tensor("s0", batch, channels // 8, mask, mask, values="stride-4 features"),
        _tensor("s1", batch, channels // 4, mask // 2, mask // 2, values="stride-8 features"),
        _tensor("f", batch, channels, grid, grid, values="stride-16 features, without no_mem_embed"),
    )


def _tracker_networks(model: ModelSpec) -> list[NetworkSpec]:
    """SAM2's tracker, cut where its recurrent state passes through the host's memory bank.

    The features are those of one frame and serve all O objects of a call. A prompt needs f alone: its
    mask is the answer, and SAM's decoder runs only as far as the object pointer.
    """
    s0, s1, f = _features(model, 1)
    side, mask, channels = model.sam2_image_px, model.mask_px, model.sam2_channels
    grid = side // 16
    masks = _tensor("masks", "O", mask, mask, dtype="float32", values="mask logits")
    pointer = _tensor("pointer", "O", channels, values="object pointer of the frame")
    score = _tensor("score", "O", dtype="float32", values="object score logit, > 0 where it is visible")
    conditioned = _tensor(
        "conditioned", "O", channels, grid, grid, values="f conditioned on the object's memories"
    )
    memory = _tensor("memory", "O", model.memory_channels, grid, grid, values="memory features of the frame")
    memories = _tensor(
        "memories",
        "O",
        "R",
        model.memory_channels,
        grid,
        grid,
        values="memory features, in the order of their positions",
    )
    positions = _tensor(
        "memory_positions",
        "O",
        "R",
        dtype="int64",
        values="row of the temporal table: memory_frames - 1 for prompts, else distance - 1",
    )
    distances = _tensor(
        "pointer_distances",
        "O",
        "P",
        dtype="float32",
        values="signed distance in frames over the largest one",
    )
    prompted = _tensor(
        "prompted",
        "O",
        dtype="float32",
        values="1 where the mask was given, else 0: given masks are binarised",
    )
    prompt = _tensor("prompt", "O", side, side, dtype="uint8", values="mask, 0 or 1")
    pointers = _tensor("pointers", "O", "P", channels, values="object pointers")
    ious = _tensor("ious", "O", dtype="float32", values="best predicted IoU")
    positive = _tensor("positive", "O", "H", "W", dtype="uint8", values="1 where logit > 0")
    labels = _tensor(
        "labels",
        "H",
        "W",
        dtype="uint8",
        values="0, or 1 + the position of the arg-max object where its logit > -1",
    )
    return [
        _network("mask_prompt", (prompt, f), (masks, pointer, score)),
        _network("memory_attention", (f, memories, positions, pointers, distances), (conditioned,)),
        _network("mask_decoder", (conditioned, s0, s1), (masks, ious, pointer, score)),
        _network("memory_encoder", (f, masks, score, prompted), (memory,)),
        _network("tracked_labels", (masks, VIDEO_HW), (positive, labels)),
    ]
