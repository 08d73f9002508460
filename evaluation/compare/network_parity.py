"""Every network of one backend against another's on the same recorded inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.backend import Backend
from ...runtime.bundle.uploading import Dtypes, upload_inputs
from ...runtime.comparison.parity import LIMITS, Array, OutputDifference, difference, worst_of, worst_severity
from ...runtime.comparison.query_order import in_order_of
from ...runtime.comparison.run_results import run_line, save_call
from ...runtime.contract import NetworkName
from ...runtime.onnx.host_graph import bundle_tables, has_bfloat16
from ...runtime.precision import PrecisionName
from ...sides import Side
from .recording import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """One output of a network over all calls kept; values of the worst call.

    `p99_abs` is the 99th percentile of the absolute error, `not_finite_a`, `not_finite_b` count NaNs and
    infinities over all calls.
    """

    network: str
    output: str
    calls: int
    call: int
    shapes: Mapping[str, tuple[int, ...]]
    p99_abs: float
    not_finite_a: int
    not_finite_b: int
    worst: OutputDifference

    def excess(self, profile: PrecisionName) -> str | None:
        """What is beyond the limits, in words that say where; None if nothing is."""
        beyond = self.worst.excess(LIMITS[profile])
        return None if beyond is None else f"{self.network}, output {self.output}, call {self.call}: {beyond}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCall:
    """A call of side A with what side B answers to its inputs, queries in A's order, and how each output differs."""

    network: NetworkName
    call: Call
    given: Mapping[str, Array]
    differences: tuple[OutputDifference, ...]


def compare_calls(
    network: NetworkName, calls: Sequence[Call], backend: Backend, dtypes: Dtypes
) -> list[ComparedCall]:
    """Run a network on recorded inputs and compare its outputs with the recorded ones, queries in any order.

    Args:
        network: which one.
        calls: of side A.
        backend: side B.
        dtypes: of B's inputs.

    Raises:
        GmosError: an output has another shape, or the network cannot run.
    """
    run = backend.runner(network)
    compared = []
    for call in calls:
        answer = run(upload_inputs(backend.arrays, call.inputs, dtypes))
        outputs = {name: backend.arrays.download(answer[name]) for name in call.outputs}
        given = in_order_of(network, outputs, call.outputs)
        found = tuple(difference(given[name], call.outputs[name], output=name) for name in given)
        compared.append(ComparedCall(network=network, call=call, given=given, differences=found))
    return compared


def output_parities(compared: Sequence[ComparedCall]) -> list[OutputParity]:
    """The calls of one network, output by output."""
    parities = []
    for position, output in enumerate(compared[0].call.outputs):
        found = [one.differences[position] for one in compared]
        worst = worst_of(found)
        at = compared[found.index(worst)]
        errors = np.abs(at.given[output].astype(np.float64) - at.call.outputs[output].astype(np.float64))
        errors = errors[np.isfinite(errors)]
        parities.append(
            OutputParity(
                network=at.network,
                output=output,
                calls=len(compared),
                call=at.call.index,
                shapes={key: values.shape for key, values in at.call.inputs.items()},
                p99_abs=float(np.percentile(errors, 99)) if errors.size else 0.0,
                not_finite_a=sum(one.not_finite_a for one in found),
                not_finite_b=sum(one.not_finite_b for one in found),
                worst=worst,
            )
        )
    return parities


class SavedTensors:
    """What `--save_tensors` leaves for Polygraphy: inputs and both sides' outputs of each network's worst call.

    Args:
        directory: gets a folder for each network.
        a: a side.
        b: the other one.
        profile: whose limits the commands compare with.
    """

    def __init__(self, directory: Path, a: Side, b: Side, profile: PrecisionName) -> None:
        self._directory = directory
        self._profile = profile
        # The graph that goes on from there is B's; its outputs are compared with A's.
        runs, self._side = (a, "b") if b.bundle is None else (b, "a")
        self._bundle = runs.open_bundle()
        self.lines: list[str] = []
        """Commands that go on from there, one for each network that ONNX Runtime's CPU provider runs."""

    def save(self, compared: list[ComparedCall]) -> None:
        """Write the worst call of a network, queries of B in A's order.

        Raises:
            GmosError: it cannot be written.
        """
        worst = max(compared, key=lambda one: worst_severity(one.differences))
        folder, name = self._directory / worst.network, worst.network
        outputs = {"a": worst.call.outputs, "b": worst.given}
        entry = None if self._bundle is None else self._bundle.networks[name]
        if self._bundle is None or entry is None or has_bfloat16(entry):
            save_call(folder, worst.call.inputs, outputs)
            return
        graph = entry.graphs["onnxruntime"]
        inputs = {tensor.name: worst.call.inputs[tensor.name].astype(tensor.dtype) for tensor in entry.inputs}
        tables = bundle_tables(self._bundle, name)({key: values.shape for key, values in inputs.items()})
        read = {tensor.name for tensor in graph.tables}
        inputs |= {key: values for key, values in tables.items() if key in read}
        save_call(folder, inputs, outputs)
        trusted, limits = outputs[self._side], LIMITS[self._profile]
        self.lines.append(run_line(self._bundle.root / graph.file, folder, self._side, trusted, limits))
