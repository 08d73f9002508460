"""Windows of kept frames: the frame rule where nothing is dropped, the nearest kept ones where something is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.windows import LiveWindows, kept_window
from gmos_deploy.runtime.video.sequence import window_indices

RGB = np.zeros((2, 2, 3), np.uint8)

kept_frames = st.lists(st.integers(1, 6), max_size=60).map(lambda steps: np.cumsum([0, *steps]).tolist())


def run(kept: list[int], stride: int) -> tuple[dict[int, tuple[int, ...]], dict[int, int], int]:
    """The window of each frame, the frame that each was answered with (-1: the end), and the most tokens held.

    Tokens are the frames' own numbers.
    """
    windows = LiveWindows(stride=stride, window=5)
    found: dict[int, tuple[int, ...]] = {}
    answered: dict[int, int] = {}
    most = 0
    for number in kept:
        due = windows.add(LiveFrame(index=number, time_s=0, arrival_s=0, rgb=RGB), number)
        most = max(most, windows.held)
        for one in due:
            found[one.frame.index], answered[one.frame.index] = tuple(one.tokens), number
    for one in windows.end():
        found[one.frame.index], answered[one.frame.index] = tuple(one.tokens), -1
    assert (windows.held, windows.waiting) == (0, 0)
    assert list(found) == kept
    return found, answered, most


@given(frames=st.integers(1, 40), stride=st.integers(1, 6))
def test_with_nothing_dropped_windows_are_those_of_the_file(frames: int, stride: int) -> None:
    """Each frame once, 2s frames later, clipped at both ends."""
    found, answered, most = run(list(range(frames)), stride)
    assert found == {i: window_indices(i, frames, stride) for i in range(frames)}
    assert answered == {i: i + 2 * stride if i + 2 * stride < frames else -1 for i in range(frames)}
    assert most <= 4 * stride + 1


@given(kept=kept_frames, stride=st.integers(1, 6))
def test_with_frames_dropped_neighbours_are_the_nearest_kept(kept: list[int], stride: int) -> None:
    """By number, ties to the one nearer to the frame; the answer waits for the first kept frame at or after i + 2s."""
    found, answered, most = run(kept, stride)
    assert most <= 4 * stride + 3
    for i in kept:
        later = [k for k in kept if k >= i + 2 * stride]
        assert answered[i] == (later[0] if later else -1)
        known = [k for k in kept if not later or k <= later[0]]
        for step, neighbour in zip((-2, -1, 0, 1, 2), found[i], strict=True):
            target = i + step * stride
            distance = min(abs(k - target) for k in known)
            nearest = [k for k in known if abs(k - target) == distance]
            assert neighbour == min(nearest, key=lambda k, i=i: abs(k - i))


@pytest.mark.parametrize(
    ("kept", "i", "expected"),
    [
        ([0, 1, 2, 3, 4], 2, (0, 1, 2, 3, 4)),
        # 1 and 3 are dropped: 2 is as near to either as 0 and 4, and nearer to itself.
        ([0, 2, 4], 2, (0, 2, 2, 2, 4)),
        ([0, 10, 20], 10, (10, 10, 10, 10, 10)),
        ([5], 5, (5, 5, 5, 5, 5)),
    ],
)
def test_a_window_of_few_frames(kept: list[int], i: int, expected: tuple[int, ...]) -> None:
    """Stride 1: a frame may be its own neighbour."""
    assert kept_window(i, kept, 1) == expected


@settings(max_examples=20)
@given(start=st.integers(1, 10**9), stride=st.integers(1, 4))
def test_numbers_may_begin_anywhere(start: int, stride: int) -> None:
    """A sequence that begins in the middle of a source has the windows of one from 0."""
    found, _, _ = run([start + i for i in range(12)], stride)
    expected = {start + i: tuple(start + k for k in window_indices(i, 12, stride)) for i in range(12)}
    assert found == expected
