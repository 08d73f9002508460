"""The DAVIS palette."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.runtime.results.palette import davis_palette


def test_palette_matches_the_published_one(preprocess_arrays: dict[str, NDArray[Any]]) -> None:
    """All 256 colours."""
    palette = davis_palette()
    assert palette.dtype == np.uint8
    np.testing.assert_array_equal(palette, preprocess_arrays["palette"])


def test_colours_are_all_different() -> None:
    """A mask can be read back from its colours."""
    assert len(np.unique(davis_palette(), axis=0)) == 256
