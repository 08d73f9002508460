"""Nano's bundles as they come with the package: what is unpacked is what was exported, and damage is refused."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.reference_config import FOLDER, PACKED_BUNDLES
from gmos_deploy.nano_bundle import cached_bundle, nano_bundle
from gmos_deploy.networks import VARIANTS
from gmos_deploy.runtime.bundle.packed_bundle import RECIPES, joined, split, unpack_bundle
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.files.checkpoint_identity import file_sha256

TOOLS = Path(__file__).parents[2] / "tools" / "nano"

PACKED_LIMIT_BYTES, WHEEL_LIMIT_BYTES = 3_800_000, 15_000_000
"""Of the packed bundles, and of all that nano adds to the wheel, which is to stay below 16 MB."""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("onnx")
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("pack_bundles")


@pytest.fixture
def change(tmp_path: Path) -> Callable[[Callable[[dict[str, bytes]], None]], Path]:
    """A copy of the packed file whose entries a function has changed."""

    def make(edit: Callable[[dict[str, bytes]], None]) -> Path:
        with ZipFile(PACKED_BUNDLES) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        edit(entries)
        changed = tmp_path / "changed.zip"
        with ZipFile(changed, "w", ZIP_DEFLATED) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        return changed

    return make


def test_it_is_small() -> None:
    """With the weights it leaves room for the rest of the wheel."""
    packed = PACKED_BUNDLES.stat().st_size
    assert packed <= PACKED_LIMIT_BYTES
    # A wheel is compressed.
    weights = sum(len(zlib.compress(file.read_bytes())) for file in FOLDER.glob("*.safetensors"))
    assert packed + weights <= WHEEL_LIMIT_BYTES


@pytest.mark.parametrize("variant", VARIANTS)
def test_unpacked_files_have_the_hashes_of_the_export(variant: Variant, tmp_path: Path) -> None:
    """All of them; the bundle is nano's, in float32."""
    bundle = unpack_bundle(PACKED_BUNDLES, variant, FOLDER, tmp_path / "out")
    assert (bundle.model.preset, bundle.model.variant, bundle.precision) == ("nano", variant, "fp32")
    assert {path.name for path in bundle.root.iterdir()} == {*bundle.files, "bundle.json"}
    for file in bundle.files:
        assert file_sha256(bundle.root / file) == bundle.files.sha256(file)
    checkpoints = {entry["name"]: entry["sha256"] for entry in bundle.checkpoints.values()}
    assert checkpoints == {name: file_sha256(FOLDER / name) for name in checkpoints}, "it is of these weights"


def test_packing_what_was_unpacked_gives_the_same_file(tool: ModuleType, tmp_path: Path) -> None:
    """Byte for byte: nothing in it depends on when or where it was made."""
    bundles = {v: unpack_bundle(PACKED_BUNDLES, v, FOLDER, tmp_path / v) for v in VARIANTS}
    tool.pack(bundles, FOLDER, tmp_path / "again.zip")
    with ZipFile(tmp_path / "again.zip") as again, ZipFile(PACKED_BUNDLES) as packed:
        assert again.namelist() == packed.namelist()
        assert all(again.read(name) == packed.read(name) for name in packed.namelist())


def test_split_and_joined() -> None:
    """Bytes in another order and back."""
    values = np.arange(12, dtype=np.float32)
    assert joined(split(values.tobytes())).tobytes() == values.tobytes()
    assert split(values.tobytes()) != values.tobytes()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda entries: entries.pop("gmos.json"), "cannot be unpacked .*install gmos-deploy again"),
        (lambda entries: entries.update({RECIPES: b"{}"}), "cannot be unpacked"),
        (
            lambda entries: entries.update({"rest": bytes(len(entries["rest"]))}),
            "has changed since the export",
        ),
    ],
)
def test_damage_is_refused_and_leaves_nothing(
    edit: Any, message: str, change: Callable[..., Path], tmp_path: Path
) -> None:
    """No file that is not as exported is ever in the place of a bundle."""
    with pytest.raises(GmosError, match=message):
        unpack_bundle(change(edit), "gmos", FOLDER, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """Checkpoints of another nano."""
    for file in FOLDER.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-1000:] = bytes(1000)
        (tmp_path / file.name).write_bytes(data)
    with pytest.raises(GmosError, match="has changed since the export"):
        unpack_bundle(PACKED_BUNDLES, "gmos", tmp_path, tmp_path / "out")
    with pytest.raises(GmosError, match="cannot be unpacked"):
        unpack_bundle(PACKED_BUNDLES, "gmos", tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which nobody can write")
def test_a_cache_that_cannot_be_written_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first bundle that goes there."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    with pytest.raises(GmosError, match=r"^cannot write /proc/cache/.*: set XDG_CACHE_HOME to a folder"):
        nano_bundle("gmos")


def test_the_cache_gets_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged there is replaced; what is whole is taken as it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = cached_bundle("gmos")
    assert place.parent == tmp_path / "gmos-deploy"
    assert place != cached_bundle("gmos-s")
    place.mkdir(parents=True)
    (place / "bundle.json").write_text("{")
    assert nano_bundle("gmos").root == place
    before = (place / "bundle.json").stat().st_mtime_ns
    assert nano_bundle("gmos").root == place
    assert (place / "bundle.json").stat().st_mtime_ns == before
    # A damaged graph of the right length is found by its content.
    graph = place / "dino.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert nano_bundle("gmos").root == place
    assert graph.read_bytes() == whole


def test_without_a_home_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a user that nobody knows."""

    def nobody(*_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    for found in (nobody, lambda *_: Path("~/.cache/gmos-deploy")):
        monkeypatch.setattr("gmos_deploy.runtime.files.user_folders.user_cache_path", found)
        with pytest.raises(GmosError, match=r"no home directory.*: set XDG_CACHE_HOME to a folder of yours"):
            cached_bundle("gmos")
