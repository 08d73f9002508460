"""The proposer's queries in the order of another run: which comes first hangs on the last bit of a motion score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .contract import NetworkName

Arrays = Mapping[str, NDArray[Any]]


def in_order_of(network: NetworkName, given: Arrays, expected: Arrays) -> dict[str, NDArray[Any]]:
    """Outputs of a network, those of the proposer with its queries where their masks fit the expected ones best.

    Queries are sorted by motion, and two that move alike change places at the slightest difference. Nothing
    downstream reads their order.

    Args:
        network: which one; the others have no queries, their outputs are returned as they are.
        given: outputs by name, those of the proposer (B, K, ...).
        expected: of the same shapes.
    """
    if network != "proposer" or any(given[name].shape != expected[name].shape for name in expected):
        return dict(given)
    masks = zip(given["mask_logits"], expected["mask_logits"], strict=True)
    order = np.stack([_matched(a, b) for a, b in masks])
    batch = np.arange(len(order))[:, None]
    return {name: array[batch, order] for name, array in given.items()}


def _matched(given: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.int64]:
    """For each expected mask the given one of the least squared distance, each once."""
    a, b = (np.nan_to_num(masks.reshape(len(masks), -1).astype(np.float64)) for masks in (given, expected))
    distance = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    rows, columns = linear_sum_assignment(distance)
    order = np.empty(len(columns), np.int64)
    order[columns] = rows
    return order
