"""The trained weights that come with the package: checkpoints of the nano preset, with the published keys."""

from __future__ import annotations

from pathlib import Path

from ...runtime.contract import Variant

NANO = "nano"
"""The preset that they belong to."""

FOLDER = Path(__file__).parents[1] / "nano"

PACKED_BUNDLES = FOLDER / "bundles.zip"
"""Its bundles by variant, for `runtime.bundle.packed_bundle`; tools/nano/pack_bundles.py makes the file."""


def nano_checkpoints(variant: Variant, folder: Path = FOLDER) -> dict[str, Path]:
    """The file for each checkpoint flag of a variant, fp16 safetensors; of the package, or of a folder like it."""
    head = "gmos_ckpt" if variant == "gmos" else "gmos_s_ckpt"
    return {
        "pi3_ckpt": folder / "pi3.safetensors",
        "sam2_ckpt": folder / "sam2.safetensors",
        head: folder / f"{head.removesuffix('_ckpt')}.safetensors",
    }
