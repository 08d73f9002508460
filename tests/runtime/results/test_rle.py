"""Run-length encoding: what comes back is the mask, and the text is pycocotools' own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from gmos_deploy.runtime.results.rle import compressed, encode, run_lengths

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=24))


def decoded(size: list[int], text: str) -> NDArray[np.bool_]:
    """The mask of a compressed text, by the definition, number by number."""
    counts: list[int] = []
    characters = iter(text)
    for first in characters:
        value, shift, character = 0, 0, first
        while True:
            chunk = ord(character) - 48
            value |= (chunk & 0x1F) << shift
            shift += 5
            if not chunk & 0x20:
                break
            character = next(characters)
        if chunk & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size, order="F")


@given(MASKS)
def test_masks_come_back(mask: NDArray[np.bool_]) -> None:
    """Empty, full and ragged ones."""
    counts = run_lengths(mask)
    assert counts.sum() == mask.size
    rle = encode(mask)
    np.testing.assert_array_equal(decoded(rle["size"], rle["counts"]), mask)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (3, 40_000)])
def test_long_runs_come_back(height: int, width: int) -> None:
    """Numbers of several characters, and differences below zero."""
    mask = np.zeros((height, width), np.bool_)
    mask[:, width // 3 : width // 2] = True
    mask[1, width // 2 : width // 2 + 40 : 2] = True
    rle = encode(mask)
    np.testing.assert_array_equal(decoded([height, width], str(rle["counts"])), mask)


@given(MASKS)
def test_the_text_is_that_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    """To the byte, from the mask and from the counts."""
    judge = pytest.importorskip("pycocotools.mask")
    theirs = judge.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    again = judge.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask).tolist()}, *mask.shape)
    assert again["counts"].decode() == compressed(run_lengths(mask))
