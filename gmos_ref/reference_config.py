"""What to load as the reference; checked before PyTorch is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import GmosError
from ..runtime.contract import Variant
from ..runtime.files.made_from import UNKNOWN
from ..runtime.precision import PrecisionName
from .presets import Preset, preset, with_frame_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where weights are from, and their licence as an SPDX id; `what` they are in words."""

    source: str
    licence: str
    what: str = ""


PUBLISHED: Mapping[str, Weights] = {
    "pi3_ckpt": Weights(
        what="Pi3's model.safetensors",
        source="https://huggingface.co/yyfz233/Pi3",
        licence="CC-BY-NC-4.0",
    ),
    "sam2_ckpt": Weights(
        what="sam2.1_hiera_large.pt",
        source="https://github.com/facebookresearch/sam2",
        licence="Apache-2.0",
    ),
    "gmos_ckpt": Weights(
        what="the GMOS proposer", source="https://github.com/Jyxarthur/gmos", licence="Apache-2.0"
    ),
    "gmos_s_ckpt": Weights(
        what="the GMOS-S proposer", source="https://github.com/Jyxarthur/gmos", licence="Apache-2.0"
    ),
}
"""What each flag takes, where its authors publish it, and under which licence."""

STATED = "stated at export"
"""The source of weights whose licence the user has stated."""

NON_COMMERCIAL = re.compile(r"\bCC-BY-NC\b")

LICENCE = re.compile(r"[A-Za-z0-9.+:-]+( (AND|OR|WITH) [A-Za-z0-9.+:-]+)*")
"""An SPDX id, one of one's own (LicenseRef-…), or several joined."""

OWN, UNTRAINED, NOT_STATED = (
    Weights(source="gmos-deploy", licence="Apache-2.0"),
    Weights(source="gmos-deploy, untrained", licence="Apache-2.0"),
    Weights(source=UNKNOWN, licence=UNKNOWN),
)
"""Of the nano model, of stand-in weights, and of checkpoints of other sizes than the published."""

NANO = "nano"
"""The preset whose trained weights come with the package."""

FOLDER = Path(__file__).parent / "nano"
"""Where they are: checkpoints with the published keys, fp16 safetensors."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """Which reference to load.

    `device` is cpu, cuda, cuda:N or auto (CUDA where there is one); `precision` auto is that of the
    published runs: bf16 on CUDA (fp16 where the card has no bf16), fp32 on a CPU. The published preset
    needs its checkpoints; without any, nano runs on the trained weights that come with the package, and
    others on untrained stand-in weights. `local_layers` and `share_block` as `presets.with_frame_blocks` has them.
    """

    variant: Variant
    preset: str = "published"
    pi3_ckpt: Path | None = None
    sam2_ckpt: Path | None = None
    gmos_ckpt: Path | None = None
    gmos_s_ckpt: Path | None = None
    device: str = "auto"
    precision: Literal["auto"] | PrecisionName = "auto"
    local_layers: int = 0
    share_block: bool = False

    def __post_init__(self) -> None:
        _ = self.sizes
        if self.preset == NANO and not any(self.checkpoints().values()):
            for name, path in nano_checkpoints(self.variant).items():
                # As if they had been given: whatever reads the checkpoints finds them here.
                object.__setattr__(self, name, path)
        given = self.checkpoints()
        if self.preset != "published" and not any(given.values()):
            return
        missing = [
            f"--{name} ({PUBLISHED[name].what}, {PUBLISHED[name].source})"
            for name, path in given.items()
            if path is None
        ]
        if missing:
            raise GmosError(
                f"{self.variant} at the {self.preset} size needs {len(given)} checkpoints; not given: "
                + "; ".join(missing)
                + ". To try the pipeline without checkpoints: --preset small"
            )

    @property
    def sizes(self) -> Preset:
        """Sizes of the networks.

        Raises:
            GmosError: there is no such preset, or it has fewer layers.
        """
        return with_frame_blocks(
            preset(self.preset), local_layers=self.local_layers, share_block=self.share_block
        )

    def checkpoints(self) -> dict[str, Path | None]:
        """The checkpoint flags that this variant uses, with what was given."""
        head = "gmos_ckpt" if self.variant == "gmos" else "gmos_s_ckpt"
        return {name: getattr(self, name) for name in ("pi3_ckpt", "sam2_ckpt", head)}

    def weights(self) -> dict[str, Weights]:
        """Source and licence of the weights by flag: as published, where the sizes are the published ones."""
        return {flag: self._weights(flag, path) for flag, path in self.checkpoints().items()}

    def stated_weights(self, given: Sequence[str]) -> dict[str, Weights]:
        """The same with licences that the user states for weights of their own.

        Args:
            given: `PART=ID` each, the part a checkpoint flag without its ending.

        Raises:
            GmosError: there is no such part, or the licence is no SPDX id.
        """
        found = self.weights()
        for text in given:
            part, _, licence = text.partition("=")
            if f"{part}_ckpt" not in found or not LICENCE.fullmatch(licence):
                parts = ", ".join(flag.removesuffix("_ckpt") for flag in found)
                raise GmosError(
                    f"--weights_licence {text}: expected PART=ID with one of {parts} and an SPDX id, such as "
                    "pi3=Apache-2.0 or pi3=LicenseRef-ours"
                )
            found[f"{part}_ckpt"] = Weights(source=STATED, licence=licence)
        return found

    def _weights(self, flag: str, path: Path | None) -> Weights:
        if path is None:
            return UNTRAINED
        if path.parent == FOLDER:
            return OWN
        return PUBLISHED[flag] if self.preset == "published" else NOT_STATED
