"""Whether register tokens make heavy tails in Pi3's activations, and whether ranges without them or a rotation help.

    python benchmarks/registers.py VIDEO --held_out VIDEO… [--frames 24]

Nano's GMOS-S runs in PyTorch. On VIDEO the largest magnitude of what each linear layer of DINOv2 and the decoder reads
is taken: of register (and class) tokens, of patches, and of all after a Hadamard rotation of the channels. Then inputs
are rounded to eight bits, symmetrically with one range a layer, weights left as they are: with the range of all tokens,
with that of patches (registers are clipped), and rotated before and back behind. Masks are held against those without
rounding. A range for each token, which static ranges cannot have, says what outliers among tokens cost at all.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from gmos_deploy.evaluation.compare.mask_agreement import sequence_agreement
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.loading import checkpoint_networks
from gmos_deploy.gmos_ref.presets import model_spec
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.pi3_frame import pi3_size_wh
from gmos_deploy.runtime.pipeline.clip import ClipRun, label_maps
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import VideoReader
from gmos_deploy.runtime.video.sequence import SequenceInput

STEPS = 127
"""Of a symmetric range of eight bits."""

FRONT = 5
"""Tokens before the patches of a frame: DINOv2's class and four registers, the decoder's five registers."""

Round = Callable[[str, Tensor], Tensor]


def rounded(x: Tensor, largest: Tensor | float) -> Tensor:
    """To eight bits within a range."""
    step = torch.as_tensor(largest) / STEPS
    return (x / step).round().clamp(-STEPS, STEPS) * step


def rotation(channels: int) -> Tensor:
    """The orthogonal Hadamard matrix."""
    return torch.from_numpy(hadamard(channels)).float() / channels**0.5


class Ranges:
    """The largest magnitudes of what each layer reads, on videos that were run with `see` as hook."""

    def __init__(self) -> None:
        self.frame_tokens = 0
        self.all: dict[str, float] = {}
        self.patches: dict[str, float] = {}
        self.registers: dict[str, float] = {}
        self.rotated: dict[str, float] = {}

    def see(self, name: str, x: Tensor) -> Tensor:
        """Take an input (…, L, C); it stays as it is."""
        front = torch.arange(x.shape[-2]) % self.frame_tokens < FRONT
        for known, part in (
            (self.all, x),
            (self.patches, x[..., ~front, :]),
            (self.registers, x[..., front, :]),
            (self.rotated, x @ rotation(x.shape[-1])),
        ):
            known[name] = max(known.get(name, 0.0), part.abs().max().item())
        return x

    def with_all(self, name: str, x: Tensor) -> Tensor:
        """Rounded within the range of all tokens."""
        return rounded(x, self.all[name])

    def with_patches(self, name: str, x: Tensor) -> Tensor:
        """Rounded within the range of patches."""
        return rounded(x, self.patches[name])

    def with_rotation(self, name: str, x: Tensor) -> Tensor:
        """Rotated, rounded, rotated back."""
        turn = rotation(x.shape[-1])
        return rounded(x @ turn, self.rotated[name]) @ turn.T

    @staticmethod
    def per_token(_: str, x: Tensor) -> Tensor:
        """Rounded within each token's own range."""
        return rounded(x, x.abs().amax(-1, keepdim=True).clamp(min=1e-12))


class Layers:
    """The linear layers of an encoder, whose inputs a hook may change."""

    def __init__(self, pi3: nn.Module) -> None:
        self.hook: Round | None = None
        self.names = []
        for name, module in pi3.named_modules():
            if isinstance(module, nn.Linear):
                self.names.append(name)
                module.register_forward_pre_hook(self._changed(name))

    def _changed(self, name: str) -> Callable[[nn.Module, Any], Any]:
        def change(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
            return None if self.hook is None else (self.hook(name, inputs[0]),)

        return change


def masks(backend: TorchBackend, sequence: SequenceInput, frames: int) -> Any:  # noqa: ANN401 - a label store
    """Foreground maps."""
    (store,) = label_maps(ClipRun(backend, sequence, RunOptions(batch_size=1), frames=frames)).values()
    return store


def agreement(exact: Any, found: Any) -> float:  # noqa: ANN401 - label stores
    """Mean IoU over the frames."""
    names = [str(number) for number in range(len(exact))]
    read = lambda index: (exact[index], found[index])  # noqa: E731
    return sequence_agreement("video", "foreground", names, read).mean_iou


def frame_tokens(backend: TorchBackend, video: Path) -> int:
    """Tokens of a frame."""
    with VideoReader(video) as reader:
        height, width = next(iter(reader)).rgb.shape[:2]
    patch = backend.model.patch_px
    w, h = (side // patch for side in pi3_size_wh(width, height, backend.model.pi3_area_px, patch))
    return FRONT + w * h


def main(arguments: Sequence[str] | None = None) -> None:
    """Ranges on the first video, masks of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--held_out", type=Path, nargs="+", required=True)
    parser.add_argument("--frames", type=int, default=24)
    given = parser.parse_args(arguments)
    config = ReferenceConfig(variant="gmos-s", preset="nano", device="cpu", precision="fp32")
    networks = checkpoint_networks(config.sizes, config)
    layers = Layers(networks.pi3)
    backend = TorchBackend(
        model_spec(config.sizes, "gmos-s"), networks, device=torch.device("cpu"), precision="fp32"
    )
    limits = {"pi3_area_px": backend.model.pi3_area_px, "patch_px": backend.model.patch_px}
    videos = resolve_inputs([given.video, *given.held_out], fps=None, stride=None, **limits)
    exact = [masks(backend, video, given.frames) for video in videos]
    ranges = Ranges()
    ranges.frame_tokens = frame_tokens(backend, given.video)
    layers.hook = ranges.see
    masks(backend, videos[0], given.frames)
    tails = sorted(ranges.registers[name] / ranges.patches[name] for name in ranges.all)
    print(
        f"{len(tails)} layers; registers over patches, largest magnitudes: median {statistics.median(tails):.2f}, "
        f"greatest {tails[-1]:.2f}, above 1 in {sum(tail > 1 for tail in tails)}"
    )
    print(f"| range | {' | '.join(video.name for video in videos)} |\n|---|{'---|' * len(videos)}")
    for title, hook in (
        ("of all tokens", ranges.with_all),
        ("of patches", ranges.with_patches),
        ("of all, rotated", ranges.with_rotation),
        ("of each token", ranges.per_token),
    ):
        layers.hook = hook
        kept = [
            agreement(one, masks(backend, video, given.frames))
            for one, video in zip(exact, videos, strict=True)
        ]
        print(f"| {title} | {' | '.join(f'{one:.3f}' for one in kept)} |", flush=True)


if __name__ == "__main__":
    main()
