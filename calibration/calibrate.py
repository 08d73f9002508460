"""From a half-precision bundle and videos to a quantised bundle."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import GmosError
from ..evaluation.progress_bar import run_progress
from ..export.onnx.bundle_directory import check_place
from ..fleet.several import Several
from ..runtime.bundle.manifest import Bundle
from ..runtime.bundle.new_bundle import writing_alone
from ..runtime.contract import WITHOUT_WEIGHTS, NetworkName
from ..runtime.files.atomic_file import writing
from ..runtime.onnx.backend import open_bundle_backend
from ..runtime.onnx.sessions import load_onnxruntime
from ..runtime.precision import PRECISIONS
from ..runtime.video.sequence import SequenceInput
from .config import EXCLUDED, CalibrationConfig
from .graph.quantised_bundle import write_quantised
from .network_forms import CalibratedNetwork, Form, FormMaker
from .quantiser.formats import FORMATS
from .quantiser.layer_choice import LayerChooser
from .sampling.record_calls import check_lengths, sample_videos
from .sampling.sample_store import SampleStore
from .sampling.worth import doubts
from .search.finished_work import FinishedWork
from .search.network_trial import measured
from .search.target_masks import MaskReference, MaskScore, MaskTrial, hold_masks

logger = logging.getLogger(__name__)

VERSIONS = {"gmos-deploy": __version__, "onnxruntime": str(load_onnxruntime().__version__)}
"""ONNX Runtime's is of the one that runs the networks, whatever distribution it came with."""

VideoRecords = Mapping[str, Mapping[str, Any]]
"""Records of sampled videos by name."""

Forms = Mapping[NetworkName, Mapping[Form, CalibratedNetwork]]


def calibrate(
    config: CalibrationConfig, several: Several | None = None
) -> tuple[Bundle, tuple[CalibratedNetwork, ...]]:
    """Sample, choose, compare and write.

    Args:
        config: what is asked for.
        several: its videos, which hears of those that fail; the others are sampled.

    Raises:
        GmosError: the bundle or the videos cannot be used, a network does not hold its limits, or something
            cannot be written, or another calibration is writing it. Samples of finished videos stay for the next call,
            and so does what was worked out.
    """
    # Two would share their samples and what they have worked out.
    with writing_alone(config.out):
        check_place(config.out, force=config.force)
        return _calibrated(config, several or Several(config.inputs, fps=config.fps, stride=config.stride))


def _long_enough(sequence: SequenceInput, parent: Bundle, frames: int | None) -> bool:
    check_lengths([sequence], parent, frames)
    return True


def _calibrated(config: CalibrationConfig, several: Several) -> tuple[Bundle, tuple[CalibratedNetwork, ...]]:
    parent, names = _chosen(config)
    sequences = [
        sequence
        for sequence in several.resolve(pi3_area_px=parent.model.pi3_area_px, patch_px=parent.model.patch_px)
        if several.attempt(
            sequence.name,
            partial(_long_enough, sequence, parent, config.limits.frames),
        )
    ]
    store = SampleStore(config.samples or config.beside("samples"))
    store.check()
    work = FinishedWork(config.beside("unfinished"))
    work.check()
    with (
        closing(open_bundle_backend(parent, device=config.device)) as backend,
        run_progress() as progress,
    ):
        videos = sample_videos(
            backend,
            parent,
            sequences,
            store,
            networks=names,
            limits=config.limits,
            progress=progress,
            several=several,
        )
    sequences = several.left(sequences)
    with writing(config.out):
        Path(os.path.realpath(config.out)).parent.mkdir(parents=True, exist_ok=True)
    work.begin(_work_settings(config, parent, videos, names))
    # What cannot run is found out before the long part.
    reference = None
    if config.target_masks is not None:
        reference = MaskReference(parent, sequences, work, frames=config.limits.frames, device=config.device)
    chooser = LayerChooser(form=FORMATS[config.precision], options=config.quantiser)
    maker = FormMaker(config=config, parent=parent, chooser=chooser, work=work)
    calls = {name: sum(int(video["networks"][name]["seen"]) for video in videos.values()) for name in names}
    warnings = [f"{name} was not sampled: {error}" for name, error in several.failed.items()]
    warnings += [line for name in names for line in doubts(name, store.samples(videos, name))]
    for line in warnings:
        logger.warning("%s", line)
    forms = _forms(maker, store, videos, calls)

    def operations(name: NetworkName) -> float:
        """Of a network on the videos, at the lengths that the bundle counts them at."""
        entry = parent.networks[name]
        return calls[name] * entry.flops / entry.flops_at.get("B", 1)

    quantised = sorted((name for name in forms if "quantised" in forms[name]), key=operations, reverse=True)
    trials: tuple[MaskTrial, ...] = ()
    if reference is not None:
        trials = _mask_trials(maker, reference, forms, quantised)
        quantised = list(trials[-1].quantised)
    made = _taken(forms, quantised)
    bundle = write_quantised(
        config.out,
        parent,
        made,
        overwrite=config.force,
        precision=config.precision,
        calibration={**_record(config, parent, videos, made, trials), "warnings": warnings},
    )
    networks = tuple(made.values())
    if config.timed:
        networks = tuple(
            replace(one, times=measured(parent, bundle, one.name, one.validated_on[0], config.device))
            for one in networks
        )
    work.remove()
    if config.samples is None:
        shutil.rmtree(store.root, ignore_errors=True)
    return bundle, networks


def _chosen(config: CalibrationConfig) -> tuple[Bundle, tuple[NetworkName, ...]]:
    """The bundle and the networks that will be quantised."""
    parent = config.parent()
    if parent.precision in FORMATS:
        raise GmosError(
            f"bundle {config.bundle} is {parent.precision} already; give the fp16 bundle that it was made from"
        )
    known = [name for name in parent.networks if name not in WITHOUT_WEIGHTS]
    for name in config.networks:
        if name not in known:
            raise GmosError(f"--networks {name}: expected one of {', '.join(known)}")
    wanted = [name for name in known if not config.networks or name in config.networks]
    for name in config.target_parity.networks:
        if name not in wanted:
            raise GmosError(f"--target_parity {name}=…: expected one of {', '.join(wanted)}")
    for name in config.weight_only:
        if name not in (*wanted, EXCLUDED):
            raise GmosError(f"--weight_only {name}: expected {EXCLUDED} or one of {', '.join(wanted)}")
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


def _forms(
    maker: FormMaker, store: SampleStore, videos: VideoRecords, calls: Mapping[NetworkName, int]
) -> Forms:
    """The forms of the networks that were called; weights that two share are rounded for the one called most."""
    forms = {}
    for name in sorted(calls, key=calls.__getitem__, reverse=True):
        samples = store.samples(videos, name)
        if samples:
            forms[name] = maker.forms(name, samples)
    if not forms:
        raise GmosError(
            "no network to quantise was called on these videos; give videos in which something moves"
        )
    return {name: forms[name] for name in calls if name in forms}


def _taken(forms: Forms, quantised: Collection[NetworkName]) -> dict[NetworkName, CalibratedNetwork]:
    """The networks, some of them in the form that computes in eight bits."""
    return {name: form["quantised" if name in quantised else "weight_only"] for name, form in forms.items()}


def _mask_trials(
    maker: FormMaker, reference: MaskReference, forms: Forms, ordered: Sequence[NetworkName]
) -> tuple[MaskTrial, ...]:
    """Trials of networks that compute in eight bits; the last one is the answer."""
    config, work = maker.config, maker.work
    target = config.target_masks or 0.0

    def scores(quantised: Collection[NetworkName]) -> list[MaskScore]:
        made = _taken(forms, quantised)

        def run() -> list[MaskScore]:
            with work.trial_folder() as folder:
                bundle = write_quantised(
                    folder / "bundle", maker.parent, made, precision=config.precision, calibration={}
                )
                return list(reference.scores(bundle.root))

        key = [(name, name in quantised, sorted(network.excluded)) for name, network in made.items()]
        return work.once(list[MaskScore], run, "masks", key)

    trials = hold_masks(ordered, scores, target)
    answer = trials[-1]
    if config.validated and not answer.holds(target):
        raise GmosError(
            f"--target_masks {target:g}: with eight-bit weights and arithmetic in half precision everywhere "
            f"{answer.worst.result} of {answer.worst.video} has a mean IoU of {answer.worst.mean_iou:.4f}; nothing was "
            "kept. Leave networks out with --networks, lower the target, or give --no_validation to look at the files"
        )
    return trials


def _work_settings(
    config: CalibrationConfig, parent: Bundle, videos: VideoRecords, names: Sequence[NetworkName]
) -> dict[str, Any]:
    """What choices, comparisons and masks depend on. Which layers are excluded is a part of each comparison."""
    return {
        "versions": VERSIONS,
        "bundle": parent.identity,
        "precision": config.precision,
        "quantiser": asdict(config.quantiser),
        # Weights that networks share are rounded for the first of them.
        "networks": list(names),
        "weight_only": [*config.weight_only, config.target_masks is not None],
        "device": config.device,
        "videos": dict(videos),
    }


def _record(
    config: CalibrationConfig,
    parent: Bundle,
    videos: VideoRecords,
    made: Mapping[NetworkName, CalibratedNetwork],
    trials: Sequence[MaskTrial],
) -> dict[str, Any]:
    """The field `calibration` of `bundle.json`."""
    quantiser = asdict(config.quantiser)
    method, percentile = quantiser.pop("method"), quantiser.pop("percentile")
    return {
        "precision": config.precision,
        "parent": {"identity": parent.identity, "precision": parent.precision},
        "ranges": method,
        "percentile": percentile if method == "percentile" else None,
        **quantiser,
        "target_parity": str(config.target_parity) or None,
        "weight_only": list(config.weight_only),
        "target_masks": config.target_masks,
        "mask_trials": [asdict(trial) for trial in trials],
        "seed": config.limits.seed,
        "max_samples": config.limits.max_samples,
        "max_bytes": config.limits.max_bytes,
        "videos": [
            {
                **video["settings"]["video"],
                "frames": video["frames"],
                "stride": video["settings"]["stride"],
                "calls": {name: entry["seen"] for name, entry in video["networks"].items()},
                "samples": {name: len(entry["samples"]) for name, entry in video["networks"].items()},
            }
            for video in videos.values()
        ],
        "networks": {name: network.record() for name, network in made.items()},
        "versions": VERSIONS,
    }
