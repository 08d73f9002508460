"""Sensitivity of groups of layers: each is quantised alone, then the most sensitive ones are excluded (fp16)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir

from ...evaluation.progress_bar import counted
from ...runtime.comparison.parity import OutputDifference, worst_severity
from ...runtime.precision import Limits
from ..graph.quantised_graph import quantise
from ..quantiser.formats import Format
from ..quantiser.layer_choice import ActivationChoice
from ..quantiser.linear_layers import LinearLayer, all_layers, groups
from ..sampling.sample_store import Sample
from .finished_work import FinishedWork
from .network_trial import Comparison, Done, NetworkTrial, nothing

logger = logging.getLogger(__name__)

RANKED_ON = 4
"""Samples that each group is tried on."""

TINY_MS = 1e-6

CURVE_POINTS = 6
"""Choices between none and all that a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSensitivity:
    """The relative error of a network's outputs when this group of layers alone is quantised."""

    group: str
    layers: tuple[LinearLayer, ...]
    error: float

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return sum(layer.weights for layer in self.layers)

    @property
    def worth(self) -> float:
        """How much of the squared error goes for each weight that is excluded: errors of groups add up in squares."""
        return self.error**2 / self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A network with the first `excluded` groups of a ranking in half precision, held against the bundle's own graph.

    `own_ms` and `call_ms` are as in `Comparison`.
    """

    excluded: int
    weight_bytes: int
    differences: tuple[OutputDifference, ...]
    own_ms: float
    call_ms: float

    @property
    def error(self) -> float:
        """The greatest relative error of an output."""
        return worst_severity(self.differences)

    @property
    def speed_up(self) -> float:
        """How many times as fast as the bundle's own graph; below 1 it is slower."""
        return self.own_ms / max(self.call_ms, TINY_MS)

    def within(self, limits: Limits) -> bool:
        """Whether every output is within the limits."""
        return all(found.excess(limits) is None for found in self.differences)


class Quantiser:
    """One network with what was chosen for its activations; comparisons that `work` knows are not made again."""

    def __init__(
        self,
        trial: NetworkTrial,
        choices: Sequence[ActivationChoice],
        form: Format,
        work: FinishedWork | None = None,
    ) -> None:
        self.trial = trial
        self._work = work
        self.choices = tuple(choices)
        self.form = form
        activations = [choice.activation for choice in self.choices]
        self.layers = all_layers(activations)
        self.groups: Mapping[str, tuple[LinearLayer, ...]] = groups(activations)
        self.weight_only = frozenset(node for choice in self.choices for node in choice.weight_only)
        """Layers whose weights are in eight bits where they stay in half precision."""

    def graph(self, excluded: Collection[str]) -> ir.Model:
        """The quantised graph; nodes of `excluded` stay in half precision."""
        model = self.trial.model()
        quantise(model, self.choices, self.form, excluded=excluded, target="onnxruntime")
        return model

    def weight_bytes(self, excluded: Collection[str]) -> int:
        """Bytes of the weights of the layers, scales not counted."""
        return sum(
            layer.weights * (2 if layer.node in excluded and layer.node not in self.weight_only else 1)
            for layer in self.layers
        )

    def rank(self, samples: Sequence[Sample]) -> tuple[GroupSensitivity, ...]:
        """The groups of the network's layers, the most sensitive for their size first."""
        used = spread(samples, RANKED_ON)
        found = []
        with counted(f"{self.trial.name}: groups alone", len(self.groups)) as done:
            for number, (group, layers) in enumerate(self.groups.items(), start=1):
                alone = {layer.node for layer in layers}
                rest = {layer.node for layer in self.layers} - alone
                hurt = worst_severity(self._compared(rest, used).differences)
                found.append(GroupSensitivity(group=group, layers=layers, error=hurt))
                logger.debug(
                    "%s: %s alone %.2e (%d of %d)", self.trial.name, group, hurt, number, len(self.groups)
                )
                done()
        return tuple(sorted(found, key=lambda one: -one.worth))

    def choice(self, ranking: Sequence[GroupSensitivity], excluded: int, samples: Sequence[Sample]) -> Choice:
        """Try the network with the first `excluded` groups of a ranking in half precision."""
        return self._tried(excluded_nodes(ranking[:excluded]), excluded, samples)

    def all_excluded(self, samples: Sequence[Sample]) -> Choice:
        """Try the network with all its layers in half precision."""
        return self._tried({layer.node for layer in self.layers}, len(self.groups), samples)

    def _tried(self, nodes: Collection[str], excluded: int, samples: Sequence[Sample]) -> Choice:
        with counted(f"{self.trial.name}: compare", len(samples)) as done:
            found = self._compared(nodes, samples, done)
        return Choice(
            excluded=excluded,
            weight_bytes=self.weight_bytes(nodes),
            differences=found.differences,
            own_ms=found.own_ms,
            call_ms=found.call_ms,
        )

    def _compared(
        self, excluded: Collection[str], samples: Sequence[Sample], done: Done = nothing
    ) -> Comparison:
        key = (
            self.trial.name,
            sorted(excluded),
            sorted(self.weight_only),
            [(sample.video, sample.path.name) for sample in samples],
        )
        known = None if self._work is None else self._work.result("comparison", *key)
        if known is not None:
            return Comparison.of(known)
        found = self.trial.compare(self.graph(excluded), samples, done)
        if self._work is not None:
            self._work.keep_result(asdict(found), "comparison", *key)
        return found

    def curve(self, ranking: Sequence[GroupSensitivity], samples: Sequence[Sample]) -> tuple[Choice, ...]:
        """Choices from everything quantised to all but one group excluded."""
        count = len(ranking)
        steps = sorted(
            {round(i * count / CURVE_POINTS) for i in range(CURVE_POINTS)} | {0, max(count - 1, 0)}
        )
        return tuple(self.choice(ranking, excluded, samples) for excluded in steps)

    def least_excluded(
        self, ranking: Sequence[GroupSensitivity], limits: Limits, samples: Sequence[Sample]
    ) -> Choice | None:
        """The choice with the fewest groups excluded that is within the limits; None if none is.

        By bisection: excluding one more group is taken not to make it worse.
        """
        low, high = 0, len(ranking)
        best = self.choice(ranking, high, samples)
        if not best.within(limits):
            return None
        while low < high:
            middle = (low + high) // 2
            tried = self.choice(ranking, middle, samples)
            if tried.within(limits):
                best, high = tried, middle
            else:
                low = middle + 1
        return best


def excluded_nodes(ranking: Sequence[GroupSensitivity]) -> frozenset[str]:
    """The nodes of some groups."""
    return frozenset(layer.node for part in ranking for layer in part.layers)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Up to `count` samples, evenly over their order."""
    if len(samples) <= count:
        return list(samples)
    return [samples[i * len(samples) // count] for i in range(count)]
