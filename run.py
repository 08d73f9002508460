"""`gmos-run` behind its options: check everything, load the networks once, run every sequence."""

from __future__ import annotations

import json
import logging
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from .errors import GmosError
from .networks import NetworkChoice
from .runtime.backend import Backend
from .runtime.console_progress import LineProgress, TerminalProgress
from .runtime.contract import ModelSpec, Variant
from .runtime.pipeline.clip import ClipRun, ClipSummary
from .runtime.pipeline.first_pass import FirstPassFile
from .runtime.pipeline.options import RunOptions
from .runtime.progress import Progress
from .runtime.results.completion import Existing, ResultSet, should_skip
from .runtime.results.formats import needs_rgb, parse_save_mode
from .runtime.results.outputs import check_save_dir, file_results
from .runtime.tensorrt.memory import settle_run
from .runtime.video.inputs import resolve_inputs
from .runtime.video.sequence import SequenceInput

logger = logging.getLogger(__name__)

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Everything `gmos-run` was asked for; fields as its options."""

    networks: NetworkChoice
    inputs: tuple[Path, ...]
    save_dir: Path
    save_mode: str | None
    fps: float | None
    stride: int | None
    options: RunOptions
    existing: Existing
    quiet: bool
    dataset: str | None = None
    root: Path | None = None
    time_anno_csv: Path | None = None


@dataclass(slots=True, kw_only=True)
class SequenceSummary(ClipSummary):
    """What happened to one sequence, and what was written."""

    name: str
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

    def render(self, *, as_json: bool) -> str:
        """The summary as text for people, or as JSON."""
        if as_json:
            return json.dumps(asdict(self), default=str, indent=2, ensure_ascii=False)
        lines = [] if self.backend is None else [f"{self.backend}, loaded in {self.load_s:.1f} s"]
        for sequence in self.sequences:
            lines += _sequence_lines(sequence)
        return "\n".join(lines)


def _sequence_lines(summary: SequenceSummary) -> list[str]:
    if summary.skipped:
        return [f"{summary.name}: finished before, skipped"]
    total_s = sum(summary.stage_s.values())
    objects = (
        f"foreground on {summary.moving_frames} frames"
        if summary.mos_i_objects is None
        else f"{summary.mos_i_objects} moving objects, {summary.mos_objects} in MOS, "
        f"motion on {summary.moving_frames} frames"
    )
    rate = summary.frames / total_s if total_s else 0.0
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stage_s.items())
    lines = [
        f"{summary.name}: {summary.frames} frames, {objects}; {total_s:.1f} s, {rate:.2f} frames/s ({stages})"
    ]
    if summary.feature_bytes.get("host") or summary.feature_bytes.get("disk"):
        places = ", ".join(f"{size / MIB:.0f} MiB {place}" for place, size in summary.feature_bytes.items())
        lines.append(f"  features: {places}")
    lines += [f"  note: {note}" for note in summary.notes]
    lines += [f"  {path}" for path in summary.outputs]
    return lines


def run_all(request: RunRequest) -> RunSummary:
    """Run every input that is not finished yet.

    Raises:
        GmosError: before any network is loaded, for everything that can be known by then; later for
            a video or device that fails. Sequences finished by then stay.
    """
    source = request.networks.resolve()
    model = source.model
    modes = parse_save_mode(request.save_mode, model.variant)
    sequences = _sequences(request, model)
    check_save_dir(request.save_dir)
    settings = {**source.settings(), **request.options.settings()}
    summary = RunSummary(variant=model.variant, preset=model.preset)
    todo = []
    for sequence in sequences:
        results = ResultSet(
            save_dir=request.save_dir,
            sequence=sequence.name,
            variant=model.variant,
            modes=modes,
            settings={**settings, "stride": sequence.stride, "fps": sequence.output_fps},
        )
        if should_skip(results, request.existing):
            summary.sequences.append(SequenceSummary(name=sequence.name, skipped=True))
        else:
            todo.append((sequence, results))
    if not todo:
        return summary
    start = time.monotonic()
    with closing(source.load()) as backend:
        summary.load_s = time.monotonic() - start
        summary.backend = backend.description
        logger.info("%s; loaded in %.1f s", backend.description, summary.load_s)
        options = settle_run(backend, request.options, [video for video, _ in todo])
        with _progress(request) as progress:
            summary.sequences += _run_each(todo, backend, options, progress, request.existing)
    return summary


def _run_each(
    todo: list[tuple[SequenceInput, ResultSet]],
    backend: Backend,
    options: RunOptions,
    progress: Progress,
    existing: Existing,
) -> list[SequenceSummary]:
    summaries = []
    for sequence, results in todo:
        for note in sequence.notes:
            logger.info("%s: %s", sequence.name, note)
        # How many memories stage 2 reads does not change what stage 1 finds: it has one an object.
        settings = {key: value for key, value in results.settings.items() if key != "max_conditioning"}
        kept = FirstPassFile(path=results.first_pass_path, settings=settings, resume=existing == "resume")
        run = ClipRun(
            backend,
            sequence,
            options,
            progress=progress,
            with_rgb=needs_rgb(results.modes),
            first_pass=kept,
        )
        outputs = file_results(iter(run), results, sequence.media, existing=existing)
        kept.remove()
        summaries.append(SequenceSummary(name=sequence.name, outputs=outputs, **asdict(run.summary)))
    return summaries


def _progress(request: RunRequest) -> TerminalProgress | LineProgress:
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal and not request.quiet else LineProgress()


def _sequences(request: RunRequest, model: ModelSpec) -> list[SequenceInput]:
    """The checked inputs: those named, or those of a benchmark split."""
    if request.dataset is None:
        for name, value in (("--root", request.root), ("--time_anno_csv", request.time_anno_csv)):
            if value is not None:
                raise GmosError(f"{name} {value}: goes with --dataset, which was not given")
        paths, names, fps = request.inputs, None, request.fps
    else:
        if request.inputs:
            raise GmosError(f"--dataset {request.dataset} and {request.inputs[0]} were both given; give one")
        if request.root is None:
            raise GmosError(f"--dataset {request.dataset} needs --root, the dataset's own folder")
        from .evaluation.benchmarks.datasets import dataset_split  # noqa: PLC0415 - only benchmark runs need it

        split = dataset_split(request.dataset, request.root, time_annotation=request.time_anno_csv)
        missing = split.missing(frames=True, annotations=False)
        if missing.lines:
            for line in missing.listing():
                logger.warning("missing: %s", line)
            raise missing.error(len(split.sequences))
        paths = tuple(sequence.frame_dir for sequence in split.sequences)
        names = [sequence.name for sequence in split.sequences]
        fps = split.fps if request.fps is None else request.fps
    return resolve_inputs(
        paths,
        fps=fps,
        stride=request.stride,
        names=names,
        pi3_area_px=model.pi3_area_px,
        patch_px=model.patch_px,
    )
