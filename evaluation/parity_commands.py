"""The gmos-parity commands: two sides in, a verdict and a report out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .environment import environment
from .label_trees import LabelPair, label_pairs
from .mask_agreement import SequenceAgreement, sequence_agreement
from .parity_limits import PROFILES, MaskLimits, ProfileName
from .parity_page import PageSources, write_parity_page
from .parity_pictures import Rgb
from .parity_report import ParityReport, report_tables, write_report_files
from .parity_sides import RunVideo, Side, parse_side
from .report_files import PAGE_FILE, report_directory
from .run import show

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
FAILED_STATUS = 1

SIDE = (
    "torch:PRESET, onnxruntime:BUNDLE, tensorrt:BUNDLE, tensorrt-rtx:BUNDLE or masks:DIR; or named options of "
    "gmos-run, as torch:preset=published,precision=bf16,pi3_ckpt=FILE,…  Required."
)


def limit_options(command: Command) -> Command:
    """The options that say when both sides count as the same, and where the report goes."""
    for decorate in (
        click.option(
            "--any_ids",
            "--any-ids",
            "any_ids",
            is_flag=True,
            help="Let objects have other ids. Default: off.",
        ),
        click.option(
            "--min_mean_iou",
            "--min-mean-iou",
            "min_mean_iou",
            type=click.FloatRange(0, 1),
            help="Least mean IoU, in place of the profile's.",
        ),
        click.option(
            "--min_frame_iou",
            "--min-frame-iou",
            "min_frame_iou",
            type=click.FloatRange(0, 1),
            help="Least IoU of every frame, in place of the profile's.",
        ),
        click.option(
            "--profile",
            type=click.Choice(list(PROFILES)),
            default="fp32",
            show_default=True,
            help="Limits: fp32 0.999 on every frame and 0.9999 mean, fp16 and bf16 0.98 and 0.99, int8 and fp8 0.90 "
            "and 0.97.",
        ),
        click.option(
            "--report",
            type=PATH,
            metavar="DIR",
            help="Write result.json, observations.jsonl and report.html there. Default: not written.",
        ),
        click.option(
            "--worst_frames",
            "--worst-frames",
            "worst_frames",
            type=click.IntRange(0, 100),
            default=8,
            show_default=True,
            help="How many of the worst frames report.html shows.",
        ),
    ):
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def parity() -> None:
    """Are the masks the same? Compare two runs, and say where they differ.

    Exit status: 0 within the limits, 1 beyond them, 2 could not be compared.
    """


@parity.command("masks")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option(
    "--video", type=PATH, metavar="FILE", help="The video, for pictures of its frames. Default: none."
)
@limit_options
def masks_command(a: Path, b: Path, video: Path | None, **options: Any) -> int:
    """Compare two directories of label-map PNGs.

    A and B are output directories of gmos-run, trees with a folder of PNGs per video (the published
    results), or the PNGs of one video.
    """
    return compare_trees("masks", a, b, names=(str(a), str(b)), videos=[video] if video else [], **options)


def compare_trees(
    kind: str, a: Path, b: Path, *, names: tuple[str, str], videos: Sequence[Path], **options: Any
) -> int:
    """Compare, show and report; the exit status."""
    started = time.monotonic()
    report_dir: Path | None = options["report"]
    if report_dir is not None:
        report_directory(report_dir)
    pairs = label_pairs(a, b)
    with _progress(sum(len(pair.frames) for pair in pairs)) as advance:
        found = tuple(_compare(pair, advance) for pair in pairs)
    profile = cast(ProfileName, options["profile"])
    report = ParityReport(
        kind=kind,
        a=names[0],
        b=names[1],
        profile=profile,
        limits=chosen_limits(profile, options),
        found=found,
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    show(report_tables(report))
    if report_dir is not None:
        report_dir.mkdir(parents=True, exist_ok=True)
        write_report_files(report_dir, report)
        by_name = {(pair.result, pair.sequence): pair for pair in pairs}
        sources = PageSources(
            maps=lambda agreement, index: by_name[agreement.result, agreement.sequence].read(index),
            frame=frame_reader(videos),
            worst=options["worst_frames"],
        )
        write_parity_page(report_dir / PAGE_FILE, report, sources)
        click.echo(f"report: {report_dir / PAGE_FILE}")
    return 0 if report.passed else FAILED_STATUS


def chosen_limits(profile: ProfileName, options: dict[str, Any]) -> MaskLimits:
    """The profile's limits with those that were given in place of them."""
    limits = PROFILES[profile]
    return replace(
        limits,
        frame_iou=limits.frame_iou if options["min_frame_iou"] is None else options["min_frame_iou"],
        mean_iou=limits.mean_iou if options["min_mean_iou"] is None else options["min_mean_iou"],
        ids=not options["any_ids"],
    )


def _compare(pair: LabelPair, advance: Callable[[], None]) -> SequenceAgreement:
    seen: set[int] = set()

    def read(index: int) -> Any:  # noqa: ANN401 - a pair of maps
        if index not in seen:
            seen.add(index)
            advance()
        return pair.read(index)

    return sequence_agreement(pair.sequence, pair.result, pair.frames, read)


def frame_reader(videos: Sequence[Path]) -> Callable[[str, int], Rgb | None]:
    """Reads a frame of the video that a sequence was named after; None where it was not given."""
    by_name = {video.stem if video.is_file() else video.name: video for video in videos}

    def read(sequence: str, index: int) -> Rgb | None:
        video = by_name.get(sequence) or (videos[0] if len(by_name) == 1 else None)
        if video is None:
            return None
        from ..runtime.inputs import resolve_inputs  # noqa: PLC0415 - imports PyAV
        from ..runtime.video import open_frames  # noqa: PLC0415

        stride = None if video.is_file() else 1
        (sequence_input,) = resolve_inputs([video], fps=None, stride=stride)
        with open_frames(sequence_input) as frames:
            return next((frame.rgb for frame in frames if frame.index == index), None)

    return read


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("frames"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def video_command(run: RunVideo) -> click.Command:
    """The command that runs both sides on videos; `run` runs one."""

    @click.command("video")
    @click.argument("inputs", nargs=-1, type=PATH, required=True, metavar="INPUT...")
    @click.option("--a", "a", required=True, metavar="SPEC", help=SIDE)
    @click.option("--b", "b", required=True, metavar="SPEC", help="The same for the other side. Required.")
    @click.option(
        "--keep", type=PATH, metavar="DIR", help="Keep the masks of both sides there. Default: not kept."
    )
    @limit_options
    def command(inputs: tuple[Path, ...], a: str, b: str, keep: Path | None, **options: Any) -> int:
        """Run two sides on the same videos and compare their masks, stage by stage.

        INPUT is one or more .mp4 files. A side runs networks as gmos-run does, or is a directory of masks.
        """
        sides = {"a": parse_side("--a", a), "b": parse_side("--b", b)}
        with tempfile.TemporaryDirectory() as folder:
            root = keep or Path(folder)
            trees = {name: _masks_of(side, inputs, root / name, run) for name, side in sides.items()}
            return compare_trees("video", trees["a"], trees["b"], names=(a, b), videos=inputs, **options)

    return command


def _masks_of(side: Side, inputs: Sequence[Path], directory: Path, run: RunVideo) -> Path:
    if side.masks is not None:
        return side.masks
    run(side, inputs, directory)
    return directory
