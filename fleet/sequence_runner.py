"""One sequence after the other on networks that are loaded once: checked, skipped where it is finished, run, filed."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import GmosError, MachineError
from ..networks import NetworkChoice, NetworkSource
from ..recipes import with_recipe
from ..runtime.backend import Backend
from ..runtime.files.made_from import MadeFrom
from ..runtime.frame_result import MOS_I_ONLY
from ..runtime.media import OverlayStyle
from ..runtime.pipeline.clip import ClipRun, ClipSummary
from ..runtime.pipeline.first_pass import FirstPassFile
from ..runtime.pipeline.options import RunOptions
from ..runtime.progress import NoProgress, Progress
from ..runtime.results.completion import Existing, ResultSet, as_json, read_record, should_skip
from ..runtime.results.formats import OVERLAYS, drawing_settings, needs_rgb, parse_save_mode
from ..runtime.results.outputs import FinishedElsewhereError, file_results
from ..runtime.tensorrt.memory import settle_run
from ..runtime.video.inputs import resolve_inputs
from ..runtime.video.sequence import SequenceInput
from .claims import settings_key
from .listing import Item
from .statuses import SequenceSummary

logger = logging.getLogger(__name__)

LATER = ("max_conditioning", MOS_I_ONLY, "overlay")
"""Settings that do not change the first pass: it has one memory an object, no stage 2, and draws nothing."""

ELSEWHERE = "another process was faster"


class NetworksError(MachineError):
    """The networks cannot be loaded here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All that is the same for the sequences of a run; fields as `gmos-run`'s options. It can be pickled.

    `overlays` are written too where no `save_mode` says what to write.
    """

    networks: NetworkChoice
    save_dir: Path
    save_mode: str | None = None
    overlays: bool = False
    overlay: OverlayStyle = "labelled"
    fps: float | None = None
    stride: int | None = None
    dataset: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    recipe: str | None = None
    existing: Existing = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A sequence that was checked and is to be run."""

    sequence: SequenceInput
    results: ResultSet


class SequenceRunner:
    """Runs sequences. A context manager: the networks are loaded when the first one needs them.

    Args:
        settings: of the run.
        progress: hears of every stage.

    Raises:
        GmosError: networks, modes or options that cannot be used.
    """

    def __init__(self, settings: RunSettings, progress: Progress | None = None) -> None:
        self.progress = progress or NoProgress()
        self.source: NetworkSource = settings.networks.resolve()
        self.model = self.source.model
        options = with_recipe(settings.options, settings.recipe, self.source)
        options.require(self.model.variant)
        self.settings = replace(settings, options=options, recipe=None)
        self.modes = parse_save_mode(settings.save_mode, self.model.variant)
        if settings.overlays and settings.save_mode is None and settings.dataset is None:
            self.modes |= {OVERLAYS.mode}
        self.load_s = 0.0
        self._drawn = drawing_settings(self.modes, settings.overlay)
        self._settings: dict[str, Any] | None = None
        self._made_from: MadeFrom | None = None
        self._backend: Backend | None = None
        self._read: tuple[Item, SequenceInput] | None = None
        self._open = ExitStack()

    def __enter__(self) -> SequenceRunner:
        return self

    def __exit__(self, *given: Any) -> None:
        self._open.__exit__(*given)
        self._backend = None

    @property
    def description(self) -> str | None:
        """What runs the networks, once they are loaded."""
        return None if self._backend is None else self._backend.description

    @property
    def common(self) -> dict[str, Any]:
        """What decides the results of every sequence, as JSON values.

        Raises:
            GmosError: a checkpoint cannot be read.
        """
        if self._settings is None:
            self._settings = {**self.source.settings(), **self.settings.options.settings()}
        return self._settings

    @property
    def made_from(self) -> MadeFrom:
        """The networks.

        Raises:
            GmosError: as `common`.
        """
        if self._made_from is None:
            self._made_from = self.source.made_from()
        return self._made_from

    def key(self) -> str:
        """Of a run with these settings, for `Claims`."""
        own = {"modes": sorted(self.modes), "fps": self.settings.fps, "stride": self.settings.stride}
        return settings_key({**self.common, **self._drawn, **own, "existing": self.settings.existing})

    def results(self, name: str) -> ResultSet:
        """Where a sequence's results go, before it has been read."""
        return ResultSet(
            save_dir=self.settings.save_dir,
            sequence=name,
            variant=self.model.variant,
            modes=self.modes,
            settings=self.common | self._drawn,
        )

    def finished_since(self, name: str, since_ns: int) -> bool:
        """Whether another process of this run has finished a sequence since the run began."""
        results = self.results(name)
        try:
            if results.record_path.stat().st_mtime_ns <= since_ns:
                return False
            record = read_record(results)
        except (OSError, GmosError):
            # What is wrong with it is said when the sequence is checked.
            return False
        return (
            record is not None
            and record.complete
            and record.modes >= results.modes
            and as_json(results.settings).items() <= record.settings.items()
        )

    def read(self, item: Item) -> SequenceInput:
        """An input, checked; the next `check` of it does not read it again.

        Raises:
            GmosError: it cannot be used.
        """
        if self._read is None or self._read[0] != item:
            (sequence,) = resolve_inputs(
                [item.given],
                fps=self.settings.fps,
                stride=self.settings.stride,
                names=[item.name],
                pi3_area_px=self.model.pi3_area_px,
                patch_px=self.model.patch_px,
            )
            self._read = item, sequence
        return self._read[1]

    def check(self, item: Item) -> Ready | SequenceSummary:
        """Read an input: what is to be run, or that it is finished.

        Raises:
            GmosError: it cannot be used, or its results must not be replaced.
        """
        given, sequence = self.settings, self.read(item)
        self._read = None
        own = sequence.settings()
        made_from = self.made_from | sequence.made_from(own, dataset=given.dataset)
        found = self.results(sequence.name)
        results = replace(found, settings={**self.common, **own} | self._drawn, made_from=made_from)
        if should_skip(results, given.existing):
            if not given.options.mos_i_only:
                # Of a run that was stopped after it had filed everything.
                results.first_pass_path.unlink(missing_ok=True)
            skipped = SequenceSummary.of_item(item, "skipped").read(sequence)
            skipped.made_from = made_from
            return skipped
        return Ready(sequence=sequence, results=results)

    def load(self) -> Backend:
        """The networks, loaded once.

        Raises:
            NetworksError: they cannot be.
        """
        if self._backend is None:
            start = time.monotonic()
            try:
                backend = self.source.load()
            except GmosError as error:
                raise NetworksError(str(error)) from error
            self._open.callback(backend.close)
            self._backend, self.load_s = backend, time.monotonic() - start
            logger.info("%s; loaded in %.1f s", backend.description, self.load_s)
        return self._backend

    def run(self, item: Item) -> SequenceSummary:
        """Check a sequence and run it if it is not finished.

        Raises:
            GmosError: as `check`, or the video or the device fails.
        """
        ready = self.check(item)
        if isinstance(ready, SequenceSummary):
            return ready
        backend = self.load()
        options = settle_run(backend, self.settings.options, [ready.sequence])
        given = self.settings
        try:
            summary = run_clip(
                backend,
                ready,
                options,
                progress=self.progress,
                existing=given.existing,
                overlay=given.overlay,
            )
        except FinishedElsewhereError:
            summary = SequenceSummary.of_item(item, "skipped").read(ready.sequence)
            summary.notes.append(ELSEWHERE)
        summary.input = SequenceSummary.of_item(item, "done").input
        return summary


def run_clip(
    backend: Backend,
    ready: Ready,
    options: RunOptions,
    *,
    progress: Progress,
    existing: Existing,
    overlay: OverlayStyle = "labelled",
) -> SequenceSummary:
    """Run a clip and file its results.

    Args:
        backend: runs the networks.
        ready: the checked input, and what to write of it.
        options: how to run, settled for this clip.
        progress: hears of every stage.
        existing: what to do about results that are there.
        overlay: how overlays are drawn.

    Raises:
        GmosError: the video or the device fails.
    """
    sequence, results = ready.sequence, ready.results
    for note in sequence.notes:
        logger.info("%s: %s", sequence.name, note)
    settings = {key: value for key, value in results.settings.items() if key not in LATER}
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
    found = {one.name: getattr(run.summary, one.name) for one in fields(ClipSummary)}
    return SequenceSummary(name=sequence.name, outputs=outputs, made_from=results.made_from, **found).read(
        sequence
    )
