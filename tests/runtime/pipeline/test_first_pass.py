"""What is kept of a run that ends between its passes, and a resumed run that goes on from it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.first_pass import FirstPassFile
from gmos_deploy.runtime.pipeline.options import ConditioningLimit, RunOptions
from gmos_deploy.runtime.video.inputs import resolve_inputs

FRAMES = 40
LIMIT = ConditioningLimit(
    most=2, problem="the engine takes 2", ways="build one for more, or --max_conditioning 2"
)


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    """A box that moves through all frames: stage 2 prompts a tenth of them."""
    return colour_video("clip", [[(1, 4 + index, 8, 16, 24)] for index in range(FRAMES)])


@pytest.fixture
def run(colour_backend: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs a video with a place for its first pass: the answers, and the backend that gave them."""

    def call(
        clip: Path, *, resume: bool = True, settings: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        backend = colour_backend("gmos")
        (sequence,) = resolve_inputs(
            [clip], fps=None, stride=1, pi3_area_px=backend.model.pi3_area_px, patch_px=backend.model.patch_px
        )
        kept = FirstPassFile(path=tmp_path / "kept.npz", settings=settings or {"stride": 1}, resume=resume)
        clip_run = ClipRun(backend, sequence, RunOptions(**options), first_pass=kept)
        return list(clip_run), backend, clip_run.summary

    return call


def same(a: list[FrameResult], b: list[FrameResult]) -> bool:
    return len(a) == len(b) and all(
        one.time_s == other.time_s
        and np.array_equal(one.mos_i, other.mos_i)
        and np.array_equal(one.mos, other.mos)
        and all(np.array_equal(one.ious[name], other.ious[name]) for name in one.ious)
        for one, other in zip(a, b, strict=True)
    )


def test_more_memories_than_the_networks_take_end_a_run_after_stage_1(
    run: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """With both ways out; the run that takes one of them proposes nothing again, and its answers are the same."""
    expected, whole, summary = run(clip, resume=False)
    assert whole.seen["pi3_decoder"] == FRAMES
    assert summary.conditioning_memories == 4
    (tmp_path / "kept.npz").unlink()
    with pytest.raises(
        GmosError,
        match="clip: an object has 4 conditioning memories, and the engine takes 2; build one for more, or --max",
    ):
        run(clip, conditioning_limit=LIMIT)
    for options in ({}, {"max_conditioning": 2, "conditioning_limit": LIMIT}):
        found, backend, summary = run(clip, **options)
        assert same(found, expected), "this tracker reads no memories"
        assert (backend.seen["pi3_decoder"], backend.seen["proposer"]) == (0, 0)
        assert backend.seen["sam2_encoder"] == FRAMES
        assert summary.mos_i_objects == 1
        assert "proposals and MOS-I are those of the run that was resumed" in summary.notes


def test_an_interrupted_second_pass_keeps_the_first(
    run: Callable[..., Any], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as well as an error."""
    expected = run(clip)[0]
    (tmp_path / "kept.npz").unlink()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gmos_deploy.runtime.pipeline.stage_off.StageOff._record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(clip)
    assert (tmp_path / "kept.npz").exists()
    assert same(run(clip)[0], expected)


def test_only_a_resumed_run_of_the_same_kind_reads_it(
    run: Callable[..., Any], clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another stride begins anew and says so; no --resume begins anew."""
    with pytest.raises(GmosError):
        run(clip, conditioning_limit=LIMIT)
    assert run(clip, settings={"stride": 2})[1].seen["pi3_decoder"] == FRAMES
    assert "a first pass is there that was made with another stride; beginning anew" in caplog.text
    assert run(clip, resume=False)[1].seen["pi3_decoder"] == FRAMES


def test_another_video_under_the_same_name_is_refused(
    run: Callable[..., Any], clip: Path, colour_video: Callable[..., Path]
) -> None:
    """Its frames are compared, not its name."""
    with pytest.raises(GmosError):
        run(clip, conditioning_limit=LIMIT)
    other = colour_video("other", [[(1, 5 + index, 8, 16, 24)] for index in range(FRAMES)])
    with pytest.raises(
        GmosError, match=r"is another video than the one whose first pass was kept .*--overwrite"
    ):
        run(other)


def one_map(content: bytes) -> dict[str, Any]:
    sizes = np.zeros(FRAMES, np.int64)
    sizes[0] = len(content)
    return {"mos_i_maps": np.frombuffer(content, np.uint8), "mos_i_bytes": sizes}


DAMAGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any] | None]] = {
    "size": lambda _, about: about.update(video_hw=[64, -96]),
    "other size": lambda _, about: about.update(video_hw=about["video_hw"][::-1]),
    "settings": lambda _, about: about.update(settings=3),
    "objects": lambda _, about: about.update(objects=250),
    "rows": lambda given, _: {"motions": given["motions"][1:]},
    "numbers": lambda given, _: {"moving": given["moving"].astype("U3")},
    "slots": lambda given, _: {"ious": given["ious"][:, 1:]},
    "no matrix": lambda given, _: {"moving": given["moving"][:, 0]},
    "known": lambda given, _: {"known": np.ones(len(given["motions"]) + 1, np.bool_)},
    "times": lambda given, _: {"times_s": given["times_s"] * np.nan},
    "prompt": lambda given, _: {"prompts": given["prompts"] + FRAMES},
    "prompts": lambda given, _: {"prompts": given["prompts"].ravel()},
    "no map": lambda *_: one_map(b"map"),
    "map": lambda *_: one_map(zlib.compress(b"\1" * 10)),
    "endless map": lambda *_: one_map(zlib.compress(b"\1" * 10_000_000)),
    "label": lambda _, about: one_map(zlib.compress(b"\xff" * (about["video_hw"][0] * about["video_hw"][1]))),
}
"""What is wrong in a whole archive: of its arrays, or of what it says beside them."""


@pytest.mark.parametrize("damage", [*DAMAGES, "cut", "pickle", "nothing"])
def test_a_damaged_file_is_named(run: Callable[..., Any], clip: Path, tmp_path: Path, damage: str) -> None:
    """And never executed."""
    with pytest.raises(GmosError):
        run(clip, conditioning_limit=LIMIT)
    kept = tmp_path / "kept.npz"
    if damage in DAMAGES:
        with np.load(kept) as stored:
            arrays: dict[str, Any] = dict(stored)
        about = json.loads(arrays["about"].tobytes())
        arrays |= DAMAGES[damage](arrays, about) or {}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        np.savez(kept, **arrays)
    elif damage == "pickle":
        with kept.open("wb") as file:
            np.savez(file, about=np.array([object()], object))
    else:
        kept.write_bytes(kept.read_bytes()[: 1000 if damage == "cut" else 0])
    with pytest.raises(
        GmosError,
        match=r"kept.npz(, the first pass of an earlier run, cannot be read|: about\..*expected) .*--overwrite",
    ):
        run(clip)
