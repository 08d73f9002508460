"""Whole runs without any network: what the files hold, what is computed once, what is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.pipeline.clip import ClipRun, ClipSummary
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.completion import Existing, ResultSet
from gmos_deploy.runtime.results.formats import needs_rgb
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.reader import VideoReader

FRAMES = 14
STOPS = 6
"""The first box moves down until this frame and stands still from then on; the second never moves."""


def boxes(index: int) -> list[tuple[int, int, int, int, int]]:
    return [(1, 4 + 4 * min(index, STOPS), 8, 16, 24), (2, 40, 60, 16, 24)]


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    return colour_video("clip", [boxes(index) for index in range(FRAMES)])


def run(
    backend: Any,
    clip: Path,
    save_dir: Path,
    *,
    modes: frozenset[str] = frozenset({"mask"}),
    existing: Existing = "error",
    **options: Any,
) -> ClipSummary:
    sequence = resolve_inputs(
        [clip], fps=None, stride=1, pi3_area_px=backend.model.pi3_area_px, patch_px=backend.model.patch_px
    )[0]
    results = ResultSet(save_dir=save_dir, sequence=sequence.name, variant=backend.model.variant, modes=modes)
    clip_run = ClipRun(backend, sequence, RunOptions(**options), with_rgb=needs_rgb(modes))
    file_results(iter(clip_run), results, sequence.media, existing=existing)
    return clip_run.summary


def labels(path: Path, frame: int) -> np.ndarray:
    with Image.open(path / f"{frame:05d}.png") as image:
        return np.asarray(image)


def inside(frame: int, box: int) -> tuple[int, int]:
    """A pixel in the middle of a box."""
    _, top, left, height, width = boxes(frame)[box]
    return top + height // 2, left + width // 2


def test_gmos_labels_what_moves_while_it_moves(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """MOS-I drops the object when it stops, MOS keeps it, and the still box is in neither."""
    summary = run(colour_backend("gmos"), clip, tmp_path / "out")
    mos_i, mos = tmp_path / "out/mos-i_frame/clip", tmp_path / "out/mos_frame/clip"
    assert len(list(mos_i.glob("*.png"))) == len(list(mos.glob("*.png"))) == FRAMES
    for frame in range(FRAMES):
        moves = frame < STOPS + 2  # the window reaches two frames back
        assert labels(mos_i, frame)[inside(frame, 0)] == (1 if moves else 0), frame
        assert labels(mos, frame)[inside(frame, 0)] == 1, frame
        assert labels(mos_i, frame)[inside(frame, 1)] == 0
        assert labels(mos, frame)[inside(frame, 1)] == 0
    assert (summary.frames, summary.mos_i_objects, summary.mos_objects) == (FRAMES, 1, 1)
    assert summary.moving_frames == STOPS + 2
    assert set(summary.stage_s) == {"propose", "track MOS-I", "track MOS", "write"}


@pytest.mark.parametrize("first", [0, 4])
def test_stages_count_every_frame_once(
    colour_backend: Callable[..., Any], colour_video: Callable[..., Path], first: int
) -> None:
    """Also where MOS goes forward and backward from a frame in the middle, in which a second object moves first."""
    video = colour_video(
        "late",
        [[(1, 2 + 3 * i, 8, 16, 24), (2, 2 + 3 * max(0, i - first), 60, 16, 24)] for i in range(FRAMES)],
    )
    done: dict[str, int] = {}

    class Listener:
        @contextmanager
        def stage(self, name: str, frames: int | None) -> Iterator[Callable[[int], None]]:
            def advance(count: int) -> None:
                done[name] = done.get(name, 0) + count

            yield advance

    backend = colour_backend("gmos")
    limits = {"pi3_area_px": backend.model.pi3_area_px, "patch_px": backend.model.patch_px}
    (sequence,) = resolve_inputs([video], fps=None, stride=1, **limits)
    clip_run = ClipRun(backend, sequence, progress=Listener())
    assert len(list(clip_run)) == FRAMES
    assert clip_run.summary.mos_objects == 2
    assert done == {f"late: {stage}": FRAMES for stage in ("propose", "track MOS-I", "track MOS", "write")}


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_each_frame_goes_through_each_encoder_once(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path, batch_size: int
) -> None:
    """DINO and SAM2 see every frame once, whatever the batch; no call is larger than the batch."""
    backend = colour_backend("gmos")
    run(backend, clip, tmp_path / "out", batch_size=batch_size)
    for network in ("dino", "sam2_resize", "sam2_encoder", "pi3_decoder", "proposer", "proposal_labels"):
        assert backend.seen[network] == FRAMES, network
        assert max(backend.batches[network]) <= batch_size, network


def test_the_batch_size_does_not_change_the_result(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """Windows at the batch borders are those of the whole video."""
    for batch_size in (1, 5, 64):
        run(colour_backend("gmos"), clip, tmp_path / f"out{batch_size}", batch_size=batch_size)
    for frame in range(FRAMES):
        one, five, all_at_once = (
            labels(tmp_path / f"out{size}/mos-i_frame/clip", frame) for size in (1, 5, 64)
        )
        assert np.array_equal(one, five)
        assert np.array_equal(one, all_at_once)


@pytest.mark.parametrize("budget", [{"device_budget": 0}, {"device_budget": 0, "host_budget": 0}])
def test_where_features_lie_does_not_change_the_result(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path, budget: dict[str, int]
) -> None:
    """Features in host memory or in a file give the masks of features on the device."""
    run(colour_backend("gmos"), clip, tmp_path / "device")
    summary = run(colour_backend("gmos"), clip, tmp_path / "elsewhere", spill_dir=tmp_path, **budget)
    assert summary.feature_bytes["device"] == 0
    assert summary.feature_bytes["disk" if "host_budget" in budget else "host"] > 0
    for frame in range(FRAMES):
        assert np.array_equal(
            labels(tmp_path / "device/mos_frame/clip", frame),
            labels(tmp_path / "elsewhere/mos_frame/clip", frame),
        )


def test_gmos_s_writes_masks_probabilities_and_an_overlay(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """All modes at once, from one pass."""
    summary = run(colour_backend("gmos-s"), clip, tmp_path / "out", modes=frozenset({"mask", "prob", "mp4"}))
    assert (summary.frames, summary.moving_frames, summary.mos_i_objects) == (FRAMES, STOPS + 2, None)
    for frame in range(FRAMES):
        moves = frame < STOPS + 2
        assert labels(tmp_path / "out/frame/clip", frame)[inside(frame, 0)] == (1 if moves else 0)
        probability = labels(tmp_path / "out/prob/clip", frame)[inside(frame, 0)]
        assert probability == (242 if moves else 12), "floor(255 sigmoid(+-3))"
    with VideoReader(tmp_path / "out/mp4/clip.mp4") as overlay:
        frames = [frame.rgb for frame in overlay]
    assert len(frames) == FRAMES
    assert frames[0].shape == (64, 96, 3)


def test_gmos_overlays_show_the_object(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """The moving box takes half of the first object's colour (255, 70, 70); the still one does not."""
    run(colour_backend("gmos"), clip, tmp_path / "out", modes=frozenset({"mask", "mp4"}))
    with VideoReader(tmp_path / "out/mos_mp4/clip.mp4") as overlay:
        frame = [frame.rgb for frame in overlay][3].astype(int)
    assert np.abs(frame[inside(3, 0)] - [238, 50, 50]).max() < 20
    assert np.abs(frame[inside(3, 1)] - [30, 220, 30]).max() < 20


def test_a_video_of_one_frame_runs(
    colour_backend: Callable[..., Any], colour_video: Callable[..., Path], tmp_path: Path
) -> None:
    """Its window is five times the same frame: nothing moves and the results are empty."""
    clip = colour_video("one", [boxes(0)])
    summary = run(colour_backend("gmos"), clip, tmp_path / "out", modes=frozenset({"mask", "mp4"}))
    assert (summary.frames, summary.mos_i_objects, summary.mos_objects) == (1, 0, 0)
    assert not labels(tmp_path / "out/mos_frame/one", 0).any()


def test_a_failure_leaves_nothing_behind(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the last stage leaves no result, no record and no temporary folder."""
    backend = colour_backend("gmos")

    def broken(*_: Any, **__: Any) -> None:
        raise GmosError("the device went away")

    monkeypatch.setattr(type(backend), "tracker", broken)
    with pytest.raises(GmosError, match="the device went away"):
        run(backend, clip, tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_an_interrupted_run_keeps_earlier_results(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while replacing a result leaves the old one whole."""
    run(colour_backend("gmos"), clip, tmp_path / "out")
    before = labels(tmp_path / "out/mos_frame/clip", 3)
    backend = colour_backend("gmos")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(backend), "tracker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(backend, clip, tmp_path / "out", existing="overwrite")
    assert np.array_equal(labels(tmp_path / "out/mos_frame/clip", 3), before)


def test_a_corrupt_frame_is_named_and_nothing_is_filed(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """The header of frame 9 is whole, its pixels are not."""
    broken = clip / "00009.png"
    broken.write_bytes(broken.read_bytes()[:90])
    with pytest.raises(GmosError, match=r"00009\.png"):
        run(colour_backend("gmos"), clip, tmp_path / "out")
    assert not (tmp_path / "out/mos_frame").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch_size 0: expected at least 1 window"),
        ({"device_budget": -1}, "--device_budget -1: expected 0 or more"),
    ],
)
def test_options_are_validated(options: dict[str, int], message: str) -> None:
    """A value outside its range is refused by the option's name."""
    with pytest.raises(GmosError, match=message):
        RunOptions(**options)


def test_the_next_batch_is_started_before_results_are_read(
    colour_backend: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """A device computes it meanwhile; the last batch has none to wait for."""
    backend = colour_backend("gmos-s")
    started: list[int] = []
    download = backend.arrays.download

    def read(array: Any) -> Any:
        started.append(len(backend.batches["gmos_s"]))
        return download(array)

    backend.arrays.download = read
    run(backend, clip, tmp_path / "out", modes=frozenset({"mask"}), batch_size=4)
    # Four answers of a batch, and the logits of each of its frames.
    frames = backend.batches["gmos_s"]
    assert started == [min(n + 2, len(frames)) for n, size in enumerate(frames) for _ in range(4 + size)]
