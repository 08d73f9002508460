"""Queries are compared whatever their order, and nothing else is reordered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.comparison.query_order import in_order_of

BATCH, QUERIES, SIDE = 2, 5, 8

Outputs = dict[str, NDArray[Any]]


@pytest.fixture
def outputs() -> Outputs:
    """Outputs of a proposer."""
    rng = np.random.default_rng(0)
    return {
        "mask_logits": rng.normal(size=(BATCH, QUERIES, SIDE, SIDE)).astype(np.float32),
        "motion_logits": np.sort(rng.normal(size=(BATCH, QUERIES)))[:, ::-1].astype(np.float32),
        "ious": rng.random((BATCH, QUERIES)).astype(np.float32),
    }


@pytest.fixture
def shuffled(outputs: Outputs) -> Outputs:
    """The same, its queries in another order for each window."""
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(QUERIES) for _ in range(BATCH)])
    batch = np.arange(BATCH)[:, None]
    return {name: array[batch, order] for name, array in outputs.items()}


def test_shuffled_queries_come_back(outputs: Outputs, shuffled: Outputs) -> None:
    """Every output of a query goes with its mask."""
    found = in_order_of("proposer", shuffled, outputs)
    for name, array in outputs.items():
        assert not np.array_equal(shuffled[name], array)
        np.testing.assert_array_equal(found[name], array)


def test_differences_stay(outputs: Outputs, shuffled: Outputs) -> None:
    """A query that is off is still off: it is matched, not replaced."""
    shuffled["mask_logits"][0, 3] += 0.5
    found = in_order_of("proposer", shuffled, outputs)["mask_logits"]
    off = np.abs(found - outputs["mask_logits"]).max(axis=(-1, -2))
    assert np.count_nonzero(off) == 1
    assert off.max() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("score", "equal"),
    [pytest.param(0.001, True, id="as near as scores differ"), pytest.param(0.1, False, id="further away")],
)
def test_the_last_query_gives_way(outputs: Outputs, score: float, equal: bool) -> None:
    """Another query than the last one is no difference if its score could be either's."""
    given = {name: array.copy() for name, array in outputs.items()}
    given["motion_logits"] += np.float32(0.001) * np.array([1, -1, 1, -1, 1], np.float32)
    last = outputs["motion_logits"][0, -1]
    for name, array in given.items():
        # A mask that is nowhere in the other run, and nearer to the first one than to the last.
        array[0, -1] = last + score if name == "motion_logits" else 0.9 * array[0, 0] - 0.5 * array[0, -1]
    found = in_order_of("proposer", given, outputs)
    assert np.array_equal(found["mask_logits"], outputs["mask_logits"]) == equal
    np.testing.assert_array_equal(found["motion_logits"][1], given["motion_logits"][1])


def test_another_query_in_the_middle(outputs: Outputs) -> None:
    """A query that is certain to be kept must be there."""
    given = {name: array.copy() for name, array in outputs.items()}
    given["motion_logits"] += np.float32(0.001)
    given["mask_logits"][0, 0] *= -1
    found = in_order_of("proposer", given, outputs)
    assert not np.array_equal(found["mask_logits"][0, 0], outputs["mask_logits"][0, 0])


def test_not_finite(outputs: Outputs, shuffled: Outputs) -> None:
    """A mask of NaN takes the place that is left, and stays NaN."""
    shuffled["mask_logits"][1, 2] = np.nan
    found = in_order_of("proposer", shuffled, outputs)["mask_logits"]
    assert np.count_nonzero(np.isnan(found).any(axis=(-1, -2))) == 1
    np.testing.assert_array_equal(found[0], outputs["mask_logits"][0])


def test_other_networks(outputs: Outputs, shuffled: Outputs) -> None:
    """Objects of the tracker have their places: nothing is moved."""
    found = in_order_of("mask_decoder", shuffled, outputs)
    np.testing.assert_array_equal(found["ious"], shuffled["ious"])


def test_other_shapes(outputs: Outputs) -> None:
    """Another number of queries is for the comparison to report."""
    fewer = {name: array[:, :3] for name, array in outputs.items()}
    assert in_order_of("proposer", fewer, outputs)["ious"].shape == (BATCH, 3)
