"""Engines against ONNX Runtime: right ones pass, wrong ones are marked, on a bundle that was really exported."""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx.float32_twin import write_float32_twin
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.arrays import HostArray, NumpyArrays
from gmos_deploy.runtime.bundle.check_inputs import read_check_inputs, stretched, write_check_inputs
from gmos_deploy.runtime.bundle.manifest import Bundle, BundleTensor, GraphContent, open_bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.comparison.parity import OutputDifference
from gmos_deploy.runtime.contract import WITHOUT_WEIGHTS
from gmos_deploy.runtime.files.checkpoint_identity import file_sha256
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.shapes import VIDEO_AXES, call_lengths, size_of
from gmos_deploy.runtime.tensorrt import check as engine_check
from gmos_deploy.runtime.tensorrt.check import (
    check_engines,
    check_lengths,
    check_network,
    recorded_lengths,
    trusted_graph,
)
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineRecord,
    EngineTensor,
    ProfileRange,
    engine_directory,
    read_engine_record,
    record_path,
    write_engine_record,
)

TINY = preset("tiny")

SIDE_PX = 168
"""Longest side of a video here, and of a Pi3 frame, which takes multiples of 14."""


def record_of(bundle: Bundle, name: str) -> EngineRecord:
    """As a builder would write it."""
    entry = bundle.networks[name]  # type: ignore[index]
    tensors = (*entry.inputs, *entry.graphs["standard"].tables)

    def sizes(tensor: BundleTensor, lengths: Any, i: int) -> tuple[int, ...]:
        # Videos of the usual size would be large for the tiny networks.
        at = {axis: min(n[i], SIDE_PX) if axis in VIDEO_AXES else n[i] for axis, n in lengths.items()}
        return size_of(tensor, at)

    return EngineRecord(
        network=entry.name,
        flavour="tensorrt",
        library_version="10.3.0",
        sources={},
        plan_bytes=1,
        plan_sha256="0",
        precision=entry.precision,
        device=DeviceIdentity(name="GPU", compute_capability=(8, 7)),
        targets=(),
        platform="any",
        profiles=tuple(
            {
                t.name: ProfileRange(min=sizes(t, r, 0), opt=sizes(t, r, 1), max=sizes(t, r, 2))
                for t in tensors
            }
            for r in entry.profiles
        ),
        tensors=tuple(
            EngineTensor(name=t.name, dtype=t.dtype, shape=(), mode="input", host=t.host) for t in tensors
        ),
        options={},
        activation_bytes=(),
        weight_bytes=0,
        attention={},
        built="",
        seconds=0,
    )


class Engines:
    """ONNX Runtime behind the face of an engine backend; `spoil` changes the outputs of its networks."""

    identity = DeviceIdentity(name="GPU", compute_capability=(8, 7))
    arrays = NumpyArrays()

    def __init__(self, bundle: Bundle, onnx: OnnxBackend) -> None:
        self._bundle, self._onnx = bundle, onnx
        self.spoil: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]] = lambda outputs: outputs
        self.calls: list[Mapping[str, tuple[int, ...]]] = []
        self.closed = 0

    def record(self, name: str) -> EngineRecord:
        return record_of(self._bundle, name)

    def runner(self, name: Any) -> Any:
        run = self._onnx.runner(name)

        def call(inputs: Any) -> Any:
            self.calls.append({key: value.shape for key, value in inputs.items()})
            return self.spoil(dict(run(inputs)))

        return call

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engines(tiny_bundle: Bundle, onnx_backend: OnnxBackend) -> Engines:
    """Right engines of the tiny bundle."""
    return Engines(tiny_bundle, onnx_backend)


NETWORKS = (
    "sam2_resize",
    "dino",
    "proposer",
    "proposal_labels",
    "memory_attention",
    "mask_decoder",
    "tracked_labels",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_right_engine_passes(tiny_bundle: Bundle, engines: Engines, name: Any) -> None:
    """At the usual and the least lengths of every profile, row by row where rows do not see each other."""
    check = check_network(tiny_bundle, engines, name)  # type: ignore[arg-type]
    assert check.passed
    assert check.device == "GPU"
    assert check.against.startswith("ONNX Runtime ")
    entry = tiny_bundle.networks[name]
    cases = check_lengths(entry, record_of(tiny_bundle, name))
    recorded = read_check_inputs(tiny_bundle, name)
    # What has no weights computes the same on any numbers.
    assert (recorded is None) == (name in WITHOUT_WEIGHTS)
    own = {} if recorded is None else call_lengths(entry.inputs, recorded)
    real = recorded_lengths(entry, record_of(tiny_bundle, name), own) if own else ()
    assert len(cases) >= 2
    assert bool(real) == bool(own)
    assert len(engines.calls) == len(cases) + len(real)
    assert {found.output for found in check.outputs} == {tensor.name for tensor in entry.outputs}
    assert {found.target for found in check.outputs} == {
        "engine",
        *(["engine on recorded inputs"] if own else []),
    }
    assert check.inputs == ("seeded and recorded inputs" if own else "seeded inputs")


def test_memory_attention_sees_recorded_memories_from_few_to_many(
    tiny_bundle: Bundle, engines: Engines
) -> None:
    """The same ones in turns: what they hold is real, however many there are."""
    check_network(tiny_bundle, engines, "memory_attention")  # type: ignore[arg-type]
    recorded = read_check_inputs(tiny_bundle, "memory_attention")
    assert recorded is not None
    assert recorded["memories"].shape[:2] == (2, 4)
    entry = tiny_bundle.networks["memory_attention"]
    longest = stretched(recorded, entry.inputs, {"O": 3, "R": 46, "P": 55})
    assert longest is not None
    assert np.array_equal(longest["memories"][2, 41], recorded["memories"][0, 1])
    calls = [(call["memories"][1], call["pointers"][1]) for call in engines.calls]
    half = len(calls) // 2
    assert sorted(calls[:half]) == sorted(calls[half:]) == [(1, 0), (7, 16), (46, 55)]


class WrongOnRecorded(Engines):
    """Right on seeded inputs, wrong on those that the bundle has recorded."""

    def runner(self, name: Any) -> Any:
        right = super().runner(name)
        recorded = read_check_inputs(self._bundle, name)
        assert recorded is not None

        def call(inputs: Any) -> Any:
            outputs = right(inputs)
            real = all(np.array_equal(inputs[key][0], recorded[key][0].astype("f4")) for key in ("tokens",))
            return {key: 2 * values if real else values for key, values in outputs.items()}

        return call


def test_an_engine_that_is_wrong_on_what_networks_see_is_marked(
    tiny_bundle: Bundle, onnx_backend: OnnxBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Random numbers have no activations like those of pictures; the line says on which inputs."""
    wrong = WrongOnRecorded(tiny_bundle, onnx_backend)
    check = check_network(tiny_bundle, wrong, "pi3_decoder")  # type: ignore[arg-type]
    assert not check.passed
    assert check.outputs[0].target == "engine on recorded inputs"
    assert re.search(r"pi3_decoder: wrong geometry at B=\d.*, engine on recorded inputs", caplog.text)


def test_a_bundle_without_recorded_inputs_is_compared_on_seeded_ones(
    bundle_copy: Path,
    onnx_backend: OnnxBackend,
    edit_manifest: Callable[[Path, Callable[[dict[str, Any]], None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As older versions wrote it; a file that was damaged is refused."""
    file = bundle_copy / "dino.inputs.npz"
    whole = file.read_bytes()
    file.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    with pytest.raises(GmosError, match=r"dino\.inputs\.npz has changed since the export"):
        check_network(open_bundle(bundle_copy), Engines(open_bundle(bundle_copy), onnx_backend), "dino")  # type: ignore[arg-type]
    edit_manifest(bundle_copy, lambda content: content["files"].pop("dino.inputs.npz"))
    bundle = open_bundle(bundle_copy)
    with caplog.at_level(logging.INFO):
        check = check_network(bundle, Engines(bundle, onnx_backend), "dino")  # type: ignore[arg-type]
    assert check.passed
    assert check.inputs == "seeded inputs"
    assert "dino: compared on seeded inputs alone, as the bundle has recorded none" in caplog.text


def test_an_engine_of_other_sizes_does_not_get_recorded_inputs(tiny_bundle: Bundle) -> None:
    """Its shape profiles do not take them."""
    entry, record = tiny_bundle.networks["dino"], record_of(tiny_bundle, "dino")
    recorded = read_check_inputs(tiny_bundle, "dino")
    assert recorded is not None
    own = call_lengths(entry.inputs, recorded)
    assert recorded_lengths(entry, record, own)
    assert not recorded_lengths(entry, record, {**own, "Hp": own["Hp"] + 14})


@pytest.mark.parametrize(
    "arrays",
    [
        {"frames": np.zeros((1, 3, 5), np.uint8)},
        {"pictures": np.zeros((1, 3, 56, 56), np.uint8)},
        {"frames": np.zeros((1, 3, 56, 56), "U1")},
        {"frames": np.zeros((1 << 15, 1 << 15), bool), "more": np.zeros(1 << 20, bool)},
    ],
    ids=["shape", "name", "letters", "bomb"],
)
def test_recorded_inputs_of_something_else_are_refused(
    arrays: dict[str, NDArray[Any]],
    bundle_copy: Path,
    edit_manifest: Callable[[Path, Callable[[dict[str, Any]], None]], None],
) -> None:
    """Whole by its hash, and of no use."""
    file = bundle_copy / "dino.inputs.npz"
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    known = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    edit_manifest(bundle_copy, lambda content: content["files"].update({file.name: known}))
    with pytest.raises(GmosError, match=r"dino\.inputs\.npz holds .*export the bundle again"):
        read_check_inputs(open_bundle(bundle_copy), "dino")


def test_recorded_numbers_are_those_of_every_precision(tmp_path: Path) -> None:
    """Eight significant bits, and float32 only where float16 would overflow."""
    values = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    write_check_inputs(tmp_path, {"dino": {"small": values, "large": 1e6 * values, "whole": np.arange(3)}})
    with np.load(tmp_path / "dino.inputs.npz") as stored:
        assert [stored[name].dtype for name in ("small", "large", "whole")] == ["f2", "f4", "i8"]
        for name, given in (("small", values), ("large", 1e6 * values)):
            found = stored[name].astype(np.float32)
            assert np.abs(found / given - 1).max() <= 2**-8
            assert not np.any(found.view(np.uint32) & 0xFFFF), "bfloat16 has them too"


def test_memory_attention_is_compared_with_and_without_pointers(tiny_bundle: Bundle) -> None:
    """Empty inputs are where engines differ from what they were built from."""
    entry = tiny_bundle.networks["memory_attention"]
    cases = check_lengths(entry, record_of(tiny_bundle, "memory_attention"))
    assert {case["P"] for case in cases} == {0, tiny_bundle.model.object_pointers, 55}
    assert {case["R"] for case in cases} == {1, 7, 46}


def spoiled(outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One token of the last row is off: a small share of all values."""
    tokens = outputs["tokens"].copy()
    tokens[-1, 0, 0] += 1
    return {"tokens": tokens}


def test_a_wrong_engine_is_marked(
    tiny_bundle: Bundle, engines: Engines, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """With the wrong output first, for the message that refuses it; a row in the batch is enough.

    What it got and answered is left, and the line that is printed goes on from there.
    """
    engines.spoil, left = spoiled, tmp_path / "dino.failed"
    with caplog.at_level(logging.WARNING):
        check = check_network(tiny_bundle, engines, "dino", left=left)  # type: ignore[arg-type]
    assert not check.passed
    assert check.outputs[0].relative > 1e-4
    assert "dino: wrong tokens at B=" in caplog.text
    assert sorted(path.name for path in left.iterdir()) == ["engine.json", "inputs.json", "onnxruntime.json"]
    if importlib.util.find_spec("polygraphy"):
        line = next(line for line in caplog.text.splitlines() if line.startswith("polygraphy run "))
        _, *words = shlex.split(line)
        program = Path(sys.executable).with_name("polygraphy")
        # The graph is right: it differs from what the engine gave, and not from what ONNX Runtime did.
        right = [word.replace("engine.json", "onnxruntime.json") for word in words]
        statuses = [subprocess.run([program, *each], check=False).returncode for each in (words, right)]
        assert statuses == [1, 0]


def test_values_that_are_not_finite_are_wrong(tiny_bundle: Bundle, engines: Engines) -> None:
    """An overflow in half precision."""
    engines.spoil = lambda outputs: {k: np.full_like(v, np.nan) for k, v in outputs.items()}
    check = check_network(tiny_bundle, engines, "mask_decoder")  # type: ignore[arg-type]
    assert not check.passed
    assert not check.outputs[0].finite


def test_checks_are_kept_in_the_records(
    tiny_bundle: Bundle, engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed ones too; nothing else in a record changes."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    directory = engine_directory(root, "tensorrt")
    directory.mkdir(parents=True)
    before = {name: record_of(tiny_bundle, name) for name in ("dino", "mask_decoder")}
    for record in before.values():
        write_engine_record(record_path(directory, record.network), record)
    engines.spoil = lambda outputs: spoiled(outputs) if "tokens" in outputs else outputs
    monkeypatch.setattr(engine_check, "open_engine", lambda *_: engines)
    checks = check_engines(root, "tensorrt", ["dino", "mask_decoder"])
    assert {name: check.passed for name, check in checks.items()} == {"dino": False, "mask_decoder": True}
    for name, check in checks.items():
        record = read_engine_record(record_path(directory, name))
        assert record.check == check
        assert record.tensors == before[name].tensors
    assert engines.closed == 2


class HalfArrays(NumpyArrays):
    """NumPy's arrays, where bfloat16 is a float32 that was rounded; `parked` dtypes in their order."""

    def __init__(self) -> None:
        self.parked: list[str] = []

    def from_host(self, parked: HostArray) -> NDArray[np.float32]:
        self.parked.append(parked.dtype)
        return (parked.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(parked.shape)


class HalfEngines:
    """Engines in half precision: the twin computes, `error` of each output is added to it."""

    identity = DeviceIdentity(name="GPU", compute_capability=(8, 7))

    def __init__(self, bundle: Any, name: str) -> None:
        self._record = record_of(bundle, name)
        self._reference = partial(trusted_graph, bundle, bundle.networks[name], write_float32_twin)
        self.arrays = HalfArrays()
        self.error = 0.0
        """Relative, of half of the values up and of the others down."""

    def record(self, name: str) -> EngineRecord:
        return self._record

    def runner(self, name: Any) -> Any:
        def call(inputs: Any) -> Any:
            with self._reference() as (_, graph):
                answers = graph.run(inputs)
            for values in answers.values():
                flat = values.reshape(-1)
                flat[::2] *= 1 + self.error
                flat[1::2] *= 1 - self.error
            return answers

        return call


@pytest.fixture
def one_network(half_network: Callable[..., Any]) -> Callable[..., Any]:
    """A bundle of one network in a half precision; takes the precision and what its gate says."""

    def make(precision: str, **gate: Any) -> Any:
        exported, root = half_network("memory_encoder", precision=precision, head_precision=precision)
        entry = replace(exported, gate=gate)

        def content(target: str) -> GraphContent:
            graph = entry.graphs[target]
            return GraphContent(
                path=root / graph.file,
                graph=(root / graph.file).read_bytes(),
                weights={name: bytearray((root / name).read_bytes()) for name in graph.weights},
            )

        return SimpleNamespace(
            networks={"memory_encoder": entry},
            model=model_spec(TINY, "gmos"),
            files={},
            private_graph=lambda name, target: nullcontext(root / entry.graphs[target].file),
            graph_content=lambda name, target: content(target),
            table_source=lambda: SimpleNamespace(head_dim=1),
        )

    return make


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_compared_with_its_float32_twin(
    precision: str, one_network: Callable[..., Any]
) -> None:
    """Inputs reach both as they were rounded. Without the twin's writer fp16 is judged by its own graph."""
    bundle = one_network(precision)
    engines: Any = HalfEngines(bundle, "memory_encoder")
    check = check_network(bundle, engines, "memory_encoder", twin=write_float32_twin)
    assert check.passed
    assert check.against.endswith("in float32 on the same weights")
    assert set(engines.arrays.parked) == ({"bfloat16"} if precision == "bf16" else set())
    with trusted_graph(bundle, bundle.networks["memory_encoder"], write_float32_twin) as (_, graph):
        assert {given.type for given in graph._session.get_inputs()} == {"tensor(float)"}
    if precision == "bf16":
        with pytest.raises(GmosError, match=r"memory_encoder is bf16, .*gmos-export check-engines .*onnx-ir"):
            check_network(bundle, engines, "memory_encoder")
    else:
        assert not check_network(bundle, engines, "memory_encoder").against.endswith("weights")


OWN = {"target": "reference", "finite": True, "max_abs": 1.0, "mean_abs": 1.0, "largest": 1.0, "changed": 0.0}
"""An own error of the reference in half precision, as a bundle has it."""


@pytest.mark.parametrize(("error", "passed"), [(0.05, True), (0.2, False)])
@pytest.mark.parametrize("measured", ["by the export", "here"])
def test_an_engine_may_be_twice_as_far_off_as_rounding_alone(
    error: float,
    passed: bool,
    measured: str,
    one_network: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a network amplifies rounding, the plain limits would refuse every engine of it."""
    own = {**OWN, "output": "memory", "relative": 0.04, "cosine": 0.999, "lengths": {"O": 1}}
    bundle = one_network("fp16", own_errors=[own] if measured == "by the export" else [])
    if measured == "here":
        monkeypatch.setattr(engine_check, "_rounding", lambda *_: [OutputDifference(**own)])
    engines: Any = HalfEngines(bundle, "memory_encoder")
    engines.error = error
    check = check_network(bundle, engines, "memory_encoder", twin=write_float32_twin)
    assert check.passed == passed
    assert {found.output for found in check.outputs} == {"memory"}


def test_rounding_is_measured_on_the_graph_itself(one_network: Callable[..., Any]) -> None:
    """In float16 between the layers; a wrong engine is as wrong as before."""
    bundle = one_network("fp16")
    entry = bundle.networks["memory_encoder"]
    inputs = seeded_inputs(entry.name, entry.inputs, bundle.model, {"O": 1})
    with trusted_graph(bundle, entry, write_float32_twin) as (_, twin):
        (own,) = engine_check._rounding(bundle, entry, inputs, twin.run(inputs))
    assert own.output == "memory"
    assert 1e-5 < own.relative < 1e-2
    engines: Any = HalfEngines(bundle, "memory_encoder")
    engines.error = 0.05
    assert not check_network(bundle, engines, "memory_encoder", twin=write_float32_twin).passed


@pytest.mark.parametrize(
    ("version", "machine", "doubt"),
    [
        ("1.29.0", "x86_64", "ONNX Runtime 1.29.0 is reported .*32255.*pip install 'onnxruntime!=1.29.*'"),
        ("1.32.1", "aarch64", "ONNX Runtime 1.32.1 may sum .*pip install onnx-ir"),
        ("1.32.1", "AMD64", None),
        ("1.23.2", "aarch64", None),
    ],
)
def test_versions_that_judge_half_precision_badly_are_named(
    version: str,
    machine: str,
    doubt: str | None,
    one_network: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the graph itself is the judge; the float32 twin has nothing in half."""
    monkeypatch.setattr(engine_check, "load_onnxruntime", lambda: SimpleNamespace(__version__=version))
    monkeypatch.setattr(engine_check.platform, "machine", lambda: machine)
    bundle = one_network("fp16")
    for twin in (write_float32_twin, None):
        with trusted_graph(bundle, bundle.networks["memory_encoder"], twin):
            pass
        found = [text for text in caplog.messages if text.startswith("memory_encoder: ONNX Runtime")]
        assert len(found) == (twin is None and doubt is not None)
    if doubt is not None:
        assert re.search(doubt, found[0])
