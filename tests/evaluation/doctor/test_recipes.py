"""gmos-doctor on the recipes of a bundle: what they are, and whether they are for its networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gmos_deploy.evaluation.doctor.bundle_findings import _recipe
from gmos_deploy.runtime.bundle.recipe import Recipe


@pytest.mark.parametrize(
    ("identity", "variant", "state", "words"),
    [
        ("a", "gmos", "ok", "geometry_every 2: 1.50 times as fast on cpu"),
        ("b", "gmos", "missing", "it was tuned with other networks"),
        ("a", "gmos-s", "wrong", "it was tuned for gmos"),
    ],
)
def test_recipes_of_a_bundle(identity: str, variant: str, state: str, words: str) -> None:
    """By the SHA-256 of its bundle.json, and by its variant."""
    recipe = Recipe(
        name="tuned",
        variant="gmos",
        levers={"geometry_every": 2},
        bundle="a",
        backend="onnxruntime",
        device="cpu",
        target_masks=0.95,
        speedup=1.5,
        agreement=(),
    )
    bundle: Any = SimpleNamespace(identity=identity, model=SimpleNamespace(variant=variant))
    found, line = _recipe(bundle, recipe)
    assert found == state
    assert line.startswith(words)
