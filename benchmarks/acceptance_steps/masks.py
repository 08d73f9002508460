"""Whole networks on each backend: nano's masks against the stored ones of the reference."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.evaluation.compare.mask_agreement import PROFILES, sequence_agreement
from gmos_deploy.evaluation.doctor.selftest import clip_masks, frame_names, stored_masks
from gmos_deploy.runtime.frame_result import ResultName
from gmos_deploy.runtime.precision import EXPORTED
from gmos_deploy.sides import Side

from .record import Context, MissingError, Notes

Masks = dict[ResultName, NDArray[np.uint8]]
"""Label maps (n, H, W) of a clip by result."""

REPEATS = 3
"""Runs that must agree in every pixel: what races gives other masks now and then."""


def reference(context: Context, notes: Notes) -> None:
    """The step: PyTorch's networks in every precision, TF32 off, against the masks of a CPU in float32."""
    names = [name for name in context.usable if name.startswith("torch")]
    if not names:
        raise MissingError("PyTorch with SAM2: pip install 'gmos-deploy[ref]'")
    import torch  # noqa: PLC0415 - seconds, and not on every machine

    # On Ampere and later convolutions are rounded to TF32 by default: this process compares float32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    for name in names:
        for precision in EXPORTED if "cuda" in name else EXPORTED[:1]:
            side = context.side(name, precision=precision)
            notes.attempt(side.text, partial(hold_masks, side, precision, notes))
    if "torch on cuda" not in names:
        notes.add("torch on cuda", "missing", "no GPU that PyTorch can use")


def onnxruntime(context: Context, notes: Notes) -> None:
    """The step: ONNX Runtime on the CPU and on CUDA; on CUDA several times, as races come and go."""
    nano = replace(context, bundle=None)
    names = [name for name in context.usable if name.startswith("onnxruntime")]
    if not names:
        raise MissingError("ONNX Runtime: pip install 'gmos-deploy[cpu]'")
    for name in names:
        repeats = REPEATS if "cuda" in name else 1
        notes.attempt(name, partial(hold_masks, nano.side(name), "fp32", notes, repeats=repeats))
    if "onnxruntime on cuda" not in names:
        notes.add("onnxruntime on cuda", "missing", "onnxruntime-gpu that loads here, or a GPU")


def hold_masks(side: Side, precision: str, notes: Notes, *, repeats: int = 1) -> None:
    """Run the clip of the self-test, compare the masks within the limits of a precision, and runs with each other."""
    stored = stored_masks()
    with closing(side.load()) as backend:
        maps, _ = clip_masks(backend)
        again = [clip_masks(backend) for _ in range(repeats)]
        description = backend.description
    run_s = min(seconds for _, seconds in again)
    values = {"description": description, "frames_per_second": len(maps["mos"]) / run_s}
    tell_agreement(
        side.text,
        stored,
        maps,
        precision=precision,
        notes=notes,
        more=f"; {values['frames_per_second']:.1f} frames/s",
        **values,
    )
    differing = sum(any(not np.array_equal(other[name], maps[name]) for name in maps) for other, _ in again)
    if repeats > 1:
        notes.expect(
            f"{side.text}, repeated", not differing, f"{differing} of {repeats} runs gave other masks"
        )


def tell_agreement(
    name: str,
    expected: Masks,
    given: Masks,
    *,
    precision: str,
    notes: Notes,
    more: str = "",
    **values: object,
) -> None:
    """Write down how far the masks of two runs agree, against the limits of a precision."""
    found = [
        sequence_agreement(
            "clip",
            result,
            frame_names(len(maps)),
            lambda index, result=result, maps=maps: (maps[index], given[result][index]),
        )
        for result, maps in expected.items()
    ]
    beyond = [line for one in found for line in one.failures(PROFILES[precision])]
    figures = ", ".join(
        f"{one.result} mean IoU {one.mean_iou:.5f}, least {one.worst_frame.iou:.5f}" for one in found
    )
    notes.expect(name, not beyond, f"{'; '.join(beyond) or figures}{more}", figures=figures, **values)
