"""Pi3 sizes and resizing against the published implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.pi3_frame import PI3_AREA_PX, pi3_frame, pi3_size_wh


def test_sizes_match_the_published_ones(preprocess_tables: dict[str, Any]) -> None:
    """All video sizes of the table, 1x1 and very wide ones among them."""
    for video, expected in preprocess_tables["pi3_size_wh"].items():
        width, height = map(int, video.split("x"))
        assert list(pi3_size_wh(width, height)) == expected


def test_frames_match_the_published_ones(preprocess_arrays: dict[str, NDArray[Any]]) -> None:
    """8-bit Lanczos, bit for bit: division by 255 is all that is left to do."""
    frames = preprocess_arrays["frames"]
    size_wh = pi3_size_wh(frames.shape[2], frames.shape[1])
    resized = np.stack([pi3_frame(frame, size_wh) for frame in frames])
    assert resized.shape == tuple(preprocess_arrays["pi3_shape"])
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    expected = np.rint(preprocess_arrays["pi3_strided"] * 255).astype(np.uint8)
    np.testing.assert_array_equal(resized[:, :, ::9, ::9], expected)


@pytest.mark.parametrize(("width", "height"), [(10_000, 1), (1, 10_000)])
def test_videos_thinner_than_a_patch_are_refused(width: int, height: int) -> None:
    """One patch across cannot be made smaller."""
    with pytest.raises(GmosError, match=f"{width}x{height} pixels is too thin.*crop or pad"):
        pi3_size_wh(width, height)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000))
def test_a_size_is_whole_patches_within_the_budget(width: int, height: int) -> None:
    """Whatever the video, the size fits or is refused."""
    try:
        size_wh = pi3_size_wh(width, height)
    except GmosError:
        assert max(width, height) > 100 * min(width, height)
    else:
        assert size_wh[0] % 14 == size_wh[1] % 14 == 0
        assert 0 < size_wh[0] * size_wh[1] <= PI3_AREA_PX
