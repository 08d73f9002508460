"""Geometry on some frames: which are decoded, what lies between, and what is computed for it at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.arrays import NumpyArrays, between_on_host
from gmos_deploy.runtime.levers import Levers
from gmos_deploy.runtime.pipeline.encode import PreparedFrame, WindowEncoder
from gmos_deploy.runtime.pipeline.sparse.encoder import SparseEncoder
from gmos_deploy.runtime.pipeline.sparse.windows import Windows

FRAMES = 17


def frames_of(backend: Any, rows: list[int]) -> list[PreparedFrame]:
    """Frames of a box whose top is given."""
    found = []
    for index, top in enumerate(rows):
        rgb = np.full((64, 64, 3), 128, np.uint8)
        rgb[top : top + 16, 8:32] = (220, 30, 30)
        pi3 = np.ascontiguousarray(rgb[:56, :56].transpose(2, 0, 1))
        found.append(PreparedFrame(index=index, rgb=rgb, pi3_rgb=pi3, time_s=index / 8))
    return found


def encode(
    backend: Any, rows: list[int], *, batch_size: int = 4, stride: int = 1, **levers: Any
) -> tuple[dict[int, NDArray[Any]], int]:
    """The geometry of every frame that has some, and how many windows were decoded."""
    decoded: list[int] = []
    windows = Windows(backend, stride=stride, batch_size=batch_size, on_decoded=decoded.append)
    encoder = SparseEncoder(windows, stride=stride, levers=Levers(**levers))
    return _geometry(encoder, frames_of(backend, rows)), sum(decoded)


def _geometry(encoder: Any, frames: list[PreparedFrame]) -> dict[int, NDArray[Any]]:
    found: dict[int, NDArray[Any]] = {}
    seen = []
    for batch in encoder.run(frames):
        seen += [frame.index for frame in batch.frames]
        assert len(batch.features["f"]) == len(batch.frames), "features are of every frame"
        chosen = range(len(batch.frames)) if batch.chosen is None else batch.chosen
        rows = [] if batch.geometry is None else batch.geometry
        for position, row in zip(chosen, rows, strict=True):
            found[batch.frames[position].index] = row
    assert seen == list(range(len(frames)))
    return found


@pytest.fixture
def backend(colour_backend: Callable[..., Any]) -> Any:
    return colour_backend("gmos")


UNEVEN = [2 + (i * i) % 23 for i in range(FRAMES)]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("stride", [1, 3])
def test_at_the_exact_setting_it_is_the_window_encoder(backend: Any, batch_size: int, stride: int) -> None:
    """The same geometry of every frame, whatever the batch."""
    whole = WindowEncoder(backend, stride=stride, batch_size=batch_size)
    expected = _geometry(whole, frames_of(backend, UNEVEN))
    found, decoded = encode(backend, UNEVEN, batch_size=batch_size, stride=stride)
    assert decoded == FRAMES
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[frame], expected[frame]) for frame in expected)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize(
    ("every", "own"), [(2, [*range(0, 17, 2)]), (3, [*range(0, 17, 3), 16]), (64, [0, 16])]
)
def test_geometry_between_is_interpolated(backend: Any, batch_size: int, every: int, own: list[int]) -> None:
    """Every G-th frame and the last have their own; the others lie on the line between their neighbours."""
    exact, _ = encode(backend, UNEVEN)
    found, decoded = encode(backend, UNEVEN, batch_size=batch_size, geometry_every=every)
    assert decoded == len(own)
    for frame in range(FRAMES):
        before, after = max(one for one in own if one <= frame), min(one for one in own if one >= frame)
        share = (frame - before) / max(1, after - before)
        expected = exact[before] + np.float32(share) * (exact[after] - exact[before])
        np.testing.assert_allclose(found[frame], expected, rtol=1e-6, err_msg=str(frame))


@pytest.mark.parametrize(("every", "stride", "share"), [(3, 3, 3), (6, 3, 3), (2, 3, 1)])
def test_dino_sees_the_frames_of_windows(backend: Any, every: int, stride: int, share: int) -> None:
    """With a multiple of the stride, one frame in so many, but at the end, where windows are cut."""
    count = 61
    encode(backend, [2 + i % 20 for i in range(count)], stride=stride, geometry_every=every)
    assert backend.seen["sam2_encoder"] == count
    assert backend.seen["dino"] <= -(-count // share) + 2
    assert backend.seen["dino"] >= count // share


def test_what_changes_much_is_decoded_after_all(backend: Any) -> None:
    """Frames between two neighbours that differ; a limit of 0 decodes all that differ at all, a high one none."""
    rows = [4] * 8 + [20] * 9
    exact, _ = encode(backend, rows)
    found, decoded = encode(backend, rows, geometry_every=4, geometry_change=0.1)
    assert decoded == 5 + 3, "0 4 8 12 16, and those between 4 and 8"
    assert all(np.array_equal(found[frame], exact[frame]) for frame in range(4, 9))
    assert encode(backend, rows, geometry_every=4, geometry_change=100.0)[1] == 5
    assert encode(backend, UNEVEN, geometry_every=4, geometry_change=0.0)[1] == FRAMES


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_some_frames_have_geometry_at_all(backend: Any, batch_size: int) -> None:
    """With `propose_every`: the first three and every K-th; decoded is what these need."""
    found, decoded = encode(backend, UNEVEN, batch_size=batch_size, propose_every=5)
    assert sorted(found) == [0, 1, 2, 5, 10, 15]
    assert decoded == 6
    exact, _ = encode(backend, UNEVEN)
    assert all(np.array_equal(found[frame], exact[frame]) for frame in found)
    found, decoded = encode(backend, UNEVEN, batch_size=batch_size, propose_every=5, geometry_every=4)
    assert sorted(found) == [0, 1, 2, 5, 10, 15]
    assert decoded == 5, "0 4 8 12 16"


def test_little_waits(backend: Any) -> None:
    """Tokens, geometry and pixels of frames that nothing can need are dropped as the video goes by."""
    windows = Windows(backend, stride=2, batch_size=4, on_decoded=lambda _: None)
    encoder = SparseEncoder(windows, stride=2, levers=Levers(geometry_every=3))
    most = 0
    for _ in encoder.run(frames_of(backend, [2 + i % 20 for i in range(100)])):
        most = max(most, len(encoder._pi3), len(windows._tokens), len(encoder._geometry))
    assert most <= 4 + 3 + 4 * 2 + 4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_on_the_way(dtype: str) -> None:
    """In float32, rounded to the arrays' own dtype; both ends are themselves."""
    a, b = np.arange(6, dtype=dtype).reshape(2, 3), np.full((2, 3), 10, dtype)
    start, middle, end = between_on_host(NumpyArrays(), a, b, [0.0, 0.25, 1.0])
    assert np.array_equal(start, a)
    assert np.array_equal(end, b)
    assert np.array_equal(middle, (a + 0.25 * (b - a)).astype(dtype))
    assert middle.dtype == dtype
    assert all(
        np.array_equal(one, two)
        for one, two in zip([middle], NumpyArrays().between(a, b, [0.25]), strict=True)
    )
