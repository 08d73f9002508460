"""COCO's run-length encoding of masks, as `pycocotools.mask` reads it; NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK_BITS = 5
"""Bits of a number in one character of the compressed form."""
FIRST_CHARACTER = 48
"""The character of an empty chunk, "0"."""


def run_lengths(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the runs of an (H, W) bool mask, column by column, the first one of background.

    Returns:
        (R,) int64; the first may be 0, and together they are H·W.
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts_set = flat[:1].any()
    edges = np.concatenate([[0, 0] if starts_set else [0], ends, [flat.size]])
    return np.diff(edges).astype(np.int64)


def compressed(counts: NDArray[np.int64]) -> str:
    """Run lengths as COCO's string (`rleToString` of cocoapi/common/maskApi.c).

    From the fourth on a number is the difference to the one two before it. A number is written in chunks of five bits,
    the lowest first, in two's complement; the sixth bit of a character says that more follow.
    """
    values = counts.copy()
    values[3:] -= counts[1:-2]
    characters, used = [], []
    alive = np.ones(len(values), np.bool_)
    while alive.any():
        chunk = values & 0x1F
        values >>= CHUNK_BITS
        # The sign is the highest bit written: the rest is done where it is nothing but that.
        more = values != np.where(chunk & 0x10, -1, 0)
        characters.append(chunk + FIRST_CHARACTER + 0x20 * more)
        used.append(alive)
        alive = alive & more
    return bytes(np.stack(characters, axis=1)[np.stack(used, axis=1)].astype(np.uint8)).decode("ascii")


def encode(mask: NDArray[np.bool_]) -> dict[str, object]:
    """An (H, W) bool mask as COCO's compressed RLE object: `size` [H, W] and `counts`, a string."""
    return {"size": list(mask.shape), "counts": compressed(run_lengths(mask))}
