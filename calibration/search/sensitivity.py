"""Which layers a network can least do without: each part of a block quantised alone, then the worst kept in half."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir

from ...evaluation.report.progress_bar import counted
from ...runtime.parity import OutputDifference
from ...runtime.precision import Limits
from ..graph.quantised_graph import quantise
from ..quantiser.formats import Format
from ..quantiser.layer_choice import SiteChoice
from ..quantiser.linears import Linear, all_linears, groups
from ..sampling.sample_store import Sample
from .finished_work import FinishedWork
from .network_trial import Comparison, Done, NetworkTrial, damage, nothing

logger = logging.getLogger(__name__)

RANKED_ON = 4
"""Samples that each part of a block is tried on."""

TINY_MS = 1e-6

CURVE_POINTS = 6
"""Choices between none and all that a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDamage:
    """How far the outputs of a network move when this part of a block alone is quantised."""

    group: str
    linears: tuple[Linear, ...]
    damage: float

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return sum(linear.weights for linear in self.linears)

    @property
    def worth(self) -> float:
        """How much of the squared error goes for each weight that stays in half: errors of parts add up in squares."""
        return self.damage**2 / self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A network with the first `kept` parts of a ranking in half precision, held against the bundle's own graph.

    `own_ms` and `call_ms` are as in `Comparison`.
    """

    kept: int
    weight_bytes: int
    differences: tuple[OutputDifference, ...]
    own_ms: float
    call_ms: float

    @property
    def damage(self) -> float:
        """The greatest relative error of an output."""
        return damage(self.differences)

    @property
    def speed_up(self) -> float:
        """How many times as fast as the bundle's own graph; below 1 it is slower."""
        return self.own_ms / max(self.call_ms, TINY_MS)

    def within(self, limits: Limits) -> bool:
        """Whether every output is within the limits."""
        return all(found.excess(limits) is None for found in self.differences)


class Quantiser:
    """One network with what was chosen for its sites; comparisons that `work` knows are not made again."""

    def __init__(
        self,
        trial: NetworkTrial,
        choices: Sequence[SiteChoice],
        form: Format,
        work: FinishedWork | None = None,
    ) -> None:
        self.trial = trial
        self._work = work
        self.choices = tuple(choices)
        self.form = form
        sites = [choice.site for choice in self.choices]
        self.linears = all_linears(sites)
        self.groups: Mapping[str, tuple[Linear, ...]] = groups(sites)
        self.restored = frozenset(node for choice in self.choices for node in choice.restored)
        """Layers whose weights are in eight bits where they stay in half precision."""

    def graph(self, kept: Collection[str]) -> ir.Model:
        """The quantised graph; nodes of `kept` stay in half precision."""
        model = self.trial.model()
        quantise(model, self.choices, self.form, kept=kept, target="onnxruntime")
        return model

    def weight_bytes(self, kept: Collection[str]) -> int:
        """Bytes of the weights of the layers, scales not counted."""
        return sum(
            linear.weights * (2 if linear.node in kept and linear.node not in self.restored else 1)
            for linear in self.linears
        )

    def rank(self, samples: Sequence[Sample]) -> tuple[GroupDamage, ...]:
        """The parts of the network's blocks, the most damaging for their size first."""
        used = spread(samples, RANKED_ON)
        found = []
        with counted(f"{self.trial.name}: parts alone", len(self.groups)) as done:
            for number, (group, linears) in enumerate(self.groups.items(), start=1):
                alone = {linear.node for linear in linears}
                rest = {linear.node for linear in self.linears} - alone
                hurt = damage(self._compared(rest, used).differences)
                found.append(GroupDamage(group=group, linears=linears, damage=hurt))
                logger.debug(
                    "%s: %s alone %.2e (%d of %d)", self.trial.name, group, hurt, number, len(self.groups)
                )
                done()
        return tuple(sorted(found, key=lambda one: -one.worth))

    def choice(self, ranking: Sequence[GroupDamage], kept: int, samples: Sequence[Sample]) -> Choice:
        """Try the network with the first `kept` of a ranking in half precision."""
        return self._tried(kept_nodes(ranking[:kept]), kept, samples)

    def all_kept(self, samples: Sequence[Sample]) -> Choice:
        """Try the network with all its parts in half precision."""
        return self._tried({linear.node for linear in self.linears}, len(self.groups), samples)

    def _tried(self, nodes: Collection[str], kept: int, samples: Sequence[Sample]) -> Choice:
        with counted(f"{self.trial.name}: compare", len(samples)) as done:
            found = self._compared(nodes, samples, done)
        return Choice(
            kept=kept,
            weight_bytes=self.weight_bytes(nodes),
            differences=found.differences,
            own_ms=found.own_ms,
            call_ms=found.call_ms,
        )

    def _compared(self, kept: Collection[str], samples: Sequence[Sample], done: Done = nothing) -> Comparison:
        key = (
            self.trial.name,
            sorted(kept),
            sorted(self.restored),
            [(sample.video, sample.path.name) for sample in samples],
        )
        known = None if self._work is None else self._work.result("comparison", *key)
        if known is not None:
            return Comparison.of(known)
        found = self.trial.compare(self.graph(kept), samples, done)
        if self._work is not None:
            self._work.keep_result(asdict(found), "comparison", *key)
        return found

    def curve(self, ranking: Sequence[GroupDamage], samples: Sequence[Sample]) -> tuple[Choice, ...]:
        """Choices from everything quantised to all but one part kept."""
        count = len(ranking)
        steps = sorted(
            {round(i * count / CURVE_POINTS) for i in range(CURVE_POINTS)} | {0, max(count - 1, 0)}
        )
        return tuple(self.choice(ranking, kept, samples) for kept in steps)

    def least_kept(
        self, ranking: Sequence[GroupDamage], limits: Limits, samples: Sequence[Sample]
    ) -> Choice | None:
        """The choice with the fewest parts in half precision that is within the limits; None if none is.

        By bisection: keeping one more part is taken not to make it worse.
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


def kept_nodes(ranking: Sequence[GroupDamage]) -> frozenset[str]:
    """The nodes of some parts."""
    return frozenset(linear.node for part in ranking for linear in part.linears)


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Up to `count` samples, evenly over their order."""
    if len(samples) <= count:
        return list(samples)
    return [samples[i * len(samples) // count] for i in range(count)]
