"""Proposals on every K-th frame: the same prompts where looking back finds them, and motion of the nearest frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.runtime.levers import LEVERS, Levers
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.first_pass import FirstPassFile
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.video.inputs import resolve_inputs

FRAMES = 30
LATE = 13
"""The second box begins to move on this frame: its window sees it earlier."""


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    def boxes(index: int) -> list[tuple[int, int, int, int, int]]:
        return [(1, 2 + index, 8, 16, 24), (2, 2 + 2 * max(0, index - LATE), 60, 16, 24)]

    return colour_video("clip", [boxes(index) for index in range(FRAMES)])


@pytest.fixture
def run(colour_backend: Callable[..., Any], clip: Path) -> Callable[..., Any]:
    """Runs the clip: the answers, the run and its backend."""

    def call(
        video: Path = clip,
        *,
        first_pass: FirstPassFile | None = None,
        before: set[tuple[int, ...]] | None = None,
        **options: Any,
    ) -> Any:
        backend = colour_backend("gmos")
        if before is not None:
            dino = backend._dino

            def noted(frames: Any) -> Any:
                before.add(frames.shape[1:])
                return dino(frames)

            backend._dino = noted
        (sequence,) = resolve_inputs(
            [video],
            fps=None,
            stride=1,
            pi3_area_px=backend.model.pi3_area_px,
            patch_px=backend.model.patch_px,
        )
        levers = Levers(**{name: options.pop(name) for name in LEVERS if name in options})
        clip_run = ClipRun(backend, sequence, RunOptions(levers=levers, **options), first_pass=first_pass)
        return list(clip_run), clip_run, backend

    return call


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("every", [2, 3, 5, 16])
def test_looking_back_finds_the_prompts_of_the_exact_run(
    run: Callable[..., Any], every: int, batch_size: int
) -> None:
    """A tracker that never errs is prompted on the same frames, up to the last that is proposed; MOS is the same."""
    exact, exact_run, _ = run()
    found, sparse, backend = run(propose_every=every, batch_size=batch_size)
    last = np.flatnonzero(sparse.tracks.proposals.known)[-1]
    assert last == (FRAMES - 1) // every * every
    expected = [(frame, o) for frame, o in exact_run.tracks.mos_i.prompts if frame <= last]
    assert list(sparse.tracks.mos_i.prompts) == expected
    assert (LATE - 1, 1) in expected
    assert all(np.array_equal(one.mos, other.mos) for one, other in zip(found, exact, strict=True))
    summary = sparse.summary
    assert summary.proposed_frames == backend.seen["proposer"] == backend.seen["pi3_decoder"] <= FRAMES
    assert summary.decoded_frames == summary.proposed_frames
    assert backend.seen["sam2_encoder"] == FRAMES
    assert max(backend.batches["proposer"]) <= batch_size


def test_frames_that_were_passed_over_move_as_the_nearest_proposed_one(
    run: Callable[..., Any], colour_video: Callable[..., Path]
) -> None:
    """Of two equally near ones, as the earlier."""
    # One box moves all the time and is prompted once: no second prompt looks back where gaps are long.
    video = colour_video("two", [[(1, 2 + 3 * min(i, 12), 8, 16, 24)] for i in range(20)])
    found, sparse, _ = run(video, propose_every=4, thresholds=_without_reinforcement())
    known = np.flatnonzero(sparse.tracks.proposals.known)
    assert known.tolist() == [0, 1, 2, 4, 8, 12, 16]
    exact, _, _ = run(video, thresholds=_without_reinforcement())
    moving = [bool(one.mos_i.any()) for one in exact]
    assert moving[12] != moving[16]
    expected = [moving[known[np.abs(known - frame).argmin()]] for frame in range(20)]
    assert [bool(one.mos_i.any()) for one in found] == expected
    assert expected[14] == moving[12], "a tie"


def _without_reinforcement() -> Any:
    from gmos_deploy.runtime.pipeline.thresholds import Thresholds

    return Thresholds(prompt_gap_frames=1000)


def test_a_first_pass_that_was_kept_knows_what_was_proposed(run: Callable[..., Any], tmp_path: Path) -> None:
    """A resumed run answers the same and proposes nothing again."""
    kept = FirstPassFile(path=tmp_path / "kept.npz", settings={}, resume=True)
    expected, _, _ = run(propose_every=3, first_pass=kept)
    found, again, backend = run(propose_every=3, first_pass=kept)
    assert (backend.seen["proposer"], backend.seen["dino"]) == (0, 0)
    assert again.tracks.proposals.known is not None
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.mos_i, other.mos_i)
        assert np.array_equal(one.mos, other.mos)


def test_nothing_moves(run: Callable[..., Any], colour_video: Callable[..., Path]) -> None:
    """No start frame, no look back."""
    video = colour_video("still", [[(1, 4, 8, 16, 24)]] * 9)
    found, sparse, _ = run(video, propose_every=3)
    assert not any(one.mos_i.any() or one.mos.any() for one in found)
    assert sparse.summary.proposed_frames == 5, "0 1 2 3 6"


def test_what_begins_to_move_late_starts_the_tracks_where_it_does(
    run: Callable[..., Any], colour_video: Callable[..., Path]
) -> None:
    """Also where the proposer had passed that frame over."""
    video = colour_video("late", [[(1, 2 + 2 * max(0, i - 6), 8, 16, 24)] for i in range(20)])
    _, exact, _ = run(video)
    _, sparse, _ = run(video, propose_every=4)
    assert exact.tracks.mos_i.prompts[0] == sparse.tracks.mos_i.prompts[0] == (5, 0)


def test_smaller_frames_for_pi3(run: Callable[..., Any]) -> None:
    """And only for Pi3; looking back sees them as well."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for options in ({}, {"pi3_area": 28 * 42, "propose_every": 5}):
        shapes[str(options)] = set()
        _, clip_run, _ = run(before=shapes[str(options)], **options)
        assert clip_run.summary.frames == FRAMES
    (whole,), (small,) = shapes.values()
    assert small[-2] * small[-1] <= 28 * 42 < whole[-2] * whole[-1]
