"""The networks without weights, written as ONNX text: resizing with normalisation, and labels from logits.

`gmos_ref.resizing` and `gmos_ref.sam2.tracker_networks` say in PyTorch what these compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import parser

from ...gmos_ref.networks import FOREGROUND_PROBABILITY
from ...gmos_ref.pi3.encoder import IMAGENET_MEAN, IMAGENET_STD
from ...runtime.bundle.manifest import Target
from ...runtime.contract import ModelSpec, NetworkName
from ...runtime.tracker import LABEL_THRESHOLD_LOGIT

IR_VERSION = 10
"""Of the ONNX file format; 10 came with opset 21 and is what TensorRT 10.3 and ONNX Runtime 1.20 read."""

BILINEAR = 'mode = "linear", coordinate_transformation_mode = "half_pixel"'


def small_graph(name: NetworkName, model: ModelSpec, target: Target, *, opset: int) -> ir.Model:
    """One of the networks without weights.

    TensorRT has no antialiased Resize, so the standard form of `sam2_resize` is two products with
    tables of weights. They are 25 GFLOP per 1080p frame, which a GPU does not notice and a CPU does.
    It also takes uint8 only as an input that is cast to a floating-point type at once, and as an output
    cast from one; on a CPU counting in uint8 saves three quarters of the memory traffic.
    """
    body = SMALL_GRAPHS[name](model, target)
    text = f'<ir_version: {IR_VERSION}, opset_import: ["": {opset}]>\n{name} {body}'
    return ir.from_proto(_checked(parser.parse_model(text)))


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        # The text form has no names, and a builder's errors and profiles go by them.
        node.name = node.output[0]
    onnx.checker.check_model(model)
    return model


def _floats(name: str, values: Sequence[float]) -> str:
    """An initialiser of shape (C, 1, 1)."""
    return f"float[{len(values)},1,1] {name} = {{{', '.join(repr(float(value)) for value in values)}}}"


def _sam2_resize(model: ModelSpec, target: Target) -> str:
    side = model.sam2_image_px
    factor = _floats("factor", [1 / (255 * std) for std in IMAGENET_STD])
    offset = _floats("offset", [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    frames, images = "uint8[B,H,W,3] frames", f"float[B,3,{side},{side}] images"
    end = "scaled = Mul(resized, factor)\n images = Add(scaled, offset)"
    if target == "standard":
        tables = f"float[{side},H] resize_rows, float[W,{side}] resize_columns"
        return f"""({frames}, {tables}) => ({images}) <{factor}, {offset}> {{
            values = Cast <to = 1> (frames)
            pixels = Transpose <perm = [0, 3, 1, 2]> (values)
            narrowed = MatMul(pixels, resize_columns)
            resized = MatMul(resize_rows, narrowed)
            {end}
        }}"""
    return f"""({frames}) => ({images}) <{factor}, {offset}> {{
        planes = Transpose <perm = [0, 3, 1, 2]> (frames)
        pixels = Cast <to = 1> (planes)
        outer = Shape <start = 0, end = 2> (pixels)
        inner = Constant <value_ints = [{side}, {side}]> ()
        sizes = Concat <axis = 0> (outer, inner)
        resized = Resize <{BILINEAR}, antialias = 1, exclude_outside = 1> (pixels, , , sizes)
        {end}
    }}"""


def _proposal_labels(model: ModelSpec, target: Target) -> str:
    kept, side = model.kept_queries, model.mask_px
    return f"""(float[B,{kept},{side},{side}] mask_logits, int64[2] video_hw) => (uint8[B,H,W] labels) {{
        outer = Shape <start = 0, end = 2> (mask_logits)
        sizes = Concat <axis = 0> (outer, video_hw)
        resized = Resize <{BILINEAR}> (mask_logits, , , sizes)
        {_winner("resized", axis=1, threshold=0.0, target=target)}
    }}"""


def _foreground_map(model: ModelSpec, target: Target) -> str:
    side = model.mask_px
    return f"""(float[B,1,{side},{side}] foreground_logits, int64[2] video_hw)
        => (uint8[B,H,W] mask, uint8[B,H,W] probability) {{
        outer = Shape <start = 0, end = 2> (foreground_logits)
        sizes = Concat <axis = 0> (outer, video_hw)
        resized = Resize <{BILINEAR}> (foreground_logits, , , sizes)
        channel = Constant <value_ints = [1]> ()
        logits = Squeeze(resized, channel)
        p = Sigmoid(logits)
        threshold = Constant <value_float = {FOREGROUND_PROBABILITY}> ()
        above = Greater(p, threshold)
        {_bytes("mask", "above", target)}
        full = Constant <value_float = 255.0> ()
        scaled = Mul(p, full)
        floored = Floor(scaled)
        probability = Cast <to = 2> (floored)
    }}"""


def _tracked_labels(model: ModelSpec, target: Target) -> str:
    side = model.mask_px
    return f"""(float[O,{side},{side}] masks, int64[2] video_hw)
        => (uint8[O,H,W] positive, uint8[H,W] labels) {{
        first = Constant <value_ints = [0]> ()
        batch = Unsqueeze(masks, first)
        outer = Shape <start = 0, end = 2> (batch)
        sizes = Concat <axis = 0> (outer, video_hw)
        batch_resized = Resize <{BILINEAR}> (batch, , , sizes)
        resized = Squeeze(batch_resized, first)
        zero = Constant <value_float = 0.0> ()
        above = Greater(resized, zero)
        {_bytes("positive", "above", target)}
        {_winner("resized", axis=0, threshold=LABEL_THRESHOLD_LOGIT, target=target)}
    }}"""


def _bytes(result: str, flags: str, target: Target) -> str:
    """`result`: 1 where a flag is set, else 0, uint8."""
    if target == "onnxruntime":
        return f"{result} = Cast <to = 2> ({flags})"
    return f"{result}_values = Cast <to = 1> ({flags})\n {result} = Cast <to = 2> ({result}_values)"


def _winner(logits: str, *, axis: int, threshold: float, target: Target) -> str:
    """`labels`: 1 + the position of the largest logit along an axis where it is above the threshold, else 0."""
    start = f"""axes = Constant <value_ints = [{axis}]> ()
        best = ReduceMax <keepdims = 0> ({logits}, axes)
        position = ArgMax <axis = {axis}, keepdims = 0> ({logits})
        threshold = Constant <value_float = {threshold}> ()
        covered = Greater(best, threshold)"""
    if target == "onnxruntime":
        return f"""{start}
        small = Cast <to = 2> (position)
        one = Constant <value = uint8 {{1}}> ()
        number = Add(small, one)
        nobody = Constant <value = uint8 {{0}}> ()
        labels = Where(covered, number, nobody)"""
    return f"""{start}
        counted = Cast <to = 1> (position)
        one = Constant <value_float = 1.0> ()
        number = Add(counted, one)
        nobody = Constant <value_float = 0.0> ()
        chosen = Where(covered, number, nobody)
        labels = Cast <to = 2> (chosen)"""


SMALL_GRAPHS: Mapping[NetworkName, Callable[[ModelSpec, Target], str]] = {
    "sam2_resize": _sam2_resize,
    "proposal_labels": _proposal_labels,
    "foreground_map": _foreground_map,
    "tracked_labels": _tracked_labels,
}
"""The contract's networks that have no weights, as ONNX text."""
