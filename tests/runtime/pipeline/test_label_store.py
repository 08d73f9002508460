"""Compressed label maps."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.runtime.pipeline.label_store import LabelStore


def test_maps_come_back_as_they_went_in() -> None:
    """Written in any order; unwritten frames are empty."""
    generator = np.random.default_rng(0)
    store = LabelStore(4, (9, 7))
    maps = generator.integers(0, 5, (4, 9, 7), dtype=np.uint8)
    for frame in (3, 0, 1):
        store[frame] = maps[frame]
    assert np.array_equal(np.stack(list(store)), np.stack([maps[0], maps[1], 0 * maps[2], maps[3]]))


def test_a_table_renames_labels() -> None:
    """The original stays."""
    store = LabelStore(0, (1, 3))
    store.append(np.array([[0, 1, 2]], np.uint8))
    table = np.zeros(256, np.uint8)
    table[2] = 7
    assert store.remap(table)[0].tolist() == [[0, 0, 7]]
    assert store[0].tolist() == [[0, 1, 2]]


def test_a_flat_map_takes_little_memory() -> None:
    """A full-HD map with one box is under 20 kB, not 2 MB."""
    labels = np.zeros((1080, 1920), np.uint8)
    labels[200:700, 300:900] = 3
    store = LabelStore(1, labels.shape)
    store[0] = labels
    assert 0 < store.nbytes() < 20_000


@pytest.mark.parametrize("labels", [np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.int64)])
def test_another_shape_or_dtype_is_a_mistake(labels: np.ndarray) -> None:
    """It would come back as something else."""
    with pytest.raises(ValueError, match="expected \\(3, 2\\) uint8 for frame 0"):
        LabelStore(1, (3, 2))[0] = labels
