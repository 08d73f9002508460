"""Recipes: files in and beside bundles, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.recipe import (
    Recipe,
    RecipeAgreement,
    bundle_recipes,
    find_recipe,
    read_recipe,
    recipe_path,
    write_recipe,
)
from gmos_deploy.runtime.files.made_from import ClipOrigin

RECIPE = Recipe(
    name="tuned",
    variant="gmos",
    levers={"geometry_every": 2, "geometry_change": 0.25},
    bundle="0" * 64,
    backend="onnxruntime",
    device="cpu",
    target_masks=0.95,
    speedup=1.5,
    agreement=(RecipeAgreement(result="mos", mean=0.98, worst=0.96, worst_video="street"),),
    tuned_on=(ClipOrigin(name="street", sha256="1" * 64, stride=3, fps=24.0),),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """By its file and by its name in a bundle, and it says in a line what it is."""
    path = recipe_path(tmp_path, "tuned")
    path.parent.mkdir()
    write_recipe(path, RECIPE)
    assert read_recipe(path) == find_recipe("tuned", tmp_path) == find_recipe(str(path), None) == RECIPE
    assert bundle_recipes(tmp_path) == {"tuned": RECIPE}
    assert RECIPE.line() == (
        "geometry_every 2, geometry_change 0.25: 1.50 times as fast on cpu, keeps mos 0.980 (worst video 0.960) of "
        "masks; tuned on street"
    )
    assert replace(RECIPE, levers={}, tuned_on=()).line().startswith("everything exact: ")


@pytest.mark.parametrize(
    ("given", "bundle", "message"),
    [
        ("fast", False, "--recipe fast is a name, and there is no bundle to look in; give the recipe's file"),
        ("fast", True, r"--recipe fast: .* has no such recipe \(there: tuned\); make it again"),
        (
            "no.json",
            True,
            "there is no recipe no.json; make it again with gmos-export tune, or leave --recipe out",
        ),
        ("..", True, "expected a name of letters"),
    ],
)
def test_what_is_not_there(tmp_path: Path, given: str, bundle: bool, message: str) -> None:
    """With what is."""
    path = recipe_path(tmp_path, "tuned")
    path.parent.mkdir()
    write_recipe(path, RECIPE)
    with pytest.raises(GmosError, match=message):
        find_recipe(given, tmp_path if bundle else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ("{}", "is no recipe: tuned.json: object missing required field"),
        (None, "has recipe format 2, expected 1"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    """Is one line; among a bundle's recipes it is that line."""
    path = recipe_path(tmp_path, "tuned")
    path.parent.mkdir()
    if content is None:
        write_recipe(path, replace(RECIPE, format=2))
    else:
        path.write_text(content)
    with pytest.raises(GmosError, match=message):
        read_recipe(path)
    (found,) = bundle_recipes(tmp_path).values()
    assert isinstance(found, str)


def test_names_are_plain(tmp_path: Path) -> None:
    """None leads out of the bundle, and `exact` is none."""
    for name in ("exact", "a/b", "..", ".hidden", "", "x" * 65):
        with pytest.raises(GmosError, match="expected a name of letters"):
            recipe_path(tmp_path, name)
