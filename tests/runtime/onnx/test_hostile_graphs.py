"""Graphs that a bundle vouches for and that are not what it says: one line, and nothing from ONNX Runtime beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.reference_config import FOLDER, PACKED_BUNDLES
from gmos_deploy.runtime.bundle.packed_bundle import unpack_bundle
from gmos_deploy.runtime.onnx.backend import OnnxBackend, open_bundle_backend
from gmos_deploy.runtime.onnx.sessions import CPU_PROVIDER, choose_device


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano's bundle as it comes with the package."""
    root = tmp_path_factory.mktemp("hostile") / "nano"
    unpack_bundle(PACKED_BUNDLES, "gmos", FOLDER, root)
    return root


Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def changed(nano: Path, tmp_path: Path) -> Callable[[bytes | Change, str], OnnxBackend]:
    """Opens nano's bundle with another graph of a network, and its hash."""

    def make(change: bytes | Change, network: str = "sam2_resize") -> OnnxBackend:
        root = tmp_path / "bundle"
        shutil.copytree(nano, root)
        manifest = json.loads((root / "bundle.json").read_bytes())
        name = manifest["networks"][network]["graphs"]["onnxruntime"]["file"]
        if isinstance(change, bytes):
            content = change
        else:
            model = onnx.load(root / name, load_external_data=False)
            change(model)
            content = model.SerializeToString()
        (root / name).write_bytes(content)
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (root / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
        return open_bundle_backend(root, device="cpu")

    return make


def rename_input(model: onnx.ModelProto) -> None:
    old = model.graph.input[0].name
    model.graph.input[0].name = "other"
    for node in model.graph.node:
        node.input[:] = ["other" if name == old else name for name in node.input]


def widen_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    cast = onnx.helper.make_node("Cast", [model.graph.input[0].name], ["cast"], to=onnx.TensorProto.UINT8)
    for node in model.graph.node:
        node.input[:] = ["cast" if name == model.graph.input[0].name else name for name in node.input]
    model.graph.node.insert(0, cast)


def add_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def add_functions(model: onnx.ModelProto) -> None:
    """Thirty operators, each of which calls the next one twice."""
    make = onnx.helper.make_node
    for place in range(30):
        inner, domain = (f"F{place + 1}", "f") if place < 29 else ("Identity", "")
        nodes = [make(inner, ["x"], ["z"], domain=domain), make(inner, ["z"], ["y"], domain=domain)]
        needs = [onnx.helper.make_opsetid("f", 1), onnx.helper.make_opsetid("", 20)]
        model.functions.append(onnx.helper.make_function("f", f"F{place}", ["x"], ["y"], nodes, needs))
    model.opset_import.append(onnx.helper.make_opsetid("f", 1))
    model.graph.node.append(make("F0", [model.graph.output[0].name], ["unused"], domain="f"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            add_functions,
            r"sam2_resize.*onnx defines operators of its own, as no export does; do not trust it",
        ),
        (
            rename_input,
            r"has as input frames none \[\], expected uint8 \['B', 'H', 'W', 3\]; do not trust it",
        ),
        (widen_input, r"has as input frames int64 .*, expected uint8"),
        (add_output, r"has the output frames, which its bundle does not know; do not trust it"),
    ],
)
def test_another_signature_is_refused(
    changed: Callable[..., OnnxBackend], change: Change, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """With right hashes."""
    backend = changed(change)
    with pytest.raises(GmosError, match=message):
        backend.runner("sam2_resize")
    assert capfd.readouterr() == ("", "")


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.mark.parametrize("change", [unknown_operator, b"", b"\x08\x09:\x03\x0a\x01\x00"])
def test_what_does_not_load_is_one_line_with_the_reason(
    changed: Callable[..., OnnxBackend], change: Change | bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime prints nothing of its own."""
    backend = changed(change)
    with pytest.raises(GmosError, match=r"cannot load .*; export the|is not an ONNX model") as found:
        backend.runner("sam2_resize")
    if change is unknown_operator:
        assert "NoSuchOperator" in str(found.value)
    assert "\n" not in str(found.value)
    assert capfd.readouterr() == ("", "")


def fail_when_run(model: onnx.ModelProto) -> None:
    """A reshape to a length that no frame has."""
    shape = onnx.numpy_helper.from_array(np.array([7, 11], np.int64), "shape")
    model.graph.initializer.append(shape)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if one == name else one for one in node.output]
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "shape"], ["seven"]))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["seven", "back"], [name]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3, 7, 1], np.int64), "back"))


def other_shape(model: onnx.ModelProto) -> None:
    """An output of other lengths than the bundle says."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if one == name else one for one in node.output]
    for index in (2, 3):
        model.graph.output[0].type.tensor_type.shape.dim[index].dim_param = f"side{index}"
    model.graph.node.append(onnx.helper.make_node("Concat", ["before", "before"], [name], axis=2))


def twice_as_many(model: onnx.ModelProto) -> None:
    """Another number of frames than it got."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if one == name else one for one in node.output]
    model.graph.node.append(onnx.helper.make_node("Concat", ["before", "before"], [name], axis=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fail_when_run, r"ONNX Runtime [\d.]+ cannot run sam2_resize of .*bundle \(.*Reshape.*\); export"),
        (
            other_shape,
            r"sam2_resize of .*bundle gave images as \[1, 3, 512, 256\], expected \[1, 3, 256, 256\]",
        ),
        (
            twice_as_many,
            r"sam2_resize of .*bundle gave images as \[2, 3, 256, 256\], expected \[1, 3, 256, 256\]",
        ),
    ],
)
def test_what_goes_wrong_in_a_call_is_one_line(
    changed: Callable[..., OnnxBackend], change: Change, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A graph that loads and then fails, or gives something else."""
    run = changed(change).runner("sam2_resize")
    with pytest.raises(GmosError, match=message):
        run({"frames": np.zeros((1, 64, 80, 3), np.uint8)})
    assert capfd.readouterr() == ("", "")


def test_versions_below_the_floor_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """And those above are not."""
    for version, said in (("1.20.1", True), ("1.9.0", True), ("1.21.0", False), ("2.0.0", False)):
        caplog.clear()
        choose_device(
            "cpu", SimpleNamespace(__version__=version, get_available_providers=lambda: [CPU_PROVIDER])
        )
        assert (f"ONNX Runtime {version} is older than 1.21" in caplog.text) == said
