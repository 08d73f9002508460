"""The bundle as a whole: what is written, what replaces what, and what is left after a failure."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from gmos_deploy.commands.export import export_command
from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx import bundle_export
from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
from gmos_deploy.export.onnx.exported_network import NetworkExporter
from gmos_deploy.export.onnx.network_modules import MODULES
from gmos_deploy.gmos_ref.networks import ReferenceNetworks
from gmos_deploy.gmos_ref.reference_config import PUBLISHED, ReferenceConfig, Weights
from gmos_deploy.runtime.bundle.external_data import external_locations
from gmos_deploy.runtime.bundle.manifest import MANIFEST, TARGETS, Bundle, open_bundle
from gmos_deploy.runtime.bundle.new_bundle import new_bundle
from gmos_deploy.runtime.contract import network_specs

MakeConfig = Callable[..., ExportConfig]


def test_the_bundle_says_what_it_is(tiny_bundle: Bundle) -> None:
    """Model, precision, opset, versions, resolutions."""
    assert (tiny_bundle.model.variant, tiny_bundle.model.preset) == ("gmos", "tiny")
    assert (tiny_bundle.precision, tiny_bundle.head_precision, tiny_bundle.opset) == ("fp32", "fp32", 20)
    assert tiny_bundle.networks.keys() == network_specs(tiny_bundle.model).keys()
    assert set(tiny_bundle.versions) >= {"torch", "onnx", "onnxruntime", "python", "gmos-deploy"}
    assert tiny_bundle.checkpoints == {}
    assert tiny_bundle.resolutions == ((168, 112), (182, 98))


def test_every_network_went_through_the_gate(tiny_bundle: Bundle) -> None:
    """Both graphs, where there are two, with all measures on record."""
    for network in tiny_bundle.networks.values():
        assert network.gate["passed"] is True
        targets = {found["target"] for found in network.gate["differences"]}
        forms = {network.graphs[target].file for target in TARGETS}
        assert len(targets) == len(forms)
        assert set(network.gate["differences"][0]) >= {"max_abs", "mean_abs", "cosine", "finite"}


def test_every_file_is_listed_and_there_is_no_other(tiny_bundle: Bundle) -> None:
    """And each listed one has its hash."""
    assert {path.name for path in tiny_bundle.root.iterdir()} == {*tiny_bundle.files, MANIFEST}
    for name in tiny_bundle.files:
        tiny_bundle.files.verified(name)


def test_no_weights_are_written_twice(tiny_bundle: Bundle) -> None:
    """The mask decoder reads the prompt's layers from the prompt's file; no two tensors are equal."""
    assert "mask_prompt.weights" in tiny_bundle.networks["mask_decoder"].graphs["standard"].weights
    seen: dict[bytes, tuple[str, int]] = {}
    for name in tiny_bundle.networks:
        for target in TARGETS:
            path = tiny_bundle.graph_file(name, target)
            for tensor in onnx.load(path, load_external_data=False).graph.initializer:
                if tensor.data_location != onnx.TensorProto.EXTERNAL:
                    continue
                place = {entry.key: entry.value for entry in tensor.external_data}
                file, offset, length = place["location"], int(place["offset"]), int(place["length"])
                with (tiny_bundle.root / file).open("rb") as stream:
                    stream.seek(offset)
                    content = stream.read(length)
                assert seen.setdefault(content, (file, offset)) == (file, offset)
    assert len(seen) > 100


def test_the_recorded_weights_are_those_that_the_graphs_read(tiny_bundle: Bundle) -> None:
    """As the runtime finds them without the onnx package."""
    for network in tiny_bundle.networks.values():
        for graph in network.graphs.values():
            assert external_locations(tiny_bundle.root / graph.file) == set(graph.weights)


def test_profiles_have_one_entry_per_resolution_where_it_matters(tiny_bundle: Bundle) -> None:
    """The decoder has two, the SAM2 encoder one; memory attention has one for few memories and one for many."""
    decoder = tiny_bundle.networks["pi3_decoder"].profiles
    assert [(ranges["h"], ranges["w"]) for ranges in decoder] == [
        ((8, 8, 8), (12, 12, 12)),
        ((7, 7, 7), (13, 13, 13)),
    ]
    assert [ranges["Hp"][1] for ranges in tiny_bundle.networks["dino"].profiles] == [112, 98]
    assert len(tiny_bundle.networks["sam2_encoder"].profiles) == 1
    usual, long = tiny_bundle.networks["memory_attention"].profiles
    assert (usual["R"], usual["P"]) == ((1, 7, 24), (0, 16, 33))
    assert (long["R"], long["P"]) == ((1, 46, 136), (0, 55, 145))


def test_arithmetic_is_counted_from_the_graph(tiny_bundle: Bundle) -> None:
    """The decoder's by hand: linear layers and attention of 4 blocks, the last for one frame in five."""
    network = tiny_bundle.networks["pi3_decoder"]
    at = network.flops_at
    tokens, dim, window = at["h"] * at["w"] + 5, 64, 5
    everyone = window * tokens
    blocks = 3 * 2 * everyone * 12 * dim * dim
    attention = 2 * window * 4 * tokens * tokens * dim + 4 * everyone * everyone * dim
    last = 2 * everyone * 2 * dim * dim + 2 * tokens * 10 * dim * dim + 4 * tokens * everyone * dim
    assert network.flops == at["B"] * (blocks + attention + last)


def test_the_table_names_networks_shapes_sizes_and_the_gate(tiny_bundle: Bundle) -> None:
    """One line per network and one per tensor."""
    shown = CliRunner().invoke(export_command, ["inspect", str(tiny_bundle.root)], catch_exceptions=False)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[0].startswith("gmos, tiny size, fp32 (heads fp32), opset 20, ")
    assert "engines for 168x112, 182x98; untrained stand-in weights" in lines
    for name in tiny_bundle.networks:
        assert any(line.startswith(name) and "passed" in line for line in lines)
    assert any(line.split()[-4:] == ["in", "tokens", "(B,5,h,w,64)", "float32"] for line in lines)
    assert any("parameters" in line and "GFLOP" in line for line in lines)


def test_the_json_holds_the_same(tiny_bundle: Bundle) -> None:
    """And can be read by a program."""
    shown = CliRunner().invoke(
        export_command, ["inspect", "--json", str(tiny_bundle.root)], catch_exceptions=False
    )
    content = json.loads(shown.output)
    assert content["networks"].keys() == tiny_bundle.networks.keys()
    decoder = content["networks"]["pi3_decoder"]
    assert decoder["outputs"] == [
        {"name": "geometry", "axes": ["B", "h", "w", 64], "dtype": "float32"}
        | {"values": tiny_bundle.networks["pi3_decoder"].outputs[0].values}
    ]
    assert decoder["gate"]["passed"] is True
    assert content["resolutions"] == ["168x112", "182x98"]


def test_weights_carry_their_licence(tiny_bundle: Bundle) -> None:
    """Stand-in weights are the project's own; networks without weights have none; the table and the JSON have both."""
    found = {name: (one.licence, one.source) for name, one in tiny_bundle.networks.items()}
    assert found["dino"] == found["memory_attention"] == ("Apache-2.0", "gmos-deploy, untrained")
    assert found["proposal_labels"] == ("", "")
    shown = CliRunner().invoke(export_command, ["inspect", str(tiny_bundle.root)], catch_exceptions=False)
    assert shown.output.count("Apache-2.0") == len(MODULES) - 1
    words = ["inspect", "--json", str(tiny_bundle.root)]
    values = json.loads(CliRunner().invoke(export_command, words, catch_exceptions=False).output)
    assert values["networks"]["proposer"]["licence"] == "Apache-2.0"


def test_licences_of_published_and_own_weights(tmp_path: Path) -> None:
    """As published at the published size, unknown at others; the user may state another for own weights."""
    paths = {flag: tmp_path / f"{flag}.pth" for flag in ("pi3_ckpt", "sam2_ckpt", "gmos_ckpt")}
    published = ReferenceConfig(variant="gmos", **paths)
    assert published.weights()["pi3_ckpt"] == PUBLISHED["pi3_ckpt"]
    assert {flag: one.licence for flag, one in published.weights().items()} == {
        "pi3_ckpt": "CC-BY-NC-4.0", "sam2_ckpt": "Apache-2.0", "gmos_ckpt": "Apache-2.0",
    }  # fmt: skip
    own = published.stated_weights(["pi3=LicenseRef-ours", "sam2=MIT OR Apache-2.0"])
    assert own["pi3_ckpt"] == Weights(source="stated at export", licence="LicenseRef-ours")
    assert own["sam2_ckpt"].licence == "MIT OR Apache-2.0"
    other = ReferenceConfig(variant="gmos", preset="small", **paths).weights()
    assert {(one.licence, one.source) for one in other.values()} == {("unknown", "unknown")}
    nano = ReferenceConfig(variant="gmos", preset="nano").weights()
    assert {(one.licence, one.source) for one in nano.values()} == {("Apache-2.0", "gmos-deploy")}


@pytest.mark.parametrize(
    "given", ["pi3", "pi4=MIT", "pi3=", "gmos_s=MIT", "pi3_ckpt=MIT", "pi3=two words", "pi3=a\nb"]
)
def test_a_licence_that_is_none_is_refused(given: str, tmp_path: Path, tiny_config: MakeConfig) -> None:
    """Before any work, with what was expected."""
    with pytest.raises(
        GmosError, match=r"(?s)--weights_licence .*: expected PART=ID with one of pi3, sam2, gmos and"
    ):
        tiny_config(tmp_path / "out", weights_licence=(given,))


@pytest.mark.parametrize(("stated", "lines"), [((), 1), (("pi3=LicenseRef-ours",), 0)])
def test_non_commercial_weights_are_said_in_a_line(
    stated: tuple[str, ...],
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pi3's at export, with the way to state another licence; own weights are exported without."""
    paths = {flag: tmp_path / f"{flag}.pth" for flag in ("pi3_ckpt", "sam2_ckpt", "gmos_ckpt")}
    for path in paths.values():
        path.write_bytes(b"weights")
    reference = ReferenceConfig(variant="gmos", device="cpu", precision="fp32", **paths)
    written: dict[str, Any] = {}
    monkeypatch.setattr(bundle_export, "_load", lambda _: None)
    monkeypatch.setattr(bundle_export, "write_bundle", lambda *_, **given: written.update(given))
    config = ExportConfig(out=tmp_path / "out", reference=reference, weights_licence=stated)
    with caplog.at_level(logging.WARNING):
        export_bundle(config)
    assert len(caplog.messages) == lines
    if lines:
        assert "--pi3_ckpt are CC-BY-NC-4.0" in caplog.text
        assert (
            "used commercially; own weights have their licence stated with --weights_licence pi3=ID"
            in caplog.text
        )
    licence = stated[0].partition("=")[2] if stated else "CC-BY-NC-4.0"
    assert written["checkpoints"]["pi3_ckpt"]["licence"] == licence
    assert written["weights"]["pi3_ckpt"].licence == licence


def test_a_second_export_without_force_is_refused_and_nothing_is_touched(
    tiny_bundle: Bundle, tiny_config: MakeConfig
) -> None:
    """Before any network is built."""
    with pytest.raises(GmosError, match=r"--out .* holds a bundle; give --force to replace it"):
        tiny_config(tiny_bundle.root)


def test_a_directory_with_other_files_is_refused_even_with_force(
    tmp_path: Path, tiny_config: MakeConfig
) -> None:
    """--force replaces bundles, not somebody's home."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(GmosError, match=r"holds files and no bundle\.json"):
        tiny_config(tmp_path, force=True)


def test_a_file_in_the_place_is_refused(tmp_path: Path, tiny_config: MakeConfig) -> None:
    """With its name."""
    (tmp_path / "out").write_text("")
    with pytest.raises(GmosError, match=r"--out .*out is a file; expected a directory"):
        tiny_config(tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": ("672",)}, r"--resolution 672: expected WIDTHxHEIGHT in pixels, such as 672x378"),
        ({"resolution": ("150x112",)}, r"multiples of 14 pixels; the nearest is 154x112"),
        ({"resolution": ("672x378",)}, r"254016 pixels, expected at most 20000 \(tiny preset\)"),
        ({"aspect": ("16/9",)}, r"--aspect 16/9: expected WIDTH:HEIGHT, such as 16:9"),
        ({"aspect": ("0:9",)}, r"--aspect 0:9: expected WIDTH:HEIGHT"),
        ({"aspect": ("1000:1",)}, r"is too thin"),
        ({"opset": 17}, r"--opset 17: expected 20 or 23"),
        ({"max_batch": 0}, r"--max_batch 0: expected 1 or more"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    fields: dict[str, Any], message: str, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    """With what was given and what was expected."""
    with pytest.raises(GmosError, match=message):
        tiny_config(tmp_path / "new", **fields)


def test_resolutions_are_those_asked_for_without_repetition(tmp_path: Path, tiny_config: MakeConfig) -> None:
    """16:9 where nothing was asked for."""
    config = tiny_config(tmp_path / "new", resolution=("168x112", "182x98"), aspect=("16:9", "4:3"))
    assert config.resolutions == ((168, 112), (182, 98))
    assert tiny_config(tmp_path / "new").resolutions == ((182, 98),)


class Stop(BaseException):
    """Stands for Ctrl-C, without stopping the test run if it escapes."""


class StubExporter:
    """Fails as told when the first network is asked for, with a file half written."""

    error: BaseException

    def __init__(self, root: Path, *_: Any, **__: Any) -> None:
        self._root = root

    def export(self, name: str) -> Any:
        (self._root / f"{name}.onnx").write_text("half")
        raise self.error


@pytest.mark.parametrize("error", [Stop(), GmosError("exported dino differs from the reference")])
def test_a_failed_or_interrupted_export_leaves_nothing(
    error: BaseException,
    tmp_path: Path,
    tiny_config: MakeConfig,
    tiny_networks: ReferenceNetworks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the bundle nor its temporary directory."""
    monkeypatch.setattr(bundle_export, "NetworkExporter", StubExporter)
    monkeypatch.setattr(bundle_export, "_load", lambda _: tiny_networks)
    monkeypatch.setattr(StubExporter, "error", error, raising=False)
    with pytest.raises(type(error)):
        bundle_export.export_bundle(tiny_config(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_keeps_the_old_bundle(tmp_path: Path) -> None:
    """It is whole, and nothing lies beside it."""
    out = tmp_path / "bundle"
    out.mkdir()
    (out / MANIFEST).write_text("old")

    def interrupted() -> None:
        with new_bundle(out) as root:
            (root / MANIFEST).write_text("new")
            raise Stop

    with pytest.raises(Stop):
        interrupted()
    assert (out / MANIFEST).read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_finished_replacement_leaves_no_file_of_the_old_bundle(tmp_path: Path) -> None:
    """The directory is exchanged as a whole."""
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "old.onnx").write_text("old")
    with new_bundle(out) as root:
        (root / MANIFEST).write_text("new")
    assert [path.name for path in out.iterdir()] == [MANIFEST]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("exchanges", [True, False])
def test_two_writers_of_one_bundle_do_not_meet(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that ends last is there, whole; neither takes the other's files for a dead one's."""
    if not exchanges:
        monkeypatch.setattr("gmos_deploy.runtime.bundle.new_bundle.exchanged", lambda *_: False)
    out = tmp_path / "bundle"
    with new_bundle(out) as first:
        (first / MANIFEST).write_text("first")
        with new_bundle(out) as second:
            (second / MANIFEST).write_text("second")
        assert (out / MANIFEST).read_text() == "second"
    assert (out / MANIFEST).read_text() == "first"
    assert list(tmp_path.iterdir()) == [out]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """With the reason."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(GmosError, match=r"cannot write .*file/bundle"),
        new_bundle(tmp_path / "file" / "bundle"),
    ):
        pass


def test_without_the_gate_a_network_is_kept_and_said_to_be_unchecked(
    exporter: Callable[..., NetworkExporter],
) -> None:
    """The record says that nothing was compared."""
    found = exporter(validated=False).export("proposal_labels")
    assert (found.gate["passed"], found.gate["compared"]) == (False, "nothing")


def test_a_network_that_computes_something_else_is_refused(
    exporter: Callable[..., NetworkExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the network, the output and by how much."""
    made = exporter()
    validation = made._validation
    assert validation is not None
    run = validation._reference
    monkeypatch.setattr(
        validation, "_reference", lambda *given: {name: 1 - value for name, value in run(*given).items()}
    )
    with pytest.raises(GmosError, match=r"exported tracked_labels .* in positive at O=1 H=51 W=89: share of"):
        made.export("tracked_labels")


def test_help_names_every_option_without_loading_pytorch() -> None:
    """Units, defaults and ranges are in the text."""
    shown = CliRunner().invoke(export_command, ["onnx", "--help"], catch_exceptions=False).output
    for option in ("--out", "--precision", "--head_precision", "--opset", "--resolution", "--no_validation"):
        assert option in shown
    assert "1 or more" in shown


@pytest.mark.parametrize("spelling", ["--no_validation", "--no-validation", "--no_gate"])
def test_both_spellings_of_an_option_are_taken(spelling: str, tmp_path: Path) -> None:
    """The published scripts use snake case, most commands kebab case."""
    given = ["onnx", "--out", str(tmp_path / "new"), spelling, "--preset", "none"]
    with pytest.raises(GmosError, match="preset 'none' does not exist"):
        CliRunner().invoke(export_command, given, catch_exceptions=False)


def test_the_published_size_needs_checkpoints(tmp_path: Path) -> None:
    """And the message says where they are published."""
    with pytest.raises(GmosError, match=r"needs 3 checkpoints; not given: --pi3_ckpt .*huggingface"):
        CliRunner().invoke(export_command, ["onnx", "--out", str(tmp_path / "new")], catch_exceptions=False)


def test_a_tiny_export_from_the_command_line_can_be_opened(tiny_bundle: Bundle) -> None:
    """What the exporter wrote is what the runtime reads."""
    assert open_bundle(tiny_bundle.root).identity == tiny_bundle.identity
