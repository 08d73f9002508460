"""The proposer's queries beside those of another run: which are kept, and in which order, hangs on the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ..contract import NetworkName

Arrays = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float64]

OTHER_QUERY = 0.3
"""Relative distance of two masks above which they may be different queries; below, they are one with an error."""

TINY = 1e-12

SCORE_SLACK = 2.0
"""How far from the last kept score a query may be that only one run keeps, in largest errors of the other scores."""


def in_order_of(network: NetworkName, given: Arrays, expected: Arrays) -> dict[str, NDArray[Any]]:
    """Outputs of a network, those of the proposer with its queries where their masks fit the expected ones best.

    The network keeps the queries that move most, sorted: two that move alike change places at the slightest
    difference, and the last of them may give way to the one behind it. Nothing downstream reads their order. A
    query that only one of both runs keeps counts as equal if its score is as near to the last kept one as scores
    differ anyway: it is then replaced by the expected one.

    Args:
        network: which one; the others have no queries, their outputs are returned as they are.
        given: outputs by name, those of the proposer (B, K, ...).
        expected: of the same shapes.
    """
    if network != "proposer" or any(given[name].shape != expected[name].shape for name in expected):
        return dict(given)
    found = {name: given[name].copy() for name in expected}
    for window in range(len(found["mask_logits"])):
        wanted = _flat(expected["mask_logits"][window])
        masks = _flat(given["mask_logits"][window])
        order = _matched(masks, wanted)
        gone = _exchanged(
            masks[order],
            wanted,
            _flat(given["motion_logits"][window])[order, 0],
            _flat(expected["motion_logits"][window])[:, 0],
        )
        for name, array in found.items():
            array[window] = given[name][window][order]
            array[window][gone] = expected[name][window][gone]
    return found


def _flat(values: NDArray[Any]) -> Floats:
    """(K, ...) to (K, N)."""
    return values.reshape(len(values), -1).astype(np.float64)


def _matched(given: Floats, expected: Floats) -> NDArray[np.int64]:
    """For each expected mask (K, N) the given one that fits best, each once.

    Distances count up to `OTHER_QUERY`: two masks that are nowhere in the other run must not pull others apart.
    """
    a, b = np.nan_to_num(given), np.nan_to_num(expected)
    squared = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    norms = np.linalg.norm(b, axis=1)
    cost = np.minimum(np.sqrt(np.maximum(squared, 0)), OTHER_QUERY * norms) / np.maximum(norms, TINY)
    rows, columns = linear_sum_assignment(cost)
    order = np.empty(len(columns), np.int64)
    order[columns] = rows
    return order


def _exchanged(
    masks: Floats, expected_masks: Floats, scores: Floats, expected_scores: Floats
) -> NDArray[np.bool_]:
    """Which matched pairs (K,) are two queries of which each run keeps one, their scores being next to the last."""
    norms = np.linalg.norm(expected_masks, axis=1)
    other: NDArray[np.bool_] = np.linalg.norm(masks - expected_masks, axis=1) > OTHER_QUERY * norms
    if not other.any() or other.all():
        return np.zeros_like(other)
    slack = SCORE_SLACK * np.abs(scores - expected_scores)[~other].max()
    last = expected_scores.min()
    near = (np.maximum(scores, expected_scores) <= last + slack) & (scores >= last - slack)
    exchanged: NDArray[np.bool_] = other & near
    return exchanged
