"""Levers: what they take, and what of them is in a run's settings."""

from __future__ import annotations

from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.levers import EXACT, Levers
from gmos_deploy.runtime.pipeline.options import RunOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"geometry_every": 0}, "--geometry_every 0: expected a whole number of frames from 1 to 64"),
        ({"geometry_every": True}, "--geometry_every True: expected a whole number"),
        ({"propose_every": 65}, "--propose_every 65: expected a whole number of frames from 1 to 64"),
        ({"propose_every": 2.0}, "--propose_every 2.0: expected a whole number"),
        (
            {"geometry_every": 2, "geometry_change": -0.1},
            "--geometry_change -0.1: expected a share of 0 or more",
        ),
        ({"geometry_every": 2, "geometry_change": float("nan")}, "--geometry_change nan: expected a share"),
        ({"geometry_every": 2, "geometry_change": True}, "--geometry_change True: expected a share"),
        ({"pi3_area": 0}, "--pi3_area 0: expected a whole number of pixels, such as 127500"),
        ({"pi3_area": 1e5}, "--pi3_area 100000.0: expected a whole number"),
        ({"geometry_change": 0.1}, "give --geometry_every of 2 or more with it"),
    ],
)
def test_what_is_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    """With what would do."""
    with pytest.raises(GmosError, match=message):
        Levers(**given)


def test_settings_name_what_is_not_exact() -> None:
    """Results of exact runs have the settings that they had before there were levers."""
    assert RunOptions(levers=Levers()).settings() == RunOptions().settings() == {}
    assert EXACT.dense
    assert Levers(pi3_area=1000).dense
    levers = Levers(geometry_every=3, geometry_change=0.2, propose_every=2)
    assert RunOptions(levers=levers, mos_i_only=True).settings() == {
        "geometry_every": 3,
        "geometry_change": 0.2,
        "propose_every": 2,
        "mos_i_only": True,
    }


def test_gmos_s_proposes_nothing() -> None:
    """What only GMOS has is refused for it, and geometry is not."""
    RunOptions(levers=Levers(geometry_every=2)).require("gmos-s")
    for options in (RunOptions(levers=Levers(propose_every=2)), RunOptions(mos_i_only=True)):
        options.require("gmos")
        with pytest.raises(GmosError, match=r"--\w+ is for GMOS, .* this is gmos-s; leave it out"):
            options.require("gmos-s")


def test_a_stream_takes_exact_levers_only() -> None:
    """Others would wait for frames that are still to come."""
    EXACT.require_file()
    with pytest.raises(GmosError, match="--geometry_every 2 is for files: a live answer would wait"):
        Levers(geometry_every=2).require_file()
    RunOptions(max_conditioning=8, levers=Levers(pi3_area=1000)).require_stream()
    with pytest.raises(GmosError, match="--mos_i_only is for files: a stream has no second pass"):
        RunOptions(mos_i_only=True).require_stream()


def test_frames_that_wait() -> None:
    """None more than in an exact run at the exact setting; a bound on what a sparse run keeps beside them."""
    assert EXACT.waiting_frames(6) == 0
    assert Levers(geometry_every=3).waiting_frames(6) == 4
    assert Levers(propose_every=4).waiting_frames(6) == 3 + 12
