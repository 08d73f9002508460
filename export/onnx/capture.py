"""From a module to an ONNX graph in memory, with attention still opaque."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from ...runtime.shapes import with_pi3
from .attend import opaque_attention
from .signature import EXAMPLE_LENGTHS, Signature, dynamic_shapes, example_inputs

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata in which the exporter keeps the modules around an operation."""

PRODUCER = "gmos-deploy"

QUIETED_LOGGERS = ("torch.onnx", "onnxscript", "torch.export", "torch.__trace")
"""The last one writes a record per symbolic shape to whatever listens to the root logger."""


def capture(module: nn.Module, sign: Signature, *, patch_px: int, opset: int) -> ir.Model:
    """Capture a network with the exporter of PyTorch.

    Nodes are named by the module they come from. Nothing of this machine stays in the model: the
    exporter notes a stack trace with file names at every node.

    Args:
        module: takes the signature's inputs in their order and returns its outputs in theirs.
        sign: its tensors.
        patch_px: side of a Pi3 patch.
        opset: of the ONNX operators.
    """
    with torch.no_grad(), opaque_attention(), _quiet():
        program = torch.onnx.export(
            module,
            example_inputs(sign, with_pi3(EXAMPLE_LENGTHS, patch_px)),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes(sign, patch_px),
            input_names=[tensor.name for tensor in sign.all_inputs],
            output_names=[tensor.name for tensor in sign.outputs],
            verbose=False,
        )
    if program is None:
        raise TypeError("the exporter returned no program")
    model = program.model
    _name_nodes(model.graph)
    ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = PRODUCER, ""
    model.graph.name = sign.name
    return model


def declare_shapes(model: ir.Model, sign: Signature) -> None:
    """Give inputs and outputs the contract's axes, and drop the exporter's notes on everything between."""
    axes = {tensor.name: tensor.axes for tensor in (*sign.all_inputs, *sign.outputs)}
    outside = [*model.graph.inputs, *model.graph.outputs]
    for value in outside:
        value.shape = ir.Shape(axes[value.name or ""])
    kept = {id(value) for value in outside} | {id(value) for value in model.graph.initializers.values()}
    for node in model.graph:
        for value in node.outputs:
            if id(value) not in kept:
                value.shape = value.type = None


def _name_nodes(graph: ir.Graph) -> None:
    for number, node in enumerate(graph):
        scopes = node.metadata_props.get(SCOPES_KEY, "").strip("[]").replace("'", "").split(", ")
        module = scopes[-2] if len(scopes) > 1 else ""
        node.name = f"{module}/{node.op_type}_{number}" if module else f"{node.op_type}_{number}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself off the terminal."""
    loggers = [logging.getLogger(name) for name in QUIETED_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns of its own deprecated tree specs and of axes with equal lengths.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
