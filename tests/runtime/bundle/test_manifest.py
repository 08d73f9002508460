"""Opening a bundle: what is read, and what is refused before anything loads it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.manifest import MANIFEST, TABLES_FILE, open_bundle
from gmos_deploy.runtime.contract import ModelSpec, TensorSpec, network_specs
from gmos_deploy.runtime.files.made_from import UNKNOWN

MODEL = ModelSpec(
    variant="gmos-s",
    preset="tiny",
    patch_px=14,
    window=5,
    pi3_channels=8,
    pi3_area_px=20_000,
    sam2_image_px=64,
    sam2_channels=16,
    queries=4,
    memory_channels=8,
)

Change = Callable[[dict[str, Any]], None]


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a Protocol Buffers message; short ones only."""
    return bytes([number << 3 | 2, len(content)]) + content


def onnx_reading(*locations: str) -> bytes:
    """The bytes of an ONNX model with one external tensor per location."""
    tensors = b"".join(
        field(5, field(13, field(1, b"location") + field(2, location.encode()))) for location in locations
    )
    # A varint field and a name around it, as real models have.
    return bytes([1 << 3, 10]) + field(7, field(2, b"graph") + tensors)


def tensor_entry(tensor: TensorSpec) -> dict[str, Any]:
    dtype = "float32" if tensor.dtype == "compute" else tensor.dtype
    return {
        "name": tensor.name,
        "axes": list(tensor.axes),
        "dtype": dtype,
        "values": tensor.values,
        "host": tensor.host,
    }


def write_bundle(root: Path) -> None:
    """A bundle whose graphs hold nothing but a reference to their weights."""
    root.mkdir()
    networks: dict[str, Any] = {}
    for name, spec in network_specs(MODEL).items():
        (root / f"{name}.weights").write_bytes(name.encode() * 10)
        (root / f"{name}.onnx").write_bytes(onnx_reading(f"{name}.weights"))
        graph = {"file": f"{name}.onnx", "weights": [f"{name}.weights"], "tables": []}
        networks[name] = {
            "precision": "fp32",
            "inputs": [tensor_entry(tensor) for tensor in spec.inputs],
            "outputs": [tensor_entry(tensor) for tensor in spec.outputs],
            "graphs": {"standard": graph, "onnxruntime": graph},
            "profiles": [{"B": [1, 4, 8]}],
            "parameters": 10,
            "flops": 1e9,
            "flops_at": {"B": 4},
            "gate": {"passed": True, "differences": []},
        }
    np.save(root / TABLES_FILE, np.zeros((3, 3, MODEL.pi3_channels), np.float32))
    manifest = {
        "format": 2,
        "model": asdict(MODEL),
        "precision": "fp32",
        "head_precision": "fp32",
        "opset": 20,
        "pi3": {"head_dim": 4, "rope_base": 100.0},
        "resolutions": [[168, 112]],
        "networks": networks,
        "checkpoints": {},
        "versions": {"torch": "2.13.0"},
        "files": {},
    }
    (root / MANIFEST).write_text(json.dumps(manifest))
    record_files(root)


def record_files(root: Path) -> None:
    """Bring lengths and hashes in `bundle.json` up to date with the files there."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"] = {
            path.name: {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in root.iterdir()
            if path.name != MANIFEST
        }

    edit(root, change)


def edit(root: Path, change: Change) -> None:
    manifest = json.loads((root / MANIFEST).read_text())
    change(manifest)
    (root / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A whole bundle of fake graphs."""
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_is_read_as_it_was_written(root: Path) -> None:
    """Model, networks, tensors, profiles and arithmetic."""
    bundle = open_bundle(root)
    assert bundle.model == MODEL
    assert bundle.networks.keys() == network_specs(MODEL).keys()
    decoder = bundle.networks["pi3_decoder"]
    assert decoder.inputs[0].axes == ("B", 5, "h", "w", 8)
    assert decoder.profiles == ({"B": (1, 4, 8)},)
    assert (decoder.flops, decoder.flops_at) == (1e9, {"B": 4})
    assert bundle.resolutions == ((168, 112),)
    assert bundle.graph_file("dino", "standard") == root / "dino.onnx"
    source = bundle.table_source()
    assert (source.head_dim, source.rope_base) == (4, 100.0)
    assert source.position_embedding.shape == (3, 3, 8)


def test_an_old_bundle_has_unknown_licences(root: Path) -> None:
    """Its networks and checkpoints have none; what is no checkpoint is refused where it is asked for."""
    old = {"pi3_ckpt": {"name": "model.safetensors", "bytes": 3, "sha256": "3" * 64}}
    edit(root, lambda manifest: manifest.update(checkpoints=old))
    bundle = open_bundle(root)
    assert {(one.licence, one.source) for one in bundle.networks.values()} == {(UNKNOWN, UNKNOWN)}
    found = bundle.made_from()
    assert [(one.name, one.sha256) for one in found.bundles] == [("bundle", bundle.identity)]
    (checkpoint,) = found.checkpoints
    assert (checkpoint.flag, checkpoint.licence, checkpoint.source) == ("pi3_ckpt", UNKNOWN, UNKNOWN)
    edit(root, lambda manifest: manifest.update(checkpoints={"pi3_ckpt": 3}))
    with pytest.raises(GmosError, match=r"bundle.json: checkpoints\[0\].*export the bundle again"):
        open_bundle(root).made_from()


def test_the_identity_changes_with_the_content(root: Path) -> None:
    """Results made with another bundle are not taken for finished."""
    before = open_bundle(root).identity
    edit(root, lambda manifest: manifest.update(opset=23))
    assert open_bundle(root).identity != before


def test_fields_of_a_later_version_are_ignored(root: Path) -> None:
    """As long as it kept the format."""
    edit(root, lambda manifest: manifest.update(colour="blue"))
    edit(root, lambda manifest: manifest["networks"]["dino"].update(colour="blue"))
    open_bundle(root)


def test_a_newer_format_is_refused(root: Path) -> None:
    """With what to do."""
    edit(root, lambda manifest: manifest.update(format=3))
    with pytest.raises(
        GmosError, match=r"has format 3, written by a newer gmos-deploy; .* format 2: upgrade"
    ):
        open_bundle(root)


def test_an_older_format_is_refused(root: Path) -> None:
    """There was none, but there will have been."""
    edit(root, lambda manifest: manifest.update(format=1))
    with pytest.raises(GmosError, match=r"has format 1, expected 2; export the bundle again"):
        open_bundle(root)


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    """And the message says how to make one."""
    with pytest.raises(GmosError, match=r"is no bundle: bundle.json cannot be read .*gmos-export onnx --out"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "not json", "\xff\xfe", "[" * 100_000])
def test_a_damaged_manifest_is_refused(root: Path, text: str) -> None:
    """Whatever is in it."""
    (root / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(GmosError, match=r"bundle\.json is not JSON .*copy the bundle again"):
        open_bundle(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.pop("model"),
            r"bundle\.json: object missing required field model; export the bundle again",
        ),
        (lambda m: m.update(opset="20"), r"bundle\.json\.opset: expected int, got str; export"),
        (lambda m: m.update(opset=True), r"opset: expected int, got bool"),
        (lambda m: m.update(format=-1), r"format: expected int >= 0"),
        (lambda m: m.update(networks=[]), r"networks: expected object, got array"),
        (lambda m: m["model"].update(window="five"), r"model\.window: expected int, got str"),
        (lambda m: m["model"].update(queries=-1), r"queries -1: expected 1 to 65536"),
        (lambda m: m.update(precision="int4"), r"json\.precision: invalid enum value 'int4'"),
        (lambda m: m.update(head_precision="int4"), r"head_precision: invalid enum value 'int4'"),
        (
            lambda m: m["networks"]["dino"].update(precision="int4"),
            r"networks\.dino\.precision: invalid enum value 'int4'",
        ),
        (lambda m: m["model"].update(variant="gmos-x"), r"model\.variant: invalid enum value 'gmos-x'"),
        (
            lambda m: m["networks"]["dino"]["inputs"][0].update(dtype="int4"),
            r"networks\.dino\.inputs\[0\]\.dtype: expected str matching regex '\^\(uint8\|",
        ),
        (
            lambda m: m["networks"]["dino"]["inputs"][0].update(axes=["B", 2.5]),
            r"inputs\[0\]\.axes\[1\]: expected int \| str, got float",
        ),
        (lambda m: m["networks"]["dino"]["graphs"].pop("standard"), r"graphs\.standard is missing"),
        (lambda m: m["files"].update({"dino.onnx": 3}), r"files\.dino\.onnx: expected object, got int"),
    ],
)
def test_a_wrong_field_is_named(root: Path, change: Change, message: str) -> None:
    """With its place, what is there and what was expected."""
    edit(root, change)
    with pytest.raises(GmosError, match=message):
        open_bundle(root)


def test_a_network_that_the_contract_does_not_know_is_refused(root: Path) -> None:
    """It would never be called."""
    edit(root, lambda m: m["networks"].update(extra=m["networks"]["dino"]))
    with pytest.raises(
        GmosError, match=r"has extra: another version of gmos-deploy wrote it; export it again"
    ):
        open_bundle(root)


def test_a_missing_network_is_refused(root: Path) -> None:
    """By its name."""
    edit(root, lambda m: m["networks"].pop("dino"))
    with pytest.raises(GmosError, match=r"lacks dino: another version of gmos-deploy wrote it"):
        open_bundle(root)


def test_tensors_other_than_the_contracts_are_refused(root: Path) -> None:
    """They would be called with the wrong shapes."""
    edit(root, lambda m: m["networks"]["dino"]["inputs"][0].update(axes=["B", "H", "W", 3]))
    with pytest.raises(GmosError, match=r"dino is frames\(B,H,W,3\) -> .*, expected frames\(B,3,Hp,Wp\)"):
        open_bundle(root)


def test_a_missing_file_is_refused_at_once(root: Path) -> None:
    """Not when its network is first asked for."""
    (root / "dino.weights").unlink()
    with pytest.raises(GmosError, match=r"lacks its file dino\.weights; copy the bundle again"):
        open_bundle(root)


def test_a_cut_file_is_refused_at_once(root: Path) -> None:
    """Copies that broke off are the usual damage, and need no hashing."""
    (root / "dino.weights").write_bytes(b"dino")
    with pytest.raises(GmosError, match=r"dino\.weights has 4 bytes, expected 40"):
        open_bundle(root)


@pytest.mark.parametrize("name", ["dino.onnx", "dino.weights"])
def test_a_changed_file_is_refused_before_it_is_loaded(root: Path, name: str) -> None:
    """The others can still be used."""
    content = bytearray((root / name).read_bytes())
    content[-1] ^= 1
    (root / name).write_bytes(content)
    bundle = open_bundle(root)
    assert bundle.graph_file("gmos_s", "standard") == root / "gmos_s.onnx"
    with pytest.raises(GmosError, match=rf"{name} has changed since the export \(SHA-256 "):
        bundle.graph_file("dino", "onnxruntime")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:\\secret", ""]
)
def test_a_file_outside_the_directory_is_refused(root: Path, name: str) -> None:
    """Relative, absolute, or written for another system."""
    (root.parent / "secret").write_text("secret")
    edit(root, lambda m: m["files"].update({name: {"bytes": 6, "sha256": "0" * 64}}))
    with pytest.raises(GmosError, match=r"which is outside its directory; do not trust it"):
        open_bundle(root)


def test_links_to_the_right_content_are_followed(root: Path) -> None:
    """As in the cache of a model hub; what is behind them is read once, and held against its hash."""
    blobs = root.parent / "blobs"
    blobs.mkdir()
    for path in list(root.iterdir()):
        shutil.move(path, blobs / path.name)
        path.symlink_to(f"../blobs/{path.name}")
    content = open_bundle(root).graph_content("dino", "standard")
    assert content.weights == {"dino.weights": (blobs / "dino.weights").read_bytes()}
    (blobs / "dino.weights").write_bytes(bytes(40))
    with pytest.raises(GmosError, match=r"dino\.weights has changed since the export"):
        open_bundle(root).graph_content("dino", "standard")


def test_what_was_checked_is_what_is_used(root: Path) -> None:
    """Files that change afterwards change nothing, neither in memory nor in a copy for programs that read paths."""
    bundle, weights = open_bundle(root), (root / "dino.weights").read_bytes()
    content = bundle.graph_content("dino", "standard")
    with bundle.private_graph("dino", "standard") as copy:
        for name in ("dino.onnx", "dino.weights"):
            (root / name).write_bytes(b"another")
        assert content.weights["dino.weights"] == copy.with_name("dino.weights").read_bytes() == weights
        assert copy.read_bytes() == content.graph
        assert copy.parent != root
    assert not copy.parent.exists()


def test_a_bundle_behind_a_link_is_read(root: Path, tmp_path: Path) -> None:
    """Only links out of the bundle are a danger."""
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    bundle = open_bundle(tmp_path / "link")
    assert bundle.graph_file("dino", "standard").name == "dino.onnx"


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "gmos_s.weights"])
def test_a_graph_that_reads_other_files_is_refused(root: Path, location: str) -> None:
    """Its hash only says that whoever wrote the bundle meant it."""
    (root / "dino.onnx").write_bytes(onnx_reading("dino.weights", location))
    record_files(root)
    with pytest.raises(
        GmosError, match=rf"dino\.onnx reads tensors from '{location}', which the bundle does not"
    ):
        open_bundle(root).graph_file("dino", "standard")


def test_a_graph_that_is_no_onnx_model_is_refused(root: Path) -> None:
    """Before ONNX Runtime sees it."""
    (root / "dino.onnx").write_bytes(b"\xff" * 100)
    record_files(root)
    with pytest.raises(GmosError, match=r"dino\.onnx is not an ONNX model"):
        open_bundle(root).graph_file("dino", "standard")


def test_a_file_that_is_used_and_not_listed_is_refused(root: Path) -> None:
    """It would be loaded without a check."""
    edit(root, lambda m: m["files"].pop("dino.weights"))
    with pytest.raises(GmosError, match=r"does not list the file dino\.weights that it uses"):
        open_bundle(root)


def test_tables_of_another_shape_are_refused(root: Path) -> None:
    """With both shapes."""
    np.save(root / TABLES_FILE, np.zeros((3, 3), np.float32))
    record_files(root)
    with pytest.raises(GmosError, match=r"is float32 \(3, 3\), expected float32 \(G, G, 8\)"):
        open_bundle(root).table_source()


def test_tables_with_pickled_objects_are_refused(root: Path) -> None:
    """Nothing in a bundle is executed."""
    np.save(root / TABLES_FILE, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    record_files(root)
    with pytest.raises(GmosError, match=r"is not a NumPy array .*export the bundle again"):
        open_bundle(root).table_source()
