"""From a half-precision bundle and videos to a quantised bundle."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from .. import __version__
from ..errors import GmosError
from ..export.bundle_directory import check_place
from ..runtime.atomic_file import writing
from ..runtime.bundle import Bundle, open_bundle
from ..runtime.contract import NetworkName
from ..runtime.inputs import resolve_inputs
from ..runtime.onnx_backend import open_bundle_backend
from ..runtime.parity import Limits
from ..runtime.sequence import SequenceInput
from .formats import FORMATS, QuantisedPrecision
from .layer_choice import LayerChooser, QuantiserOptions, SiteChoice
from .linears import QUANTISABLE, Linear, Site, find_sites, weight_of
from .network_trial import NetworkTrial
from .quantised_bundle import QuantisedNetwork, write_quantised
from .sample_store import Sample, SampleStore
from .sampling import SampleLimits, check_lengths, sample_videos
from .sensitivity import Choice, GroupDamage, Quantiser, kept_nodes
from .site_statistics import collect
from .target_parity import TargetParity
from .times import Times, measured

logger = logging.getLogger(__name__)

KEPT = "kept"
"""Stands for the layers that stay in half precision, beside names of networks."""

HELD_OUT = 4
"""Every so many samples one is kept out of the ranges, to compare the result on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """What to calibrate, on what, and where to.

    `target_parity` names the limits that networks must hold by keeping their most sensitive layers in half; without
    one a network must hold those of the precision, and keeps none. `weights_only` names networks whose layers all stay
    in half precision with weights in eight bits; KEPT among them does so with the weights of layers that others keep.
    `samples` stays if it is given. `timed` measures the networks on ONNX Runtime before and after.
    """

    bundle: Path
    inputs: tuple[Path, ...]
    precision: QuantisedPrecision
    out: Path
    networks: tuple[str, ...] = ()
    limits: SampleLimits
    quantiser: QuantiserOptions = field(default_factory=QuantiserOptions)
    target_parity: TargetParity = field(default_factory=TargetParity)
    weights_only: tuple[str, ...] = ()
    sensitivity: bool = False
    gated: bool = True
    timed: bool = False
    samples: Path | None = None
    fps: float | None = None
    stride: int | None = None
    device: str = "cpu"
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedNetwork:
    """A network and how it came to be what it is; `ranking` and `curve` are empty if they were not asked for."""

    name: NetworkName
    result: QuantisedNetwork
    groups: Mapping[str, tuple[Linear, ...]]
    calibrated_on: tuple[Sample, ...]
    compared_on: tuple[Sample, ...]
    ranking: tuple[GroupDamage, ...]
    curve: tuple[Choice, ...]
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

    def record(self) -> dict[str, Any]:
        """As it is kept in the bundle."""
        errors = [choice.error for choice in self.result.choices]
        return {
            "samples": len(self.calibrated_on),
            "compared_on": len(self.compared_on),
            "layers": len(self.linears) - len(self.result.kept),
            "kept_half": list(self.kept_groups),
            "weights_only": self.weights_only,
            "largest_layer_error": max(errors, default=0.0),
            "balanced": sum(choice.factors is not None for choice in self.result.choices),
            "centred": sum(choice.centre is not None for choice in self.result.choices),
            "ranges": _counts([choice.method for choice in self.result.choices]),
            "sensitivity": [
                {"group": part.group, "damage": part.damage if math.isfinite(part.damage) else None}
                for part in self.ranking
            ],
        }


def calibrate(config: CalibrationConfig) -> tuple[Bundle, tuple[CalibratedNetwork, ...]]:
    """Sample, choose, compare and write.

    Raises:
        GmosError: the bundle or the videos cannot be used, a network does not hold its limits, or something
            cannot be written. Samples of finished videos stay for the next call.
    """
    check_place(config.out, force=config.force)
    parent, names = _chosen(config)
    sequences = resolve_inputs(
        config.inputs,
        fps=config.fps,
        stride=config.stride,
        pi3_area_px=parent.model.pi3_area_px,
        patch_px=parent.model.patch_px,
    )
    check_lengths(sequences, parent, config.limits.frames)
    place = config.samples or config.out.resolve().with_name(f"{config.out.resolve().name}.samples")
    store = SampleStore(place)
    store.check()
    records = _sampled(config, parent, sequences, store, names)
    with writing(config.out):
        config.out.resolve().parent.mkdir(parents=True, exist_ok=True)
    made, chooser = [], LayerChooser(form=FORMATS[config.precision], options=config.quantiser)
    for name in _most_called_first(names, records):
        samples = store.samples(records, name)
        if not samples:
            logger.warning("%s: never called on these videos; it stays in half precision", name)
            continue
        made.append(_network(config, parent, name, samples, chooser))
    made.sort(key=lambda network: names.index(network.name))
    if not made:
        raise GmosError(
            "no network to quantise was called on these videos; give videos in which something moves"
        )
    bundle = write_quantised(
        config.out,
        parent,
        {network.name: network.result for network in made},
        precision=config.precision,
        calibration=_record(config, parent, records, made),
    )
    if config.timed:
        made = [
            replace(
                network, times=measured(parent, bundle, network.name, network.compared_on[0], config.device)
            )
            for network in made
        ]
    if config.samples is None:
        shutil.rmtree(place, ignore_errors=True)
    return bundle, tuple(made)


def _chosen(config: CalibrationConfig) -> tuple[Bundle, tuple[NetworkName, ...]]:
    """The bundle and the networks that will be quantised."""
    parent = open_bundle(config.bundle)
    if parent.precision in FORMATS:
        raise GmosError(
            f"bundle {config.bundle} is {parent.precision} already; give the fp16 bundle that it was made from"
        )
    known = [name for name in QUANTISABLE if name in parent.networks]
    for name in config.networks:
        if name not in known:
            raise GmosError(f"--networks {name}: expected one of {', '.join(known)}")
    wanted = [name for name in known if not config.networks or name in config.networks]
    config.target_parity.check(wanted)
    for name in config.weights_only:
        if name not in (*wanted, KEPT):
            raise GmosError(f"--weights_only {name}: expected {KEPT} or one of {', '.join(wanted)}")
    half = tuple(name for name in wanted if parent.networks[name].precision == "fp16")
    rest = [name for name in wanted if name not in half]
    if rest and (config.networks or not half):
        raise GmosError(
            f"{rest[0]} of bundle {config.bundle} is {parent.networks[rest[0]].precision}, and what is not quantised "
            "stays in half precision: export with gmos-export onnx --precision fp16 --head_precision fp16"
        )
    for name in rest:
        logger.info("%s: %s in this bundle, stays so", name, parent.networks[name].precision)
    return parent, half


def _sampled(
    config: CalibrationConfig,
    parent: Bundle,
    sequences: Sequence[SequenceInput],
    store: SampleStore,
    names: Sequence[NetworkName],
) -> dict[str, Mapping[str, Any]]:
    with closing(open_bundle_backend(config.bundle, device=config.device)) as backend:
        return sample_videos(backend, parent, sequences, store, networks=names, limits=config.limits)


def _most_called_first(
    names: Sequence[NetworkName], records: Mapping[str, Mapping[str, Any]]
) -> list[NetworkName]:
    """Weights that networks share are rounded for the one that is called most."""

    def calls(name: NetworkName) -> int:
        return sum(int(record["networks"][name]["seen"]) for record in records.values())

    return sorted(names, key=calls, reverse=True)


def _network(
    config: CalibrationConfig,
    parent: Bundle,
    name: NetworkName,
    samples: Sequence[Sample],
    chooser: LayerChooser,
) -> CalibratedNetwork:
    whole = name in config.weights_only
    # Where nothing is quantised nothing can be kept either.
    goal = TargetParity() if whole else config.target_parity
    target = goal.of(name)
    limits = goal.limits(name, config.precision)
    seen, held = split(samples)
    folder = config.out.resolve().parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".calibrate-") as temporary:
        trial = NetworkTrial(parent, name, Path(temporary))
        choices = choose_all(trial, seen, chooser, restored=whole or KEPT in config.weights_only)
        quantiser = Quantiser(trial, choices, chooser.form)
        found = quantiser.all_kept(held) if whole else quantiser.choice((), 0, held)
        ranking: tuple[GroupDamage, ...] = ()
        curve: tuple[Choice, ...] = ()
        short = target is not None and not found.within(limits)
        if (config.sensitivity and not whole) or short:
            ranking = quantiser.rank(seen)
            if config.sensitivity:
                curve = quantiser.curve(ranking, held)
        if target is not None and short:
            found = quantiser.least_kept(ranking, limits, held) or _hopeless(name, target)
        every = frozenset(linear.node for linear in quantiser.linears)
        kept = every if whole else kept_nodes(ranking[: found.kept])
    _check(name, found, limits, config)
    result = QuantisedNetwork(
        choices=choices,
        kept=kept,
        limits=limits,
        differences=found.differences,
    )
    made = CalibratedNetwork(
        name=name,
        result=result,
        groups=quantiser.groups,
        calibrated_on=tuple(seen),
        compared_on=tuple(held),
        ranking=ranking,
        curve=curve,
    )
    logger.info(
        "%s: %d of %d layers %s, %d with weights only, relative error up to %.1e on %d samples",
        name,
        len(made.linears) - len(result.kept),
        len(made.linears),
        config.precision,
        made.weights_only,
        found.damage,
        len(held),
    )
    return made


def choose_all(
    trial: NetworkTrial, samples: Sequence[Sample], chooser: LayerChooser, *, restored: bool = False
) -> tuple[SiteChoice, ...]:
    """What is chosen for each site of a network from what it sees on samples.

    `restored` asks for eight-bit weights of layers that stay in half precision, too.

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

    return tuple(
        chooser.choose(site, statistics, weights(site), restored=restored)
        for site, statistics in collect(trial, sites, samples)
    )


def _hopeless(name: str, target: str) -> NoReturn:
    raise GmosError(
        f"{name} is beyond the limits of --target_parity {target} even with every layer in half precision; leave it "
        f"out of --networks, or give it a wider target: --target_parity {name}=…"
    )


def _check(name: str, found: Choice, limits: Limits, config: CalibrationConfig) -> None:
    """Let a quantised network through, or say which output was off."""
    for difference in found.differences:
        excess = difference.excess(limits)
        # What is not finite cannot be looked at either.
        if excess is not None and (config.gated or not difference.finite):
            raise GmosError(
                f"quantised {name} differs from the bundle's own graph in {difference.output}: {excess}; nothing was "
                f"kept. Give --target_parity {name}={config.precision} to keep its most sensitive layers in half "
                "precision, leave it out of --networks, or give --no_gate to look at the files"
            )


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples for the ranges, and samples to compare on; the same ones where there are too few for both."""
    if len(samples) < HELD_OUT:
        return list(samples), list(samples)
    held = list(samples[HELD_OUT - 1 :: HELD_OUT])
    return [sample for sample in samples if sample not in held], held


def _record(
    config: CalibrationConfig,
    parent: Bundle,
    records: Mapping[str, Mapping[str, Any]],
    made: Sequence[CalibratedNetwork],
) -> dict[str, Any]:
    return {
        "precision": config.precision,
        "parent": {"identity": parent.identity, "precision": parent.precision},
        "ranges": config.quantiser.method,
        "percentile": config.quantiser.percentile if config.quantiser.method == "percentile" else None,
        "balance": config.quantiser.balance,
        "centre": config.quantiser.centre,
        "compensate": config.quantiser.compensate,
        "target_parity": str(config.target_parity) or None,
        "weights_only": list(config.weights_only),
        "seed": config.limits.seed,
        "max_samples": config.limits.max_samples,
        "max_bytes": config.limits.max_bytes,
        "videos": [
            {
                **record["settings"]["video"],
                "frames": record["frames"],
                "stride": record["settings"]["stride"],
                "calls": {name: entry["seen"] for name, entry in record["networks"].items()},
                "samples": {name: len(entry["samples"]) for name, entry in record["networks"].items()},
            }
            for record in records.values()
        ],
        "networks": {network.name: network.record() for network in made},
        "versions": {"gmos-deploy": __version__, "onnxruntime": version_of_onnxruntime()},
    }


def version_of_onnxruntime() -> str:
    """The version of the ONNX Runtime that ran the networks, whatever distribution it came with."""
    import onnxruntime  # noqa: PLC0415 - loaded by now

    return str(onnxruntime.__version__)


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}
