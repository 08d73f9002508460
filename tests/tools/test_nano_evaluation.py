"""How the nano networks are judged on held-out clips."""

from __future__ import annotations

import numpy as np
from evaluate import own_track


def test_the_track_of_an_object_is_the_one_that_fits_it_best() -> None:
    """A wide track that covers the object and much else is not its own; without tracks there is none."""
    truth = np.zeros((3, 8, 8), bool)
    truth[:, 2:4, 2:4] = True
    tracks = np.zeros((3, 8, 8), np.uint8)
    tracks[:, :6] = 7
    tracks[:2, 2:4, 2:4] = 3
    np.testing.assert_array_equal(own_track(tracks, truth), tracks == 3)
    assert not own_track(np.zeros_like(tracks), truth).any()
