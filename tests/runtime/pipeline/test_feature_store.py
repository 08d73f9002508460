"""The feature store: where frames lie, that they come back as they were, and that it cleans up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.pipeline.feature_store import FeatureBudget, FeatureStore


def features(frame: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(frame)
    return {"s0": generator.random((4, 6), np.float32), "f": generator.integers(0, 9, (3,), np.int64)}


FRAME_BYTES = sum(array.nbytes for array in features(0).values())


def test_frames_fill_the_device_then_the_host_then_a_file(
    colour_backend: Callable[..., Any], tmp_path: Path
) -> None:
    """Each place takes what fits, and every frame comes back unchanged, in any order."""
    budget = FeatureBudget(device=2 * FRAME_BYTES, host=3 * FRAME_BYTES + 1, spill_dir=tmp_path)
    with FeatureStore(colour_backend().arrays, budget) as store:
        for frame in range(9):
            store.put(frame, features(frame))
        assert store.device_bytes == 2 * FRAME_BYTES
        assert store.host_bytes == 3 * FRAME_BYTES
        assert store.disk_bytes == 4 * FRAME_BYTES
        for frame in (8, 0, 5, 5, 2, 7, 3):
            for name, array in features(frame).items():
                found = store.get(frame)[name]
                assert found.dtype == array.dtype
                assert np.array_equal(found, array)


def test_the_spill_file_has_no_name_and_is_gone_after_the_run(
    colour_backend: Callable[..., Any], tmp_path: Path
) -> None:
    """Even a process that is killed leaves nothing in the directory."""
    budget = FeatureBudget(device=0, host=0, spill_dir=tmp_path)
    with FeatureStore(colour_backend().arrays, budget) as store:
        store.put(0, features(0))
        assert store.disk_bytes == FRAME_BYTES
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files count


def test_a_place_that_cannot_be_written_is_named(colour_backend: Callable[..., Any], tmp_path: Path) -> None:
    """The message says the directory and what to do."""
    missing = tmp_path / "gone"
    budget = FeatureBudget(device=0, host=0, spill_dir=missing)
    with (
        FeatureStore(colour_backend().arrays, budget) as store,
        pytest.raises(GmosError, match=r"gone: cannot keep features .* --spill_dir, or raise --host_budget"),
    ):
        store.put(0, features(0))


def test_an_unknown_frame_is_a_key_error(colour_backend: Callable[..., Any]) -> None:
    """The pipeline never asks for one; if it does, it is a bug."""
    with (
        FeatureStore(colour_backend().arrays, FeatureBudget(device=1, host=1)) as store,
        pytest.raises(KeyError),
    ):
        store.get(3)


def test_a_negative_budget_is_refused() -> None:
    """By name."""
    with pytest.raises(GmosError, match="feature budget: host is -1 bytes"):
        FeatureBudget(device=0, host=-1)
