"""The forms that a network may take in the bundle: computing in eight bits, or in half from eight-bit weights."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from numpy.typing import NDArray

from ..errors import GmosError
from ..evaluation.report.progress_bar import counted
from ..runtime.bundle.manifest import Bundle
from ..runtime.contract import NetworkName
from ..runtime.parity import OutputDifference
from ..runtime.precision import Limits
from .config import KEPT, CalibrationConfig
from .graph.quantised_bundle import QuantisedNetwork
from .quantiser.layer_choice import LayerChooser, SiteChoice
from .quantiser.linears import Linear, Site, find_sites, weight_of
from .quantiser.site_statistics import calls, collect
from .sampling.sample_store import Sample
from .search.finished_work import FinishedWork
from .search.network_trial import NetworkTrial
from .search.sensitivity import Choice, GroupDamage, Quantiser, kept_nodes
from .search.target_parity import TargetParity
from .search.times import Times

logger = logging.getLogger(__name__)

HELD_OUT = 4
"""Every so many samples one is kept out of the ranges, to compare the result on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedNetwork:
    """A network and how it came to be what it is; `ranking` and `curve` are empty if they were not asked for."""

    name: NetworkName
    result: QuantisedNetwork
    groups: Mapping[str, tuple[Linear, ...]]
    calibrated_on: tuple[Sample, ...]
    compared_on: tuple[Sample, ...]
    ranking: tuple[GroupDamage, ...] = ()
    curve: tuple[Choice, ...] = ()
    times: Times | None = None

    @property
    def kept_groups(self) -> tuple[str, ...]:
        """Parts of blocks that stay in half precision."""
        kept = self.result.kept
        return tuple(name for name, linears in self.groups.items() if linears[0].node in kept)

    @property
    def weights_only(self) -> int:
        """How many layers stay in half precision with weights in eight bits."""
        return sum(node in self.result.kept for choice in self.result.choices for node in choice.restored)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All layers that could be quantised."""
        return tuple(linear for linears in self.groups.values() for linear in linears)

    @property
    def excess(self) -> tuple[OutputDifference, str] | None:
        """The first output that is beyond the limits, and how."""
        found = ((one, one.excess(self.result.limits)) for one in self.result.differences)
        return next(((one, excess) for one, excess in found if excess is not None), None)

    def record(self) -> dict[str, Any]:
        """As it is kept in the bundle."""
        choices = self.result.choices
        return {
            "samples": len(self.calibrated_on),
            "compared_on": len(self.compared_on),
            "layers": len(self.linears) - len(self.result.kept),
            "kept_half": list(self.kept_groups),
            "weights_only": self.weights_only,
            "largest_layer_error": max((choice.error for choice in choices), default=0.0),
            "balanced": sum(choice.factors is not None for choice in choices),
            "centred": sum(choice.centre is not None for choice in choices),
            "ranges": dict(Counter(choice.method for choice in choices)),
            "sensitivity": [
                {"group": part.group, "damage": part.damage if math.isfinite(part.damage) else None}
                for part in self.ranking
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkForms:
    """A network in the forms that it may take in the bundle."""

    quantised: CalibratedNetwork | None = None
    weights_only: CalibratedNetwork | None = None

    def chosen(self, *, quantised: bool) -> CalibratedNetwork:
        """One of them, which must have been made."""
        found = self.quantised if quantised else self.weights_only
        if found is None:
            raise LookupError("no such form was made")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FormMaker:
    """Makes the forms of the networks of a bundle; what `work` knows is not worked out again."""

    config: CalibrationConfig
    parent: Bundle
    chooser: LayerChooser
    work: FinishedWork

    def forms(self, name: NetworkName, samples: Sequence[Sample]) -> NetworkForms:
        """The forms that the options allow: in eight bits, from eight-bit weights, or both for `--target_masks`.

        Raises:
            GmosError: a form that must be within its limits is not, or a sample cannot be used.
        """
        whole = name in self.config.weights_only
        either = self.config.target_masks is not None
        seen, held = split(samples)
        quantised = weights_only = None
        with self.work.trial_folder() as folder:
            trial = NetworkTrial(self.parent, name, folder)
            restored = whole or either or KEPT in self.config.weights_only
            choices = choose_all(trial, seen, self.chooser, restored=restored, work=self.work)
            if whole or either:
                weights_only = self._with_weights_only(self._quantiser(trial, choices), seen, held)
            if not whole:
                if KEPT not in self.config.weights_only:
                    choices = tuple(replace(choice, restored={}) for choice in choices)
                quantised = self._quantised(self._quantiser(trial, choices), seen, held)
        if quantised is not None and weights_only is not None:
            weights_only = replace(weights_only, ranking=quantised.ranking, curve=quantised.curve)
        if quantised is not None and (excess := quantised.excess) is not None:
            if weights_only is None:
                self._refuse(name, *excess)
            elif self.config.gated or not excess[0].finite:
                logger.info("%s: %s: %s; it gets its weights only", name, excess[0].output, excess[1])
                quantised = None
        if weights_only is not None and (excess := weights_only.excess) is not None:
            self._refuse(name, *excess)
        return NetworkForms(quantised=quantised, weights_only=weights_only)

    def _quantiser(self, trial: NetworkTrial, choices: Sequence[SiteChoice]) -> Quantiser:
        return Quantiser(trial, choices, self.chooser.form, self.work)

    def _with_weights_only(
        self, quantiser: Quantiser, seen: Sequence[Sample], held: Sequence[Sample]
    ) -> CalibratedNetwork:
        """A network whose layers all stay in half precision, with weights in eight bits."""
        # Where nothing is quantised nothing can be kept either.
        limits = TargetParity().limits(quantiser.trial.name, self.config.precision)
        every = frozenset(linear.node for linear in quantiser.linears)
        return self._made(quantiser, quantiser.all_kept(held), every, limits, seen=seen, held=held)

    def _quantised(
        self, quantiser: Quantiser, seen: Sequence[Sample], held: Sequence[Sample]
    ) -> CalibratedNetwork:
        """A network that computes in eight bits, apart from the parts that it keeps for its target."""
        name = quantiser.trial.name
        target = self.config.target_parity.of(name)
        limits = self.config.target_parity.limits(name, self.config.precision)
        found = quantiser.choice((), 0, held)
        ranking: tuple[GroupDamage, ...] = ()
        curve: tuple[Choice, ...] = ()
        short = target is not None and not found.within(limits)
        if self.config.sensitivity or short:
            ranking = quantiser.rank(seen)
            if self.config.sensitivity:
                curve = quantiser.curve(ranking, held)
        if target is not None and short:
            found = quantiser.least_kept(ranking, limits, held) or _hopeless(name, target)
        kept = kept_nodes(ranking[: found.kept])
        made = self._made(quantiser, found, kept, limits, seen=seen, held=held)
        return replace(made, ranking=ranking, curve=curve)

    def _made(
        self,
        quantiser: Quantiser,
        found: Choice,
        kept: frozenset[str],
        limits: Limits,
        *,
        seen: Sequence[Sample],
        held: Sequence[Sample],
    ) -> CalibratedNetwork:
        made = CalibratedNetwork(
            name=quantiser.trial.name,
            result=QuantisedNetwork(
                choices=quantiser.choices, kept=kept, limits=limits, differences=found.differences
            ),
            groups=quantiser.groups,
            calibrated_on=tuple(seen),
            compared_on=tuple(held),
        )
        logger.info(
            "%s: %d of %d layers %s, %d with weights only, relative error up to %.1e on %d samples",
            made.name,
            len(made.linears) - len(kept),
            len(made.linears),
            self.config.precision,
            made.weights_only,
            found.damage,
            len(held),
        )
        return made

    def _refuse(self, name: str, difference: OutputDifference, excess: str) -> None:
        """Say which output of a quantised network was off, unless it is to be kept all the same."""
        # What is not finite cannot be looked at either.
        if self.config.gated or not difference.finite:
            raise GmosError(
                f"quantised {name} differs from the bundle's own graph in {difference.output}: {excess}; nothing was "
                f"kept. Give --target_parity {name}={self.config.precision} to keep its most sensitive layers in half "
                "precision, leave it out of --networks, or give --no_gate to look at the files"
            )


def choose_all(
    trial: NetworkTrial,
    samples: Sequence[Sample],
    chooser: LayerChooser,
    *,
    restored: bool = False,
    work: FinishedWork | None = None,
) -> tuple[SiteChoice, ...]:
    """What is chosen for each site of a network from what it sees on samples.

    `restored` asks for eight-bit weights of layers that stay in half precision, too. Choices that `work` has are taken
    from there, the others are kept in it one by one.

    Raises:
        GmosError: it has no layers to quantise, or a sample cannot be read or gives values that are not finite.
    """
    graph = trial.model().graph
    sites = find_sites(graph)
    if not sites:
        raise GmosError(f"--networks {trial.name}: it has no layers large enough to quantise; leave it out")
    nodes = {node.name or "": node for node in graph}

    def weights(site: Site) -> dict[str, NDArray[Any]]:
        return {linear.node: weight_of(nodes[linear.node]) for linear in site.linears}

    found: dict[str, SiteChoice] = {}
    for site in sites:
        known = None if work is None else work.choice(trial.name, site)
        if known is not None:
            found[site.name] = chooser.take_over(known, weights(site))
    missing = [site for site in sites if site.name not in found]
    with counted(f"{trial.name}: layers", calls(missing, samples) + len(missing)) as done:
        for site, statistics in collect(trial, missing, samples, done):
            choice = chooser.choose(site, statistics, weights(site), restored=restored)
            if work is not None:
                work.keep_choice(trial.name, choice)
            found[site.name] = choice
            done()
    return tuple(found[site.name] for site in sites)


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples for the ranges, and samples to compare on; the same ones where there are too few for both."""
    if len(samples) < HELD_OUT:
        return list(samples), list(samples)
    held = list(samples[HELD_OUT - 1 :: HELD_OUT])
    return [sample for sample in samples if sample not in held], held


def _hopeless(name: str, target: str) -> NoReturn:
    raise GmosError(
        f"{name} is beyond the limits of --target_parity {target} even with every layer in half precision; leave it "
        f"out of --networks, or give it a wider target: --target_parity {name}=…"
    )
