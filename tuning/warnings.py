"""What a reader of a recipe must know before relying on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .config import TuneConfig
from .search import Found
from .trial import Trial, VideoTrial, agreements

FEW_VIDEOS = 3
SHORT_FRAMES = 100
"""A video of fewer frames has few decisions in it."""
STILL_SHARE = 0.1
"""Of the frames: with fewer that move, masks agree because there are none."""
FEW_PROMPTS = 10
BUSY_SPREAD = 1.5
"""Of the times of the same settings, the longest over the shortest: beyond it the machine did other work."""


def warnings_of(
    config: TuneConfig,
    exact: Trial,
    best: Trial,
    *,
    held_out: Sequence[VideoTrial],
    found: Found,
    notes: Sequence[str],
) -> Iterator[str]:
    """Each in a sentence."""
    count = len(exact.videos)
    if count < FEW_VIDEOS:
        yield (
            f"tuned on {count} video{'s' * (count != 1)}: others may keep less; give {FEW_VIDEOS} or more, "
            "like those that it will run on"
        )
    for video in exact.videos:
        if video.frames < SHORT_FRAMES:
            yield f"{video.video} has {video.frames} frames: too short to say much, {SHORT_FRAMES} or more do"
        if video.moving < STILL_SHARE * video.frames:
            still = f"{video.video} hardly moves ({video.moving} of {video.frames} frames)"
            yield f"{still}: masks agree where there are none"
    prompts = [video.prompts for video in exact.videos if video.prompts is not None]
    if prompts and sum(prompts) < FEW_PROMPTS:
        yield (
            f"the masks of GMOS rest on {sum(prompts)} prompts: whether other settings hit them is luck, and says "
            "little about other videos"
        )
    if not best.levers:
        yield "nothing that keeps the masks was faster: the recipe is the exact run"
    if not config.held_out:
        yield "no video was held out: what the recipe keeps elsewhere is not known; name some with --held_out"
    for one in agreements(held_out):
        if one.worst < config.target_masks:
            yield (
                f"{one.result} of {one.worst_video}, which was held out, keeps {one.worst:.3f}, below the target of "
                f"{config.target_masks:g}"
            )
    if not found.finished:
        yield f"the time was over after {len(found.trials)} trials: raise --budget_minutes for more"
    yield from notes


def busy_notes(times: Sequence[Sequence[float]]) -> list[str]:
    """What is to be said where the same settings took different times.

    Args:
        times: of each of some settings, its runs in seconds a frame; one or more.
    """
    spread = max(max(runs) / min(runs) for runs in times)
    if spread <= BUSY_SPREAD:
        return []
    return [
        f"the same settings took {spread:.1f} times as long in one run as in another: the machine did other work, and "
        "speeds say little; tune on a quiet one"
    ]
