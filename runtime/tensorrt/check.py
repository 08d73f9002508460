"""Engines held against ONNX Runtime on seeded and on recorded inputs, on the device that is to run them."""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import GmosError
from ..backend import Backend
from ..bundle.check_inputs import STRETCHED, read_check_inputs, stretched
from ..bundle.manifest import (
    ADVICE,
    MANIFEST,
    Bundle,
    BundleNetwork,
    GraphContent,
    Target,
    open_bundle,
)
from ..bundle.seeded_inputs import seeded_inputs
from ..bundle.signature import Trust
from ..bundle.uploading import dtypes_of, upload_inputs
from ..comparison.parity import LIMITS, OutputDifference, compare_outputs, widened
from ..comparison.run_results import leave_call
from ..contract import WITHOUT_WEIGHTS, NetworkName
from ..files.typed_json import typed
from ..onnx.host_graph import HostGraph, bundle_tables, half_doubt, has_bfloat16, is_half
from ..onnx.sessions import load_onnxruntime
from ..precision import PRECISIONS
from ..shapes import call_lengths
from .backend import EngineBackend, open_engine
from .call_plans import cut_inputs
from .library import Flavour
from .record import (
    ON_RECORDED,
    ON_SEEDED,
    PLACES,
    EngineCheck,
    EngineRecord,
    engine_directory,
    profile_lengths,
    record_path,
    write_engine_check,
)

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
Lengths = Mapping[str, int]
TwinWriter = Callable[[Path, Path], Path]
"""Writes the float32 twin of a graph in half precision into a folder: `export.onnx.float32_twin.write_float32_twin`."""

FAILED_SUFFIX = ".failed"
"""Ending of the folder beside an engine that holds what it got and answered when it was wrong."""


def check_engines(
    bundle_root: Path,
    flavour: Flavour,
    networks: Sequence[NetworkName] = (),
    *,
    device: int = 0,
    twin: TwinWriter | None = None,
    trust: Trust | None = None,
) -> dict[NetworkName, EngineCheck]:
    """Compare engines with ONNX Runtime's CPU provider, and write the result beside their records.

    Each runs at the usual lengths of every profile and at its least ones, so at two batch sizes and, where
    there are memories, two memory lengths: on seeded inputs, and on those that the bundle has recorded.

    Args:
        bundle_root: the bundle.
        flavour: of the engines.
        networks: whose engines; none means all.
        device: number of the CUDA device.
        twin: for graphs in half precision, of which ONNX Runtime's CPU provider runs none in bfloat16.
        trust: whom the user trusts.

    Returns:
        The checks by network, failed ones too: their engines are refused from now on.

    Raises:
        GmosError: an engine cannot be loaded or run, or a bfloat16 graph is met without `twin`.
    """
    bundle = open_bundle(bundle_root, trust)
    directory = engine_directory(bundle.root, flavour)
    checks: dict[NetworkName, EngineCheck] = {}
    for name in networks or tuple(bundle.networks):
        backend = open_engine(bundle, flavour, device)
        try:
            checks[name] = check_network(
                bundle, backend, name, twin=twin, left=directory / f"{name}{FAILED_SUFFIX}"
            )
            record = backend.record(name)
        finally:
            backend.close()
        write_engine_check(record_path(directory, name), record, checks[name])
    return checks


def check_network(
    bundle: Bundle,
    backend: EngineBackend,
    name: NetworkName,
    *,
    twin: TwinWriter | None = None,
    left: Path | None = None,
) -> EngineCheck:
    """Compare one engine; writes nothing but what a wrong one got and answered, into `left` if that is given.

    Raises:
        GmosError: as `check_engines`.
    """
    entry = bundle.networks[name]
    record = backend.record(name)
    limits = LIMITS[record.precision]
    in_twin = twin is not None and is_half(entry)
    right: list[OutputDifference] = []
    wrong: list[OutputDifference] = []
    recorded = tuple(_recorded_errors(entry))
    with trusted_graph(bundle, entry, twin) as (path, graph):
        for target, lengths, values in _cases(bundle, entry, record):
            for part, inputs, given in _engine_calls(backend, entry, target, lengths, values):
                expected = graph.run(inputs)
                compared = compare_outputs(name, given, expected, target=target, lengths=part)
                own = list(recorded)
                if in_twin and not has_bfloat16(entry) and any(one.excess(limits) for one in compared):
                    own += _rounding(bundle, entry, inputs, expected)
                bounds = {
                    one.output: widened(limits, [each for each in own if each.output == one.output])
                    for one in compared
                }
                failed = [one for one in compared if one.excess(bounds[one.output]) is not None]
                for one in failed:
                    logger.warning("%s: wrong %s, %s", name, one.failure(bounds[one.output]), target)
                if failed and not wrong and left is not None:
                    kept = leave_call(
                        path,
                        left,
                        graph.feeds(inputs),
                        {"onnxruntime": expected, "engine": given},
                        side="engine",
                        limits=limits,
                        moved=list(path.parent.iterdir()) if in_twin else (),
                    )
                    logger.warning("%s: %s", name, kept)
                wrong += failed
                right += [one for one in compared if one not in failed]
    twin_words = " in float32 on the same weights" if in_twin else ""
    return EngineCheck(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=backend.identity.name,
        against=f"ONNX Runtime {load_onnxruntime().__version__} on the CPU{twin_words}",
        passed=not wrong,
        # A reader names the first one: that is a wrong one, if any is.
        outputs=(*wrong, *right),
    )


def _recorded_errors(entry: BundleNetwork) -> Iterator[OutputDifference]:
    """The reference's own errors in the network's precision, as far as the export had to measure them."""
    for each in entry.gate.get("own_errors", ()):
        yield typed(
            each, OutputDifference, where=f"{MANIFEST}.networks.{entry.name}.gate.own_errors", advice=ADVICE
        )


def _rounding(
    bundle: Bundle, entry: BundleNetwork, inputs: Arrays, expected: Arrays
) -> list[OutputDifference]:
    """How far the half-precision graph itself is off on ONNX Runtime: what rounding does to these inputs."""
    with trusted_graph(bundle, entry, None) as (_, graph):
        return compare_outputs(entry.name, graph.run(inputs), expected, target="onnxruntime", lengths={})


def check_lengths(entry: BundleNetwork, record: EngineRecord) -> tuple[Lengths, ...]:
    """The lengths by axis letter at which an engine is compared: usual and least ones of its profiles."""
    cases: list[Lengths] = []
    for profile in record.profiles:
        known = profile_lengths(entry.standard_inputs, profile)
        for lengths in (known["opt"], known["min"]):
            if lengths not in cases:
                cases.append(lengths)
    return tuple(cases)


def _cases(
    bundle: Bundle, entry: BundleNetwork, record: EngineRecord
) -> Iterator[tuple[str, Lengths, Arrays]]:
    """What inputs are, their lengths and they themselves."""
    for lengths in check_lengths(entry, record):
        yield ON_SEEDED, lengths, seeded_inputs(entry.name, entry.inputs, bundle.model, lengths)
    recorded = read_check_inputs(bundle, entry.name)
    if recorded is None:
        if entry.name not in WITHOUT_WEIGHTS:
            logger.info("%s: compared on seeded inputs alone, as the bundle has recorded none", entry.name)
        return
    found = recorded_lengths(entry, record, call_lengths(entry.inputs, recorded))
    if not found:
        logger.info("%s: compared on seeded inputs alone, as its engine takes no recorded ones", entry.name)
    for lengths in found:
        inputs = stretched(recorded, entry.inputs, lengths)
        if inputs is not None:
            yield ON_RECORDED, lengths, inputs


def recorded_lengths(entry: BundleNetwork, record: EngineRecord, own: Lengths) -> tuple[Lengths, ...]:
    """Usual and least lengths of the profiles that take a recorded call: its own in the axes that are not stretched."""
    cases: list[Lengths] = []
    for profile in record.profiles:
        known = profile_lengths(entry.standard_inputs, profile)
        least, usual, greatest = (known[place] for place in PLACES)
        fixed = {axis: length for axis, length in own.items() if axis not in STRETCHED}
        if all(least[axis] <= length <= greatest[axis] for axis, length in fixed.items()):
            both = ({axis: each[axis] for axis in own} | fixed for each in (usual, least))
            cases += [lengths for lengths in both if lengths not in cases]
    return tuple(cases)


def _engine_calls(
    backend: Backend, entry: BundleNetwork, target: str, lengths: Lengths, inputs: Arrays
) -> Iterator[tuple[Lengths, Arrays, Arrays]]:
    """Lengths, inputs and the engine's outputs of the rows that are compared, each on its own.

    Of a network that cannot be cut all rows come at once. Recorded inputs come again from row to row.
    """
    given = upload_inputs(backend.arrays, inputs, dtypes_of(entry.inputs))
    outputs = {
        name: backend.arrays.download(array) for name, array in backend.runner(entry.name)(given).items()
    }
    # Both sides see the inputs as the engine's precision rounds them.
    seen = {
        tensor.name: inputs[tensor.name] if tensor.host else backend.arrays.download(given[tensor.name])
        for tensor in entry.inputs
    }
    cut = cut_inputs(entry)
    if not cut:
        yield lengths, seen, outputs
        return
    last = len(seen[next(iter(cut))]) - 1
    for row in sorted({0 if target == ON_SEEDED else last, last}):
        part = {name: array[row : row + 1] if name in cut else array for name, array in seen.items()}
        answers = {name: array[row : row + 1] for name, array in outputs.items()}
        yield (lengths if last == 0 else {**lengths, "row": row}), part, answers


@contextmanager
def trusted_graph(
    bundle: Bundle, entry: BundleNetwork, twin: TwinWriter | None
) -> Iterator[tuple[Path, HostGraph]]:
    """A network on ONNX Runtime's CPU provider, and the file that runs: the bundle's, or a twin in a folder of its own.

    In half precision it is the twin if there is `twin`. Else it is said what speaks against this ONNX Runtime.

    Raises:
        GmosError: a file has changed, or a twin is needed and `twin` is None.
    """
    # ONNX Runtime's own form of attention takes a fifth of the memory. Where that form has fewer inputs it
    # also computes a little differently.
    same = entry.graphs["onnxruntime"].tables == entry.graphs["standard"].tables
    target: Target = "onnxruntime" if same else "standard"
    graph: Path | GraphContent
    # A session keeps its files open, which Windows does not remove.
    with tempfile.TemporaryDirectory(prefix="gmos-twin-", ignore_cleanup_errors=True) as folder:
        if twin is not None and is_half(entry):
            with bundle.private_graph(entry.name, target) as copy:
                path = graph = twin(copy, Path(folder))
        elif has_bfloat16(entry):
            raise GmosError(
                f"{entry.name} is bf16, which ONNX Runtime does not run: compare its engine with gmos-export "
                "check-engines where onnx-ir is installed: pip install onnx-ir"
            )
        else:
            graph = bundle.graph_content(entry.name, target)
            path = graph.path
            if PRECISIONS[entry.precision].dtype == "float16":
                doubt = half_doubt(load_onnxruntime().__version__, platform.machine())
                if doubt is not None:
                    logger.warning("%s: %s", entry.name, doubt)
        yield path, HostGraph(graph, tables=bundle_tables(bundle, entry.name), precision=entry.precision)
