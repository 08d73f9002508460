"""The lengths at which an exported network is compared with the reference."""

from __future__ import annotations

from ...runtime.bundle.seeded_inputs import Lengths
from ...runtime.contract import ModelSpec, NetworkName

GRIDS = ((5, 7), (9, 4))
"""Two Pi3 resolutions in patches, one wide and one tall."""
VIDEO_SHARES = ((0.4, 0.7), (1.6, 1.2))
"""Two video sizes (height, width) as shares of SAM2's image side: one enlarged to it, one reduced."""


def gate_cases(name: NetworkName, model: ModelSpec) -> tuple[Lengths, ...]:
    """The lengths at which a network is compared: two batch sizes, two resolutions, two memory lengths."""
    patch_px = model.patch_px
    videos = [tuple(int(share * model.sam2_image_px) for share in shares) for shares in VIDEO_SHARES]
    pi3 = tuple({"B": b, "h": h, "w": w} for b, (h, w) in zip((1, 2), GRIDS, strict=True))
    if name == "dino":
        return tuple({**case, "H": patch_px * case["h"], "W": patch_px * case["w"]} for case in pi3)
    if name in ("pi3_decoder", "proposer", "gmos_s"):
        return pi3
    if name in ("sam2_resize", "proposal_labels", "foreground_map"):
        return tuple({"B": b, "H": h, "W": w} for b, (h, w) in zip((1, 2), videos, strict=True))
    if name == "sam2_encoder":
        return ({"B": 1}, {"B": 2})
    if name == "tracked_labels":
        return tuple({"O": o, "H": h, "W": w} for o, (h, w) in zip((1, 3), videos, strict=True))
    if name == "memory_attention":
        return ({"O": 1, "R": 1, "P": 0}, {"O": 2, "R": model.memory_frames + 1, "P": 4})
    return ({"O": 1}, {"O": 3})
