"""A session: the file's answers while frames come, sequences that end, frames that are dropped, streams together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gmos_deploy as gmos
from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.session import LiveSession, push_all
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.pipeline.thresholds import Thresholds
from gmos_deploy.runtime.video.drawn_clip import drawn_clip
from gmos_deploy.runtime.video.inputs import resolve_frames

HW = (64, 96)
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
ALONE = RunOptions(batch_size=1)

Rgb = NDArray[np.uint8]


def picture(*tops: int, video_hw: tuple[int, int] = HW) -> Rgb:
    """A grey frame with a box of each colour, its top at that many pixels."""
    rgb = np.full((*video_hw, 3), 128, np.uint8)
    for top, column, colour in zip(tops, (8, 40, 70), COLOURS, strict=False):
        rgb[top : top + 16, column : column + 20] = colour
    return rgb


def falling(frames: int) -> list[Rgb]:
    """A red box that falls, and a green one that does not."""
    return [picture(2 + t, 30) for t in range(frames)]


def numbered(frames: Sequence[Rgb], first: int = 0, *, fps: float = 8) -> list[LiveFrame]:
    """Frames of a stream that count on from `first`."""
    return [
        LiveFrame(index=first + i, time_s=(first + i) / fps, arrival_s=float(i), rgb=rgb)
        for i, rgb in enumerate(frames)
    ]


def answers(session: LiveSession, frames: Sequence[LiveFrame]) -> list[FrameResult]:
    """All answers on a stream."""
    found = [answer for frame in frames for answer in session.push(frame)]
    return found + session.finish()


def maps(answer: FrameResult) -> dict[str, bytes]:
    """All that an answer has of a frame, as bytes."""
    found = {name: answer.values(name).tobytes() for name in answer.maps}
    return found | {f"{name} ious": ious.tobytes() for name, ious in answer.ious.items()}


@pytest.fixture
def backend(colour_backend: Callable[..., Any]) -> Any:
    return colour_backend("gmos")


@pytest.fixture
def masks(colour_backend: Callable[..., Any]) -> Any:
    return colour_backend("gmos-s")


@pytest.fixture(scope="module", params=["gmos", "gmos-s"])
def nano(request: pytest.FixtureRequest) -> Iterator[gmos.Model]:
    """The small model on ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    with gmos.load(variant=request.param, batch_size=1) as model:
        yield model


def test_a_file_played_as_a_stream_is_the_file(nano: gmos.Model) -> None:
    """Byte for byte at a batch of one: MOS-I, all tracks and IoUs; masks and probabilities.

    A file with fewer frames than an object has pointers counts them otherwise: GMOS has 16.
    """
    backend, stride = nano._opened(), 1
    model = backend.model
    frames = [frame[::2, ::2].copy() for frame in drawn_clip()[: 16 if nano.variant == "gmos" else 7]]
    assert model.object_pointers == 16
    sequence = resolve_frames(
        frames,
        name="drawn",
        fps=8,
        stride=stride,
        keep=True,
        spill_dir=None,
        pi3_area_px=model.pi3_area_px,
        patch_px=model.patch_px,
    )
    run = ClipRun(backend, sequence, ALONE)
    expected = list(run)
    session = LiveSession(backend, video_hw=sequence.video_hw, stride=stride, fps=8, options=ALONE)
    found = answers(session, numbered(frames))
    assert [answer.index for answer in found] == list(range(len(frames)))
    for answer, frame in zip(found, expected, strict=True):
        if run.tracks is None:
            assert maps(answer) == maps(frame)
        else:
            np.testing.assert_array_equal(answer.mos_i, frame.mos_i)
            np.testing.assert_array_equal(answer.tracked, run.tracks.mos_i.labels[answer.index])
            np.testing.assert_array_equal(answer.ious["tracked"], run.tracks.mos_i.ious[answer.index])
    assert any(answer.maps.get("mos-i", answer.maps.get("foreground")).any() for answer in found)


@pytest.mark.parametrize("nano", ["gmos-s"], indirect=True)
def test_shared_calls_are_within_rounding_of_separate_ones(nano: gmos.Model) -> None:
    """Probabilities of GMOS-S differ by one step at most, as those of a larger batch of a file do."""
    clip = [frame[::2, ::2].copy() for frame in drawn_clip()[:4]]
    streams = [numbered(clip[:3]), numbered(clip[1:])]

    def sessions() -> list[LiveSession]:
        return [LiveSession(nano._opened(), video_hw=(126, 224), stride=1, fps=8) for _ in streams]

    alone = [answers(session, frames) for session, frames in zip(sessions(), streams, strict=True)]
    opened = sessions()
    pushed = [push_all(list(zip(opened, frames, strict=True))) for frames in zip(*streams, strict=True)]
    for index, session in enumerate(opened):
        found = [answer for new in pushed for answer in new[index]] + session.finish()
        for answer, other in zip(found, alone[index], strict=True):
            assert answer.index == other.index
            assert np.abs(answer.probability.astype(int) - other.probability).max() <= 1


def test_an_answer_comes_with_the_last_frame_of_its_window(backend: Any, masks: Any) -> None:
    """MOS-I's first two with the third frame's; at the end all that wait, without RGB unless asked for it."""
    for network, expected in ((masks, [0, 0, 0, 0, 1, 1, 1]), (backend, [0, 0, 0, 0, 0, 0, 3])):
        session = LiveSession(network, video_hw=HW, stride=2, fps=16)
        assert session.delay_frames == 4
        assert [len(session.push(frame)) for frame in numbered(falling(7))] == expected
        assert [answer.index for answer in session.finish()] == [3, 4, 5, 6]
    session = LiveSession(masks, video_hw=HW, stride=1, fps=8, with_rgb=True)
    frames = numbered(falling(4))
    for answer, frame in zip(answers(session, frames), frames, strict=True):
        assert answer.rgb is frame.rgb
        assert answer.live is not None
        assert (answer.time_s, answer.live.arrival_s) == (frame.time_s, frame.arrival_s)
        assert answer.live.answer_s > frame.arrival_s


def test_windows_go_one_by_one(backend: Any) -> None:
    """Also where one frame completes several, so that a stream is its file at a batch of one."""
    kept = [frame for frame in numbered(falling(20)) if not 5 < frame.index < 15]
    session = LiveSession(backend, video_hw=HW, stride=2, fps=16)
    counts = [len(session.push(frame)) for frame in kept]
    # Frames 2 to 5 wait for the first frame at or after them and four more: that is 15.
    assert counts == [0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1]
    session.finish()
    assert all(set(sizes) == {1} for name, sizes in backend.batches.items() if name != "proposal_labels")
    assert backend.seen["dino"] == backend.seen["pi3_decoder"] == backend.seen["sam2_encoder"] == len(kept)


def test_what_was_dropped_is_told(masks: Any) -> None:
    """Frames keep their numbers, and an answer says what went before it."""
    kept = [
        LiveFrame(index=index, time_s=index / 8, arrival_s=0, rgb=picture(index), dropped_before=before)
        for index, before in ((0, 0), (1, 0), (4, 2), (5, 0), (9, 3))
    ]
    found = answers(LiveSession(masks, video_hw=HW, stride=1, fps=8), kept)
    assert [answer.index for answer in found] == [0, 1, 4, 5, 9]
    assert [answer.live.dropped_before for answer in found if answer.live] == [0, 0, 2, 0, 3]


def test_a_new_sequence_ends_the_one_before_it(backend: Any) -> None:
    """Its last answers come first, as they would at the end of the stream; ids go on, and the next answer says so."""
    first, second = numbered(falling(6)), numbered(falling(5), 6)
    second[0] = LiveFrame(index=6, time_s=99, arrival_s=6, rgb=second[0].rgb, new_sequence=True)
    session = LiveSession(backend, video_hw=HW, stride=1, fps=8)
    found = [session.push(frame) for frame in [*first, *second]]
    last = session.finish()
    assert [answer.index for answer in found[6]] == [4, 5]
    together = [answer for some in found for answer in some] + last
    assert [answer.index for answer in together] == list(range(11))
    assert [answer.live.reset_before for answer in together if answer.live] == [False] * 6 + [True] + [
        False
    ] * 4
    alone = answers(LiveSession(backend, video_hw=HW, stride=1, fps=8), first)
    assert list(map(maps, together[:6])) == list(map(maps, alone))
    others = answers(LiveSession(backend, video_hw=HW, stride=1, fps=8), second)
    assert list(map(maps, together[6:])) == list(map(maps, others))
    assert [answer.ids for answer in together] == [{1: 1}] * 6 + [{1: 2}] * 5


def test_a_reset_is_a_new_sequence(backend: Any) -> None:
    """One before the first frame is none; after it numbers may begin anew."""
    session = LiveSession(backend, video_hw=HW, stride=1, fps=8)
    assert session.reset() == []
    frames = numbered(falling(4))
    found = [answer for frame in frames for answer in session.push(frame)] + session.reset() + session.reset()
    found += answers(session, frames)
    assert [answer.index for answer in found] == [0, 1, 2, 3] * 2
    assert [answer.live.reset_before for answer in found if answer.live] == [False] * 4 + [True] + [False] * 3
    assert session.not_finite == {}
    with pytest.raises(GmosError, match="stream: this session has ended"):
        session.push(frames[0])


def test_two_streams_in_turn_equal_each_alone(backend: Any) -> None:
    """Byte for byte, whatever the other does; of other sizes and strides too."""
    streams = [
        (HW, 1, falling(9)),
        ((48, 80), 2, [picture(20 - t, 2 + t, video_hw=(48, 80)) for t in range(12)]),
    ]

    def open_one(index: int) -> LiveSession:
        video_hw, stride, _ = streams[index]
        return LiveSession(backend, video_hw=video_hw, stride=stride, fps=8, name=f"{index}")

    alone = [answers(open_one(i), numbered(frames)) for i, (_, _, frames) in enumerate(streams)]
    sessions, found = [open_one(0), open_one(1)], [[], []]
    frames = [numbered(frames) for _, _, frames in streams]
    for t in range(12):
        for i in range(2):
            if t < len(frames[i]):
                found[i] += sessions[i].push(frames[i][t])
    for i in range(2):
        found[i] += sessions[i].finish()
        assert list(map(maps, found[i])) == list(map(maps, alone[i]))


@pytest.mark.parametrize("other_hw", [HW, (128, 192), (80, 96)])
def test_streams_share_calls(backend: Any, masks: Any, other_hw: tuple[int, int]) -> None:
    """Windows of one Pi3 size go together, also of videos of different sizes; each gets its own answers."""
    sizes = (HW, other_hw, HW)
    shared = other_hw != (80, 96)
    for network in (backend, masks):
        streams = [
            numbered([picture(i + t, 30, video_hw=size) for t in range(8)]) for i, size in enumerate(sizes)
        ]

        def sessions(network: Any = network) -> list[LiveSession]:
            return [LiveSession(network, video_hw=size, stride=1, fps=8) for size in sizes]

        alone = [answers(session, frames) for session, frames in zip(sessions(), streams, strict=True)]
        network.batches.clear()
        opened = sessions()
        found: list[list[FrameResult]] = [[], [], []]
        for pushed in zip(*streams, strict=True):
            new = push_all(list(zip(opened, pushed, strict=True)))
            found = [mine + more for mine, more in zip(found, new, strict=True)]
        assert set(network.batches["pi3_decoder"]) == ({3} if shared else {1, 2})
        for mine, session, expected in zip(found, opened, alone, strict=True):
            assert list(map(maps, mine + session.finish())) == list(map(maps, expected))
    few = RunOptions(batch_size=2)
    masks.batches.clear()
    opened = [LiveSession(masks, video_hw=HW, stride=1, fps=8, options=few) for _ in range(3)]
    for pushed in zip(*[numbered(falling(5))] * 3, strict=True):
        push_all(list(zip(opened, pushed, strict=True)))
    assert sorted(set(masks.batches["pi3_decoder"])) == [1, 2]
    assert push_all([]) == []


def test_frames_may_be_prepared_in_another_thread(masks: Any) -> None:
    """The answers are those of frames that were not, and nothing prepared is kept."""
    frames = numbered(falling(6))
    expected = answers(LiveSession(masks, video_hw=HW, stride=1, fps=8), frames)
    session = LiveSession(masks, video_hw=HW, stride=1, fps=8)
    with ThreadPoolExecutor(2) as pool:
        prepared = list(pool.map(session.prepare, frames))
    assert all(frame.pi3_rgb is not None and frame.pi3_rgb.shape[0] == 3 for frame in prepared)
    assert session.prepare(prepared[0]) is prepared[0]
    found = [answer for frame in prepared for answer in session.push(frame)]
    assert all(frame.pi3_rgb is None for frame in session._windows._waiting)
    assert list(map(maps, found + session.finish())) == list(map(maps, expected))
    wrong = LiveFrame(index=9, time_s=9, arrival_s=9, rgb=frames[0].rgb[1:])
    other = LiveSession(masks, video_hw=HW, stride=1, fps=8)
    with pytest.raises(GmosError, match=r"a frame is \(63, 96, 3\) uint8"):
        other.prepare(wrong)


def test_values_that_are_not_finite_end_the_stream(masks: Any) -> None:
    """With the number of the frame and the network, as in a file; where they are allowed they are counted."""
    frames = numbered(falling(5), first=70)
    run = masks._pi3_decoder
    masks._pi3_decoder = lambda tokens: {"geometry": run(tokens)["geometry"] * np.float32(np.nan)}
    gmos_s = masks._gmos_s

    def head(**inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = gmos_s(**inputs)
        return out | {"ious": out["ious"] + inputs["geometry"].ravel()[0]}

    masks._gmos_s = head
    session = LiveSession(masks, video_hw=HW, stride=1, fps=8, name="street")
    with pytest.raises(
        GmosError, match="street: from frame 70 on, dino or pi3_decoder gives values that are not"
    ):
        answers(session, frames)
    session = LiveSession(masks, video_hw=HW, stride=1, fps=8, options=RunOptions(allow_nonfinite=True))
    assert len(answers(session, frames)) == 5
    assert session.not_finite == {"dino or pi3_decoder": 5}


def test_frames_come_in_order(masks: Any) -> None:
    """A number that is not greater than the last one is refused, and nothing is lost by it."""
    session = LiveSession(masks, video_hw=HW, stride=1, fps=8)
    frames = numbered(falling(3))
    session.push(frames[1])
    for frame in frames[:2]:
        with pytest.raises(
            GmosError, match=f"frame {frame.index} came after frame 1; expected a greater number"
        ):
            session.push(frame)
    assert [answer.index for answer in answers(session, frames[2:])] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "--stride 0: expected 1 frame or more"),
        ({"retire_after_s": float("nan")}, "--retire_after nan: expected seconds from 0 up"),
        ({"video_hw": (4, 4000)}, "too thin"),
        (
            {"options": RunOptions(thresholds=Thresholds(max_objects=256))},
            "--thresholds max_objects=256: a stream has at most 255 objects at a time",
        ),
    ],
)
def test_what_no_session_is_made_for(masks: Any, options: dict[str, Any], message: str) -> None:
    """One line."""
    with pytest.raises(GmosError, match=message):
        LiveSession(masks, **{"video_hw": HW, "stride": 1, "fps": 8, **options})
