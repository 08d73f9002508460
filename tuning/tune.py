"""`gmos-export tune`: the exact run, trials, finalists in turns, videos that were held out, and the recipe."""

from __future__ import annotations

import logging
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from ..calibration.search.finished_work import FinishedWork
from ..errors import GmosError
from ..networks import NetworkSource
from ..runtime.bundle.recipe import FOLDER, Recipe, write_recipe
from ..runtime.bundle.signature import SIGNATURE
from ..runtime.files.made_from import ClipOrigin, MadeFrom
from ..runtime.tensorrt.library import FLAVOURS
from ..runtime.video.inputs import resolve_inputs
from ..runtime.video.sequence import SequenceInput
from .budget import Budget, OutOfTimeError
from .config import TuneConfig
from .measuring import Measurer, Measures
from .network_levers import (
    BUNDLE,
    Networks,
    OtherNetworks,
    network_part,
    other_networks,
    run_part,
    source_of,
)
from .search import Found, search
from .trial import Trial, VideoTrial, agreements
from .warnings import busy_notes, warnings_of

logger = logging.getLogger(__name__)

FINALISTS = 3
"""The fastest that hold, which are measured again in turns with the exact run."""

MOST_RESERVED = 0.5
"""Of the budget, what finalists and held-out videos may keep from the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """Levers with the seconds a frame of each round, and how many times as fast as the exact run they are."""

    trial: Trial
    frame_s: tuple[float, ...]
    speedup: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came out: the recipe and its file, all trials, and what was not tried.

    `work` is what the search has measured; it is removed when nobody needs it.
    """

    recipe: Recipe
    path: Path
    exact: Trial
    trials: Sequence[Trial]
    left_out: Sequence[str]
    finalists: Sequence[Finalist]
    held_out: Sequence[VideoTrial]
    made_from: MadeFrom
    spent_s: float
    finished: bool
    warnings: Sequence[str]
    work: FinishedWork


def tune(config: TuneConfig) -> Tuned:
    """Search, and write the recipe. An interrupted search goes on with what it had measured.

    Raises:
        GmosError: videos or networks cannot be used, the recipe cannot be written, or the exact run alone takes
            longer than the budget.
    """
    source = config.networks.resolve()
    videos, held_out = (_resolved(source, config, inputs) for inputs in (config.inputs, config.held_out))
    both = {one.name for one in videos} & {one.name for one in held_out}
    if both:
        raise GmosError(f"--held_out {sorted(both)[0]}: it is tuned on as well; hold out other videos")
    path = recipe_place(config, source)
    work = FinishedWork(path.parent / f".{path.stem}.unfinished")
    work.check()
    origins = [[*one.made_from(one.settings()).clips] for one in (*videos, *held_out)]
    clips = [clip for found in origins for clip in found]
    budget = Budget(config.budget_s)
    with Networks(source) as networks:
        backend = networks.exact
        logger.info("%s", backend.description)
        others_given = other_networks(source, config.other_bundles, backend)
        work.begin(
            {
                **config.settings(),
                "networks": source.settings(),
                "others": others_given.identities,
                "clips": [_clip(clip) for clip in clips],
            }
        )
        kept = {"frames": config.frames, "work": work, "budget": budget}
        measurer = Measurer(networks, videos, **kept)  # type: ignore[arg-type]
        others = Measurer(networks, held_out, **kept, kind="held out")  # type: ignore[arg-type]
        try:
            exact = measurer.exact()
        except OutOfTimeError:
            raise GmosError(
                f"--budget_minutes {config.budget_minutes:g}: the exact run alone takes longer; raise it, or take "
                "fewer videos or --frames"
            ) from None
        tuned_on = tuple(clips[: len(videos)])
        engines = source.choice.backend in FLAVOURS
        area = None if engines else source.model.pi3_area_px
        result = _search(
            config,
            measurer,
            others,
            budget=budget,
            exact=exact,
            videos=videos,
            held_out=held_out,
            pi3_area=area,
            networks=others_given,
        )
        found, finalists, scores, notes = result
        best = finalists[0]
        device = networks.backend(best.trial.levers).description
    warnings = tuple(warnings_of(config, exact, best.trial, held_out=scores, found=found, notes=notes))
    used = source_of(source, best.trial.levers)
    bundle = used.bundle()
    if BUNDLE in best.trial.levers and config.out is None:
        # A recipe goes with the networks that it is for.
        path = recipe_place(replace(config, networks=used.choice), used)
    chosen = network_part(best.trial.levers)
    chosen.pop(BUNDLE, None)
    recipe = Recipe(
        name=config.name,
        variant=source.model.variant,
        levers=run_part(best.trial.levers),
        networks=chosen,
        bundle=None if bundle is None else bundle.identity,
        backend=source.choice.backend,
        device=device,
        target_masks=config.target_masks,
        speedup=best.speedup,
        agreement=agreements(best.trial.videos),
        held_out=agreements(scores),
        tuned_on=tuned_on,
        held_out_on=tuple(clips[len(videos) :]),
        warnings=warnings,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    path.parent.mkdir(exist_ok=True)
    write_recipe(path, recipe)
    return Tuned(
        recipe=recipe,
        path=path,
        exact=exact,
        trials=found.trials,
        left_out=found.left_out,
        finalists=finalists,
        held_out=scores,
        made_from=used.made_from() | MadeFrom(clips=tuple(clips)),
        spent_s=budget.spent,
        finished=found.finished,
        warnings=warnings,
        work=work,
    )


def _clip(clip: ClipOrigin) -> dict[str, object]:
    return {"name": clip.name, "sha256": clip.sha256, "stride": clip.stride}


def _resolved(source: NetworkSource, config: TuneConfig, inputs: Sequence[Path | str]) -> list[SequenceInput]:
    model = source.model
    if not inputs:
        return []
    return resolve_inputs(
        inputs,
        fps=config.fps,
        stride=config.stride,
        pi3_area_px=model.pi3_area_px,
        patch_px=model.patch_px,
    )


def recipe_place(config: TuneConfig, source: NetworkSource) -> Path:
    """Where the recipe goes: --out, the bundle of --bundle, or beside that where it is signed or cannot be written.

    Raises:
        GmosError: nothing can be written there.
    """
    path = config.out
    if path is None and config.networks.bundle is None:
        path = Path(f"{config.name}.json")
    if path is None:
        bundle = source.bundle()
        root = Path() if bundle is None else bundle.root
        inside = root / FOLDER / f"{config.name}.json"
        if (root / SIGNATURE).exists() or not os.access(root, os.W_OK):
            path = root.parent / f"{root.resolve().name}.{config.name}.json"
            logger.info("%s is signed or cannot be written: the recipe goes to %s", root, path)
        else:
            path = inside
            path.parent.mkdir(exist_ok=True)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise GmosError(f"{path}: nothing can be written there; name another file with --out")
    if path.is_dir():
        raise GmosError(f"--out {path} is a directory; expected a recipe's file, such as {config.name}.json")
    return path


def _search(
    config: TuneConfig,
    measurer: Measures,
    others: Measures,
    *,
    budget: Budget,
    exact: Trial,
    videos: Sequence[SequenceInput],
    held_out: Sequence[SequenceInput],
    pi3_area: int | None,
    networks: OtherNetworks,
) -> tuple[Found, list[Finalist], tuple[VideoTrial, ...], list[str]]:
    """Trials, finalists with the best first, and the scores of the best on held-out videos; and what went short."""
    share = len(held_out) / len(videos)
    reserve = exact.took_s * (config.rounds * (FINALISTS + 1) + 2 * share)
    budget.limit = budget.seconds - min(reserve, MOST_RESERVED * budget.seconds)
    stride = Counter(one.stride for one in videos).most_common(1)[0][0]
    found = search(
        config.levers,
        measurer.measure,
        exact=exact,
        target=config.target_masks,
        stride=stride,
        seed=config.seed,
        pi3_area=pi3_area,
        others=networks,
    )
    budget.limit = budget.seconds
    # Those that seemed slower than the exact run, too: what was tried once on a busy machine says little of time.
    holding = [one for one in found.trials if one.holds(config.target_masks)]
    fastest = sorted(holding, key=lambda one: one.frame_s)[:FINALISTS]
    notes: list[str] = []
    finalists = _in_turns([exact, *fastest], measurer, config.rounds, notes)
    notes += busy_notes([(one.trial.frame_s, *one.frame_s) for one in finalists])
    best = finalists[0].trial
    scores: tuple[VideoTrial, ...] = ()
    if held_out and best.levers:
        try:
            others.exact()
            tried = others.measure(best.levers)
        except OutOfTimeError:
            tried = None
        if tried is None:
            notes.append("there was no time left for the videos that were held out: they are not measured")
        else:
            scores = tried.videos
    return found, finalists, scores, notes


def _in_turns(trials: Sequence[Trial], measurer: Measures, rounds: int, notes: list[str]) -> list[Finalist]:
    """Measure the exact run and the others in turns; the fastest first, the exact run if nothing is faster."""
    if len(trials) == 1:
        return [Finalist(trial=trials[0], frame_s=(trials[0].frame_s,), speedup=1.0)]
    seconds: list[list[float]] = [[] for _ in trials]
    for number in range(rounds):
        runs = [measurer.time(trial.levers, number) for trial in trials]
        times = [run.frame_s for run in runs if run is not None]
        if len(times) < len(trials):
            notes.append(
                f"there was no time for {rounds - number} of {rounds} rounds in turns: times are less certain"
            )
            break
        for known, one in zip(seconds, times, strict=True):
            known.append(one)
    if not seconds[0]:
        seconds = [[trial.frame_s] for trial in trials]
    medians = [statistics.median(found) for found in seconds]
    finalists = [
        Finalist(trial=trial, frame_s=tuple(found), speedup=medians[0] / median)
        for trial, found, median in zip(trials, seconds, medians, strict=True)
    ]
    return sorted(finalists, key=lambda one: -one.speedup)
