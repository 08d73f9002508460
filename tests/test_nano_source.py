"""Which networks run when none are named, and the bundle of the nano model in the user's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gmos_deploy import nano_source
from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx import bundle_export
from gmos_deploy.nano_source import NanoSource, cached_bundle
from gmos_deploy.network_sources import ReferenceSource, SourceRequest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache directory is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gmos-deploy"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes modules look as if they were not installed."""

    def hide(*names: str) -> None:
        real = nano_source.find_spec
        monkeypatch.setattr(nano_source, "find_spec", lambda name: None if name in names else real(name))

    return hide


def test_nothing_named_is_nano() -> None:
    """Without checkpoints, bundle or preset the nano model runs, as a bundle where that can be."""
    source = SourceRequest().resolve()
    assert isinstance(source, NanoSource)
    assert (source.model.preset, source.model.variant) == ("nano", "gmos")
    assert SourceRequest(variant="gmos-s").resolve().model.variant == "gmos-s"
    assert SourceRequest(preset="nano").resolve().settings() == source.settings()


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"precision": "bf16"}])
def test_nano_on_the_reference(options: dict[str, str]) -> None:
    """The reference runs it where that or a precision of its own is asked for."""
    source = SourceRequest(**options).resolve()
    assert isinstance(source, ReferenceSource)
    assert source.model.preset == "nano"
    assert source.by_default


def test_without_exporter(without: Callable[..., None], cache: Path) -> None:
    """Without the exporter the reference runs it, unless its bundle is there."""
    without("onnxscript")
    assert isinstance(SourceRequest().resolve(), ReferenceSource)
    place = cached_bundle("gmos")
    assert place.parent == cache
    place.mkdir(parents=True)
    (place / "bundle.json").touch()
    assert isinstance(SourceRequest().resolve(), NanoSource)


def test_what_an_export_needs_is_named(without: Callable[..., None]) -> None:
    """Asked for ONNX Runtime, with neither exporter nor bundle: one line that says what to install."""
    without("torch")
    source = SourceRequest(backend="onnxruntime").resolve()
    with pytest.raises(GmosError, match=r"pip install 'gmos-deploy\[export\]', or give --bundle DIR"):
        source.load()


def test_other_presets_do_not_change() -> None:
    """Naming another preset, or a checkpoint, is no wish for nano."""
    assert SourceRequest(preset="tiny").resolve().model.preset == "tiny"
    with pytest.raises(GmosError, match="gmos at the published size needs 3 checkpoints"):
        SourceRequest(pi3_ckpt=Path("x.safetensors")).resolve()


def test_exported_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The first run exports into the cache, with what a damaged bundle there is replaced by too."""
    asked: list[tuple[Path, bool, str]] = []

    def export(config: bundle_export.ExportConfig) -> object:
        asked.append((config.out, config.force, config.reference.preset))
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "bundle.json").write_text("{")
        return object()

    monkeypatch.setattr(bundle_export, "export_bundle", export)
    source = NanoSource(variant="gmos-s", device="cpu", chosen=True)
    source.bundle()
    source.bundle()
    assert asked == [(cached_bundle("gmos-s"), True, "nano")] * 2
    assert cached_bundle("gmos-s") != cached_bundle("gmos")
    assert cached_bundle("gmos-s").parent == cache
