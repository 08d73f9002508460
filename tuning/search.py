"""The order of trials: each lever alone from mild to strong, then those that hold together by what they promise."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .network_levers import OtherNetworks
from .trial import Trial

logger = logging.getLogger(__name__)

Levers = Mapping[str, Any]

Measure = Callable[[Levers], Trial | None]
"""Tries levers; None when there is no time left."""

GEOMETRY, PROPOSE, CONDITIONING, AREA = "geometry", "propose", "conditioning", "area"
LOCAL, PRECISION = "local", "precision"

EVERY = (2, 3, 4, 6)
"""Settings of --geometry_every and --propose_every beside the stride and its double."""

MEMORIES = (16, 8, 4, 2)
"""Settings of --max_conditioning."""

AREA_SHARES = (0.8, 0.65, 0.5)
"""Of the networks' area, settings of --pi3_area."""

CHANGE_SHARES = (0.9, 0.75, 0.5, 0.4, 0.25)
"""Of the gaps, how many stay interpolated where a threshold decodes the others: the fastest first."""

NO_CHANGE = 1e9
"""A threshold that no change is above: it decodes nothing more, and tells the changes."""

KEPT_PER_LEVER = 3
"""Settings of a lever, the fastest that hold, that are combined with those of others."""

MOST_COMBINATIONS = 24

NO_OTHERS = OtherNetworks()


@dataclass(slots=True, kw_only=True)
class Found:
    """What a search has found: all trials in order, and what it did not try, in words."""

    trials: list[Trial] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    finished: bool = True


def search(
    names: Sequence[str],
    measure: Measure,
    *,
    exact: Trial,
    target: float,
    stride: int,
    seed: int,
    pi3_area: int | None = None,
    others: OtherNetworks = NO_OTHERS,
) -> Found:
    """Try levers alone, then together, until nothing that holds can be faster.

    Every decision follows from the trials before it, so that trials that are known lead to the same ones again.

    Args:
        names: of the levers, of `config.SEARCHED`.
        measure: tries levers.
        exact: the exact run, with the prompts and memories of each video.
        target: mean IoU that every result of every video must keep.
        stride: of the videos' windows in frames, the commonest one.
        seed: decides between combinations that promise the same.
        pi3_area: of the networks, in pixels; None where they take one size only.
        others: networks that may be tried.
    """
    found = Found()
    alone: dict[str, list[Trial]] = {}
    try:
        for name in names:
            if name in (LOCAL, PRECISION):
                trials = _networks(measure, found, target, name, others)
            elif name == AREA:
                trials = _area(measure, found, target, pi3_area)
            else:
                trials = LADDERS[name](measure, found, exact, target, stride)
            alone[name] = _fastest_first(trial for trial in trials if trial.holds(target))
        _combine(alone, measure, found, exact=exact, target=target, seed=seed)
    except _OutOfTimeError:
        found.finished = False
        found.left_out.append("what was not tried when the time was over")
    return found


class _OutOfTimeError(Exception):
    """No trial fits into the time that is left."""


def _tried(levers: Levers, measure: Measure, found: Found) -> Trial:
    trial = measure(levers)
    if trial is None:
        raise _OutOfTimeError
    found.trials.append(trial)
    return trial


def _fastest_first(trials: Iterator[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: trial.frame_s)


def _geometry(measure: Measure, found: Found, _: Trial, target: float, stride: int) -> Iterator[Trial]:
    """Wider gaps until even the widest gaps with a threshold do not hold."""
    for every in sorted({*EVERY, *(one for one in (stride, 2 * stride) if 1 < one <= 2 * EVERY[-1])}):
        trial = _tried({"geometry_every": every, "geometry_change": NO_CHANGE}, measure, found)
        plain = Trial(levers={"geometry_every": every}, videos=trial.videos, took_s=0.0)
        found.trials[-1] = plain
        yield plain
        if plain.holds(target):
            continue
        changes = sorted(change for video in trial.videos for change in video.changes)
        for threshold in dict.fromkeys(_quantile(changes, share) for share in CHANGE_SHARES if changes):
            adaptive = _tried({"geometry_every": every, "geometry_change": threshold}, measure, found)
            yield adaptive
            if adaptive.holds(target):
                break
        else:
            found.left_out.append(
                f"geometry_every above {every}: the masks do not hold there, with no threshold that was tried"
            )
            return


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The value that so many are not above, with four digits: it is an option that people read."""
    value = ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return float(f"{value:.4g}")


def _propose(measure: Measure, found: Found, exact: Trial, _: float, stride: int) -> Iterator[Trial]:
    """All of them: where a prompt falls is luck, and a stronger setting may hold where a milder one failed."""
    if all(video.prompts is None for video in exact.videos):
        found.left_out.append("propose_every: GMOS-S proposes nothing")
        return
    for every in sorted({*EVERY, *((stride,) if 1 < stride <= 2 * EVERY[-1] else ())}):
        yield _tried({"propose_every": every}, measure, found)


def _conditioning(measure: Measure, found: Found, exact: Trial, target: float, _: int) -> Iterator[Trial]:
    """Fewer memories until the masks do not hold."""
    most = max((video.memories or 0 for video in exact.videos), default=0)
    fewer = [count for count in MEMORIES if count < most]
    if not fewer:
        found.left_out.append(f"max_conditioning: no object has more than {most} conditioning memories")
    for count in fewer:
        trial = _tried({"max_conditioning": count}, measure, found)
        yield trial
        if not trial.holds(target):
            if count != fewer[-1]:
                found.left_out.append(f"max_conditioning below {count}: the masks do not hold there")
            return


def _area(measure: Measure, found: Found, target: float, pi3_area: int | None) -> Iterator[Trial]:
    """Fewer pixels until the masks do not hold."""
    if pi3_area is None:
        found.left_out.append("pi3_area: engines take the sizes that they were built for")
        return
    for share in AREA_SHARES:
        trial = _tried({"pi3_area": int(share * pi3_area)}, measure, found)
        yield trial
        if not trial.holds(target):
            if share != AREA_SHARES[-1]:
                found.left_out.append(f"pi3_area below {int(share * pi3_area)}: the masks do not hold there")
            return


def _networks(
    measure: Measure, found: Found, target: float, name: str, others: OtherNetworks
) -> Iterator[Trial]:
    """Every other precision or bundle; more local layers until the masks do not hold."""
    if others.left_out and name in others.left_out:
        found.left_out.append(others.left_out[name])
    settings = others.local if name == LOCAL else others.precision
    for place, levers in enumerate(settings):
        trial = _tried(levers, measure, found)
        yield trial
        if name == LOCAL and not trial.holds(target):
            if place + 1 < len(settings):
                (count,) = levers.values()
                found.left_out.append(f"local_layers above {count}: the masks do not hold there")
            return


LADDERS: Mapping[str, Callable[[Measure, Found, Trial, float, int], Iterator[Trial]]] = {
    GEOMETRY: _geometry,
    PROPOSE: _propose,
    CONDITIONING: _conditioning,
}


@dataclass(frozen=True, slots=True)
class _Combination:
    """Levers that hold alone, and what they promise together.

    `speed` is how many times as fast they would be, the product of what each brings; `holds` whether they would keep
    the target, with the sum of what each takes.
    """

    levers: Levers
    speed: float
    holds: bool


def _combine(
    alone: Mapping[str, Sequence[Trial]],
    measure: Measure,
    found: Found,
    *,
    exact: Trial,
    target: float,
    seed: int,
) -> None:
    """Those that promise to hold first, of these the fastest; none that a faster one has made useless."""
    best = min([exact.frame_s, *(trial.frame_s for trials in alone.values() for trial in trials)])
    choices = [[None, *trials[:KEPT_PER_LEVER]] for trials in alone.values()]
    combinations = []
    for chosen in itertools.product(*choices):
        parts = [one for one in chosen if one is not None]
        if len(parts) > 1:
            levers = {name: value for one in parts for name, value in one.levers.items()}
            speed = math.prod(exact.frame_s / one.frame_s for one in parts)
            combinations.append(
                _Combination(levers, speed, 1 - sum(1 - one.worst for one in parts) >= target)
            )
    # Of those that promise the same the seed decides, not the order in which levers are named.
    random.Random(seed).shuffle(combinations)  # noqa: S311 - no secret
    combinations.sort(key=lambda one: (not one.holds, -one.speed))
    slow, failed = 0, list[Levers]()
    for tried, one in enumerate(combinations):
        part = next((known for known in failed if known.items() <= one.levers.items()), None)
        if part is not None or exact.frame_s / one.speed >= best:
            slow += 1
            continue
        if tried - slow >= MOST_COMBINATIONS:
            found.left_out.append(f"{len(combinations) - tried} more combinations of what holds alone")
            break
        trial = _tried(one.levers, measure, found)
        if trial.holds(target):
            best = min(best, trial.frame_s)
        else:
            failed.append(one.levers)
    if slow:
        found.left_out.append(
            f"{slow} combinations of what holds alone, which promise less than the fastest one that was found, or of "
            "which a part did not hold"
        )


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs of speed and agreement those that no other is at least as good as in both, the slowest first."""
    kept: list[tuple[float, float]] = []
    best = -math.inf
    for speed, agreement in sorted(set(points), reverse=True):
        if agreement > best:
            kept.append((speed, agreement))
            best = agreement
    return kept[::-1]
