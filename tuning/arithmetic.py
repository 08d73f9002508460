"""What levers save at the published size, counted: operations of the networks, not time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.contract import Variant

PUBLISHED: Mapping[str, float] = {
    "dino": 0.9537,
    "pi3_decoder": 9.3893,
    "sam2_encoder": 1.8228,
    "proposer": 0.0931,
    "gmos_s": 0.0869,
    "memory_attention": 0.6056,
    "mask_decoder": 0.0036,
    "memory_encoder": 0.0116,
}
"""10^12 operations of a call at the published size, a multiply-add counted as two.

Of a frame of 672x378 pixels at Pi3's size, of a window of five, of one object with seven memories and sixteen pointers.
Counted by PyTorch (`export.onnx.flops`); `tests/tuning/test_arithmetic.py` counts again.
"""

FRAME_BLOCK, WINDOW_BLOCK = 0.0397, 0.3370
"""A block of the Pi3 decoder on one frame, and one that attends over the window; counted likewise."""

ATTENTION_PER_MEMORY = (1.3042 - 0.6056) / 10
"""What each further conditioning memory, with its pointer, adds to memory attention; counted likewise."""

PASSES = 2
"""Of GMOS's tracker over a video: stage 1 forward, and stage 2, whose two directions make one."""

WINDOW = 5
MEMORIES_COUNTED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Operations a frame, in 10^12, and how many times fewer they are than the exact run's."""

    name: str
    tera: float
    saves: float


def frame_tera(
    variant: Variant,
    *,
    objects: int = 1,
    stride: int = 3,
    memories: int = 1,
    decoded: float = 1.0,
    proposed: float = 1.0,
    mos_i_only: bool = False,
    local_layers: int | None = None,
) -> float:
    """Operations a frame at the published size, in 10^12.

    Args:
        variant: GMOS or GMOS-S.
        objects: that are tracked. GMOS.
        stride: of windows in frames.
        memories: conditioning ones that a frame of stage 2 reads.
        decoded: share of frames that go through the Pi3 decoder.
        proposed: share of frames that go through the proposer.
        mos_i_only: without stage 2.
        local_layers: of the decoder; 0 shares its first block alone, None nothing.
    """
    cost = PUBLISHED
    # DINO sees the frames of windows: all of them unless only every stride-th frame has one.
    dino = decoded if decoded <= 1 / stride else min(1.0, decoded * WINDOW)
    frame, window = cost["dino"], cost["pi3_decoder"]
    if local_layers is not None:
        frame += (2 * local_layers + 1) * FRAME_BLOCK
        window -= (local_layers + 1) * WINDOW * FRAME_BLOCK + local_layers * WINDOW_BLOCK
    total = dino * frame + decoded * window + cost["sam2_encoder"]
    if variant == "gmos-s":
        return total + cost["gmos_s"]
    step = cost["memory_attention"] + cost["mask_decoder"] + cost["memory_encoder"]
    second = 0.0 if mos_i_only else step + (memories - 1) * ATTENTION_PER_MEMORY
    return total + proposed * cost["proposer"] + objects * (step + second)


LONG_MEMORIES, FEW_MEMORIES = 100, 8
"""Conditioning memories of an object that is prompted on a tenth of 1000 frames, and with --max_conditioning 8."""

LONG = f"exact, {LONG_MEMORIES} conditioning memories"

Shares = Mapping[str, Any]

LEVERS: tuple[tuple[str, Shares, bool], ...] = (
    ("exact", {}, False),
    ("--mos_i_only", {"mos_i_only": True}, True),
    ("--geometry_every 2", {"decoded": 1 / 2}, False),
    ("--geometry_every 2, half of the gaps decoded", {"decoded": 3 / 4}, False),
    ("--geometry_every 3", {"decoded": 1 / 3}, False),
    ("--share_block", {"local_layers": 0}, False),
    ("--local_layers 6", {"local_layers": 6}, False),
    ("--local_layers 9", {"local_layers": 9}, False),
    ("--local_layers 6 --geometry_every 2", {"local_layers": 6, "decoded": 1 / 2}, False),
    ("--propose_every 3, no frame looked back to", {"proposed": 1 / 3, "decoded": 1 / 3}, True),
    ("--propose_every 3, half of the others proposed", {"proposed": 2 / 3, "decoded": 2 / 3}, True),
    (LONG, {"memories": LONG_MEMORIES}, True),
    (f"--max_conditioning {FEW_MEMORIES} of them", {"memories": FEW_MEMORIES}, True),
)
"""Name, what it does to `frame_tera`, and whether only GMOS has it; those of many memories are held against `LONG`."""


def counted(variant: Variant, objects: int, more: Mapping[str, Shares] | None = None) -> list[Counted]:
    """Every lever at the published size, and more of them by name, held against the exact run."""
    levers = [(name, what) for name, what, tracked in LEVERS if variant == "gmos" or not tracked]
    found = []
    for name, what in (*levers, *(more or {}).items()):
        tera = frame_tera(variant, objects=objects, **what)
        exact = frame_tera(variant, objects=objects, memories=LONG_MEMORIES if "memories" in what else 1)
        found.append(Counted(name=name, tera=tera, saves=exact / tera))
    return found
