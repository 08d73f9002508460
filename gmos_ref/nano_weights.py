"""The trained weights that come with the package: checkpoints of the nano preset, with the published keys."""

from __future__ import annotations

from pathlib import Path

from ..runtime.contract import Variant

NANO = "nano"
"""The preset that they belong to."""

FOLDER = Path(__file__).parent / "nano"


def nano_checkpoints(variant: Variant) -> dict[str, Path]:
    """The packaged file for each checkpoint flag of a variant: fp16 safetensors."""
    head = "gmos_ckpt" if variant == "gmos" else "gmos_s_ckpt"
    return {
        "pi3_ckpt": FOLDER / "pi3.safetensors",
        "sam2_ckpt": FOLDER / "sam2.safetensors",
        head: FOLDER / f"{head.removesuffix('_ckpt')}.safetensors",
    }
