"""From a half-precision bundle and videos to a quantised bundle."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from .. import __version__
from ..errors import GmosError
from ..evaluation.report.progress_bar import counted, run_progress
from ..export.onnx.bundle_directory import check_place
from ..runtime.atomic_file import writing
from ..runtime.bundle.manifest import Bundle, open_bundle
from ..runtime.contract import NetworkName
from ..runtime.onnx.backend import open_bundle_backend
from ..runtime.parity import OutputDifference
from ..runtime.precision import PRECISIONS, Limits, PrecisionName
from ..runtime.video.inputs import resolve_inputs
from ..runtime.video.sequence import SequenceInput
from .graph.quantised_bundle import QuantisedNetwork, write_quantised
from .quantiser.formats import FORMATS
from .quantiser.layer_choice import LayerChooser, QuantiserOptions, SiteChoice
from .quantiser.linears import QUANTISABLE, Linear, Site, find_sites, weight_of
from .quantiser.site_statistics import calls, collect
from .sampling.record_calls import ALL_FRAMES, SampleLimits, check_lengths, sample_videos
from .sampling.sample_store import Sample, SampleStore
from .search.finished_work import FinishedWork
from .search.network_trial import NetworkTrial
from .search.sensitivity import Choice, GroupDamage, Quantiser, kept_nodes
from .search.target_masks import MaskReference, MaskScore, MaskTrial, hold_masks
from .search.target_parity import TargetParity
from .search.times import Times, measured

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
    `target_masks` is the mean IoU that each result of each video must keep with the bundle's: networks become
    weights only until it does. `samples` stays if it is given. `timed` measures the networks on ONNX Runtime before and
    after.
    """

    bundle: Path
    inputs: tuple[Path, ...]
    precision: PrecisionName
    out: Path
    networks: tuple[str, ...] = ()
    limits: SampleLimits
    quantiser: QuantiserOptions = field(default_factory=QuantiserOptions)
    target_parity: TargetParity = field(default_factory=TargetParity)
    weights_only: tuple[str, ...] = ()
    target_masks: float | None = None
    sensitivity: bool = False
    gated: bool = True
    timed: bool = False
    samples: Path | None = None
    fps: float | None = None
    stride: int | None = None
    device: str = "cpu"
    force: bool = False

    def __post_init__(self) -> None:
        if self.target_masks is not None and not 0 < self.target_masks <= 1:
            raise GmosError(f"--target_masks {self.target_masks:g}: expected a mean IoU above 0, up to 1")


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
            cannot be written. Samples of finished videos stay for the next call, and so does what was worked out.
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
    work = FinishedWork(config.out.resolve().with_name(f"{config.out.resolve().name}.unfinished"))
    work.check()
    records = _sampled(config, parent, sequences, store, names)
    with writing(config.out):
        config.out.resolve().parent.mkdir(parents=True, exist_ok=True)
    work.begin(_work_settings(config, parent, records, names))
    # What cannot run is found out before the long part.
    reference = None if config.target_masks is None else _mask_reference(config, parent, sequences, work)
    forms, chooser = {}, LayerChooser(form=FORMATS[config.precision], options=config.quantiser)
    for name in _most_called_first(names, records):
        samples = store.samples(records, name)
        if not samples:
            logger.warning("%s: never called on these videos; it stays in half precision", name)
            continue
        forms[name] = _forms(config, parent, name, samples, chooser, work=work)
    if not forms:
        raise GmosError(
            "no network to quantise was called on these videos; give videos in which something moves"
        )
    forms = {name: forms[name] for name in names if name in forms}
    quantised = sorted(
        (name for name, form in forms.items() if form.quantised is not None),
        key=lambda name: -_work(parent, name, records),
    )
    trials: tuple[MaskTrial, ...] = ()
    if reference is not None:
        trials = _mask_trials(config, parent, reference, forms, quantised, work=work)
        quantised = list(trials[-1].quantised)
    made = [form.chosen(quantised=name in quantised) for name, form in forms.items()]
    bundle = write_quantised(
        config.out,
        parent,
        {network.name: network.result for network in made},
        precision=config.precision,
        calibration=_record(config, parent, records, made, trials),
    )
    if config.timed:
        made = [
            replace(
                network, times=measured(parent, bundle, network.name, network.compared_on[0], config.device)
            )
            for network in made
        ]
    work.remove()
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
    base = PRECISIONS[config.precision].base
    half = tuple(name for name in wanted if parent.networks[name].precision == base)
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
    with (
        closing(open_bundle_backend(config.bundle, device=config.device)) as backend,
        run_progress() as progress,
    ):
        return sample_videos(
            backend, parent, sequences, store, networks=names, limits=config.limits, progress=progress
        )


def _work_settings(
    config: CalibrationConfig,
    parent: Bundle,
    records: Mapping[str, Mapping[str, Any]],
    names: Sequence[NetworkName],
) -> dict[str, Any]:
    """What choices, comparisons and masks depend on. Which layers are kept is a part of each comparison."""
    return {
        "version": __version__,
        "onnxruntime": version_of_onnxruntime(),
        "bundle": parent.identity,
        "precision": config.precision,
        "quantiser": asdict(config.quantiser),
        # Weights that networks share are rounded for the first of them.
        "networks": list(names),
        "restored": [*config.weights_only, config.target_masks is not None],
        "device": config.device,
        "videos": dict(records),
    }


def _calls(name: NetworkName, records: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(int(record["networks"][name]["seen"]) for record in records.values())


def _most_called_first(
    names: Sequence[NetworkName], records: Mapping[str, Mapping[str, Any]]
) -> list[NetworkName]:
    """Weights that networks share are rounded for the one that is called most."""
    return sorted(names, key=lambda name: _calls(name, records), reverse=True)


def _work(parent: Bundle, name: NetworkName, records: Mapping[str, Mapping[str, Any]]) -> float:
    """Operations of a network on the videos, at the lengths that the bundle counts them at."""
    entry = parent.networks[name]
    return _calls(name, records) * entry.flops / entry.flops_at.get("B", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forms:
    """A network in the forms that it may take in the bundle."""

    quantised: CalibratedNetwork | None = None
    weights_only: CalibratedNetwork | None = None

    def chosen(self, *, quantised: bool) -> CalibratedNetwork:
        """One of them, which must have been made."""
        found = self.quantised if quantised else self.weights_only
        if found is None:
            raise LookupError("no such form was made")
        return found


def _mask_reference(
    config: CalibrationConfig, parent: Bundle, sequences: Sequence[SequenceInput], work: FinishedWork
) -> MaskReference:
    frames = config.limits.frames or ALL_FRAMES
    return MaskReference(parent.root, sequences, work, frames=frames, device=config.device)


def _mask_trials(
    config: CalibrationConfig,
    parent: Bundle,
    reference: MaskReference,
    forms: Mapping[NetworkName, _Forms],
    ordered: Sequence[NetworkName],
    *,
    work: FinishedWork,
) -> tuple[MaskTrial, ...]:
    """Trials of networks that compute in eight bits; the last one is the answer."""
    target = config.target_masks or 0.0

    def scores(quantised: Collection[NetworkName]) -> Sequence[MaskScore]:
        made = {name: form.chosen(quantised=name in quantised).result for name, form in forms.items()}
        key = [(name, name in quantised, sorted(result.kept)) for name, result in made.items()]
        known = work.result("masks", key)
        if known is not None:
            return [MaskScore(**score) for score in known["scores"]]
        with work.trial_folder() as folder:
            bundle = write_quantised(
                folder / "bundle",
                parent,
                made,
                precision=config.precision,
                calibration={},
            )
            found = reference.scores(bundle.root)
        work.keep_result({"scores": [asdict(score) for score in found]}, "masks", key)
        return found

    trials = hold_masks(ordered, scores, target)
    answer = trials[-1]
    if config.gated and not answer.holds(target):
        raise GmosError(
            f"--target_masks {target:g}: with eight-bit weights and arithmetic in half precision everywhere "
            f"{answer.worst.result} of {answer.worst.video} has a mean IoU of {answer.worst.mean_iou:.4f}; nothing was "
            "kept. Leave networks out with --networks, lower the target, or give --no_gate to look at the files"
        )
    return trials


def _forms(
    config: CalibrationConfig,
    parent: Bundle,
    name: NetworkName,
    samples: Sequence[Sample],
    chooser: LayerChooser,
    *,
    work: FinishedWork,
) -> _Forms:
    whole = name in config.weights_only
    either = config.target_masks is not None
    seen, held = split(samples)
    with work.trial_folder() as folder:
        trial = NetworkTrial(parent, name, folder)
        restored = whole or either or KEPT in config.weights_only
        choices = choose_all(trial, seen, chooser, restored=restored, work=work)
        form = chooser.form
        quantised = weights_only = None
        if whole or either:
            weights_only = _with_weights_only(config, Quantiser(trial, choices, form, work), seen, held)
        if not whole:
            if KEPT not in config.weights_only:
                choices = tuple(replace(choice, restored={}) for choice in choices)
            quantised = _quantised(config, Quantiser(trial, choices, form, work), seen, held)
    if quantised is not None and weights_only is not None:
        weights_only = replace(weights_only, ranking=quantised.ranking, curve=quantised.curve)
    if quantised is not None and (excess := _excess(quantised.result)) is not None:
        if weights_only is None:
            _refuse(config, name, *excess)
        elif config.gated or not excess[0].finite:
            logger.info("%s: %s: %s; it gets its weights only", name, excess[0].output, excess[1])
            quantised = None
    if weights_only is not None and (excess := _excess(weights_only.result)) is not None:
        _refuse(config, name, *excess)
    return _Forms(quantised=quantised, weights_only=weights_only)


def _with_weights_only(
    config: CalibrationConfig, quantiser: Quantiser, seen: Sequence[Sample], held: Sequence[Sample]
) -> CalibratedNetwork:
    """A network whose layers all stay in half precision, with weights in eight bits."""
    # Where nothing is quantised nothing can be kept either.
    limits = TargetParity().limits(quantiser.trial.name, config.precision)
    every = frozenset(linear.node for linear in quantiser.linears)
    found = quantiser.all_kept(held)
    return _calibrated(config, quantiser, found, every, limits, seen=seen, held=held)


def _quantised(
    config: CalibrationConfig, quantiser: Quantiser, seen: Sequence[Sample], held: Sequence[Sample]
) -> CalibratedNetwork:
    """A network that computes in eight bits, apart from the parts that it keeps for its target."""
    name = quantiser.trial.name
    target = config.target_parity.of(name)
    limits = config.target_parity.limits(name, config.precision)
    found = quantiser.choice((), 0, held)
    ranking: tuple[GroupDamage, ...] = ()
    curve: tuple[Choice, ...] = ()
    short = target is not None and not found.within(limits)
    if config.sensitivity or short:
        ranking = quantiser.rank(seen)
        if config.sensitivity:
            curve = quantiser.curve(ranking, held)
    if target is not None and short:
        found = quantiser.least_kept(ranking, limits, held) or _hopeless(name, target)
    kept = kept_nodes(ranking[: found.kept])
    made = _calibrated(config, quantiser, found, kept, limits, seen=seen, held=held)
    return replace(made, ranking=ranking, curve=curve)


def _calibrated(
    config: CalibrationConfig,
    quantiser: Quantiser,
    found: Choice,
    kept: frozenset[str],
    limits: Limits,
    *,
    seen: Sequence[Sample],
    held: Sequence[Sample],
) -> CalibratedNetwork:
    name = quantiser.trial.name
    made = CalibratedNetwork(
        name=name,
        result=QuantisedNetwork(
            choices=quantiser.choices, kept=kept, limits=limits, differences=found.differences
        ),
        groups=quantiser.groups,
        calibrated_on=tuple(seen),
        compared_on=tuple(held),
        ranking=(),
        curve=(),
    )
    logger.info(
        "%s: %d of %d layers %s, %d with weights only, relative error up to %.1e on %d samples",
        name,
        len(made.linears) - len(kept),
        len(made.linears),
        config.precision,
        made.weights_only,
        found.damage,
        len(held),
    )
    return made


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


def _hopeless(name: str, target: str) -> NoReturn:
    raise GmosError(
        f"{name} is beyond the limits of --target_parity {target} even with every layer in half precision; leave it "
        f"out of --networks, or give it a wider target: --target_parity {name}=…"
    )


def _excess(result: QuantisedNetwork) -> tuple[OutputDifference, str] | None:
    """The first output that is beyond the limits, and how."""
    found = ((difference, difference.excess(result.limits)) for difference in result.differences)
    return next(((difference, excess) for difference, excess in found if excess is not None), None)


def _refuse(config: CalibrationConfig, name: str, difference: OutputDifference, excess: str) -> None:
    """Say which output of a quantised network was off, unless it is to be kept all the same."""
    # What is not finite cannot be looked at either.
    if config.gated or not difference.finite:
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
    trials: Sequence[MaskTrial],
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
        "target_masks": config.target_masks,
        "mask_trials": [asdict(trial) for trial in trials],
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
