"""Writes trained nano weights into the package: fp16 safetensors with the published checkpoint keys."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gmos_deploy.gmos_ref.reference_config import FOLDER

FEW = 16
"""Tensors of up to so many values, such as the mean of colours, stay as they are."""

SHIFTS = {"gmos": ("iou_head.", 0.25), "gmos_s": ("fg_out.", 1.0)}
"""What is taken off an answer of a head, by the start of the keys of its layers.

The proposer's scores: it costs some true proposals and more false ones, which on real video start objects
that MOS then keeps to the end. The logits of GMOS-S: training weighs moving and resting pixels as J does;
a look-alike at rest should cost more than an outline.
"""

LIMIT_BYTES = 12_000_000
"""What all weights together may take in the wheel."""


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in half precision, each with memory of its own."""
    return {
        key: (value.half() if value.is_floating_point() and value.numel() > FEW else value)
        .detach()
        .clone()
        .contiguous()
        for key, value in state.items()
    }


def stricter(state: dict[str, Tensor], head: str, times: float = 1.0) -> dict[str, Tensor]:
    """A head whose answer is less by so many times its shift: the bias of the answer's last layer is."""
    layers, shift = SHIFTS[head]
    bias = max(key for key in state if key.startswith(layers) and key.endswith("bias"))
    return {**state, bias: state[bias] - times * shift}


def main() -> None:
    """Write the files whose training states are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pi3", type=Path, help="state of train_pi3.py")
    parser.add_argument("--tracker", type=Path, help="state of train_tracker.py")
    parser.add_argument("--gmos_s", type=Path, help="state of train_heads.py for GMOS-S")
    parser.add_argument("--gmos", type=Path, help="state of train_heads.py for the proposer")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder to write to (default: the package's own)"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, path, entry in (
        ("pi3", options.pi3, "pi3"),
        ("sam2", options.tracker, "sam2"),
        ("gmos_s", options.gmos_s, "head"),
        ("gmos", options.gmos, "head"),
    ):
        if path is None:
            continue
        target = options.out / f"{name}.safetensors"
        part = target.with_suffix(".part")
        state = torch.load(path, weights_only=True)
        # train_gmos_s.py can train the proposer too, beside its own head.
        weights = state["proposer" if name == "gmos" and "proposer" in state else entry]
        save_file(published(stricter(weights, name) if name in SHIFTS else weights), part)
        part.chmod(0o644)
        part.replace(target)
    total = sum(file.stat().st_size for file in options.out.glob("*.safetensors"))
    print(f"{options.out}: {total / 1e6:.2f} MB of at most {LIMIT_BYTES / 1e6:.0f}")
    if total > LIMIT_BYTES:
        raise SystemExit("too large")


if __name__ == "__main__":
    main()
