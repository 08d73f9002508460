"""Networks with deterministic weights, seeded inputs and the golden files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gmos_deploy.gmos_ref.checkpoints.stand_in import fill_deterministic

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where the outputs of the published implementation are."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """The tensors of a golden safetensors file by its stem."""
    return lambda stem: load_file(GOLDEN / f"{stem}.safetensors")


@pytest.fixture(scope="session")
def normal() -> Callable[[int, tuple[int, ...]], Tensor]:
    """Float32 standard normals of a seed and a shape, as the golden inputs are drawn."""
    return lambda seed, shape: torch.from_numpy(
        np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    )


@pytest.fixture(scope="session")
def uniform() -> Callable[[int, tuple[int, ...]], Tensor]:
    """Float32 values in [0, 1) of a seed and a shape, as the golden frames are drawn."""
    return lambda seed, shape: torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


@pytest.fixture(scope="session")
def deterministic() -> Callable[[Callable[[], nn.Module]], nn.Module]:
    """Builds a network without storage, then fills it with deterministic weights."""

    def build(factory: Callable[[], nn.Module]) -> nn.Module:
        with torch.device("meta"):
            module = factory()
        fill_deterministic(module)
        return module.eval()

    return build


@pytest.fixture(scope="session")
def assert_golden() -> Callable[[Tensor, Tensor], None]:
    """Holds float32 results against golden ones.

    The tolerance is that of the golden data: 1e-5 plus 1e-5 of the tensor's standard deviation, which
    covers another order of float32 sums and nothing else.
    """

    def check(given: Tensor, expected: Tensor) -> None:
        assert given.shape == expected.shape
        tolerance = 1e-5 + 1e-5 * expected.std(correction=0).item()
        torch.testing.assert_close(given, expected, rtol=0, atol=tolerance)

    return check
