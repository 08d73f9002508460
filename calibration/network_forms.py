"""The forms that a network may take in the bundle: computing in eight bits, or weight-only."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray

from ..errors import GmosError
from ..evaluation.progress_bar import counted
from ..runtime.bundle.manifest import Bundle
from ..runtime.comparison.parity import OutputDifference
from ..runtime.contract import NetworkName
from ..runtime.precision import Limits
from .config import EXCLUDED, CalibrationConfig, TargetParity
from .quantiser.activation_statistics import calls, collect, passes
from .quantiser.layer_choice import ActivationChoice, LayerChooser
from .quantiser.linear_layers import Activation, LinearLayer, all_layers, find_activations, groups, weight_of
from .sampling.sample_store import Sample
from .sampling.worth import FEWEST
from .search.finished_work import FinishedWork
from .search.network_trial import Comparison, NetworkTrial, Times
from .search.sensitivity import GroupSensitivity, Quantiser, excluded_nodes

logger = logging.getLogger(__name__)

VALIDATION_EVERY = FEWEST
"""Every so many samples one is left out of all choices, for the validation."""

Form = Literal["quantised", "weight_only"]
"""How the layers of a network compute that are not excluded, or all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedNetwork:
    """A network and how it came to be what it is.

    `choices` are those of its activations, `excluded` nodes of layers that stay in half precision, `differences` how it
    compared with the bundle's own graph. `ranking` and `curve` are empty if they were not asked for.
    """

    name: NetworkName
    choices: tuple[ActivationChoice, ...]
    excluded: frozenset[str]
    limits: Limits
    differences: tuple[OutputDifference, ...]
    calibrated_on: tuple[Sample, ...]
    validated_on: tuple[Sample, ...]
    ranking: tuple[GroupSensitivity, ...] = ()
    curve: tuple[Comparison, ...] = ()
    times: Times | None = None

    @property
    def groups(self) -> Mapping[str, tuple[LinearLayer, ...]]:
        """All layers that could be quantised, by group."""
        return groups([choice.activation for choice in self.choices])

    @property
    def layers(self) -> tuple[LinearLayer, ...]:
        """All layers that could be quantised."""
        return all_layers([choice.activation for choice in self.choices])

    @property
    def quantised(self) -> int:
        """How many layers compute in eight bits."""
        return len(self.layers) - len(self.excluded)

    @property
    def excluded_groups(self) -> tuple[str, ...]:
        """Groups of layers that are excluded and stay in half precision."""
        return tuple(name for name, layers in self.groups.items() if layers[0].node in self.excluded)

    @property
    def weight_only(self) -> int:
        """How many layers compute in half precision from weights in eight bits."""
        return sum(node in self.excluded for choice in self.choices for node in choice.weight_only)

    @property
    def excess(self) -> tuple[OutputDifference, str] | None:
        """The first output that is beyond the limits, and how."""
        found = ((one, one.excess(self.limits)) for one in self.differences)
        return next(((one, excess) for one, excess in found if excess is not None), None)

    def gate(self) -> dict[str, Any]:
        """The comparison with the parent's graph, as it is kept in the bundle."""
        return {
            "passed": self.excess is None,
            "compared": "the graph it was made from, on recorded inputs",
            "limits": asdict(self.limits),
            "differences": [asdict(found) for found in self.differences],
        }

    def record(self) -> dict[str, Any]:
        """How it came to be, as it is kept in the bundle."""
        choices = self.choices
        return {
            "samples": len(self.calibrated_on),
            "validated_on": len(self.validated_on),
            "layers": self.quantised,
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
class FormMaker:
    """Makes the forms of the networks of a bundle; what `work` knows is not worked out again."""

    config: CalibrationConfig
    parent: Bundle
    chooser: LayerChooser
    work: FinishedWork

    def forms(self, name: NetworkName, samples: Sequence[Sample]) -> dict[Form, CalibratedNetwork]:
        """The forms that the options allow: in eight bits, weight-only, or both for `--target_masks`.

        Raises:
            GmosError: a form that must be within its limits is not, or a sample cannot be used.
        """
        config = self.config
        only, either = name in config.weight_only, config.target_masks is not None
        half = EXCLUDED in config.weight_only
        seen, validation = split(samples)
        trial = NetworkTrial(self.parent, name)
        choices = choose_all(trial, seen, self.chooser, weight_only=only or either or half, work=self.work)
        forms: dict[Form, CalibratedNetwork] = {}
        if not only:
            kept = choices if half else [replace(choice, weight_only={}) for choice in choices]
            forms["quantised"] = self._made(trial, kept, seen, validation)
        if only or either:
            made = self._made(trial, choices, seen, validation, weight_only=True)
            if not only:
                made = replace(made, ranking=forms["quantised"].ranking, curve=forms["quantised"].curve)
            forms["weight_only"] = made
        for form in tuple(forms):
            excess = forms[form].excess
            # What is not finite cannot be looked at.
            if excess is None or (excess[0].finite and not config.validated):
                continue
            if form == "weight_only" or len(forms) == 1:
                raise GmosError(
                    f"quantised {name} differs from the bundle's own graph in {excess[0].output}: {excess[1]}; nothing "
                    f"was kept. Give --target_parity {name}={config.precision} to exclude its most sensitive layers, "
                    "leave it out of --networks, or give --no_validation to look at the files"
                )
            logger.info("%s: %s: %s; it becomes weight-only", name, excess[0].output, excess[1])
            del forms[form]
        return forms

    def _made(
        self,
        trial: NetworkTrial,
        choices: Sequence[ActivationChoice],
        seen: Sequence[Sample],
        validation: Sequence[Sample],
        *,
        weight_only: bool = False,
    ) -> CalibratedNetwork:
        """A network that computes in eight bits, but for the groups of layers that are excluded for its target.

        `weight_only`: all its layers compute in half precision from weights in eight bits.
        """
        config, name = self.config, trial.name
        quantiser = Quantiser(trial, choices, self.chooser.form, self.work)
        # Where nothing is quantised nothing can be excluded either.
        parity = TargetParity() if weight_only else config.target_parity
        target, limits = parity.of(name), parity.limits(name, config.precision)
        ranking: tuple[GroupSensitivity, ...] = ()
        curve: tuple[Comparison, ...] = ()
        if weight_only:
            found = quantiser.all_excluded(validation)
            excluded = frozenset(layer.node for layer in quantiser.layers)
        else:
            found = quantiser.tried((), validation)
            short = target is not None and not found.within(limits)
            if config.sensitivity or short:
                ranking = quantiser.rank(seen)
            if config.sensitivity:
                curve = quantiser.curve(ranking, validation)
            if short:
                least = quantiser.least_excluded(ranking, limits, validation)
                if least is None:
                    raise GmosError(
                        f"{name} is beyond the limits of --target_parity {target} even with every layer excluded; "
                        f"leave it out of --networks, or give it a wider target: --target_parity {name}=…"
                    )
                found = least
            excluded = excluded_nodes(ranking[: found.excluded])
        made = CalibratedNetwork(
            name=name,
            choices=quantiser.choices,
            excluded=excluded,
            limits=limits,
            differences=found.differences,
            calibrated_on=tuple(seen),
            validated_on=tuple(validation),
            ranking=ranking,
            curve=curve,
        )
        logger.info(
            "%s: %d of %d layers %s, %d weight-only, relative error up to %.1e on %d samples",
            name,
            made.quantised,
            len(made.layers),
            config.precision,
            made.weight_only,
            found.error,
            len(validation),
        )
        return made


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
        key = ("activation", trial.name, activation.name)
        known = None if work is None else work.known(ActivationChoice, *key)
        if known is not None:
            found[activation.name] = chooser.take_over(known, weights(activation))
    missing = {activation.name for activation in activations if activation.name not in found}
    # What else a session gives out changes how it computes: those that were seen together are seen together again.
    seen = [
        activation
        for part in passes(activations)
        if missing & {one.name for one in part}
        for activation in part
    ]
    with counted(f"{trial.name}: layers", calls(seen, samples) + len(missing)) as done:
        for activation, statistics in collect(trial, seen, samples, done):
            if activation.name not in missing:
                continue
            choice = chooser.choose(activation, statistics, weights(activation), weight_only=weight_only)
            if work is not None:
                work.keep(choice, "activation", trial.name, activation.name)
            found[activation.name] = choice
            done()
    return tuple(found[activation.name] for activation in activations)


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples for the choices, and samples for the validation; the same ones where there are too few for both."""
    if len(samples) < VALIDATION_EVERY:
        return list(samples), list(samples)
    validation = list(samples[VALIDATION_EVERY - 1 :: VALIDATION_EVERY])
    return [sample for sample in samples if sample not in validation], validation
