"""`gmos-run` behind its options: check everything, load the networks once, run every sequence."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import GmosError
from .evaluation.progress_bar import run_progress
from .networks import NetworkChoice
from .recipes import with_recipe
from .runtime.backend import Backend
from .runtime.console_progress import LineProgress
from .runtime.contract import Variant
from .runtime.files.made_from import NOTHING, MadeFrom
from .runtime.frame_result import MOS_I_ONLY
from .runtime.media import OverlayStyle
from .runtime.pipeline.clip import ClipRun, ClipSummary
from .runtime.pipeline.first_pass import FirstPassFile
from .runtime.pipeline.options import RunOptions
from .runtime.progress import Progress
from .runtime.results.completion import Existing, ResultSet, should_skip
from .runtime.results.formats import OVERLAYS, drawing_settings, needs_rgb, parse_save_mode
from .runtime.results.outputs import check_save_dir, file_results
from .runtime.tensorrt.memory import settle_run
from .runtime.video.inputs import resolve_inputs
from .runtime.video.sequence import SequenceInput
from .runtime.video.stream_facts import StreamFacts

if TYPE_CHECKING:
    from .evaluation.benchmarks.datasets import DatasetSplit

logger = logging.getLogger(__name__)

MIB = 1 << 20


@dataclass(slots=True, kw_only=True)
class SequenceSummary(ClipSummary):
    """What happened to one sequence, and what was written.

    `stride` in frames, `fps` of the overlays, `stream` of a video file.
    """

    name: str
    stride: int
    fps: float
    stream: StreamFacts | None = None
    outputs: list[Path] = field(default_factory=list)
    skipped: bool = False


@dataclass(slots=True, kw_only=True)
class RunSummary:
    """The closing summary of a run."""

    variant: Variant
    preset: str
    backend: str | None = None
    load_s: float = 0.0
    sequences: list[SequenceSummary] = field(default_factory=list)
    made_from: MadeFrom = NOTHING

    def render(self, *, as_json: bool) -> str:
        """The summary as text for people, or as JSON."""
        if as_json:
            return json.dumps(asdict(self), default=str, indent=2, ensure_ascii=False)
        lines = [] if self.backend is None else [f"{self.backend}, loaded in {self.load_s:.1f} s"]
        for sequence in self.sequences:
            lines += _sequence_lines(sequence)
        seen = [
            path for sequence in self.sequences for path in sequence.outputs if path.suffix == OVERLAYS.ending
        ]
        if seen:
            lines.append(f"look at {seen[0] if len({path.name for path in seen}) == 1 else seen[0].parent}")
        return "\n".join(lines)


def _sequence_lines(summary: SequenceSummary) -> list[str]:
    if summary.skipped:
        return [f"{summary.name}: finished before, skipped (stride {summary.stride}, {summary.fps:.6g} fps)"]
    total_s = sum(summary.stage_s.values())
    objects = f"foreground on {_frames(summary.moving_frames)}"
    if summary.mos_i_objects is not None:
        mos = "no MOS" if summary.mos_objects is None else f"{summary.mos_objects} in MOS"
        some = f"{summary.mos_i_objects} moving object{'s' * (summary.mos_i_objects != 1)}"
        objects = f"{some}, {mos}, motion on {_frames(summary.moving_frames)}"
    rate = summary.frames / total_s if total_s else 0.0
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stage_s.items())
    lines = [
        f"{summary.name}: {_frames(summary.frames)}, {objects}; {total_s:.1f} s, {rate:.2f} frames/s ({stages})"
    ]
    about = f"  stride {summary.stride}, {summary.fps:.6g} fps"
    lines.append(about if summary.stream is None else f"{about}: {summary.stream.line()}")
    if summary.feature_bytes.get("host") or summary.feature_bytes.get("disk"):
        places = ", ".join(f"{size / MIB:.0f} MiB {place}" for place, size in summary.feature_bytes.items())
        lines.append(f"  features: {places}")
    if (summary.conditioning_memories or 0) > 1:
        lines.append(f"  conditioning memories: up to {summary.conditioning_memories} an object")
    sparse = {"decoded": summary.decoded_frames, "proposed": summary.proposed_frames}
    if counts := [f"{count} {what}" for what, count in sparse.items() if count is not None]:
        lines.append(f"  frames {', '.join(counts)}, of {summary.frames}")
    lines += [f"  note: {note}" for note in summary.notes]
    lines += [
        f"  note: values that are not finite on {_frames(count)} ({network})"
        for network, count in summary.not_finite.items()
    ]
    lines += [f"  {path}" for path in summary.outputs]
    return lines


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"


def run_all(
    *,
    networks: NetworkChoice,
    inputs: Sequence[Path | str],
    save_dir: Path,
    save_mode: str | None = None,
    fps: float | None = None,
    stride: int | None = None,
    dataset: str | None = None,
    root: Path | None = None,
    sequences: Path | None = None,
    time_anno_csv: Path | None = None,
    options: RunOptions | None = None,
    existing: Existing = "error",
    overlay: OverlayStyle = "labelled",
    overlays: bool = False,
    recipe: str | None = None,
    quiet: bool = False,
) -> RunSummary:
    """Run every input that is not finished yet; arguments as `gmos-run`'s options.

    `overlays` are written too where no `save_mode` says what to write, and no dataset is run.

    Raises:
        GmosError: before any network is loaded, for everything that can be known by then; later for
            a video or device that fails. Sequences finished by then stay.
    """
    source, options = networks.resolve(), options or RunOptions()
    model = source.model
    options.require(model.variant)
    options = with_recipe(options, recipe, source)
    modes = parse_save_mode(save_mode, model.variant)
    if overlays and save_mode is None and dataset is None:
        modes |= {OVERLAYS.mode}
    names = None
    if dataset is None:
        for name, value in (("--root", root), ("--sequences", sequences), ("--time_anno_csv", time_anno_csv)):
            if value is not None:
                raise GmosError(f"{name} {value}: goes with --dataset, which was not given")
    else:
        if inputs:
            raise GmosError(f"--dataset {dataset} and {inputs[0]} were both given; give one")
        split = _split(dataset, root, sequences, time_anno_csv)
        inputs, names = [one.frame_dir for one in split.sequences], [one.name for one in split.sequences]
        fps = split.fps if fps is None else fps
    clips = resolve_inputs(
        inputs,
        fps=fps,
        stride=stride,
        names=names,
        pi3_area_px=model.pi3_area_px,
        patch_px=model.patch_px,
    )
    check_save_dir(save_dir)
    settings, drawn = {**source.settings(), **options.settings()}, drawing_settings(modes, overlay)
    networks_of = source.made_from()
    # Of finished sequences, too: they were made of the same.
    summary = RunSummary(variant=model.variant, preset=model.preset, made_from=networks_of)
    todo = []
    for sequence in clips:
        own = sequence.settings()
        clip = sequence.made_from(own, dataset=dataset)
        summary.made_from |= clip
        results = ResultSet(
            save_dir=save_dir,
            sequence=sequence.name,
            variant=model.variant,
            modes=modes,
            settings={**settings, **own} | drawn,
            made_from=networks_of | clip,
        )
        if should_skip(results, existing):
            if not options.mos_i_only:
                # Of a run that was stopped after it had filed everything.
                results.first_pass_path.unlink(missing_ok=True)
            summary.sequences.append(SequenceSummary(**_about(sequence), skipped=True))
        else:
            todo.append((sequence, results))
    if not todo:
        return summary
    start = time.monotonic()
    with closing(source.load()) as backend:
        summary.load_s = time.monotonic() - start
        summary.backend = backend.description
        logger.info("%s; loaded in %.1f s", backend.description, summary.load_s)
        options = settle_run(backend, options, [video for video, _ in todo])
        with LineProgress() if quiet else run_progress() as progress:
            summary.sequences += run_clips(
                backend, todo, options, progress=progress, existing=existing, overlay=overlay
            )
    return summary


def run_clips(
    backend: Backend,
    clips: Sequence[tuple[SequenceInput, ResultSet]],
    options: RunOptions,
    *,
    progress: Progress,
    existing: Existing,
    overlay: OverlayStyle = "labelled",
) -> list[SequenceSummary]:
    """Run clips one after the other and file the results of each.

    Args:
        backend: runs the networks.
        clips: checked inputs, and what to write of each.
        options: how to run, settled for these clips.
        progress: hears of every stage.
        existing: what to do about results that are there.
        overlay: how overlays are drawn.

    Raises:
        GmosError: a video or the device fails. Results filed by then stay.
    """
    summaries = []
    for sequence, results in clips:
        for note in sequence.notes:
            logger.info("%s: %s", sequence.name, note)
        # How many memories stage 2 reads does not change what stage 1 finds: it has one an object. Nor does leaving
        # stage 2 out, nor drawing.
        later = ("max_conditioning", MOS_I_ONLY, "overlay")
        settings = {key: value for key, value in results.settings.items() if key not in later}
        kept = FirstPassFile(path=results.first_pass_path, settings=settings, resume=existing == "resume")
        run = ClipRun(
            backend,
            sequence,
            options,
            progress=progress,
            with_rgb=needs_rgb(results.modes),
            first_pass=kept,
        )
        media = replace(sequence.media, overlay=overlay)
        try:
            filed = replace(results, not_finite=run.summary.not_finite)
            outputs = file_results(iter(run), filed, media, existing=existing)
        except BaseException:
            if run.first_pass_kept:
                logger.warning("%s: the first pass is kept; --resume goes on from there", sequence.name)
            raise
        if not options.mos_i_only:
            kept.remove()
        summaries.append(SequenceSummary(**_about(sequence), outputs=outputs, **asdict(run.summary)))
    return summaries


def _about(sequence: SequenceInput) -> dict[str, Any]:
    """What the summary says of an input."""
    return {
        "name": sequence.name,
        "stride": sequence.stride,
        "fps": sequence.output_fps,
        "stream": sequence.stream,
    }


def _split(dataset: str, root: Path | None, listed: Path | None, time_anno_csv: Path | None) -> DatasetSplit:
    """A benchmark split whose frames are all there."""
    if root is None:
        raise GmosError(f"--dataset {dataset} needs --root, the dataset's own folder")
    from .evaluation.benchmarks.datasets import dataset_split  # noqa: PLC0415 - only benchmark runs need it

    split = dataset_split(dataset, root, time_annotation=time_anno_csv, sequence_list=listed)
    missing = split.missing(frames=True, annotations=False)
    if missing.lines:
        for line in missing.listing():
            logger.warning("missing: %s", line)
        raise missing.error(len(split.sequences), "name those that are whole with --sequences")
    return split
