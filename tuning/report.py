"""What a search found as a report: the frontier of speed against agreement, every trial, and the counted arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..evaluation.report.document import (
    Block,
    Card,
    Cell,
    Column,
    Document,
    Facts,
    Plot,
    Remarks,
    Section,
    Table,
    Text,
)
from ..evaluation.report.environment import environment
from ..evaluation.report.files import publish
from ..evaluation.report.origins import origins_section
from ..runtime.bundle.recipe import RecipeAgreement
from ..runtime.bundle.recipe import levers_text as recipe_levers
from ..runtime.contract import Variant
from ..runtime.files.made_from import KEY
from .arithmetic import Counted, counted
from .config import TuneConfig
from .search import frontier
from .trial import Trial, agreements
from .tune import Tuned

SCHEMA = "gmos-tune/1"
"""Name and version of the JSON layout; the number rises when a reader of the old one would break."""

OBJECTS = (1, 3, 10)
"""Tracked objects that GMOS's arithmetic is counted for."""

NARROW = ("gmos-s", "gmos, 3 objects")
"""Of these counts, those that a narrow page shows."""


def report_tuned(
    config: TuneConfig, tuned: Tuned, *, directory: Path | None = None, wide: bool = False
) -> None:
    """Show what was found, and write the report if a directory is given.

    Raises:
        GmosError: it cannot be written.
    """
    made_on = environment()
    publish(
        tuned_document(config, tuned, made_on),
        {
            "schema": SCHEMA,
            "version": __version__,
            "settings": config.settings(),
            "recipe": tuned.recipe,
            "file": str(tuned.path),
            "finished": tuned.finished,
            "spent_s": tuned.spent_s,
            "exact": tuned.exact,
            "finalists": [
                {"levers": one.trial.levers, "frame_s": one.frame_s, "speedup": one.speedup}
                for one in tuned.finalists
            ],
            "held_out": tuned.held_out,
            "left_out": tuned.left_out,
            "warnings": tuned.warnings,
            "counted": {
                name: [{"name": one.name, "tera": one.tera, "saves": one.saves} for one in rows]
                for name, rows in _counted(tuned).items()
            },
            KEY: tuned.made_from,
            "environment": made_on,
        },
        tuned.trials,
        wide=wide,
        report=directory,
    )


def levers_text(trial: Trial) -> str:
    """The levers of a trial as options have them."""
    return recipe_levers(trial.levers) or "exact"


def _speedup(tuned: Tuned, trial: Trial) -> float:
    """How many times as fast as the exact run: in turns where that was measured, else as it was tried."""
    for one in tuned.finalists:
        if one.trial.levers == trial.levers:
            return one.speedup
    return tuned.exact.frame_s / trial.frame_s


def tuned_document(config: TuneConfig, tuned: Tuned, made_on: dict[str, Any]) -> Document:
    """The report."""
    recipe = tuned.recipe
    worst = min((one.worst for one in recipe.agreement), default=1.0)
    held = min((one.worst for one in recipe.held_out), default=None)
    cards = [
        Card("Speed", f"{recipe.speedup:.2f} x", f"of the exact run, on {recipe.device}"),
        Card(
            "Agreement", f"{worst:.3f}", f"the worst result of a tuning video; target {recipe.target_masks:g}"
        ),
        Card("Held out", "–" if held is None else f"{held:.3f}", "the worst result of a video not tuned on"),
        Card("Trials", f"{len(tuned.trials)}", f"in {tuned.spent_s / 60:.0f} minutes"),
    ]
    use = recipe.name if tuned.path.parent.name == "recipes" else str(tuned.path)
    best = tuned.finalists[0].trial
    networks = "".join(f"--{name} {value} " for name, value in recipe.networks.items())
    sections = [
        Section(
            "The recipe",
            [
                Facts(
                    [
                        ("levers", levers_text(best)),
                        ("file", str(tuned.path)),
                        ("run it", f"gmos-run {networks}--recipe {use}"),
                    ]
                )
            ],
        ),
        Section("Speed against agreement", [_plot(config, tuned), *_explained()]),
        Section("Trials", [_trials(config, tuned)]),
        Section("In turns with the exact run", [_turns(tuned)] if len(tuned.finalists) > 1 else []),
        Section("What the recipe keeps", [_kept(tuned)] if recipe.agreement else []),
        Section("Not tried", [Remarks(tuned.left_out)] if tuned.left_out else []),
        Section("Counted at the published size", _arithmetic(tuned), "page"),
        origins_section(tuned.made_from),
    ]
    return Document(
        title=f"gmos-export tune: the fastest of {recipe.variant} that keeps {recipe.target_masks:g} of masks",
        lead=f"{made_on['date']}, gmos-deploy {__version__}",
        cards=cards,
        remarks=Section("Before you rely on it", [Remarks(tuned.warnings, word="warning")]),
        verdict=Card("Recipe", recipe.name, "" if best.levers else "nothing that holds was faster"),
        sections=sections,
        environment=made_on,
    )


def _points(tuned: Tuned) -> list[tuple[float, float, str]]:
    return [
        (speed, trial.worst, f"{levers_text(trial)}: {speed:.2f} times as fast, agreement {trial.worst:.3f}")
        for trial in (tuned.exact, *tuned.trials)
        for speed in (_speedup(tuned, trial),)
    ]


def _plot(config: TuneConfig, tuned: Tuned) -> Plot:
    points = _points(tuned)
    return Plot(
        points=points,
        across="times as fast as the exact run",
        up="agreement of the worst result of a video, mean IoU",
        caption="Each point is a trial; its words tell the levers. The line joins those that nothing beats in both; "
        "the dashed one is the target.",
        joined=False,
        near_one=True,
        line=frontier([(x, y) for x, y, _ in points]),
        limit=config.target_masks,
    )


def _explained() -> list[Block]:
    return [
        Text(
            "Speed is of the whole pipeline on the tuning videos, without decoding ahead and writing. Agreement is "
            "with the exact run on the same device, objects matched over the whole video; it is no quality: a mask "
            "that agrees less may be better or worse."
        )
    ]


def _trials(config: TuneConfig, tuned: Tuned) -> Table[Trial]:
    def agreement(result: str, kind: str) -> Column[Trial]:
        def get(trial: Trial) -> Cell | None:
            known = {one.result: one for one in agreements(trial.videos)}
            if result not in known:
                return None
            value: float = getattr(known[result], kind)
            return Cell(
                f"{value:.3f}", value, "" if kind == "mean" or value >= config.target_masks else "bad"
            )

        if kind == "mean":
            return Column(result, get, ".3f", "mean of videos", "room")
        return Column(result, get, ".3f", "worst video")

    results = [score.result for score in (tuned.trials or (tuned.exact,))[0].videos[0].scores]
    return Table(
        columns=[
            Column("levers", levers_text),
            Column("speed", lambda trial: _speedup(tuned, trial), ".2f", "x exact"),
            Column("a frame", lambda trial: 1000 * trial.frame_s, ".1f", "ms, as tried", "room"),
            *(agreement(result, kind) for result in results for kind in ("worst", "mean")),
            Column("decoded", lambda trial: trial.share("decoded"), ".0%", "of frames", "room"),
            Column("proposed", lambda trial: trial.share("proposed"), ".0%", "of frames", "room"),
        ],
        entries=sorted((tuned.exact, *tuned.trials), key=lambda trial: -_speedup(tuned, trial)),
    )


def _turns(tuned: Tuned) -> Table[Any]:
    return Table(
        columns=[
            Column("levers", lambda one: levers_text(one.trial)),
            Column("speed", lambda one: one.speedup, ".2f", "x exact, medians"),
            Column(
                "a frame",
                lambda one: ", ".join(f"{1000 * value:.1f}" for value in one.frame_s),
                "",
                "ms, each round",
            ),
        ],
        entries=tuned.finalists,
    )


def _kept(tuned: Tuned) -> Table[Any]:
    recipe = tuned.recipe
    rows = [
        *(("tuned on", one) for one in recipe.agreement),
        *(("held out", one) for one in recipe.held_out),
    ]

    def of(get: str) -> Any:  # noqa: ANN401 - a column's value
        def value(row: tuple[str, RecipeAgreement]) -> float | str:
            found: float | str = getattr(row[1], get)
            return found

        return value

    return Table(
        columns=[
            Column("result", of("result")),
            Column("videos", lambda row: row[0]),
            Column("mean", of("mean"), ".3f", "of videos"),
            Column("worst", of("worst"), ".3f", "video"),
            Column("which", of("worst_video"), shown="room"),
        ],
        entries=rows,
    )


def _counted(tuned: Tuned) -> dict[str, list[Counted]]:
    """Rows by what is counted; the recipe with the shares of frames that it had on the tuning videos."""
    best, variant = tuned.finalists[0].trial, tuned.recipe.variant
    shares = {name: share for name in ("decoded", "proposed") if (share := best.share(name)) is not None}
    shares |= {name: best.levers[name] for name in ("local_layers",) if name in best.levers}
    more = {f"the recipe ({levers_text(best)}), with its shares here": shares} if shares else {}
    both: tuple[Variant, ...] = ("gmos-s", "gmos")
    return {
        f"{one}, {objects} object{'s' * (objects != 1)}" if one == "gmos" else one: counted(
            one, objects, more if one == variant else {}
        )
        for one in both
        for objects in (OBJECTS if one == "gmos" else (0,))
    }


def _arithmetic(tuned: Tuned) -> Sequence[Block]:
    found = _counted(tuned)
    names = list(dict.fromkeys(row.name for rows in found.values() for row in rows))
    by_name = {title: {row.name: row for row in rows} for title, rows in found.items()}

    def tera(title: str) -> Column[str]:
        def get(name: str) -> Cell | None:
            row = by_name[title].get(name)
            return None if row is None else Cell(f"{row.tera:.1f} ({row.saves:.2f} x)", row.tera)

        return Column(title, get, ".1f", "10^12, and exact over it", "always" if title in NARROW else "room")

    return [
        Text(
            "Operations a frame of the published networks on 672x378 pixels, counted, not timed; a device gains less "
            "where it waits for memory or for the host."
        ),
        Table(columns=[Column("levers", lambda name: name), *map(tera, by_name)], entries=names),
    ]
