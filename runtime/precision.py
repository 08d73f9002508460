"""The precisions of networks and the element types of tensors: what they are called, and what follows from each.

Whatever depends on a precision reads it here: a new one is a row of `PRECISIONS`, and if it is quantised one of
`calibration.quantiser.formats.FORMATS`. Other libraries' names are strings, so that nothing is imported for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PrecisionName = Literal["fp32", "bf16", "fp16", "int8", "fp8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementType:
    """A type of a tensor's elements.

    `name` is the bundle's and PyTorch's, `numpy` what NumPy holds such values in, `onnx` the name in
    `TensorProto.DataType` with its number, and `tensorrt` that of `tensorrt.DataType`.
    """

    name: str
    bytes: int
    onnx: str
    onnx_number: int
    tensorrt: str
    numpy: str

    @property
    def onnxruntime(self) -> str:
        """As an ONNX Runtime session names a tensor of it."""
        return f"tensor({self.onnx.lower()})"


ELEMENT_TYPES: Mapping[str, ElementType] = {
    name: ElementType(
        name=name,
        bytes=size,
        onnx=onnx,
        onnx_number=number,
        tensorrt=tensorrt,
        numpy="float32" if name in ("bfloat16", "float8_e4m3fn") else name,
    )
    for name, size, onnx, number, tensorrt in (
        ("uint8", 1, "UINT8", 2, "UINT8"),
        ("int8", 1, "INT8", 3, "INT8"),
        ("int32", 4, "INT32", 6, "INT32"),
        ("int64", 8, "INT64", 7, "INT64"),
        ("bool", 1, "BOOL", 9, "BOOL"),
        ("float8_e4m3fn", 1, "FLOAT8E4M3FN", 17, "FP8"),
        ("float16", 2, "FLOAT16", 10, "HALF"),
        ("bfloat16", 2, "BFLOAT16", 16, "BF16"),
        ("float32", 4, "FLOAT", 1, "FLOAT"),
    )
}
"""By name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an output may differ by.

    `relative` is the L2 norm of the difference over that of the reference, `largest` the largest
    difference over the reference's root mean square, `cosine` the least cosine between both, and
    `changed` the share of whole numbers (labels, masks) that may differ.
    """

    relative: float
    largest: float
    cosine: float
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A precision of networks.

    `dtype` is the element type of activations between layers, `weight_dtype` of weights: in a quantised precision of
    those of quantised layers. `base` is the precision of the bundle that a quantised one is calibrated from, None for
    those that are exported. `limits` are what a network's outputs are held to against the reference (against the base
    if it is quantised), `frame_iou` and `mean_iou` the least IoU of masks: of every frame and on average.
    """

    name: PrecisionName
    dtype: str
    weight_dtype: str
    limits: Limits
    frame_iou: float
    mean_iou: float
    base: PrecisionName | None = None

    torch_on_cpu: bool = True
    """Whether the reference computes in it on a CPU."""
    onnxruntime: bool = True
    """Whether ONNX Runtime runs such bundles, on whatever device."""
    lacking_targets: tuple[str, ...] = ()
    """Targets of TensorRT-RTX whose GPUs do not have it."""
    instead: PrecisionName | None = None
    """What to use on those."""

    @property
    def quantised(self) -> bool:
        """Whether only `gmos-export calibrate` makes such bundles; others come from `gmos-export onnx`."""
        return self.base is not None

    @property
    def quantised_to_float(self) -> bool:
        """Whether its quantised layers compute in a floating format, not in whole numbers."""
        return self.quantised and self.weight_dtype.startswith("float")

    @property
    def maker(self) -> str:
        """The gmos-export command that makes bundles of it."""
        return "calibrate" if self.quantised else "onnx"

    @property
    def weight_bytes(self) -> int:
        """Of a weight. In a quantised network some have more."""
        return ELEMENT_TYPES[self.weight_dtype].bytes


EIGHT_BITS = Limits(relative=0.3, largest=3.0, cosine=0.95, changed=5e-2)
"""Eight bits of weights and of the activations between quantised layers."""

PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision(
            name="fp32",
            dtype="float32",
            weight_dtype="float32",
            # Another order of float32 sums through up to 60 blocks; in masks it moves a few pixels of an edge.
            limits=Limits(relative=1e-4, largest=2e-3, cosine=0.999999, changed=2e-4),
            frame_iou=0.999,
            mean_iou=0.9999,
        ),
        Precision(
            name="bf16",
            dtype="bfloat16",
            weight_dtype="bfloat16",
            # Eight bits of weights; activations are float32 in the twin.
            limits=Limits(relative=6e-2, largest=0.6, cosine=0.995, changed=1e-2),
            frame_iou=0.98,
            mean_iou=0.99,
            # ONNX has bfloat16 convolutions, transposed ones and cosines from opset 22 on: at opset 20, that of
            # bundles, ONNX Runtime calls the graphs invalid whatever the provider. At 22 its CPU provider has no
            # kernel for Conv, its CUDA provider (1.32) none for ConvTranspose and Cos.
            onnxruntime=False,
            lacking_targets=("sm75",),
            instead="fp16",
        ),
        Precision(
            name="fp16",
            dtype="float16",
            weight_dtype="float16",
            # Eleven bits of weights and activations through up to 36 blocks.
            limits=Limits(relative=2e-2, largest=0.2, cosine=0.9995, changed=2e-3),
            frame_iou=0.98,
            mean_iou=0.99,
            torch_on_cpu=False,
        ),
        Precision(
            name="int8",
            dtype="float16",
            weight_dtype="int8",
            limits=EIGHT_BITS,
            frame_iou=0.90,
            mean_iou=0.97,
            base="fp16",
        ),
        Precision(
            name="fp8",
            dtype="float16",
            weight_dtype="float8_e4m3fn",
            limits=EIGHT_BITS,
            frame_iou=0.90,
            mean_iou=0.97,
            base="fp16",
            # Before Ada.
            lacking_targets=("sm75", "sm80", "sm86"),
            instead="int8",
        ),
    )
}
"""By name, in the order in which commands offer them."""

EXPORTED = tuple(name for name, precision in PRECISIONS.items() if not precision.quantised)
"""Precisions that networks are exported in, which the reference computes in as well."""

QUANTISED = tuple(name for name, precision in PRECISIONS.items() if precision.quantised)
"""Precisions that only a calibrated bundle has."""

TENSOR_DTYPES = ("uint8", "int64", *dict.fromkeys(PRECISIONS[name].dtype for name in EXPORTED))
"""Element types that inputs and outputs of a bundle's networks may have."""

HALF_DTYPES = tuple(
    dtype for dtype in TENSOR_DTYPES if dtype in ELEMENT_TYPES and ELEMENT_TYPES[dtype].bytes == 2
)
"""Element types of half precision."""
