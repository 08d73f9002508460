"""Which networks run when none are named, the bundle of the nano model in the user's cache, and the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy import nano_bundle
from gmos_deploy.errors import GmosError
from gmos_deploy.nano_bundle import cached_bundle
from gmos_deploy.networks import BY_DEFAULT, NetworkChoice
from gmos_deploy.sides import parse_side


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache directory is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gmos-deploy"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes modules look as if they were not installed."""

    def hide(*names: str) -> None:
        real = nano_bundle.find_spec
        monkeypatch.setattr(nano_bundle, "find_spec", lambda name: None if name in names else real(name))

    return hide


def test_nothing_named_is_nano() -> None:
    """Without checkpoints, bundle or preset the nano model runs, as a bundle where that can be."""
    source = NetworkChoice().resolve()
    assert source.choice.backend == "onnxruntime"
    assert (source.model.preset, source.model.variant) == ("nano", "gmos")
    assert NetworkChoice(variant="gmos-s").resolve().model.variant == "gmos-s"
    assert NetworkChoice(preset="nano").resolve().settings() == source.settings()


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"precision": "bf16"}])
def test_nano_on_the_reference(options: dict[str, str]) -> None:
    """The reference runs it where that or a precision of its own is asked for."""
    source = NetworkChoice(**options).resolve()
    assert source.choice.backend == "torch"
    assert source.model.preset == "nano"
    assert BY_DEFAULT in source.notes


def test_without_onnx_runtime(without: Callable[..., None]) -> None:
    """The reference runs it; exporting packages are not asked for. With neither, the smaller one is what lacks."""
    without("onnx", "onnxscript")
    assert NetworkChoice().resolve().choice.backend == "onnxruntime"
    without("onnxruntime")
    assert NetworkChoice().resolve().choice.backend == "torch"
    without("torch")
    assert NetworkChoice().resolve().choice.backend == "onnxruntime"


def test_other_presets_do_not_change() -> None:
    """Naming another preset, or a checkpoint, is no wish for nano."""
    assert NetworkChoice(preset="tiny").resolve().model.preset == "tiny"
    with pytest.raises(GmosError, match="gmos at the published size needs 3 checkpoints"):
        NetworkChoice(pi3_ckpt=Path("x.safetensors")).resolve()


def test_written_once(cache: Path) -> None:
    """The first run writes the bundle into the cache, from the package's own files."""
    source = NetworkChoice(variant="gmos-s", backend="onnxruntime", device="cpu").resolve()
    bundle = source.bundle()
    assert bundle is not None
    assert bundle.root == cached_bundle("gmos-s")
    assert bundle.root.parent == cache
    again = source.bundle()
    assert again is not None
    assert again.identity == bundle.identity


def test_a_backend_from_outside(register: Callable[..., None], colour_backend: Callable[..., object]) -> None:
    """It is loaded by its name, in a choice and in a side, with what was asked for."""
    asked: list[NetworkChoice] = []

    def open_colours(choice: NetworkChoice) -> object:
        asked.append(choice)
        return colour_backend("gmos")

    register("colours", open_colours)
    source = NetworkChoice(backend="colours", preset="tiny", device="cpu").resolve()
    assert source.settings()["backend"] == "colours"
    assert source.load().model.variant == "gmos"
    parse_side("--a", "colours:preset=tiny,variant=gmos-s").load()
    assert [(choice.preset, choice.variant) for choice in asked] == [("tiny", None), ("tiny", "gmos-s")]


def test_a_package_that_a_backend_needs_is_named(register: Callable[..., None]) -> None:
    """What cannot be imported is one line."""

    def open_missing(choice: NetworkChoice) -> object:
        raise ImportError("no module named colours")

    register("colours", open_missing)
    with pytest.raises(GmosError, match=r"--backend colours needs .*no module named colours"):
        NetworkChoice(backend="colours", preset="tiny").resolve().load()


@pytest.mark.parametrize("name", ["torch", "auto", "masks"])
def test_a_taken_name_is_refused(register: Callable[..., None], name: str) -> None:
    """Backends are told apart by their names, on the command line too."""
    with pytest.raises(GmosError, match=f"backend {name}: the name is taken"):
        register(name, lambda choice: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "tpu"},
            "--backend tpu: expected one of auto, torch, onnxruntime, tensorrt, tensorrt-rtx",
        ),
        ({"variant": "gmos-x"}, "--variant gmos-x: expected one of gmos, gmos-s"),
        ({"precision": "int4"}, "--precision int4: expected one of auto, fp32, bf16, fp16, int8, fp8"),
    ],
)
def test_a_choice_that_does_not_exist(options: dict[str, Any], message: str) -> None:
    """It is refused when it is made."""
    with pytest.raises(GmosError, match=message):
        NetworkChoice(**options)
