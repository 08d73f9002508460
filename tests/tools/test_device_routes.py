"""The lines that are resolved for other machines are those that the README shows."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("device_routes")


def test_the_lines_are_the_readme_s(routes: ModuleType) -> None:
    """Or those of docs/tensorrt.md; for JetPack 7 both say what to leave out of JetPack 6's."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/tensorrt.md")]
    assert any("JetPack 7: without `<13`" in text for text in texts)
    for route in routes.ROUTES:
        line = route.line.replace("'cuda-bindings'", "'cuda-bindings<13'")
        words = line.removeprefix("pip install ").split(" ", 1)[0]
        assert any(line in text or f"`{words}`" in text for text in texts), route


def test_a_line_has_extras_and_other_requirements(routes: ModuleType) -> None:
    """As uv takes them."""
    assert routes.requirements("pip install '.[cpu,rtx]' 'cuda-bindings<13' onnx-ir") == (
        ["cpu", "rtx"],
        ["cuda-bindings<13", "onnx-ir"],
    )


def test_bindings_that_the_driver_does_not_take_fail(
    routes: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the README's line once did on JetPack 6."""
    monkeypatch.setattr(routes, "resolve", lambda route: {"cuda-bindings": "12.9.10"})
    assert routes.main() == 0
    monkeypatch.setattr(routes, "resolve", lambda route: {"cuda-bindings": "13.5.0"})
    assert routes.main() == 1
    assert capsys.readouterr().out.count("wrong: cuda-bindings for a later CUDA than 12") == 1


def test_without_uv_it_is_named(
    routes: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no part of the environment that `make install` makes."""
    monkeypatch.setenv("PATH", "")
    assert routes.main() == 2
    assert capsys.readouterr().err == "device_routes.py: uv is not installed; pip install uv\n"
