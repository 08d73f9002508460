"""Tables of labels."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.runtime.label_lookup import look_up


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_it_is_indexing(dtype: type) -> None:
    """Every value, any shape, memory in any order; the result can be written into, and the labels stay."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 256, (7, 11, 3), np.uint8)
    table = rng.integers(0, 2 if dtype is np.bool_ else 256, 256).astype(dtype)
    for given in (labels, labels[::2, ::-1], labels.transpose(2, 0, 1), labels[:0]):
        before = given.copy()
        found = look_up(given, table)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, table[given])
        found[...] = 0
        np.testing.assert_array_equal(given, before)
