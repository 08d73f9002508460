"""A bounded sample keeps rare kinds, and is the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmos_deploy.calibration.sampling.balanced_sample import BalancedSample

STREAM = [("common", 1)] * 500 + [("rare", 1)] * 3 + [("common", 1)] * 500


def sampled(stream: list[tuple[str, int]], limit: int, max_bytes: int, seed: int) -> BalancedSample:
    sample = BalancedSample(limit, max_bytes, seed)
    for kind, size in stream:
        sample.offer(kind, size)
    return sample


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=60),
    st.integers(1, 8),
    st.integers(9, 40),
    st.integers(0, 3),
)
def test_what_is_kept_is_what_was_offered_and_not_told_to_go(
    stream: list[tuple[str, int]], limit: int, max_bytes: int, seed: int
) -> None:
    """For any stream: a caller that follows the answers has exactly the sample, within both limits."""
    sample = BalancedSample(limit, max_bytes, seed)
    held = set()
    for kind, size in stream:
        kept, gone = sample.offer(kind, size)
        held -= {item.index for item in gone}
        if kept is not None:
            held.add(kept.index)
        assert len(held) <= limit
        assert sum(item.size for item in sample.kept) <= max_bytes
        assert held == {item.index for item in sample.kept}
    assert sample.seen == len(stream)
    assert bool(sample.kept) == bool(stream)


def test_a_rare_kind_is_kept_whole() -> None:
    """Three calls among a thousand, in a sample of eight."""
    kinds = Counter(item.kind for item in sampled(STREAM, 8, 100, seed=1).kept)
    assert kinds == {"common": 5, "rare": 3}


def test_the_seed_decides_the_sample() -> None:
    """The same one gives the same sample, another one another."""
    first, again, other = (
        [item.index for item in sampled(STREAM, 8, 100, seed=seed).kept] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_every_item_of_a_kind_is_equally_likely() -> None:
    """Early and late ones alike: 400 seeds, 5 of 50 kept, so each of ten parts has 200 on average."""
    counts = np.zeros(10, int)
    for seed in range(400):
        for item in sampled([("a", 1)] * 50, 5, 100, seed).kept:
            counts[item.index // 5] += 1
    # Five standard deviations of a binomial with 2000 draws and p = 0.1.
    assert np.abs(counts - 200).max() < 5 * (2000 * 0.1 * 0.9) ** 0.5


def test_more_kinds_than_places_are_equally_likely_too() -> None:
    """Forty kinds and four places: the last ones do not push out the first."""
    counts = np.zeros(4, int)
    for seed in range(400):
        for item in sampled([(str(i), 1) for i in range(40)], 4, 100, seed).kept:
            counts[item.index // 10] += 1
    # Five standard deviations of a binomial with 1600 draws and p = 0.25.
    assert np.abs(counts - 400).max() < 5 * (1600 * 0.25 * 0.75) ** 0.5


def test_kinds_that_take_turns_are_not_pushed_out_by_late_ones() -> None:
    """Five kinds in turn and eight places: the first half of the stream has about half of the sample."""
    early = 0
    for seed in range(400):
        stream = [(str(i % 5), 1) for i in range(40)]
        early += sum(item.index < 20 for item in sampled(stream, 8, 100, seed).kept)
    # Of 3200; three kinds lose a place once, early, and no kind gets one late.
    assert 1400 < early < 1800


@pytest.mark.parametrize("size", [11, 1000])
def test_an_item_beyond_the_bytes_is_never_kept(size: int) -> None:
    """And pushes nothing out."""
    sample = sampled([("a", 5), ("b", size)], 8, 10, seed=0)
    assert [item.index for item in sample.kept] == [0]
