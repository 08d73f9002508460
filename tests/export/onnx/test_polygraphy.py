"""Polygraphy as a second opinion, and as where to go on from what failed: its tools open and run what is left."""

from __future__ import annotations

import hashlib
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.parity import networks_command
from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx.exported_network import NetworkExporter
from gmos_deploy.export.onnx.validation import validation_cases
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.comparison.run_results import INPUTS_FILE, save_call
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.onnx.host_graph import HostGraph, bundle_tables

pytest.importorskip("polygraphy")

NETWORKS: tuple[NetworkName, ...] = ("dino", "proposer", "memory_attention", "proposal_labels")
"""With tables, with queries, with empty inputs, with whole numbers."""


def polygraphy(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Polygraphy's own program, from the environment of these tests."""
    program = Path(sys.executable).with_name("polygraphy")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def typed(line: str) -> subprocess.CompletedProcess[str]:
    """A line that was printed, as a user types it."""
    program, *words = shlex.split(line)
    assert program == "polygraphy"
    return polygraphy(words)


def opened(path: Path) -> str:
    """What `polygraphy inspect data` says of a file."""
    found = polygraphy(["inspect", "data", str(path)])
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.parametrize("name", NETWORKS)
def test_a_second_opinion_on_a_bundle(tiny_bundle: Bundle, tmp_path: Path, name: NetworkName) -> None:
    """Its runner computes what ours does, its reader reads our files, and its comparator finds both equal."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, RunResults
    from polygraphy.json import load_json

    entry, lengths = tiny_bundle.networks[name], validation_cases(name, tiny_bundle.model)[0]
    graph = tiny_bundle.graph_file(name, "onnxruntime")
    ours = HostGraph(graph, tables=bundle_tables(tiny_bundle, name))
    inputs = seeded_inputs(name, entry.inputs, tiny_bundle.model, lengths)
    save_call(tmp_path, ours.feeds(inputs), {"ours": ours.run(inputs)})
    (feeds,) = load_json(str(tmp_path / INPUTS_FILE))
    with OnnxrtRunner(SessionFromOnnx(str(graph))) as runner:
        theirs = {key: np.array(values) for key, values in runner.infer(feeds).items()}
    results = RunResults.load(str(tmp_path / "ours.json"))
    results.add([theirs], runner_name="theirs")
    assert bool(Comparator.compare_accuracy(results))


def perturb(bundle: Path, edit_manifest: Callable[..., None]) -> None:
    """Scale a weight of one layer of the decoder by a tenth, and list the file as it is then."""
    path = bundle / "pi3_decoder.ort.onnx"
    model = onnx.load(path, load_external_data=False)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "pi3.decoder.1.norm2.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.1, weight.name))
    onnx.save(model, path)
    data = path.read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({path.name: entry}))


def test_networks_of_a_bundle_with_a_planted_fault(
    tiny_bundle: Bundle,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    colour_video: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line that is printed finds the fault again, and no fault in the network beside it."""
    perturb(bundle_copy, edit_manifest)
    clip = colour_video("clip", [[(1, 4 + 6 * index, 8, 16, 24)] for index in range(6)])
    saved = tmp_path / "tensors"
    arguments = [clip, "--a", f"onnxruntime:{tiny_bundle.root}", "--b", f"onnxruntime:{bundle_copy}"]
    arguments += ["--calls", 1, "--networks", "dino,pi3_decoder", "--save_tensors", saved]
    status = guarded(networks_command, "gmos-parity", [str(word) for word in arguments])
    printed = capsys.readouterr()
    assert status == 1, printed.err
    lines = [line for line in printed.out.splitlines() if line.startswith("polygraphy run")]
    assert "tokens" in opened(saved / "pi3_decoder" / INPUTS_FILE)
    for side in ("a", "b"):
        assert "geometry" in opened(saved / "pi3_decoder" / f"{side}.json")
    right, wrong = (typed(next(line for line in lines if name in line)) for name in ("dino", "pi3_decoder"))
    assert right.returncode == 0, right.stdout
    assert wrong.returncode == 1
    assert "geometry" in wrong.stdout
    # The fault is the graph's: against side B, which has it too, there is none.
    again = next(line for line in lines if "pi3_decoder" in line).replace("a.json", "b.json")
    assert typed(again).returncode == 0


def test_an_export_that_fails_its_validation(
    exporter: Callable[..., NetworkExporter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The graph with its weights, its inputs and both outputs stay, and the line that is printed goes on from there."""
    made = exporter(left=tmp_path / "bundle.failed")
    validation: Any = made._validation
    run = validation._reference
    monkeypatch.setattr(
        validation, "_reference", lambda *given: {name: 1.5 * values for name, values in run(*given).items()}
    )
    with caplog.at_level(logging.WARNING), pytest.raises(GmosError, match="exported memory_encoder"):
        made.export("memory_encoder")
    folder = tmp_path / "bundle.failed" / "memory_encoder"
    for file, tensor in ((INPUTS_FILE, "masks"), ("reference.json", "memory"), ("exported.json", "memory")):
        assert f"{tensor} [dtype=" in opened(folder / file)
    line = caplog.text.strip().splitlines()[-1]
    assert typed(line).returncode == 1
    assert typed(line.replace("reference.json", "exported.json")).returncode == 0
