"""The order of trials on a device whose times and masks are known, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gmos_deploy.tuning.budget import Budget, OutOfTimeError, WithinBudget
from gmos_deploy.tuning.network_levers import OtherNetworks
from gmos_deploy.tuning.search import NO_CHANGE, frontier, search
from gmos_deploy.tuning.trial import Score, Trial, VideoTrial, agreements
from gmos_deploy.tuning.warnings import busy_notes

CHANGES = tuple(share / 100 for share in range(100))


class Device:
    """Each lever multiplies the time, and takes from the agreement; `most` trials fit into the time."""

    def __init__(self, agreement: Mapping[str, float], *, most: int = 1000, memories: int = 20) -> None:
        self.agreement = agreement
        self.most = most
        self.memories = memories
        self.tried: list[dict[str, Any]] = []

    def trial(self, levers: Mapping[str, Any]) -> Trial:
        seconds, iou = 1.0, 1.0
        for name, value in levers.items():
            if name == "geometry_every":
                change = levers.get("geometry_change", NO_CHANGE)
                decoded = sum(one > change for one in CHANGES) / len(CHANGES)
                seconds *= decoded + (1 - decoded) / value
                iou -= (1 - decoded) * self.agreement[name] * (value - 1)
            elif name == "propose_every":
                seconds *= 0.5 + 0.5 / value
                iou -= self.agreement[name] * (value - 1)
            elif name == "bundle":
                seconds *= 0.8
                iou -= 0.005
            elif name == "local_layers":
                seconds *= 1 - 0.05 * value
                iou -= 0.015 * value
            elif name == "max_conditioning":
                seconds *= 0.9 + 0.1 * value / 20
                iou -= self.agreement[name] * (20 - value)
        video = VideoTrial(
            video="street",
            frames=10,
            seconds=10 * seconds,
            scores=(Score(result="mos", mean_iou=iou, worst_frame_iou=iou),),
            changes=CHANGES if "geometry_change" in levers else (),
            prompts=12,
            memories=self.memories,
            moving=10,
        )
        return Trial(levers=dict(levers), videos=(video,), took_s=10 * seconds)

    def measure(self, levers: Mapping[str, Any]) -> Trial | None:
        if len(self.tried) == self.most:
            return None
        self.tried.append(dict(levers))
        return self.trial(levers)


def run(device: Device, *, target: float = 0.95, seed: int = 0, names: tuple[str, ...] | None = None) -> Any:
    every = ("geometry", "propose", "conditioning")
    return search(names or every, device.measure, exact=device.trial({}), target=target, stride=3, seed=seed)


COSTS = {"geometry_every": 0.04, "propose_every": 0.015, "max_conditioning": 0.001}


def test_levers_alone_then_together() -> None:
    """Geometry until a threshold does not help, every setting of proposals, memories until they do not hold."""
    device = Device(COSTS)
    found = run(device)
    assert found.finished
    levers = [trial.levers for trial in found.trials]
    assert levers[0] == {"geometry_every": 2}, "0.96"
    assert levers[1] == {"geometry_every": 3}, "0.92: with thresholds then"
    assert [one.get("geometry_change") for one in levers[2:5]] == [0.9, 0.75, 0.5], "half of the gaps hold"
    assert levers[5] == {"geometry_every": 4}
    assert {"propose_every": 6} in levers, "tried, though 4 does not hold"
    assert [one for one in levers if set(one) == {"max_conditioning"}] == [
        {"max_conditioning": 16}, {"max_conditioning": 8}, {"max_conditioning": 4}, {"max_conditioning": 2}
    ]  # fmt: skip
    together = [one for one in levers if len(one) > 1 and set(one) != {"geometry_every", "geometry_change"}]
    assert together, "what holds alone is combined"
    holding = [trial for trial in found.trials if trial.holds(0.95)]
    best = min(holding, key=lambda trial: trial.frame_s)
    assert best.frame_s <= min(trial.frame_s for trial in holding if len(trial.levers) == 1)
    assert len(levers) == len(device.tried)


def test_other_networks() -> None:
    """Local layers until the masks do not hold, every bundle; both are combined with levers of a run."""
    others = OtherNetworks(
        precision=[{"bundle": "fp16"}, {"bundle": "int8"}],
        local=[{"local_layers": count} for count in (1, 2, 6, 9)],
        left_out={"local": "none of 12"},
    )
    device = Device(COSTS)
    names = ("geometry", "local", "precision")
    found = search(
        names, device.measure, exact=device.trial({}), target=0.95, stride=3, seed=0, others=others
    )
    levers = [trial.levers for trial in found.trials]
    local = [one["local_layers"] for one in levers if set(one) == {"local_layers"}]
    assert local == [1, 2, 6], "0.91: no more are tried"
    assert {"local_layers above 6: the masks do not hold there", "none of 12"} <= set(found.left_out)
    assert {"bundle": "fp16"} in levers
    assert {"bundle": "int8"} in levers
    assert any({"bundle", "local_layers"} <= set(one) for one in levers)


def test_the_same_again() -> None:
    """Every decision follows from the trials."""
    assert run(Device(COSTS)).trials == run(Device(COSTS)).trials


def test_it_stops_at_its_time() -> None:
    """With what it has, which is the beginning of the whole search."""
    whole = run(Device(COSTS))
    for most in (0, 1, 7):
        found = run(Device(COSTS, most=most))
        assert not found.finished
        assert found.trials == whole.trials[:most]
        assert found.left_out[-1] == "what was not tried when the time was over"


def test_nothing_holds() -> None:
    """No combination is tried; wider gaps are not either, and that is said."""
    found = run(Device({"geometry_every": 2.0, "propose_every": 2.0, "max_conditioning": 2.0}))
    assert not any(trial.holds(0.95) for trial in found.trials)
    assert not any(
        "geometry_every" in one.levers and one.levers["geometry_every"] > 2 for one in found.trials
    )
    assert any(line.startswith("geometry_every above 2") for line in found.left_out)
    assert any(line.startswith("max_conditioning below 16") for line in found.left_out)


def test_levers_that_nothing_can_gain() -> None:
    """Few memories."""
    found = run(Device(COSTS, memories=2), names=("conditioning",))
    assert not found.trials
    assert found.left_out[0] == "max_conditioning: no object has more than 2 conditioning memories"


def test_combinations_that_promise_too_little_are_not_tried() -> None:
    """Once a faster one holds; and those that promise to hold are tried before the others."""
    found = run(Device({**COSTS, "geometry_every": 0.001, "propose_every": 0.001}))
    assert any("which promise less than the fastest" in line for line in found.left_out)
    together = [one for one in found.trials if len(one.levers.keys() - {"geometry_change"}) > 1]
    assert together[0].holds(0.95)


def test_frontier() -> None:
    """What nothing beats in both, from slow and exact to fast."""
    points = [(1.0, 1.0), (1.5, 0.97), (1.4, 0.9), (2.0, 0.5), (1.5, 0.96), (0.9, 1.0)]
    assert frontier(points) == [(1.0, 1.0), (1.5, 0.97), (2.0, 0.5)]


def test_times_of_a_busy_machine() -> None:
    """Runs of the same settings that differ much are told."""
    assert busy_notes([(0.2, 0.21, 0.25), (0.1, 0.1)]) == []
    (line,) = busy_notes([(0.2, 0.21), (0.1, 0.21)])
    assert line.startswith(
        "the same settings took 2.1 times as long in one run as in another: the machine did other"
    )


def test_agreement_is_per_result() -> None:
    """Mean and worst video."""
    videos = [
        VideoTrial(
            video=name,
            frames=1,
            seconds=1.0,
            scores=tuple(
                Score(result=r, mean_iou=v, worst_frame_iou=v) for r, v in (("mos-i", a), ("mos", b))
            ),
        )
        for name, a, b in (("one", 0.9, 1.0), ("two", 0.7, 0.5))
    ]
    first, second = agreements(videos)
    assert (first.result, first.worst, first.worst_video) == ("mos-i", 0.7, "two")
    assert first.mean == pytest.approx(0.8)
    assert (second.result, second.mean) == ("mos", 0.75)


def test_a_budget_counts_work_that_is_there() -> None:
    """As if this process had done it, and ends a run in its middle."""
    now = [100.0]
    budget = Budget(10.0, clock=lambda: now[0])
    budget.spend(4.0)
    with budget.running() as taken:
        now[0] += 3.0
        budget.check()
        assert (taken(), budget.spent) == (3.0, 7.0)
    now[0] += 1000.0
    assert budget.spent == 7.0, "time outside does not count"
    budget.limit = 7.0
    with pytest.raises(OutOfTimeError):
        budget.check()

    class Silent:
        def stage(self, name: str, frames: int | None) -> Any:
            from contextlib import nullcontext

            return nullcontext(lambda _: None)

    budget.limit = 8.0
    with WithinBudget(Silent(), budget).stage("x", None) as advance, budget.running():
        advance(1)
        now[0] += 1.0
        with pytest.raises(OutOfTimeError):
            advance(1)
