"""Sensitivity of groups of layers: each is quantised alone, then the most sensitive ones are excluded (fp16)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...evaluation.progress_bar import counted
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


Ranking = Sequence[GroupSensitivity]
"""Groups, the most sensitive for their size first."""


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

    def rank(self, samples: Sequence[Sample]) -> tuple[GroupSensitivity, ...]:
        """The groups of the network's layers, the most sensitive for their size first."""
        count = min(RANKED_ON, len(samples))
        used = [samples[i * len(samples) // count] for i in range(count)]
        found = []
        with counted(f"{self.trial.name}: groups alone", len(self.groups)) as done:
            for number, (group, layers) in enumerate(self.groups.items(), start=1):
                rest = {layer.node for layer in self.layers} - {layer.node for layer in layers}
                hurt = self._compared(rest, used).error
                found.append(GroupSensitivity(group=group, layers=layers, error=hurt))
                logger.debug(
                    "%s: %s alone %.2e (%d of %d)", self.trial.name, group, hurt, number, len(self.groups)
                )
                done()
        return tuple(sorted(found, key=lambda one: -one.worth))

    def tried(self, excluded: Ranking, samples: Sequence[Sample]) -> Comparison:
        """The network with some groups in half precision."""
        return self._tried(excluded_nodes(excluded), len(excluded), samples)

    def all_excluded(self, samples: Sequence[Sample]) -> Comparison:
        """The network with all its layers in half precision."""
        return self._tried({layer.node for layer in self.layers}, len(self.groups), samples)

    def _tried(self, nodes: Collection[str], excluded: int, samples: Sequence[Sample]) -> Comparison:
        with counted(f"{self.trial.name}: compare", len(samples)) as done:
            found = self._compared(nodes, samples, done)
        halves = {layer for layer in nodes if layer not in self.weight_only}
        weight_bytes = sum(layer.weights * (2 if layer.node in halves else 1) for layer in self.layers)
        return replace(found, excluded=excluded, weight_bytes=weight_bytes)

    def _compared(
        self, excluded: Collection[str], samples: Sequence[Sample], done: Done = nothing
    ) -> Comparison:
        def compare() -> Comparison:
            return self.trial.compare(self.graph(excluded), samples, done)

        if self._work is None:
            return compare()
        used = [(sample.video, sample.path.name) for sample in samples]
        key = (self.trial.name, sorted(excluded), sorted(self.weight_only), used)
        return self._work.once(Comparison, compare, "comparison", *key)

    def curve(self, ranking: Ranking, samples: Sequence[Sample]) -> tuple[Comparison, ...]:
        """From everything quantised to all but one group excluded."""
        count = len(ranking)
        steps = {round(i * count / CURVE_POINTS) for i in range(CURVE_POINTS)} | {0, max(count - 1, 0)}
        return tuple(self.tried(ranking[:excluded], samples) for excluded in sorted(steps))

    def least_excluded(
        self, ranking: Ranking, limits: Limits, samples: Sequence[Sample]
    ) -> Comparison | None:
        """With the fewest groups excluded that is within the limits; None if none is.

        By bisection: excluding one more group is taken not to make it worse.
        """
        low, high = 0, len(ranking)
        best = self.tried(ranking, samples)
        if not best.within(limits):
            return None
        while low < high:
            middle = (low + high) // 2
            tried = self.tried(ranking[:middle], samples)
            if tried.within(limits):
                best, high = tried, middle
            else:
                low = middle + 1
        return best


def excluded_nodes(ranking: Ranking) -> frozenset[str]:
    """The nodes of some groups."""
    return frozenset(layer.node for part in ranking for layer in part.layers)
