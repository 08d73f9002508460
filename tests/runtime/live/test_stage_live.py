"""Stage "on" of a stream against that of a file, on the scripted tracker; and where a stream must differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gmos_deploy.runtime.live.stage_live import HeadFrame
from gmos_deploy.runtime.pipeline.thresholds import PUBLISHED, Thresholds

from .scenes import AT_REST, VIDEO_HW, Box, Scene, Seen, Stream, as_file, head_frame, same

GOLDEN = Path(__file__).parents[2] / "golden"

FEW = Thresholds(max_objects=2)
A, B, C = (4, 4, 8, 8), (4, 24, 8, 8), (24, 4, 8, 8)
"""Boxes that do not touch."""


def places(count: int) -> list[Box]:
    """Boxes of 6x6 that do not touch, not even with their rings."""
    return [(1 + 10 * row, 1 + 10 * column, 6, 6) for row in range(4) for column in range(6)][:count]


def differing(scene: Scene, thresholds: Thresholds = PUBLISHED) -> list[int]:
    """Frames on which the stream's answer is not the file's."""
    heads = scene.heads()
    tracked, _ = as_file(heads, scene.velocities, thresholds)
    answers = Stream(scene.velocities, thresholds).run(heads)
    assert [answer.frame.index for answer in answers] == list(range(len(heads)))
    return [t for t, answer in enumerate(answers) if not same(answer, tracked, t)]


def hides_a_trusted_one(head: HeadFrame) -> bool:
    """Whether a slot that would be trusted wins no pixel, which a stream does not trust."""
    won = np.isin(np.arange(1, len(head.ious) + 1), head.labels)
    return bool(((head.motion_logits > 0) & (head.ious > PUBLISHED.iou) & ~won).any())


@pytest.mark.parametrize("number", [1, 2, 5, 7, 9, 15])
def test_the_published_result(number: int) -> None:
    """The published implementation's MOS-I on every frame of the golden cases.

    Its prompts too, but in four cases for those of slots without a pixel: they start objects that are never seen.
    """
    with np.load(GOLDEN / f"propagation_{number}.npz") as case:
        maps, motions, ious, velocities, mos_i, prompts = (
            case[name] for name in ("proposals", "motions", "ious", "velocities", "mos_i", "stage1_prompts")
        )
    # Only which side of one half a motion is on is ever read.
    logits = np.where(motions > np.float32(0.5), 4, -4).astype(np.float32)
    heads = [head_frame(t, maps[t], logits[t], ious[t]) for t in range(len(maps))]
    stream = Stream(velocities)
    answers = stream.run(heads)
    for t, answer in enumerate(answers):
        assert np.array_equal(answer.maps["mos-i"], mos_i[t]), t
    assert len(answers) == len(mos_i)
    assert (stream.tracker.prompted == list(map(tuple, prompts.tolist()))) == (number in {2, 7})


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Boxes that wander, rest and hide; what wins no pixel is not trusted, and every slot wins one at the start."""
    slots = draw(st.integers(1, 6))
    homes = draw(st.permutations(places(12)))[:slots]
    steps = draw(st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=slots, max_size=slots))
    frames: list[dict[int, Seen]] = []
    for t in range(draw(st.integers(3, 10))):
        frame: dict[int, Seen] = {}
        for slot, (home, step) in enumerate(zip(homes, steps, strict=True)):
            shown = t == 0 or draw(st.integers(0, 3)) > 0
            top = min(max(home[0] + t * step[0], 0), VIDEO_HW[0] - 6)
            left = min(max(home[1] + t * step[1], 0), VIDEO_HW[1] - 6)
            frame[slot] = Seen(
                (top, left, 6, 6) if shown else None,
                moves=draw(st.booleans()),
                iou=draw(st.sampled_from([0.6, 0.8, 0.9])) if shown else 0.1,
            )
        frames.append(frame)
    # Boxes that come over others may hide them whole: only the first frame has all of them apart.
    frames[0][0] = replace(frames[0][0], moves=True, iou=0.95)
    return Scene(
        frames, np.array(draw(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1)))
    )


@settings(max_examples=60, deadline=None)
@given(
    scene=scenes(), match=st.sampled_from([0.3, 0.7, 0.95]), gap=st.integers(1, 6), most=st.integers(1, 10)
)
def test_any_scene_that_starts_at_once_equals_the_file(
    scene: Scene, match: float, gap: int, most: int
) -> None:
    """Also under a lowered match threshold, where objects are reinforced, with any gap and any number of objects."""
    if any(map(hides_a_trusted_one, scene.heads())):
        return
    assert differing(scene, Thresholds(match_iou=match, prompt_gap_frames=gap, max_objects=most)) == []


@st.composite
def comings_and_goings(draw: st.DrawFn) -> Scene:
    """Boxes anywhere that are there or not, move or not, are trusted or not, in few slots of the proposer."""
    boxes = st.tuples(st.integers(0, 40), st.integers(0, 56), st.integers(1, 8), st.integers(1, 8))
    seen = st.builds(Seen, st.none() | boxes, st.booleans(), st.sampled_from([0.6, 0.9]))
    frames = draw(st.lists(st.dictionaries(st.integers(0, 5), seen, max_size=4), min_size=1, max_size=16))
    steps = st.tuples(st.integers(-12, 12), st.integers(-12, 12))
    return Scene(frames, np.array(draw(st.lists(steps, min_size=1, max_size=4))))


@settings(max_examples=100, deadline=None)
@given(
    scene=comings_and_goings(),
    most=st.integers(1, 3),
    retire_after_s=st.sampled_from([0, 1, 2, 4]),
    match=st.sampled_from([0.3, 0.95]),
)
def test_whatever_comes_objects_are_told_apart(
    scene: Scene, most: int, retire_after_s: float, match: float
) -> None:
    """Labels are slots of live objects, ids only rise and never come back, the tracker holds what the table does."""
    stream = Stream(
        scene.velocities, Thresholds(max_objects=most, match_iou=match), retire_after_s=retire_after_s
    )
    answers = []
    for head in scene.heads():
        answers += stream.stage.push(head)
        assert set(stream.tracker.objects) == set(stream.stage.objects.ids_by_slot().values())
    answers += stream.stage.end()
    assert [answer.frame.index for answer in answers] == list(range(len(scene.frames)))
    before: set[int] = set()
    last = 0
    for answer in answers:
        now = set(answer.ids.values())
        assert len(now) == len(answer.ids) <= most
        assert set(answer.ids) <= set(range(1, most + 1))
        assert shown(answer.maps["mos-i"]) <= shown(answer.maps["tracked"]) <= set(answer.ids)
        assert set(np.flatnonzero(answer.ious["tracked"]) + 1) == set(answer.ids)
        assert all(one > last for one in now - before), "an id came back"
        last, before = max(last, *now, 0), now
        if retire_after_s == 0:
            assert sorted(now) == list(range(1, len(now) + 1))


def test_two_candidates_for_the_last_place() -> None:
    """The one that the matching puts first gets it, in the file and live."""
    boxes = places(11)
    nine = {slot: Seen(box) for slot, box in enumerate(boxes[:9])}
    eleven = {slot: Seen(box) for slot, box in enumerate(boxes)}
    scene = Scene([nine] * 4 + [eleven] * 3)
    assert differing(scene) == []
    answers = Stream().run(scene.heads())
    assert [len(answer.ids) for answer in answers] == [9] * 4 + [10] * 3
    assert np.count_nonzero(np.unique(answers[-1].maps["tracked"])) == 10


def test_a_start_on_the_third_frame_with_a_match_on_the_first() -> None:
    """The coming start prompt counts as near: nothing is reinforced before it, unless the gap is that small."""
    weak, strong = {0: Seen(A, iou=0.75)}, {0: Seen(A, iou=0.95)}
    scene = Scene([weak, weak, strong, *[weak] * 6])
    for thresholds in (PUBLISHED, Thresholds(prompt_gap_frames=1), Thresholds(prompt_gap_frames=2)):
        assert differing(scene, thresholds) == []
    stream = Stream()
    answers = stream.run(scene.heads())
    assert stream.tracker.prompted == [(2, 0), (7, 0)]
    assert all(answer.maps["mos-i"].any() for answer in answers)
    stream = Stream(thresholds=Thresholds(prompt_gap_frames=2))
    stream.run(scene.heads())
    assert stream.tracker.prompted[:3] == [(2, 0), (0, 0), (4, 0)]


def test_the_first_answers_wait_for_the_third_frame_and_no_others_do() -> None:
    """However short the stream is."""
    heads = Scene([{0: Seen(A)}] * 5).heads()
    stage = Stream().stage
    assert [len(stage.push(head)) for head in heads] == [0, 0, 3, 1, 1]
    assert stage.end() == []
    for count in (0, 1, 2):
        scene = Scene([{0: Seen(A)}] * count)
        assert len(Stream().run(scene.heads())) == count
        if count:
            assert differing(scene) == []


def test_a_start_on_the_fourth_frame() -> None:
    """The frames before it have been answered without objects, where the file has some; from it on both are equal."""
    scene = Scene([{0: Seen(A, moves=False)}] * 3 + [{0: Seen(A)}] * 4)
    assert differing(scene) == [0, 1, 2]
    answers = Stream().run(scene.heads())
    assert not any(answer.maps["tracked"].any() or answer.ids for answer in answers[:3])
    assert answers[3].ids == {1: 1}


def test_a_slot_without_a_pixel_is_never_trusted() -> None:
    """In the file such a one starts an empty object, and reinforces it."""
    hidden = {0: Seen(None), 1: Seen(A)}
    scene = Scene(
        [{0: Seen(B), 1: Seen(A, iou=0.95)}, hidden, {0: Seen(None), 1: Seen(A, iou=0.99)}] + [hidden] * 6
    )
    heads = scene.heads()
    # The sum of frame 2, with its empty slot, is the file's best.
    _, file_tracker = as_file(heads, AT_REST)
    stream = Stream()
    answers = stream.run(heads)
    assert stream.tracker.prompted[:2] == [(0, 0), (0, 1)]
    assert file_tracker.prompted[:2] == [(2, 0), (2, 1)]
    assert answers[5].maps["tracked"].max() == 2
    empty = Scene(
        [{1: Seen(A)}] * 3 + [{0: Seen(None), 1: Seen(A)}] * 3 + [{0: Seen(B, moves=False), 1: Seen(A)}]
    )
    _, file_tracker = as_file(empty.heads(), AT_REST)
    stream = Stream()
    stream.run(empty.heads())
    assert (3, 1) in file_tracker.prompted
    assert all(o == 0 for _, o in stream.tracker.prompted)


def leaving(after: int, frames: int) -> Scene:
    """An object that is tracked out of the picture, and a proposal elsewhere from frame `after` on."""
    seen = [{0: Seen((4, 4, 8, 8))}] + [{}] * (after - 1) + [{0: Seen(B)}] * (frames - after)
    return Scene(seen, np.array([(0, -4), (0, 0)]))


def test_with_all_objects_gone_the_next_trusted_frame_starts_anew() -> None:
    """Without waiting for others; the slot is used again and the id is not."""
    scene = leaving(after=12, frames=16)
    stream = Stream(scene.velocities, retire_after_s=5)
    answers = stream.run(scene.heads())
    # Tracked out of the picture by frame 3; seen last on frame 2, gone once 5 s have passed.
    assert [answer.ids for answer in answers] == [{1: 1}] * 8 + [{}] * 4 + [{1: 2}] * 4
    assert not any(answer.maps["tracked"].any() for answer in answers[8:12])
    assert answers[12].maps["tracked"][8, 28] == 1
    never = Stream(scene.velocities, retire_after_s=0)
    assert never.run(scene.heads())[11].ids == {1: 1}


def test_no_object_is_gone_before_its_start() -> None:
    """Though nothing of it is seen on the frames before, which are tracked too, for longer than it may hide."""
    scene = Scene([{}, {}, *[{0: Seen((4, 4, 8, 8))}] * 3], np.array([(0, 12)]))
    answers = Stream(scene.velocities, retire_after_s=0.5).run(scene.heads())
    assert [1 in answer.ids.values() for answer in answers] == [True] * 5
    assert [bool(answer.maps["tracked"].any()) for answer in answers[:3]] == [False, False, True]


def test_an_object_behind_another_is_not_gone() -> None:
    """Its logits are above 0 there, though it has no label."""
    # Object 2 has the greater logits, and the box that moves over object 1 is larger.
    beside = {0: Seen((8, 8, 4, 4)), 1: Seen((4, 20, 12, 12))}
    scene = Scene([beside] + [{}] * 20, np.array([(0, 0), (0, -8)]))
    answers = Stream(scene.velocities, retire_after_s=2).run(scene.heads()[:3])
    assert shown(answers[2].maps["tracked"]) == {2}
    still = Scene([beside] + [{}] * 20, np.array([(0, 0), (0, -5)]))
    answers = Stream(still.velocities, retire_after_s=1).run(still.heads()[:5])
    assert [answer.ids for answer in answers] == [{1: 1, 2: 2}] * 5
    assert 1 not in shown(answers[3].maps["tracked"])


def test_in_a_full_table_the_longest_still_object_gives_way() -> None:
    """But for those that have moved within the time; nothing gives way where objects never retire."""
    rest = {0: Seen(A, moves=False), 1: Seen(B, moves=False)}
    frames = [{0: Seen(A), 1: Seen(B)}] * 3 + [{0: Seen(A), 1: Seen(B, moves=False)}] * 3 + [rest] * 6
    newcomer = {**rest, 2: Seen(C)}
    scene = Scene([*frames, newcomer, newcomer, newcomer, newcomer])
    heads = scene.heads()
    # B moved last on frame 2 and A on frame 5: on frame 12 B is the longer still of both.
    answers = Stream(thresholds=FEW, retire_after_s=5).run(heads)
    assert answers[11].ids == {1: 1, 2: 2}
    assert [answer.ids for answer in answers[12:]] == [{1: 1, 2: 3}] * 4
    assert answers[12].maps["mos-i"][25, 5] == 2
    assert answers[12].maps["tracked"][5, 25] == 0
    assert Stream(thresholds=FEW, retire_after_s=0).run(heads)[-1].ids == {1: 1, 2: 2}
    # Still for 10 s on frame 12, and not a second less.
    assert Stream(thresholds=FEW, retire_after_s=10).run(heads)[12].ids == {1: 1, 2: 3}
    late = Stream(thresholds=FEW, retire_after_s=10.5).run(heads)
    assert [answer.ids for answer in late[12:14]] == [{1: 1, 2: 2}, {1: 1, 2: 3}]


def test_several_still_objects_give_way_on_one_frame() -> None:
    """One for each newcomer, never one that moves, and not the newcomers themselves."""
    rest = {0: Seen(A, moves=False), 1: Seen(B, moves=False)}
    newcomers = {**rest, 2: Seen(C), 3: Seen((24, 24, 8, 8)), 4: Seen((24, 44, 8, 8))}
    scene = Scene([{0: Seen(A), 1: Seen(B)}] * 3 + [rest] * 6 + [newcomers] * 4)
    stream = Stream(thresholds=FEW, retire_after_s=5)
    answers = stream.run(scene.heads())
    assert set(answers[9].ids.values()) == {3, 4}
    assert len(answers[-1].ids) == 2
    moving = {**newcomers, 0: Seen(A), 1: Seen(B)}
    scene = Scene([{0: Seen(A), 1: Seen(B)}] * 3 + [rest] * 6 + [moving] * 4)
    assert Stream(thresholds=FEW, retire_after_s=5).run(scene.heads())[-1].ids == {1: 1, 2: 2}


def test_ids_go_on_after_the_end_of_a_sequence() -> None:
    """All else begins anew: slots, and which slots of the proposer have been seen."""
    heads = Scene([{0: Seen(A), 1: Seen(B)}] * 4).heads()
    stream = Stream()
    assert [answer.ids for answer in stream.run(heads)] == [{1: 1, 2: 2}] * 4
    assert [answer.ids for answer in stream.run(heads)] == [{1: 3, 2: 4}] * 4
    assert len(stream.stage.features) == 0


def test_features_are_dropped_when_nothing_reads_them() -> None:
    """Those of a prompted frame stay for one frame, those of the first ones until the start."""
    heads = Scene([{0: Seen(A)}] * 12 + [{}] * 4).heads()
    stage = Stream().stage
    held = []
    for head in heads:
        stage.push(head)
        held.append(len(stage.features))
    # Prompts on frames 0, 5 and 10.
    assert held == [1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_stream_in_which_nothing_moves() -> None:
    """Empty maps of the video's size, and no ids."""
    stream = Stream()
    answers = stream.run(Scene([{0: Seen(A, moves=False)}] * 5).heads())
    assert stream.tracker.prompted == []
    assert all(not answer.maps[name].any() for answer in answers for name in ("mos-i", "tracked"))
    assert answers[0].maps["mos-i"].shape == VIDEO_HW


def shown(answer_map: NDArray[np.uint8]) -> set[int]:
    """The labels that a map has."""
    return set(np.unique(answer_map).tolist()) - {0}


def test_mos_i_has_those_that_move_and_tracked_has_all() -> None:
    """As in the file: a label where more than half of it is moving proposals."""
    both, one = {0: Seen(A), 1: Seen(B)}, {0: Seen(A), 1: Seen(B, moves=False)}
    answers = Stream().run(Scene([both] * 3 + [one] * 2).heads())
    assert [shown(answer.maps["mos-i"]) for answer in answers] == [{1, 2}] * 3 + [{1}] * 2
    assert [shown(answer.maps["tracked"]) for answer in answers] == [{1, 2}] * 5
