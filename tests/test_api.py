"""The front door: what a stranger does with it, in one process and without files in between."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gmos_deploy as gmos
from gmos_deploy.api import Model
from gmos_deploy.arguments import in_arguments
from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.runtime.video.frame_directory import read_frame
from gmos_deploy.runtime.video.reader import VideoReader

FRAMES, STOPS = 14, 6
LIGHT = """
import time, numpy
start = time.process_time()
import gmos_deploy
taken = time.process_time() - start
import sys
print(taken, *({"torch", "onnxruntime", "av", "scipy", "click", "rich"} & set(sys.modules)))
"""


def boxes(index: int) -> list[tuple[int, int, int, int, int]]:
    """A box that moves down until it stops, and one that never moves."""
    return [(1, 4 + 4 * min(index, STOPS), 8, 16, 24), (2, 40, 60, 16, 24)]


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    return colour_video("clip", [boxes(index) for index in range(FRAMES)])


@pytest.fixture
def colours(colour_backend: Callable[..., Any], register: Callable[..., None]) -> str:
    """A backend without any network, registered from outside the package."""
    register("colours", lambda choice: colour_backend(choice.variant or "gmos"))
    return "colours"


def frames_of(clip: Path) -> list[NDArray[np.uint8]]:
    """Frames of a directory or of a video."""
    if clip.is_dir():
        return [read_frame(path) for path in sorted(clip.iterdir())]
    with VideoReader(clip) as reader:
        return [frame.rgb for frame in reader]


def files(folder: Path) -> dict[str, bytes]:
    """PNGs as they are, overlays as they decode."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        if path.suffix == ".png":
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.suffix == ".mp4":
            found[str(path.relative_to(folder))] = b"".join(rgb.tobytes() for rgb in frames_of(path))
    return found


def test_importing_is_light() -> None:
    """Nothing but the error class is imported, and it takes far less than a tenth of a second."""
    found = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    taken, *heavy = found.stdout.split()
    assert float(taken) < 0.1
    assert heavy == []


def test_every_name_is_there() -> None:
    """`__all__` and `dir` agree with what can be had, and nothing else can."""
    assert set(gmos.__all__) <= set(dir(gmos))
    for name in gmos.__all__:
        assert getattr(gmos, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gmos.nothing


def test_a_video_in_masks_and_objects_out(colours: str, clip: Path) -> None:
    """The box is in MOS-I while it moves and in MOS throughout; its object says where it is."""
    heard: list[tuple[str, int, int | None]] = []
    with gmos.load(backend=colours, preset="tiny") as model:
        assert (model.variant, model.description) == ("gmos", "colours")
        video = model.segment(clip, stride=1, progress=lambda *what: heard.append(what))
    assert len(video) == FRAMES
    assert [frame.index for frame in video] == list(range(FRAMES))
    assert video[3].time_s == pytest.approx(3 / video.fps)
    moving = []
    for frame in video:
        assert frame.mos.shape == frame.mos_i.shape == video.video_hw
        assert frame.mos.dtype == np.uint8
        (thing,) = frame.objects
        assert thing.id == 1
        assert thing.moving == bool(frame.mos_i.any())
        np.testing.assert_array_equal(thing.mask(), frame.mos == 1)
        assert thing.area == thing.mask().sum()
        x0, y0, x1, y1 = thing.box
        assert thing.mask()[y0:y1, x0:x1].sum() == thing.area
        assert thing.mask()[y0].any()
        assert thing.mask()[:, x1 - 1].any()
        assert thing.iou == pytest.approx(0.97)
        moving.append(thing.moving)
    assert moving == [True] * (STOPS + 2) + [False] * (FRAMES - STOPS - 2)
    assert [name for name, done, _ in heard if done == 0] == ["propose", "track MOS-I", "track MOS", "write"]
    assert ("track MOS", FRAMES, FRAMES) in heard
    with pytest.raises(gmos.GmosError, match="this result has no foreground; expected one of mos-i, mos"):
        _ = video[0].mask


def test_gmos_s_has_masks_and_probabilities(colours: str, clip: Path) -> None:
    """And tells no objects apart."""
    with gmos.load(backend=colours, preset="tiny", variant="gmos-s") as model:
        video = model.segment(str(clip), stride=1)
    assert video[0].mask.any()
    np.testing.assert_array_equal(video[0].mask, video[0].probability > 127)
    assert video[0].objects == ()


@pytest.mark.parametrize(("variant", "mode"), [("gmos", "mask+mp4"), ("gmos-s", "mask+mp4+prob")])
@pytest.mark.parametrize("given", ["directory", "list", "generator"])
def test_saved_files_are_those_of_the_command(
    colours: str, clip: Path, tmp_path: Path, variant: str, mode: str, given: str
) -> None:
    """PNGs byte for byte, overlays equal when decoded; frames of a generator are kept for them."""
    options = ["--backend", colours, "--preset", "tiny", "--variant", variant, "--save_mode", mode]
    status = guarded(
        run_command, "gmos-run", [str(clip), "--fps", "16", *options, "--save_dir", str(tmp_path / "command")]
    )
    assert status == 0
    frames = frames_of(clip)
    source: Any = {"directory": clip, "list": frames, "generator": (frame for frame in frames)}[given]
    with gmos.load(backend=colours, preset="tiny", variant=variant) as model:
        video = model.segment(source, fps=16, name="clip")
    paths = video.save(tmp_path / "saved", mode)
    assert all(path.exists() for path in paths)
    assert files(tmp_path / "saved") == files(tmp_path / "command") != {}
    with pytest.raises(gmos.GmosError, match="exists already; expected no results of clip"):
        video.save(tmp_path / "saved", mode)
    assert video.save(tmp_path / "saved", mode, existing="resume") == paths


def test_frames_of_a_generator_need_not_be_kept(colours: str, clip: Path, tmp_path: Path) -> None:
    """Masks can be saved then, overlays cannot."""
    with gmos.load(backend=colours, preset="tiny") as model:
        video = model.segment(iter(frames_of(clip)), stride=1, keep_frames=False)
    video.save(tmp_path, "mask")
    with pytest.raises(gmos.GmosError, match="the frames were an iterator, which has been used up"):
        video.save(tmp_path / "overlays", "mp4")


def test_a_stream_answers_after_its_delay(colours: str, clip: Path) -> None:
    """Exactly `delay_frames` frames after each; the answers are those of a batch of one, and of the file."""
    frames = frames_of(clip)
    taken: list[int] = []

    def camera() -> Iterator[NDArray[np.uint8]]:
        for index, frame in enumerate(frames):
            taken.append(index)
            yield frame

    with gmos.load(backend=colours, preset="tiny", variant="gmos-s", batch_size=1) as model:
        with pytest.raises(gmos.GmosError, match="call stream\\(\\) first"):
            _ = model.delay_frames
        answers = []
        for answer in model.stream(camera(), fps=16):
            assert model.delay_frames == 4
            assert len(taken) == min(answer.index + model.delay_frames + 1, FRAMES)
            assert answer.rgb is not None
            answers.append(answer)
        video = model.segment(clip, fps=16)
    assert [answer.index for answer in answers] == list(range(FRAMES))
    for answer, frame in zip(answers, video, strict=True):
        np.testing.assert_array_equal(answer.mask, frame.mask)
        np.testing.assert_array_equal(answer.probability, frame.probability)


def test_gmos_streams_mos_i(colours: str, clip: Path) -> None:
    """MOS-I is that of the file, and an object that has stopped is still tracked; MOS is not known of a stream."""
    with gmos.load(backend=colours, preset="tiny", batch_size=1) as model:
        answers = list(model.stream(frames_of(clip), fps=8))
        video = model.segment(clip, fps=8)
    assert [answer.index for answer in answers] == list(range(FRAMES))
    for answer, frame in zip(answers, video, strict=True):
        np.testing.assert_array_equal(answer.mos_i, frame.mos_i)
        (thing,) = answer.objects
        assert (thing.id, thing.slot, thing.moving) == (1, 1, bool(frame.mos_i.any()))
        np.testing.assert_array_equal(thing.mask(), answer.tracked == 1)
        assert answer.live is not None
        assert answer.live.answer_s >= answer.live.arrival_s
    assert not answers[-1].objects[0].moving
    with pytest.raises(gmos.GmosError, match="this result has no mos; expected one of mos-i, tracked"):
        _ = answers[0].mos


def test_a_session_is_pushed_into(colours: str, clip: Path) -> None:
    """Two streams in turn on one model, alone and together: each gets the answers of its own `stream`."""
    one = frames_of(clip)
    other = [np.ascontiguousarray(rgb[:, ::-1]) for rgb in one[3:]]
    with gmos.load(backend=colours, preset="tiny", batch_size=1) as model:
        expected = [list(model.stream(frames, fps=16)) for frames in (one, other)]
        for together in (False, True):
            with model.session((64, 96), fps=16) as a, model.session((64, 96), fps=16, name="b") as b:
                assert (a.delay_frames, a.stride, b.size_hw, b.name) == (4, 2, (64, 96), "b")
                found: list[list[gmos.FrameResult]] = [[], []]
                for frame, beside in zip(one, other, strict=False):
                    if together:
                        pushed = model.push_all([(a, frame, None), (b, beside, None)])
                    else:
                        pushed = [a.push(frame), b.push(beside)]
                    found = [answers + new for answers, new in zip(found, pushed, strict=True)]
                for frame in one[len(other) :]:
                    found[0] += a.push(frame)
                found[0] += a.finish()
                found[1] += b.finish()
            for answers, alone in zip(found, expected, strict=True):
                assert [answer.index for answer in answers] == [answer.index for answer in alone]
                for answer, same in zip(answers, alone, strict=True):
                    np.testing.assert_array_equal(answer.mos_i, same.mos_i)
                    np.testing.assert_array_equal(answer.tracked, same.tracked)
                    assert (answer.ids, answer.time_s) == (same.ids, same.time_s)
                    assert answer.rgb is not None


def test_a_sessions_frames_are_numbered_by_their_times(colours: str, clip: Path) -> None:
    """What a gap has room for counts as lost; a jump begins a new sequence, whose objects are other ones."""
    frames = 2 * frames_of(clip)[:6]
    times = [100.0, 100.1, 100.2, 100.6, 100.7, 100.8, 107.0, 107.1, 107.2]
    with gmos.load(backend=colours, preset="tiny") as model, model.session((64, 96), fps=10) as session:
        answers = [
            answer for frame, at in zip(frames, times, strict=False) for answer in session.push(frame, at)
        ]
        answers += session.reset() + session.push(frames[0], 107.3) + session.finish()
    assert [answer.time_s for answer in answers] == [*times, 107.3]
    assert [answer.index for answer in answers] == [0, 1, 2, 6, 7, 8, 9, 10, 11, 12]
    facts = [answer.live for answer in answers if answer.live is not None]
    assert [fact.dropped_before for fact in facts] == [0, 0, 0, 3, 0, 0, 0, 0, 0, 0]
    assert [fact.reset_before for fact in facts] == [False] * 6 + [True] + [False] * 2 + [True]
    assert [sorted(answer.ids.values()) for answer in answers] == [[1]] * 6 + [[2]] * 3 + [[]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "^fps 0: expected a positive number"),
        ({"stride": 0}, "^stride 0: expected a whole number"),
        ({"retire_after": -1}, "^retire_after -1: expected seconds from 0 up; 0 means never"),
        ({"reset_after": -1}, "^reset_after -1: expected seconds from 0 up"),
        ({"size_hw": (4, 4000)}, "a video of 4000x4 pixels is too thin"),
        (
            {"size_hw": (0, 96)},
            r"^size_hw \(0, 96\): expected height and width in pixels, as in \(480, 640\)",
        ),
        ({"size_hw": (64, 96, 3)}, r"^size_hw \(64, 96, 3\): expected height and width"),
        ({"size_hw": 64}, "^size_hw 64: expected height and width"),
    ],
)
def test_what_no_session_is_opened_for(colours: str, options: dict[str, Any], message: str) -> None:
    """In arguments."""
    with gmos.load(backend=colours, preset="tiny") as model, pytest.raises(gmos.GmosError, match=message):
        model.session(**{"size_hw": (64, 96), "fps": 8, **options})


def test_what_a_session_does_not_take(colours: str, clip: Path) -> None:
    """A frame of another size or kind, a session twice or of another model, anything after its end."""
    frame = frames_of(clip)[0]
    with (
        gmos.load(backend=colours, preset="tiny") as model,
        gmos.load(backend=colours, preset="tiny") as other,
    ):
        session, elsewhere = model.session((64, 96), fps=8), other.session((64, 96), fps=8)
        for wrong, message in (
            (frame[1:], r"stream: a frame is \(63, 96, 3\) uint8; expected \(64, 96, 3\) uint8"),
            (frame.astype(float), r"\(64, 96, 3\) float64; expected \(64, 96, 3\) uint8"),
            ("frame", "a frame is a str; expected a NumPy array"),
        ):
            with pytest.raises(gmos.GmosError, match=message):
                session.push(wrong)  # type: ignore[arg-type]
        with pytest.raises(gmos.GmosError, match="a frame's time is nan"):
            session.push(frame, float("nan"))
        with pytest.raises(gmos.GmosError, match="a session comes twice in one call"):
            model.push_all([(session, frame, None), (session, frame, None)])
        with pytest.raises(gmos.GmosError, match="these sessions are of different models"):
            model.push_all([(session, frame, None), (elsewhere, frame, None)])
        assert session.push(frame) == []
        assert [answer.index for answer in session.finish()] == [0]
        for use in (session.finish, session.reset, lambda: session.push(frame)):
            with pytest.raises(gmos.GmosError, match="stream: this session has ended; open another one"):
                use()
        other.close()
        with pytest.raises(gmos.GmosError, match="this model is closed"):
            elsewhere.push(frame)
    assert repr(session) == "<gmos_deploy.Session stream: 96x64, stride 1>"


def test_several_models_and_videos(colours: str, clip: Path, colour_video: Callable[..., Path]) -> None:
    """Two models beside each other, two videos on one of them in turn; finished results outlive their model."""
    other = colour_video("other", [boxes(0)] * 6)
    with (
        gmos.load(backend=colours, preset="tiny") as tracks,
        gmos.load(backend=colours, preset="tiny", variant="gmos-s") as masks,
    ):
        first, second, third = (
            tracks.segment(clip, stride=1),
            tracks.segment(other, fps=8),
            masks.segment(clip, fps=24),
        )
    assert (len(first), len(second), len(third)) == (FRAMES, 6, FRAMES)
    assert first[0].mos.any()
    assert not second[0].mos.any()
    assert third[0].mask.any()


def test_a_closed_model_says_so(colours: str, clip: Path) -> None:
    """For every use; closing twice is nothing."""
    model = gmos.load(backend=colours, preset="tiny", variant="gmos-s")
    answers = model.stream(clip, fps=8)
    next(answers)
    model.close()
    model.close()
    for use in (lambda: model.segment(clip, fps=8), lambda: model.stream(clip, fps=8), lambda: next(answers)):
        with pytest.raises(gmos.GmosError, match="this model is closed"):
            use()


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([np.zeros((8, 9, 3), np.uint8)], {}, "frames of an iterable have no frame rate"),
        ([], {"fps": 8}, "the iterable of frames is empty"),
        ([None], {"fps": 8}, "frame 0 is a NoneType; expected a NumPy array"),
        ([np.zeros((8, 9), np.uint8)], {"fps": 8}, r"frame 0 is \(8, 9\) uint8; expected \(H, W, 3\) uint8"),
        ([np.zeros((8, 9, 3))], {"fps": 8}, r"frame 0 is \(8, 9, 3\) float64"),
        (["street.mp4"], {"fps": 8}, "frame 0 is a str; expected a NumPy array"),
        (
            [np.zeros((8, 9, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)],
            {"fps": 8},
            "frame 1 is 9x9 pixels and the frames before it are 9x8",
        ),
        ([np.zeros((8, 9, 3), np.uint8)], {"fps": -1}, "fps -1: expected a positive number"),
        ("nowhere.mp4", {}, "nowhere.mp4 does not exist"),
    ],
)
def test_what_cannot_be_segmented(colours: str, frames: Any, options: dict[str, Any], message: str) -> None:
    """One line, as the command's."""
    with gmos.load(backend=colours, preset="tiny") as model, pytest.raises(gmos.GmosError, match=message):
        model.segment(frames, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bundle": "nowhere"}, "nowhere"),
        ({"backend": "abacus"}, "^backend abacus: expected one of auto"),
        ({"batch_size": 0}, "^batch_size 0: expected at least 1 window"),
        ({"offload_cpu": True, "device_budget": 5}, "^offload_cpu=True and device_budget 5 contradict"),
        ({"spill_dir": "nowhere"}, "^spill_dir nowhere: expected an existing directory"),
        ({"checkpoints": gmos.Checkpoints(pi3="a", sam2="b", gmos="c")}, "a cannot be read"),
    ],
)
def test_what_cannot_be_loaded(options: dict[str, Any], message: str) -> None:
    """The command's own texts, with arguments for its options."""
    with pytest.raises(gmos.GmosError, match=message):
        gmos.load(**options)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "--bundle a: --backend torch runs checkpoints; use --backend onnxruntime",
            "bundle a: backend torch runs checkpoints; use backend onnxruntime",
        ),
        (
            "no engines of dino, mask_decoder; build them: gmos-export build-engines --bundle a --networks "
            "dino,mask_decoder --backend tensorrt, or add --build",
            "no engines of dino, mask_decoder; build them: gmos-export build-engines --bundle a --networks "
            "dino,mask_decoder --backend tensorrt, or add build=True",
        ),
        ("--gmos-s-ckpt b: no file", "checkpoints.gmos_s b: no file"),
        (
            "lower --batch_size, or features with --offload_cpu",
            "lower batch_size, or features with offload_cpu=True",
        ),
        (
            "give --overwrite; --report is of gmos-parity",
            'give existing="overwrite"; --report is of gmos-parity',
        ),
        ("gmos-deploy needs a --device of CUDA", "gmos-deploy needs a device of CUDA"),
    ],
)
def test_errors_name_arguments(message: str, told: str) -> None:
    """Where a command's name options: but for those of the command lines that they tell."""
    assert in_arguments(message) == told


def test_every_argument_of_a_run_is_known_by_its_option() -> None:
    """Those that a command has as options; what only the command has stays as it is."""
    for option in (
        "--variant",
        "--device_budget",
        "--max_conditioning",
        "--save_mode",
        "--stride",
        "--memory_budget",
        "--geometry_every",
        "--geometry_change",
        "--propose_every",
    ):
        assert in_arguments(f"{option} 1") == f"{option[2:]} 1"
    assert in_arguments("--no_cuda_graphs goes with --backend tensorrt") == (
        "no_cuda_graphs=True goes with backend tensorrt"
    )


def test_thresholds_are_the_runs(colours: str, clip: Path) -> None:
    """Nothing moves above a probability of one; the published ones are the default."""
    with gmos.load(backend=colours, preset="tiny", thresholds=gmos.Thresholds(motion=1.0)) as model:
        assert not any(frame.mos.any() for frame in model.segment(clip, stride=1))


def test_levers_are_the_runs(colours: str, clip: Path, tmp_path: Path) -> None:
    """By the commands' names; at their exact settings the files are those of a run that names none."""
    exact = {"geometry_every": 1, "geometry_change": None, "propose_every": 1, "mos_i_only": False}
    with gmos.load(backend=colours, preset="tiny") as model:
        model.segment(clip, stride=1).save(tmp_path / "plain", "mask+tracks+npz")
    with gmos.load(backend=colours, preset="tiny", **exact) as model:  # type: ignore[arg-type]
        model.segment(clip, stride=1).save(tmp_path / "exact", "mask+tracks+npz")
    assert files(tmp_path / "plain") == files(tmp_path / "exact")
    sparse = {"geometry_every": 2, "geometry_change": 0.5, "propose_every": 3, "mos_i_only": True}
    with gmos.load(backend=colours, preset="tiny", **sparse) as model:  # type: ignore[arg-type]
        found = model.segment(clip, stride=1)
        found.save(tmp_path / "sparse", "mask+tracks+coco+ytvis+yolo+npz+mp4")
    names = sorted(path.name for path in (tmp_path / "sparse").iterdir())
    assert names == [
        ".gmos",
        *sorted(f"mos-i_{mode}" for mode in ("coco", "frame", "mp4", "npz", "tracks", "yolo", "ytvis")),
    ]
    record = json.loads((tmp_path / "sparse/.gmos/clip.gmos.json").read_text())
    assert sparse.items() <= record["settings"].items()
    assert found.summary.mos_objects is None
    assert found[0].objects
    with pytest.raises(gmos.GmosError, match="this result has no mos; expected one of mos-i"):
        found[0].mos  # noqa: B018 - the property raises
    with pytest.raises(gmos.GmosError, match=r"mos_i_only=True is for GMOS, .* this is gmos-s"):
        gmos.load(backend=colours, preset="tiny", variant="gmos-s", mos_i_only=True)


def test_a_model_shows_what_it_is(colours: str) -> None:
    """In a notebook."""
    model = gmos.load(backend=colours, preset="tiny")
    assert repr(model) == "<gmos_deploy.Model gmos, colours>"
    model.close()
    assert re.search("closed", repr(model))
    assert isinstance(model, Model)
