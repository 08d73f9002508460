"""Axis letters and their lengths."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.shapes import (
    bound_lengths,
    call_lengths,
    letters_of,
    size_of,
    video_lengths,
    with_pi3,
)

MODEL = model_spec(preset("published"), "gmos")
SPECS = network_specs(MODEL)


def test_a_video_decides_its_pixels_and_those_of_pi3() -> None:
    """Each has letters of its own."""
    found = video_lengths(MODEL, (1080, 1920))
    assert found == {"H": 1080, "W": 1920, "Hp": 378, "Wp": 672, "h": 27, "w": 48}
    lengths = {**found, "B": 4}
    assert size_of(SPECS["dino"].inputs[0], lengths) == (4, 3, 378, 672)
    assert size_of(SPECS["sam2_resize"].inputs[0], lengths) == (4, 1080, 1920, 3)


def test_a_host_input_holds_the_video_s_lengths() -> None:
    """Its size is its values, and a call's lengths are read from them."""
    logits, video_hw = SPECS["proposal_labels"].inputs
    assert size_of(video_hw, {"H": 48, "W": 64}) == (48, 64)
    inputs = {"mask_logits": np.zeros((2, *logits.axes[1:])), "video_hw": np.array([48, 64])}  # type: ignore[arg-type]
    assert call_lengths((logits, video_hw), inputs) == {"B": 2, "H": 48, "W": 64}
    assert letters_of((logits, video_hw)) == ("B", "H", "W")


def test_lengths_are_bound_by_the_tensors_that_are_there() -> None:
    """The others are left out."""
    assert bound_lengths(SPECS["memory_attention"].inputs, {"pointers": (3, 5, 256)}) == {"O": 3, "P": 5}


def test_pixels_and_patches_follow_from_each_other() -> None:
    """A grid wins over pixels; pixels between two patches are refused."""
    assert with_pi3({"h": 4, "Wp": 28}, 14) == {"h": 4, "Hp": 56, "Wp": 28, "w": 2}
    assert with_pi3({"B": 1}, 14) == {"B": 1}
    with pytest.raises(ValueError, match="60 pixels, expected a multiple of 14"):
        with_pi3({"Hp": 60}, 14)
