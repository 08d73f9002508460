"""From a half-precision bundle and videos to a quantised bundle."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace

from ..errors import GmosError
from ..evaluation.progress_bar import run_progress
from ..export.onnx.bundle_directory import check_place
from ..runtime.atomic_file import writing
from ..runtime.bundle.manifest import Bundle, open_bundle
from ..runtime.contract import WITHOUT_WEIGHTS, NetworkName
from ..runtime.onnx.backend import open_bundle_backend
from ..runtime.precision import PRECISIONS
from ..runtime.video.inputs import resolve_inputs
from ..runtime.video.sequence import SequenceInput
from .config import EXCLUDED, CalibrationConfig
from .graph.quantised_bundle import write_quantised
from .network_forms import CalibratedNetwork, FormMaker, NetworkForms
from .quantiser.formats import FORMATS
from .quantiser.layer_choice import LayerChooser
from .record import VideoRecords, calibration_record, work_settings
from .sampling.record_calls import check_lengths, sample_videos
from .sampling.sample_store import SampleStore
from .search.finished_work import FinishedWork
from .search.target_masks import MaskReference, MaskScore, MaskTrial, hold_masks
from .search.times import measured

logger = logging.getLogger(__name__)


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
    store = SampleStore(config.samples or config.beside("samples"))
    store.check()
    work = FinishedWork(config.beside("unfinished"))
    work.check()
    videos = _sampled(config, parent, sequences, store, names)
    with writing(config.out):
        config.out.resolve().parent.mkdir(parents=True, exist_ok=True)
    work.begin(work_settings(config, parent, videos, names))
    # What cannot run is found out before the long part.
    reference = None if config.target_masks is None else _mask_reference(config, parent, sequences, work)
    maker = FormMaker(
        config=config,
        parent=parent,
        chooser=LayerChooser(form=FORMATS[config.precision], options=config.quantiser),
        work=work,
    )
    forms = _forms(maker, store, videos, names)
    quantised = sorted(
        (name for name, form in forms.items() if form.quantised is not None),
        key=lambda name: -_operations(parent, name, videos),
    )
    trials: tuple[MaskTrial, ...] = ()
    if reference is not None:
        trials = _mask_trials(maker, reference, forms, quantised)
        quantised = list(trials[-1].quantised)
    made = [form.chosen(quantised=name in quantised) for name, form in forms.items()]
    bundle = write_quantised(
        config.out,
        parent,
        {network.name: network.result for network in made},
        precision=config.precision,
        calibration=calibration_record(config, parent, videos, made, trials),
    )
    if config.timed:
        made = [
            replace(
                network, times=measured(parent, bundle, network.name, network.validated_on[0], config.device)
            )
            for network in made
        ]
    work.remove()
    if config.samples is None:
        shutil.rmtree(store.root, ignore_errors=True)
    return bundle, tuple(made)


def _chosen(config: CalibrationConfig) -> tuple[Bundle, tuple[NetworkName, ...]]:
    """The bundle and the networks that will be quantised."""
    parent = open_bundle(config.bundle)
    if parent.precision in FORMATS:
        raise GmosError(
            f"bundle {config.bundle} is {parent.precision} already; give the fp16 bundle that it was made from"
        )
    known = [name for name in parent.networks if name not in WITHOUT_WEIGHTS]
    for name in config.networks:
        if name not in known:
            raise GmosError(f"--networks {name}: expected one of {', '.join(known)}")
    wanted = [name for name in known if not config.networks or name in config.networks]
    config.target_parity.check(wanted)
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


def _sampled(
    config: CalibrationConfig,
    parent: Bundle,
    sequences: Sequence[SequenceInput],
    store: SampleStore,
    names: Sequence[NetworkName],
) -> VideoRecords:
    with (
        closing(open_bundle_backend(config.bundle, device=config.device)) as backend,
        run_progress() as progress,
    ):
        return sample_videos(
            backend, parent, sequences, store, networks=names, limits=config.limits, progress=progress
        )


def _forms(
    maker: FormMaker, store: SampleStore, videos: VideoRecords, names: Sequence[NetworkName]
) -> dict[NetworkName, NetworkForms]:
    """The forms of the networks that were called; weights that two share are rounded for the one called most."""
    forms = {}
    for name in sorted(names, key=lambda name: _calls(name, videos), reverse=True):
        samples = store.samples(videos, name)
        if not samples:
            logger.warning("%s: never called on these videos; it stays in half precision", name)
            continue
        forms[name] = maker.forms(name, samples)
    if not forms:
        raise GmosError(
            "no network to quantise was called on these videos; give videos in which something moves"
        )
    return {name: forms[name] for name in names if name in forms}


def _calls(name: NetworkName, videos: VideoRecords) -> int:
    return sum(int(video["networks"][name]["seen"]) for video in videos.values())


def _operations(parent: Bundle, name: NetworkName, videos: VideoRecords) -> float:
    """Of a network on the videos, at the lengths that the bundle counts them at."""
    entry = parent.networks[name]
    return _calls(name, videos) * entry.flops / entry.flops_at.get("B", 1)


def _mask_reference(
    config: CalibrationConfig, parent: Bundle, sequences: Sequence[SequenceInput], work: FinishedWork
) -> MaskReference:
    return MaskReference(parent.root, sequences, work, frames=config.limits.frames, device=config.device)


def _mask_trials(
    maker: FormMaker,
    reference: MaskReference,
    forms: Mapping[NetworkName, NetworkForms],
    ordered: Sequence[NetworkName],
) -> tuple[MaskTrial, ...]:
    """Trials of networks that compute in eight bits; the last one is the answer."""
    config, work = maker.config, maker.work
    target = config.target_masks or 0.0

    def scores(quantised: Collection[NetworkName]) -> Sequence[MaskScore]:
        made = {name: form.chosen(quantised=name in quantised).result for name, form in forms.items()}
        key = [(name, name in quantised, sorted(result.excluded)) for name, result in made.items()]
        known = work.result("masks", key)
        if known is not None:
            return [MaskScore(**score) for score in known["scores"]]
        with work.trial_folder() as folder:
            bundle = write_quantised(
                folder / "bundle", maker.parent, made, precision=config.precision, calibration={}
            )
            found = reference.scores(bundle.root)
        work.keep_result({"scores": [asdict(score) for score in found]}, "masks", key)
        return found

    trials = hold_masks(ordered, scores, target)
    answer = trials[-1]
    if config.validated and not answer.holds(target):
        raise GmosError(
            f"--target_masks {target:g}: with eight-bit weights and arithmetic in half precision everywhere "
            f"{answer.worst.result} of {answer.worst.video} has a mean IoU of {answer.worst.mean_iou:.4f}; nothing was "
            "kept. Leave networks out with --networks, lower the target, or give --no_validation to look at the files"
        )
    return trials
