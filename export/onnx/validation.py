"""Validation: an exported network stays only if it computes what the reference computes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...errors import GmosError
from ...gmos_ref.backend import TorchBackend
from ...gmos_ref.networks import ReferenceNetworks
from ...runtime.bundle.manifest import TARGETS, BundleGraph, Target
from ...runtime.bundle.seeded_inputs import seeded_inputs
from ...runtime.bundle.tables import TableMaker
from ...runtime.comparison.parity import LIMITS, Array, OutputDifference, compare_outputs, widened
from ...runtime.comparison.run_results import leave_call
from ...runtime.contract import ModelSpec, NetworkName, network_specs
from ...runtime.onnx.host_graph import HostGraph
from ...runtime.precision import PRECISIONS, Limits, PrecisionName
from ...runtime.shapes import GRID_AXES, VIDEO_AXES, Lengths, letters_of, with_pi3
from .float32_twin import write_float32_twin
from .signature import Signature, torch_dtype

logger = logging.getLogger(__name__)

COUNTS = ((1, 1, 1, 0), (2, 3, None, 4))
"""Frames, objects, and memories (None: all) and pointers of an object."""
GRIDS = ((5, 7), (9, 4))
"""Two Pi3 resolutions in patches, one wide and one tall."""
VIDEO_SHARES = ((0.4, 0.7), (1.6, 1.2))
"""Two video sizes (height, width) as shares of SAM2's image side: one enlarged to it, one reduced."""

NOT_COMPARED: Mapping[str, Any] = {"passed": False, "compared": "nothing", "limits": {}, "differences": []}
"""What a bundle says of a network that was not validated."""


def validation_cases(name: NetworkName, model: ModelSpec) -> tuple[Lengths, ...]:
    """The lengths at which a network is compared: two batch sizes, two resolutions, two memory lengths."""
    spec = network_specs(model)[name]
    own = letters_of((*spec.inputs, *spec.outputs))
    cases = []
    for (b, o, r, p), grid, shares in zip(COUNTS, GRIDS, VIDEO_SHARES, strict=True):
        video = [int(share * model.sam2_image_px) for share in shares]
        fixed = dict(zip((*GRID_AXES, *VIDEO_AXES), (*grid, *video), strict=True))
        counts = {"B": b, "O": o, "R": r or model.memory_frames + 1, "P": p}
        lengths = {**counts, **with_pi3(fixed, model.patch_px)}
        cases.append({axis: length for axis, length in lengths.items() if axis in own})
    return tuple(cases)


def allowed(found: OutputDifference, precision: PrecisionName, own: Sequence[OutputDifference]) -> Limits:
    """The limits of a precision, or twice the reference's own error at that precision if that is known and more."""
    same = [each for each in own if (each.output, each.lengths) == (found.output, found.lengths)]
    return widened(LIMITS[precision], same)


def first_failure(
    differences: Sequence[OutputDifference], precision: PrecisionName, own: Sequence[OutputDifference] = ()
) -> tuple[OutputDifference, str] | None:
    """The first output that is beyond what is allowed, and a line that says so; None if none is.

    Args:
        differences: of the export from the reference in float32.
        precision: of the export.
        own: of the reference at that precision from itself in float32, for outputs beyond the limits.
    """
    for found in differences:
        failure = found.failure(allowed(found, precision, own))
        if failure is not None:
            return found, failure
    return None


def validation_report(
    differences: Sequence[OutputDifference],
    precision: PrecisionName,
    *,
    twin: bool,
    own: Sequence[OutputDifference] = (),
) -> dict[str, Any]:
    """The comparison as it is kept in the bundle."""
    return {
        "passed": first_failure(differences, precision, own) is None,
        "compared": "fp32 twin" if twin else "graph",
        "limits": asdict(LIMITS[precision]),
        "differences": [asdict(found) for found in differences],
        "own_errors": [asdict(each) for each in own],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Seeded inputs at some lengths, and what the reference computes for them in float32."""

    lengths: Lengths
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


class Validation:
    """Holds exported networks against the reference on the CPU.

    Args:
        root: where their files are.
        model: sizes of the networks.
        networks: the reference, float32 on the CPU.
        tables: makes what graphs read beside the contract's inputs.
        left: folder for the files of a network that fails; None leaves nothing.
    """

    def __init__(
        self,
        root: Path,
        model: ModelSpec,
        networks: ReferenceNetworks,
        tables: TableMaker,
        left: Path | None = None,
    ) -> None:
        self._root = root
        self._model = model
        self._networks = networks
        self._tables = tables
        self._left = left
        self._backends: dict[PrecisionName, TorchBackend] = {}

    def validate(
        self, sign: Signature, precision: PrecisionName, graphs: Mapping[Target, BundleGraph]
    ) -> dict[str, Any]:
        """Compare a network's graphs with the reference; what is kept of it in the bundle.

        Raises:
            GmosError: an output of one is beyond what is allowed.
        """
        name = sign.name
        dtypes = {tensor.dtype for tensor in (*sign.inputs, *sign.outputs)}
        twin = "bfloat16" in {PRECISIONS[precision].dtype, *dtypes}
        cases = [self._case(sign, lengths) for lengths in validation_cases(name, self._model)]
        different = TARGETS if graphs["standard"] != graphs["onnxruntime"] else TARGETS[:1]
        found: list[OutputDifference] = []
        for target in different:
            with self._opened(name, graphs[target], twin=twin) as (_, graph):
                for case in cases:
                    outputs = graph.run(case.inputs)
                    found += compare_outputs(
                        name, outputs, case.expected, target=target, lengths=case.lengths
                    )
        beyond = [each.lengths for each in found if each.excess(LIMITS[precision]) is not None]
        own = [
            each
            for case in cases
            if precision != "fp32" and case.lengths in beyond
            for each in compare_outputs(
                name,
                self._reference(name, case.inputs, precision),
                case.expected,
                target="reference",
                lengths=case.lengths,
            )
        ]
        failure = first_failure(found, precision, own)
        if failure is not None:
            worst, words = failure
            case = next(case for case in cases if case.lengths == worst.lengths)
            self._leave(name, graphs[cast(Target, worst.target)], case, LIMITS[precision], twin=twin)
            raise GmosError(
                f"exported {name} ({worst.target} graph, {precision}) differs from the reference in {words}; nothing "
                "was kept. Export with --precision fp32, or with --no_validation to look at the files"
            )
        return validation_report(found, precision, twin=twin, own=own)

    def _case(self, sign: Signature, lengths: Lengths) -> Case:
        """Inputs are rounded to the dtypes of the graph: rounding them is no error of the network."""
        dtypes = {tensor.name: torch_dtype(tensor.dtype) for tensor in sign.inputs}
        inputs = {
            name: torch.from_numpy(array).to(dtypes[name]).float().numpy()
            if np.issubdtype(array.dtype, np.floating)
            else array
            for name, array in seeded_inputs(sign.name, sign.inputs, self._model, lengths).items()
        }
        return Case(lengths=lengths, inputs=inputs, expected=self._reference(sign.name, inputs, "fp32"))

    def _reference(
        self, name: NetworkName, inputs: Mapping[str, Array], precision: PrecisionName
    ) -> dict[str, Array]:
        """Outputs by name as float32 or whole numbers; another precision is autocast's, the heads in float32."""
        if precision not in self._backends:
            self._backends[precision] = TorchBackend(
                self._model, self._networks, device=torch.device("cpu"), precision=precision
            )
        backend = self._backends[precision]
        host = {tensor.name for tensor in network_specs(self._model)[name].inputs if tensor.host}
        tensors = {key: array if key in host else torch.from_numpy(array) for key, array in inputs.items()}
        return {key: backend.arrays.download(output) for key, output in backend.runner(name)(tensors).items()}

    @contextmanager
    def _opened(
        self, name: NetworkName, graph: BundleGraph, *, twin: bool
    ) -> Iterator[tuple[Path, HostGraph]]:
        """A graph, or its twin, to be run, and the file that is."""
        path = self._root / graph.file
        tables = partial(self._tables.tables, name)
        # A session keeps its files open, which Windows does not remove.
        with tempfile.TemporaryDirectory(
            dir=self._root, prefix=".twin-", ignore_cleanup_errors=True
        ) as folder:
            if twin:
                path = write_float32_twin(path, Path(folder))
            yield path, HostGraph(path, tables=tables)

    def _leave(
        self, name: NetworkName, graph: BundleGraph, case: Case, limits: Limits, *, twin: bool
    ) -> None:
        """Keep what failed outside of the directory that goes: the graph with its weights, inputs, both outputs."""
        if self._left is None:
            return
        with self._opened(name, graph, twin=twin) as (path, session):
            files = path.parent.iterdir() if twin else [path, *(self._root / file for file in graph.weights)]
            left = leave_call(
                path,
                self._left / name,
                session.feeds(case.inputs),
                {"reference": case.expected, "exported": session.run(case.inputs)},
                side="reference",
                limits=limits,
                moved=list(files),
            )
        logger.warning("%s: %s", name, left)
