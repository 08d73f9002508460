"""`gmos-run` behind its options: what is to be run, by whom on which machines, and how its summary comes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import GmosError
from .fleet.batch import Turns, refuse_existing, run_batch
from .fleet.claims import Claims
from .fleet.dispatch import Dispatcher
from .fleet.listing import Item, Listing, in_shard, list_inputs
from .fleet.local_workers import LocalWorkers
from .fleet.progress import ListProgress
from .fleet.ray_workers import LOCAL, RayChoice, RayWorkers, is_address
from .fleet.sequence_runner import RunSettings, SequenceRunner
from .fleet.shares import local_shares
from .fleet.summary import Summary
from .networks import NetworkChoice
from .options import given_input
from .runtime.media import OverlayStyle
from .runtime.pipeline.options import RunOptions
from .runtime.results.completion import Existing
from .runtime.results.outputs import check_save_dir
from .runtime.video.inputs import check_rate

if TYPE_CHECKING:
    from .evaluation.benchmarks.datasets import DatasetSplit

logger = logging.getLogger(__name__)


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
    inputs_from: Path | None = None,
    shard: str | None = None,
    stop_on_error: bool = False,
    as_json: bool = False,
    json_lines: Path | None = None,
    workers: int | None = None,
    ray: str | None = None,
    cpus_per_worker: float = 1.0,
    gpus_per_worker: float | None = None,
) -> int:
    """Run every input that is not finished yet and print what became of it; arguments as `gmos-run`'s options.

    `overlays` are written too where no `save_mode` says what to write, and no dataset is run.

    Returns:
        The exit status: 0, or 3 where some of several sequences failed.

    Raises:
        GmosError: what was given cannot be used, the machine or the networks fail, or the only sequence does.
            Sequences finished by then stay.
    """
    if ray is not None and not is_address(ray):
        inputs, ray = (given_input(ray), *inputs), LOCAL
    with Summary(as_json=as_json, json_lines=json_lines) as summary:
        if dataset is None:
            for name, value in (
                ("--root", root),
                ("--sequences", sequences),
                ("--time_anno_csv", time_anno_csv),
            ):
                if value is not None:
                    raise GmosError(f"{name} {value}: goes with --dataset, which was not given")
        else:
            given = inputs[0] if inputs else inputs_from
            if given is not None:
                raise GmosError(f"--dataset {dataset} and {given} were both given; give one")
            split = _split(dataset, root, sequences, time_anno_csv)
            fps = split.fps if fps is None else fps
        runner = SequenceRunner(
            RunSettings(
                networks=networks,
                save_dir=save_dir,
                save_mode=save_mode,
                overlays=overlays,
                overlay=overlay,
                fps=fps,
                stride=stride,
                dataset=dataset,
                options=options or RunOptions(),
                recipe=recipe,
                existing=existing,
            )
        )
        check_rate(fps, stride)
        choice = (
            None
            if ray is None
            else RayChoice(address=ray, workers=workers, cpus=cpus_per_worker, gpus=gpus_per_worker)
        )
        listing = (
            list_inputs(inputs, inputs_from=inputs_from, has_rate=bool(fps or stride), shard=shard)
            if dataset is None
            else Listing(items=in_shard(_items(split), shard), dataset=dataset)
        )
        summary.several = not listing.alone
        if listing.alone:
            # Before anything is made: it may be all that is wrong.
            runner.read(listing.items[0])
        check_save_dir(save_dir)
        summary.facts.variant, summary.facts.preset = runner.model.variant, runner.model.preset
        # Of finished sequences, too: they were made of the same.
        summary.facts.made_from = runner.made_from
        with Claims(save_dir, runner.key()) as claims, runner:
            if not listing.alone:
                refuse_existing(listing, runner, claims)
            with ListProgress(len(listing.items), quiet=quiet) as progress:
                runner.progress = progress
                if choice is None and (workers is None or listing.alone):
                    run_batch(listing, runner, claims, summary, progress, stop_on_error=stop_on_error)
                    return summary.status
                count = len(listing.items)
                pool = (
                    RayWorkers(choice, runner.settings, claims.marker, count)
                    if choice is not None
                    else LocalWorkers(local_shares(runner.settings, min(workers or 1, max(1, count))))
                )
                with pool:
                    turns = Turns(listing.items, runner, claims)
                    Dispatcher(turns, pool, summary, progress, stop_on_error=stop_on_error).run()
    return summary.status


def _items(split: DatasetSplit) -> list[Item]:
    return [Item(str(one.frame_dir), one.name) for one in split.sequences]


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
