"""Every network of one backend against another's on the same recorded inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backend import Backend
from ...runtime.bundle.uploading import Dtypes, upload_inputs
from ...runtime.contract import NetworkName
from ...runtime.parity import LIMITS, OutputDifference, difference
from ...runtime.precision import Limits
from ...runtime.query_order import in_order_of
from .limits import ProfileName
from .recording import Call, Recording

Values = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesDifference:
    """How values of B differ from A's: of those that are finite, and how many are not."""

    difference: OutputDifference
    not_finite_a: int
    not_finite_b: int

    def excess(self, limits: Limits) -> str | None:
        """What is beyond the limits, in words; None if nothing is."""
        if self.not_finite_a or self.not_finite_b:
            return f"{self.not_finite_a} values of A and {self.not_finite_b} of B are not finite numbers"
        return self.difference.excess(limits)


def compare_values(output: str, a: Values, b: Values) -> ValuesDifference:
    """Compare two arrays of one shape.

    Raises:
        GmosError: the shapes differ.
    """
    return ValuesDifference(
        difference=difference(_finite(b), _finite(a), target="b", lengths={}, output=output),
        not_finite_a=_not_finite(a),
        not_finite_b=_not_finite(b),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """One output of a network over all calls kept; values of the worst call, by relative error.

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

    def excess(self, profile: ProfileName) -> str | None:
        """What is beyond the limits, in words that say where; None if nothing is."""
        where = f"{self.network}, output {self.output}, call {self.call}"
        if self.not_finite_a or self.not_finite_b:
            return f"{where}: {self.not_finite_a} values of A and {self.not_finite_b} of B are not finite numbers"
        beyond = self.worst.excess(LIMITS[profile])
        return None if beyond is None else f"{where}: {beyond}"

    def as_json(self) -> dict[str, Any]:
        """As JSON values; what is not finite is null."""
        plain = asdict(self)
        worst = plain.pop("worst")
        for name in ("target", "lengths", "output"):
            del worst[name]
        plain |= worst
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in plain.items()
        }


def compare_network(
    network: NetworkName, calls: Sequence[Call], backend: Backend, dtypes: Dtypes
) -> list[OutputParity]:
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
    found: dict[str, list[tuple[Call, Values, Values]]] = {}
    for call in calls:
        answer = run(upload_inputs(backend, call.inputs, dtypes))
        outputs = {name: backend.download(answer[name]) for name in call.outputs}
        outputs = in_order_of(network, outputs, call.outputs)
        for name, expected in call.outputs.items():
            found.setdefault(name, []).append((call, outputs[name], expected))
    return [_output(network, name, triples) for name, triples in found.items()]


def _output(network: str, name: str, triples: Sequence[tuple[Call, Values, Values]]) -> OutputParity:
    found = [compare_values(name, a, b) for _, b, a in triples]
    differences = [one.difference for one in found]
    worst = max(range(len(triples)), key=lambda i: (differences[i].relative, differences[i].changed))
    call, b, a = triples[worst]
    errors = np.abs(_finite(b).astype(np.float64) - _finite(a).astype(np.float64))
    return OutputParity(
        network=network,
        output=name,
        calls=len(triples),
        call=call.index,
        shapes={key: values.shape for key, values in call.inputs.items()},
        p99_abs=float(np.percentile(errors, 99)) if errors.size else 0.0,
        not_finite_a=sum(one.not_finite_a for one in found),
        not_finite_b=sum(one.not_finite_b for one in found),
        worst=differences[worst],
    )


def _not_finite(values: Values) -> int:
    return int(np.count_nonzero(~np.isfinite(values)))


def _finite(values: Values) -> Values:
    """Errors are measured on the finite values; the others are counted."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if _not_finite(values) else values


def compare_networks(
    recorded: Recording,
    names: Sequence[NetworkName],
    backend: Backend,
    dtypes: Mapping[NetworkName, Dtypes],
) -> list[OutputParity]:
    """All networks that the recorded run has called."""
    return [
        parity
        for name in names
        if recorded.calls(name)
        for parity in compare_network(name, recorded.calls(name), backend, dtypes[name])
    ]
