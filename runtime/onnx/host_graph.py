"""A graph run on ONNX Runtime with arrays of the host: what others are compared with, and what is compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Bundle, BundleNetwork, GraphContent
from ..bundle.tables import TableMaker
from ..contract import NetworkName
from ..precision import ELEMENT_TYPES, HALF_DTYPES, PRECISIONS
from .sessions import OnnxDevice, SessionOptions, load_onnxruntime, open_session

Arrays = Mapping[str, NDArray[Any]]

Tables = Callable[[Mapping[str, tuple[int, ...]]], Arrays]
"""The tables of a call by the shapes of its inputs: `TableMaker.tables` of a network."""

CPU = OnnxDevice(kind="cpu")

DTYPES = {element.onnxruntime: element.numpy for element in ELEMENT_TYPES.values()}
"""What NumPy holds the tensors of a graph in, by ONNX Runtime's names."""


def bundle_tables(bundle: Bundle, network: NetworkName) -> Tables:
    """The tables of a network of a bundle.

    Raises:
        GmosError: the bundle's file has changed.
    """
    return partial(TableMaker(bundle.table_source(), bundle.model).tables, network)


def has_bfloat16(network: BundleNetwork) -> bool:
    """Whether ONNX Runtime's CPU provider runs a network in a float32 twin only; NumPy has no such type either."""
    dtypes = {tensor.dtype for tensor in (*network.inputs, *network.outputs)}
    return "bfloat16" in {PRECISIONS[network.precision].dtype, *dtypes}


def is_half(network: BundleNetwork) -> bool:
    """Whether a network has half precision in it, and so a float32 twin; quantised layers have none."""
    precision = PRECISIONS[network.precision]
    dtypes = {precision.dtype, *(tensor.dtype for tensor in (*network.inputs, *network.outputs))}
    return not precision.quantised and not dtypes.isdisjoint(HALF_DTYPES)


def half_doubt(version: str, machine: str) -> str | None:
    """What speaks against a version of ONNX Runtime as a judge of half precision on its CPU provider, or None."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers == (1, 29):
        return (
            f"ONNX Runtime {version} is reported to take thousands of times as long for products in float16 "
            "(microsoft/onnxruntime issue 32255); install another: pip install 'onnxruntime!=1.29.*'"
        )
    if numbers >= (1, 32) and machine.lower() in ("aarch64", "arm64"):
        return (
            f"ONNX Runtime {version} may sum products in float16 on this processor, less exactly than engines do; "
            "compare in float32 where onnx-ir is installed: pip install onnx-ir"
        )
    return None


class HostGraph:
    """A graph whose inputs come as float32 or whole numbers, and whose outputs go as these.

    Args:
        graph: its file, its bytes, or what a bundle has read of it.
        tables: gives what the host computes for the graph beside a call's inputs; None where it reads none.
        folder: where the weights of a graph of bytes lie.
        precision: of its weights.
        device: what runs it.

    Raises:
        GmosError: there is no ONNX Runtime, or it refuses the graph or the device.
    """

    def __init__(
        self,
        graph: Path | bytes | GraphContent,
        *,
        tables: Tables | None = None,
        folder: Path | None = None,
        precision: str = "fp32",
        device: OnnxDevice = CPU,
    ) -> None:
        # Few calls each: packing the weights would cost their size again.
        options = SessionOptions(prepack=False)
        opened = open_session(graph, device, options, load_onnxruntime(), precision=precision, folder=folder)
        self._session = opened.session
        self._tables = tables
        self._dtypes = {given.name: DTYPES[given.type] for given in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]

    def feeds(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """What the graph reads in a call, its tables included, in its own dtypes."""
        given = dict(inputs)
        if self._tables is not None:
            given |= self._tables({name: tuple(array.shape) for name, array in inputs.items()})
        return {name: np.ascontiguousarray(given[name], dtype) for name, dtype in self._dtypes.items()}

    def run(self, inputs: Arrays, outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """Outputs by name, all of them if none is named."""
        names = list(outputs) or self._outputs
        answers = self._session.run(names, self.feeds(inputs))
        return {
            name: values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else values
            for name, values in zip(names, answers, strict=True)
        }
