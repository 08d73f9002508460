"""Engines held against ONNX Runtime on seeded inputs, on the device that is to run them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..backend import Backend
from ..bundle.manifest import Bundle, BundleNetwork, Target, open_bundle
from ..bundle.seeded_inputs import seeded_inputs
from ..bundle.tables import TableMaker
from ..bundle.uploading import dtypes_of, upload_inputs
from ..contract import NetworkName
from ..onnx.sessions import OnnxDevice, SessionOptions, load_onnxruntime, open_session
from ..parity import LIMITS, OutputDifference, difference
from ..precision import ELEMENT_TYPES, PRECISIONS
from .backend import EngineBackend, open_engine
from .library import Flavour
from .record import (
    EngineCheck,
    EngineRecord,
    engine_directory,
    read_engine_record,
    record_path,
    write_engine_record,
)
from .shapes import cut_inputs

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Lengths = Mapping[str, int]
TwinWriter = Callable[[Path, Path], Path]
"""Writes the float32 twin of a bfloat16 graph into a folder: `export.onnx.graph_session.write_float32_twin`."""

ROWS_COMPARED = 2
"""Of a batch: the first and the last row. The reference computes on a CPU, and rows do not see each other."""

TARGET = "engine"
"""What `OutputDifference.target` says of an engine."""


def check_engines(
    bundle_root: Path,
    flavour: Flavour,
    networks: Sequence[NetworkName] = (),
    *,
    device: int = 0,
    twin: TwinWriter | None = None,
) -> dict[NetworkName, EngineCheck]:
    """Compare engines with ONNX Runtime's CPU provider, and write the result into their records.

    Each runs at the usual lengths of every profile and at its least ones, so at two batch sizes and, where
    there are memories, two memory lengths.

    Args:
        bundle_root: the bundle.
        flavour: of the engines.
        networks: whose engines; none means all.
        device: number of the CUDA device.
        twin: for bfloat16 graphs, which ONNX Runtime's CPU provider does not run.

    Returns:
        The checks by network, failed ones too: their engines are refused from now on.

    Raises:
        GmosError: an engine cannot be loaded or run, or a bfloat16 graph is met without `twin`.
    """
    bundle = open_bundle(bundle_root)
    checks: dict[NetworkName, EngineCheck] = {}
    for name in networks or tuple(bundle.networks):
        backend = open_engine(bundle, flavour, device)
        try:
            checks[name] = check_network(bundle, backend, name, twin=twin)
        finally:
            backend.close()
        path = record_path(engine_directory(bundle.root, flavour), name)
        write_engine_record(path, replace(read_engine_record(path), check=checks[name]))
    return checks


def check_network(
    bundle: Bundle, backend: EngineBackend, name: NetworkName, *, twin: TwinWriter | None = None
) -> EngineCheck:
    """Compare one engine; writes nothing.

    Raises:
        GmosError: as `check_engines`.
    """
    entry = bundle.networks[name]
    record = backend.record(name)
    limits = LIMITS[record.precision]
    found: list[OutputDifference] = []
    with Reference(bundle, entry, twin) as reference:
        for lengths in check_lengths(entry, record):
            found += _differences(bundle, backend, entry, reference, lengths)
    failed = [one for one in found if one.excess(limits) is not None]
    for one in failed:
        logger.warning("%s: wrong %s: %s", name, one.output, one.excess(limits))
    return EngineCheck(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=backend.identity.name,
        against=reference.label,
        passed=not failed,
        # A reader names the first one: that is a wrong one, if any is.
        outputs=(*failed, *(one for one in found if one not in failed)),
    )


def check_lengths(entry: BundleNetwork, record: EngineRecord) -> tuple[Lengths, ...]:
    """The lengths by axis letter at which an engine is compared: usual and least ones of its profiles."""
    cases: list[Lengths] = []
    for profile in record.profiles:
        for pick in ("opt", "min"):
            lengths: dict[str, int] = {}
            for tensor in (*entry.inputs, *entry.graphs["standard"].tables):
                allowed = profile.get(tensor.name)
                if allowed is None:
                    continue
                size = getattr(allowed, pick)
                axes = ("H", "W") if tensor.host else tensor.axes
                lengths |= {axis: n for axis, n in zip(axes, size, strict=True) if isinstance(axis, str)}
            if lengths not in cases:
                cases.append(lengths)
    return tuple(cases)


def _differences(
    bundle: Bundle, backend: Backend, entry: BundleNetwork, reference: Reference, lengths: Lengths
) -> list[OutputDifference]:
    inputs = seeded_inputs(entry.name, entry.inputs, bundle.model, lengths)
    given = upload_inputs(backend, inputs, dtypes_of(entry.inputs))
    outputs = {name: backend.download(array) for name, array in backend.runner(entry.name)(given).items()}
    # Both sides see the inputs as the engine's precision rounds them.
    seen = {
        tensor.name: inputs[tensor.name] if tensor.host else backend.download(given[tensor.name])
        for tensor in entry.inputs
    }
    cut = cut_inputs(entry)
    rows = _rows(seen, cut)
    differences = []
    for number, row in enumerate(rows):
        part = {name: array[row] if name in cut else array for name, array in seen.items()}
        for name, expected in reference.run(part).items():
            differences.append(
                difference(
                    outputs[name][row] if cut else outputs[name],
                    expected,
                    target=TARGET,
                    lengths=lengths if len(rows) == 1 else {**lengths, "row": number and len(rows) - 1},
                    output=name,
                )
            )
    return differences


def _rows(inputs: Mapping[str, Array], cut: frozenset[str]) -> list[slice]:
    """The rows that are compared, each on its own; of a network that cannot be cut all at once."""
    if not cut:
        return [slice(None)]
    count = len(inputs[next(iter(cut))])
    return [slice(i, i + 1) for i in sorted({0, count - 1})][:ROWS_COMPARED]


class Reference:
    """A network on ONNX Runtime's CPU provider; in a context, for the files that it may need."""

    def __init__(self, bundle: Bundle, entry: BundleNetwork, twin: TwinWriter | None) -> None:
        self._bundle = bundle
        self._entry = entry
        self._twin = twin
        self._tables = TableMaker(bundle.table_source(), bundle.model)
        # ONNX Runtime's own form of attention takes a fifth of the memory. Where that form has fewer inputs it
        # also computes a little differently.
        same = entry.graphs["onnxruntime"].tables == entry.graphs["standard"].tables
        self._target: Target = "onnxruntime" if same else "standard"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._session: Any = None
        dtypes = {tensor.dtype for tensor in (*entry.inputs, *entry.outputs)}
        self._has_bfloat16 = "bfloat16" in {PRECISIONS[entry.precision].dtype, *dtypes}
        self.label = ""

    def __enter__(self) -> Reference:
        onnxruntime = load_onnxruntime()
        path = self._bundle.graph_file(self._entry.name, self._target)
        if self._has_bfloat16:
            path = self._twin_of(path)
        options = SessionOptions(prepack=False)
        loaded = open_session(
            path, OnnxDevice(kind="cpu"), options, onnxruntime, precision=self._entry.precision
        )
        self._session = loaded.session
        twin = " in float32 on the same weights" if self._has_bfloat16 else ""
        self.label = f"ONNX Runtime {onnxruntime.__version__} on the CPU{twin}"
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for inputs; floating-point ones are float32."""
        shapes = {name: array.shape for name, array in inputs.items()}
        tables = self._entry.graphs[self._target].tables
        feeds = dict(inputs)
        if tables:
            feeds |= self._tables.tables(self._entry.name, shapes)
        dtypes = {tensor.name: tensor.dtype for tensor in (*self._entry.inputs, *tables)}
        names = [output.name for output in self._session.get_outputs()]
        ready = {
            name: np.ascontiguousarray(array, ELEMENT_TYPES[dtypes[name]].numpy)
            for name, array in feeds.items()
        }
        outputs = zip(names, self._session.run(names, ready), strict=True)
        return {
            name: values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else values
            for name, values in outputs
        }

    def _twin_of(self, path: Path) -> Path:
        if self._twin is None:
            raise GmosError(
                f"{self._entry.name} is bf16, which ONNX Runtime does not run on a CPU: compare its engine with "
                "gmos-export check-engines where the packages of the export are installed: pip install "
                "'gmos-deploy[export]'"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="gmos-twin-")
        return self._twin(path, Path(self._folder.name))
