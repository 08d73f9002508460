"""The forms that a network may take in the bundle: computing in eight bits, or weight-only."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from numpy.typing import NDArray

from ..errors import GmosError
from ..evaluation.progress_bar import counted
from ..runtime.bundle.manifest import Bundle
from ..runtime.comparison.parity import OutputDifference
from ..runtime.contract import NetworkName
from ..runtime.precision import Limits
from .config import EXCLUDED, CalibrationConfig
from .graph.quantised_bundle import QuantisedNetwork
from .quantiser.activation_statistics import calls, collect
from .quantiser.layer_choice import ActivationChoice, LayerChooser
from .quantiser.linear_layers import Activation, LinearLayer, find_activations, weight_of
from .sampling.sample_store import Sample
from .search.finished_work import FinishedWork
from .search.network_trial import NetworkTrial
from .search.sensitivity import Choice, GroupSensitivity, Quantiser, excluded_nodes
from .search.target_parity import TargetParity
from .search.times import Times

logger = logging.getLogger(__name__)

VALIDATION_EVERY = 4
"""Every so many samples one is left out of all choices, for the validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedNetwork:
    """A network and how it came to be what it is; `ranking` and `curve` are empty if they were not asked for."""

    name: NetworkName
    result: QuantisedNetwork
    groups: Mapping[str, tuple[LinearLayer, ...]]
    calibrated_on: tuple[Sample, ...]
    validated_on: tuple[Sample, ...]
    ranking: tuple[GroupSensitivity, ...] = ()
    curve: tuple[Choice, ...] = ()
    times: Times | None = None

    @property
    def excluded_groups(self) -> tuple[str, ...]:
        """Groups of layers that are excluded and stay in half precision."""
        excluded = self.result.excluded
        return tuple(name for name, layers in self.groups.items() if layers[0].node in excluded)

    @property
    def weight_only(self) -> int:
        """How many layers compute in half precision from weights in eight bits."""
        return sum(
            node in self.result.excluded for choice in self.result.choices for node in choice.weight_only
        )

    @property
    def layers(self) -> tuple[LinearLayer, ...]:
        """All layers that could be quantised."""
        return tuple(layer for layers in self.groups.values() for layer in layers)

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
            "validated_on": len(self.validated_on),
            "layers": len(self.layers) - len(self.result.excluded),
            "excluded": list(self.excluded_groups),
            "weight_only": self.weight_only,
            "largest_layer_error": max((choice.error for choice in choices), default=0.0),
            "smoothquant": sum(choice.factors is not None for choice in choices),
            "mean_shift": sum(choice.mean_shift is not None for choice in choices),
            "ranges": dict(Counter(choice.method for choice in choices)),
            "sensitivity": [
                {"group": part.group, "error": part.error if math.isfinite(part.error) else None}
                for part in self.ranking
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkForms:
    """A network in the forms that it may take in the bundle."""

    quantised: CalibratedNetwork | None = None
    weight_only: CalibratedNetwork | None = None

    def chosen(self, *, quantised: bool) -> CalibratedNetwork:
        """One of them, which must have been made."""
        found = self.quantised if quantised else self.weight_only
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
        """The forms that the options allow: in eight bits, weight-only, or both for `--target_masks`.

        Raises:
            GmosError: a form that must be within its limits is not, or a sample cannot be used.
        """
        whole = name in self.config.weight_only
        either = self.config.target_masks is not None
        seen, validation = split(samples)
        quantised = weight_only = None
        trial = NetworkTrial(self.parent, name)
        stored = whole or either or EXCLUDED in self.config.weight_only
        choices = choose_all(trial, seen, self.chooser, weight_only=stored, work=self.work)
        if whole or either:
            weight_only = self._weight_only(self._quantiser(trial, choices), seen, validation)
        if not whole:
            if EXCLUDED not in self.config.weight_only:
                choices = tuple(replace(choice, weight_only={}) for choice in choices)
            quantised = self._quantised(self._quantiser(trial, choices), seen, validation)
        if quantised is not None and weight_only is not None:
            weight_only = replace(weight_only, ranking=quantised.ranking, curve=quantised.curve)
        if quantised is not None and (excess := quantised.excess) is not None:
            if weight_only is None:
                self._refuse(name, *excess)
            elif self.config.validated or not excess[0].finite:
                logger.info("%s: %s: %s; it becomes weight-only", name, excess[0].output, excess[1])
                quantised = None
        if weight_only is not None and (excess := weight_only.excess) is not None:
            self._refuse(name, *excess)
        return NetworkForms(quantised=quantised, weight_only=weight_only)

    def _quantiser(self, trial: NetworkTrial, choices: Sequence[ActivationChoice]) -> Quantiser:
        return Quantiser(trial, choices, self.chooser.form, self.work)

    def _weight_only(
        self, quantiser: Quantiser, seen: Sequence[Sample], validation: Sequence[Sample]
    ) -> CalibratedNetwork:
        """A network whose layers all compute in half precision from weights in eight bits."""
        # Where nothing is quantised nothing can be excluded either.
        limits = TargetParity().limits(quantiser.trial.name, self.config.precision)
        every = frozenset(layer.node for layer in quantiser.layers)
        return self._made(
            quantiser, quantiser.all_excluded(validation), every, limits, seen=seen, validation=validation
        )

    def _quantised(
        self, quantiser: Quantiser, seen: Sequence[Sample], validation: Sequence[Sample]
    ) -> CalibratedNetwork:
        """A network that computes in eight bits, but for the groups of layers that are excluded for its target."""
        name = quantiser.trial.name
        target = self.config.target_parity.of(name)
        limits = self.config.target_parity.limits(name, self.config.precision)
        found = quantiser.choice((), 0, validation)
        ranking: tuple[GroupSensitivity, ...] = ()
        curve: tuple[Choice, ...] = ()
        short = target is not None and not found.within(limits)
        if self.config.sensitivity or short:
            ranking = quantiser.rank(seen)
            if self.config.sensitivity:
                curve = quantiser.curve(ranking, validation)
        if target is not None and short:
            found = quantiser.least_excluded(ranking, limits, validation) or _hopeless(name, target)
        excluded = excluded_nodes(ranking[: found.excluded])
        made = self._made(quantiser, found, excluded, limits, seen=seen, validation=validation)
        return replace(made, ranking=ranking, curve=curve)

    def _made(
        self,
        quantiser: Quantiser,
        found: Choice,
        excluded: frozenset[str],
        limits: Limits,
        *,
        seen: Sequence[Sample],
        validation: Sequence[Sample],
    ) -> CalibratedNetwork:
        made = CalibratedNetwork(
            name=quantiser.trial.name,
            result=QuantisedNetwork(
                choices=quantiser.choices, excluded=excluded, limits=limits, differences=found.differences
            ),
            groups=quantiser.groups,
            calibrated_on=tuple(seen),
            validated_on=tuple(validation),
        )
        logger.info(
            "%s: %d of %d layers %s, %d weight-only, relative error up to %.1e on %d samples",
            made.name,
            len(made.layers) - len(excluded),
            len(made.layers),
            self.config.precision,
            made.weight_only,
            found.error,
            len(validation),
        )
        return made

    def _refuse(self, name: str, difference: OutputDifference, excess: str) -> None:
        """Say which output of a quantised network was off, unless it is to be kept all the same."""
        # What is not finite cannot be looked at either.
        if self.config.validated or not difference.finite:
            raise GmosError(
                f"quantised {name} differs from the bundle's own graph in {difference.output}: {excess}; nothing was "
                f"kept. Give --target_parity {name}={self.config.precision} to exclude its most sensitive layers, "
                "leave it out of --networks, or give --no_validation to look at the files"
            )


def choose_all(
    trial: NetworkTrial,
    samples: Sequence[Sample],
    chooser: LayerChooser,
    *,
    weight_only: bool = False,
    work: FinishedWork | None = None,
) -> tuple[ActivationChoice, ...]:
    """What is chosen for each activation of a network from its values on samples.

    `weight_only` asks for eight-bit weights of layers that stay in half precision, too. Choices that `work` has
    are taken from there, the others are kept in it one by one.

    Raises:
        GmosError: it has no layers to quantise, or a sample cannot be read or gives values that are not finite.
    """
    graph = trial.model().graph
    activations = find_activations(graph)
    if not activations:
        raise GmosError(f"--networks {trial.name}: it has no layers large enough to quantise; leave it out")
    nodes = {node.name or "": node for node in graph}

    def weights(activation: Activation) -> dict[str, NDArray[Any]]:
        return {layer.node: weight_of(nodes[layer.node]) for layer in activation.layers}

    found: dict[str, ActivationChoice] = {}
    for activation in activations:
        known = None if work is None else work.choice(trial.name, activation)
        if known is not None:
            found[activation.name] = chooser.take_over(known, weights(activation))
    missing = [activation for activation in activations if activation.name not in found]
    with counted(f"{trial.name}: layers", calls(missing, samples) + len(missing)) as done:
        for activation, statistics in collect(trial, missing, samples, done):
            choice = chooser.choose(activation, statistics, weights(activation), weight_only=weight_only)
            if work is not None:
                work.keep_choice(trial.name, choice)
            found[activation.name] = choice
            done()
    return tuple(found[activation.name] for activation in activations)


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples for the choices, and samples for the validation; the same ones where there are too few for both."""
    if len(samples) < VALIDATION_EVERY:
        return list(samples), list(samples)
    validation = list(samples[VALIDATION_EVERY - 1 :: VALIDATION_EVERY])
    return [sample for sample in samples if sample not in validation], validation


def _hopeless(name: str, target: str) -> NoReturn:
    raise GmosError(
        f"{name} is beyond the limits of --target_parity {target} even with every layer excluded; leave it "
        f"out of --networks, or give it a wider target: --target_parity {name}=…"
    )
