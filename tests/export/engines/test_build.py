"""Engines of the tiny bundle, built for real by TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gmos_deploy.cli import guarded
from gmos_deploy.commands.export import export_command
from gmos_deploy.errors import GmosError, MachineError
from gmos_deploy.export.engines import build as engine_build
from gmos_deploy.export.engines import comparison as engine_comparison
from gmos_deploy.export.engines.build import EngineBuild, build_engines
from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.export.engines.plan import build_plan
from gmos_deploy.export.engines.progress import BuildPhases
from gmos_deploy.export.engines.shapes import engine_profile, engine_ranges, kept_shapes
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.bundle.signature import Trust
from gmos_deploy.runtime.comparison.parity import OutputDifference
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.tensorrt import gpu as cuda_device
from gmos_deploy.runtime.tensorrt.library import load_tensorrt
from gmos_deploy.runtime.tensorrt.record import (
    AskedShape,
    DeviceIdentity,
    EngineCheck,
    Place,
    engine_directory,
    plan_path,
    read_engine_record,
    record_path,
    write_engine_record,
)
from gmos_deploy.runtime.tensorrt.trust import plan_difference, verified_plan

pytest.importorskip("tensorrt_rtx")

TARGETS = ("sm86", "sm120")
RTX_3090 = DeviceIdentity(name="NVIDIA GeForce RTX 3090", compute_capability=(8, 6))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(
        export_command,
        ["build-engines", "--backend", "tensorrt-rtx", *map(str, arguments)],
        catch_exceptions=False,
        standalone_mode=False,
    )


def actions(result: Result) -> dict[str, str]:
    engines = json.loads(result.stdout)["engines"]
    return {name: engine["action"] for name, engine in engines.items()}


@pytest.fixture(scope="session")
def built_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with all its engines for two targets. Left as it is by every test."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path_factory.mktemp("engines") / "tiny"))
    found = actions(command("--bundle", root, "--target", "sm86", "--target", "sm120", "--json"))
    assert set(found.values()) == {"built"}
    return root


@pytest.fixture
def engines_copy(built_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage; the bundle's own files are links."""
    return Path(shutil.copytree(built_bundle, tmp_path / "copy", copy_function=link_or_copy))


def link_or_copy(source: str, target: str) -> str:
    """Engines are copied: a test that writes one must not reach the original."""
    if ".engine" in Path(source).name:
        return str(shutil.copy2(source, target))
    Path(target).hardlink_to(source)
    return target


def test_every_network_has_an_engine_with_its_record(built_bundle: Path, tiny_bundle: Bundle) -> None:
    """The real parser took every graph; tensors are those of the contract."""
    directory = engine_directory(built_bundle, "tensorrt-rtx")
    for name, network in tiny_bundle.networks.items():
        record = read_engine_record(record_path(directory, name))
        assert plan_difference(plan_path(directory, name), record, content=True) is None, name
        assert (record.targets, record.device, record.check) == (TARGETS, None, None)
        assert record.library_version == load_tensorrt("tensorrt-rtx").full_version
        assert record.profiles[0].keys() == {
            tensor.name for tensor in record.tensors if tensor.mode == "input"
        }
        given = {tensor.name: tensor for tensor in record.tensors}
        for tensor in (*network.inputs, *network.outputs):
            assert given[tensor.name].dtype == tensor.dtype, (name, tensor.name)
            assert given[tensor.name].host == tensor.host, (name, tensor.name)
            assert len(given[tensor.name].shape) == len(tensor.axes), (name, tensor.name)
        assert len(record.activation_bytes) == len(record.profiles) == len(network.profiles)
        assert all(record.activation_bytes), name
        if network.parameters:
            assert record.weight_bytes > 0
    names = {path.name for path in directory.iterdir()}
    assert names == {
        f"{name}{suffix}" for name in tiny_bundle.networks for suffix in (".engine", ".engine.json")
    }


def test_a_resolution_is_a_profile(built_bundle: Path) -> None:
    """The tiny bundle was exported for two."""
    record = read_engine_record(record_path(engine_directory(built_bundle, "tensorrt-rtx"), "dino"))
    assert [profile["frames"].max for profile in record.profiles] == [(8, 3, 112, 168), (8, 3, 98, 182)]
    assert [profile["position"].max for profile in record.profiles] == [(8, 12, 64), (7, 13, 64)]


def widen(root: Path, name: NetworkName, place: Place, **lengths: int) -> None:
    """Have an engine's record say that it was built for these lengths, as a build with --max-shapes writes it."""
    path = record_path(engine_directory(root, "tensorrt-rtx"), name)
    network = open_bundle(root).networks[name]
    (shape,) = kept_shapes(network, [AskedShape(place=place, lengths=lengths)], ())
    profiles = tuple(engine_profile(network, ranges) for ranges in engine_ranges(network, [shape]))
    write_engine_record(path, replace(read_engine_record(path), profiles=profiles, shapes=(shape.asked(),)))


def test_shapes_that_were_asked_for_stay(engines_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A later build without them neither narrows an engine nor widens it; it says so, and how they go."""
    caplog.set_level("INFO")
    widen(engines_copy, "mask_decoder", "max", O=32)
    widen(engines_copy, "memory_encoder", "max", O=2)
    plain = (
        "--bundle",
        engines_copy,
        "--networks",
        "mask_decoder,memory_encoder",
        "--target",
        "sm86",
        "--json",
    )
    assert set(actions(command(*plain)).values()) == {"kept"}
    assert caplog.messages == [
        "mask_decoder: up to date",
        "mask_decoder: kept --max-shapes mask_decoder O=32 of an earlier build (--default_shapes drops it)",
        "memory_encoder: up to date",
        "memory_encoder: kept --max-shapes memory_encoder O=2 of an earlier build (--default_shapes drops it)",
    ]
    caplog.clear()
    given = (*plain, "--dry-run", "--default_shapes")
    assert set(actions(command(*given)).values()) == {"would build"}
    assert re.search(r"mask_decoder: .* \(conditioned of 1x.* to 32x\S+, now 1x.* to 16x", caplog.messages[0])
    # What is asked for now goes before; the rest of what was asked for stays.
    caplog.clear()
    widen(engines_copy, "memory_attention", "max", O=2, R=140)
    given = ("--bundle", engines_copy, "--networks", "memory_attention", "--target", "sm86", "--dry-run")
    command(*given, "--max-shapes", "memory_attention.pointers=3x150x64")
    assert caplog.messages[1].startswith("memory_attention: kept --max-shapes memory_attention R=140 of an")


def test_a_build_records_the_shapes_that_it_was_given(engines_copy: Path) -> None:
    """As lengths by axis; they are those of the next build."""
    given = ("--bundle", engines_copy, "--networks", "tracked_labels", "--target", "sm86")
    command(*given, "--max-shapes", "tracked_labels=16x32x32")
    path = record_path(engine_directory(engines_copy, "tensorrt-rtx"), "tracked_labels")
    record = read_engine_record(path)
    assert record.shapes == (AskedShape(place="max", lengths={"O": 16}),)
    assert record.profiles[0]["masks"].max[0] == 16
    command(*given, "--force")
    again = read_engine_record(path)
    assert (again.shapes, again.profiles) == (record.shapes, record.profiles)


def test_inspect_shows_engines(engines_copy: Path) -> None:
    """What they take, compute in and are for, and whether they were compared; all of it as JSON too."""
    directory = engine_directory(engines_copy, "tensorrt-rtx")
    path = record_path(directory, "dino")
    right = OutputDifference(
        **{
            "target": "engine on recorded inputs",
            "lengths": {},
            "output": "tokens",
            "finite": True,
            "cosine": 1.0,
        },
        **dict.fromkeys(("max_abs", "mean_abs", "relative", "largest", "changed"), 0.0),
    )
    check = EngineCheck(
        date="2026-11-30T10:00:00", device="RTX 3090", against="ONNX Runtime", passed=True, outputs=(right,)
    )
    write_engine_record(path, replace(read_engine_record(path), check=check))
    record_path(directory, "proposer").write_text("{")
    record_path(directory, "sam2_resize").unlink()
    shown = CliRunner().invoke(export_command, ["inspect", str(engines_copy)], catch_exceptions=False).stdout
    text = " ".join(shown.split())
    assert "TensorRT-RTX engines" in shown
    assert "right on" in text
    assert "never" in text
    assert "there are none of sam2_resize" in text
    assert "proposer.engine.json" in text
    found = json.loads(
        CliRunner()
        .invoke(export_command, ["inspect", str(engines_copy), "--json"], catch_exceptions=False)
        .stdout
    )["engines"]["tensorrt-rtx"]
    attention = found["memory_attention"]
    assert [profile["R"] for profile in attention["profiles"]] == [[1, 7, 24], [1, 46, 136]]
    assert [profile["O"] for profile in attention["profiles"]] == [[1, 4, 16], [1, 1, 4]]
    assert (attention["precision"], attention["sums"], attention["targets"]) == (
        "fp32",
        "float32",
        list(TARGETS),
    )
    assert (attention["check"], attention["of_this_bundle"]) == (None, True)
    assert found["dino"]["check"]["inputs"] == "seeded and recorded inputs"
    assert "proposer.engine.json" in found["proposer"]
    assert "sam2_resize" not in found


def test_an_engine_fits_its_target_and_no_other(built_bundle: Path) -> None:
    """The real library's targets decide."""
    bundle, library = open_bundle(built_bundle), load_tensorrt("tensorrt-rtx")
    assert verified_plan(bundle, "dino", library, RTX_3090)[1]
    ada = DeviceIdentity(name="RTX 4090", compute_capability=(8, 9))
    with pytest.raises(GmosError, match=r"built for sm86, sm120, and this GPU is RTX 4090 .*sm86,sm120,sm89"):
        verified_plan(bundle, "dino", library, ada)


def test_a_second_call_builds_nothing(built_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And says so for each engine; fewer targets than an engine has are no reason to build."""
    caplog.set_level("INFO")
    before = {path: path.stat().st_mtime_ns for path in built_bundle.rglob("*.engine*")}
    found = actions(command("--bundle", built_bundle, "--target", "sm120", "--json"))
    assert set(found.values()) == {"kept"}
    assert caplog.messages == [f"{name}: up to date" for name in found]
    assert {path: path.stat().st_mtime_ns for path in built_bundle.rglob("*.engine*")} == before


def break_record(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = record_path(directory, "mask_decoder")
        write_engine_record(path, replace(read_engine_record(path), **changes))

    return change


def shorten_plan(directory: Path) -> None:
    path = plan_path(directory, "mask_decoder")
    path.write_bytes(path.read_bytes()[:-1])


def change_plan(directory: Path) -> None:
    path = plan_path(directory, "mask_decoder")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FAILED = EngineCheck(date="2026-11-22", device="RTX 3090 (sm86)", against="ONNX Runtime", passed=False)

STALE: list[tuple[Callable[[Path], object], tuple[str, ...], str]] = [
    (lambda d: record_path(d, "mask_decoder").unlink(), (), r"there is none yet"),
    (lambda d: plan_path(d, "mask_decoder").unlink(), (), r"mask_decoder\.engine cannot be read"),
    (lambda d: record_path(d, "mask_decoder").write_text("{"), (), r"its record cannot be used"),
    (shorten_plan, (), r"mask_decoder\.engine has \d+ bytes, expected \d+"),
    (change_plan, (), r"mask_decoder\.engine has changed since it was built"),
    (break_record(library_version="1.6.0.2"), (), r"built with TensorRT-RTX 1\.6\.0\.2, and TensorRT-RTX 1"),
    (
        break_record(sources={}),
        (),
        r"from another mask_decoder\.onnx and another mask_decoder\.weights and another",
    ),
    (break_record(network="dino"), (), r"its record is of dino for tensorrt-rtx"),
    (break_record(check=FAILED), (), r"its results were wrong when it was compared with ONNX Runtime"),
    (
        lambda d: None,
        ("--target", "sm86,sm89"),
        r"built for sm86, sm120 and not for sm89; the new one is for sm86, sm89, sm120$",
    ),
    (lambda d: None, ("--opt-level", "5"), r"built with opt_level None, and 5 is asked for"),
    (lambda d: None, ("--tf32",), r"built with tf32 False, and True is asked for"),
    (lambda d: None, ("--max-shapes", "mask_decoder=2x64x8x8"), r"it was built for other shapes"),
    (lambda d: None, ("--force",), r"--force was given"),
]


@pytest.mark.parametrize(("change", "options", "reason"), STALE)
def test_what_is_out_of_date_is_named_with_its_reason(
    change: Callable[[Path], object],
    options: tuple[str, ...],
    reason: str,
    engines_copy: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of two engines the one that was changed; a dry run builds neither."""
    caplog.set_level("INFO")
    change(engine_directory(engines_copy, "tensorrt-rtx"))
    before = {path: path.stat().st_mtime_ns for path in engines_copy.rglob("*")}
    given = ("--bundle", engines_copy, "--networks", "mask_decoder", "--dry-run", "--json")
    target = () if "--target" in options else ("--target", "sm86")
    assert actions(command(*given, *target, *options)) == {"mask_decoder": "would build"}
    assert len(caplog.messages) == 1
    assert re.match(f"mask_decoder: would be built, .*{reason}", caplog.messages[0])
    assert {path: path.stat().st_mtime_ns for path in engines_copy.rglob("*")} == before


def test_a_stale_engine_is_built_again_and_the_others_are_kept(engines_copy: Path) -> None:
    """By name or by comma; the new one is whole."""
    directory = engine_directory(engines_copy, "tensorrt-rtx")
    change_plan_of = plan_path(directory, "tracked_labels")
    change_plan_of.write_bytes(b"short")
    found = command(
        "--bundle", engines_copy, "--target", "sm86,sm120", "--networks", "tracked_labels,sam2_resize"
    )
    assert "1 built, 1 kept" in found.stdout
    record = read_engine_record(record_path(directory, "tracked_labels"))
    assert plan_difference(change_plan_of, record, content=True) is None


ON_A_DEVICE = """
import sys
for name in ("torch", "sam2", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "gmos_deploy.gmos_ref"):
    sys.modules[name] = None
from gmos_deploy.entry import export
export()
"""
"""An entry of None is how Python marks a module that cannot be imported."""


def test_building_needs_nothing_of_the_export(engines_copy: Path) -> None:
    """A device has neither PyTorch nor ONNX, and need not have ONNX Runtime."""
    given = ["build-engines", "--bundle", engines_copy, "--backend", "tensorrt-rtx", "--target", "sm89"]
    given += ["--networks", "tracked_labels"]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, *map(str, given)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 built" in done.stdout
    path = record_path(engine_directory(engines_copy, "tensorrt-rtx"), "tracked_labels")
    assert read_engine_record(path).targets == ("sm86", "sm89", "sm120"), "those that it had stay"
    given += ["--force"]
    done = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, *map(str, given)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_engine_record(path).targets == ("sm89",), "all is built anew"


def test_ctrl_c_keeps_what_was_finished(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second engine is interrupted in the middle of its build: no file of it is left."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    steps = BuildPhases.step
    seen = {"phases": 0}
    made: list[BuildPhases] = []

    def step(phases: BuildPhases, name: str) -> bool:
        if phases not in made:
            made.append(phases)
        if len(made) == 2:
            seen["phases"] += 1
            if seen["phases"] == 5:
                phases.cancel()
        return steps(phases, name)

    monkeypatch.setattr(BuildPhases, "step", step)
    with pytest.raises((GmosError, KeyboardInterrupt)):
        command("--bundle", root, "--target", "sm86", "--networks", "sam2_resize,tracked_labels")
    names = {path.name for path in engine_directory(root, "tensorrt-rtx").iterdir()}
    assert names == {"sam2_resize.engine", "sam2_resize.engine.json"}


BAD: list[tuple[tuple[str, ...], str]] = [
    (("--target", "sm86", "--networks", "resnet"), "--networks resnet: expected one of sam2_resize, dino"),
    (("--target", "sm90"), "--target sm90: TensorRT-RTX"),
    (("--target", "sm86", "--version-compatible"), "--version-compatible: TensorRT-RTX"),
    (("--target", "sm86", "--timing-cache", "x"), "--timing-cache: TensorRT-RTX"),
    (
        ("--target", "sm86", "--hardware-compatible", "ampere-plus"),
        "--hardware-compatible ampere-plus: TensorRT-RTX",
    ),
    (("--target", "sm86", "--opt-level", "9"), "--opt-level 9: expected 0 to 5"),
    (
        ("--target", "sm86", "--networks", "dino", "--max-shapes", "mask_prompt=2x128x128"),
        "--max-shapes mask_prompt=2x128x128: that network is not among --networks",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_one_line_and_status_2(
    options: tuple[str, ...], message: str, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is built."""
    given = ["build-engines", "--bundle", str(tiny_bundle.root), "--backend", "tensorrt-rtx", *options]
    assert guarded(export_command, "gmos-export", given) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"gmos-export: {message}")
    assert text.count("\n") == 1
    assert not (tiny_bundle.root / "engines").exists()


def test_a_bundle_that_cannot_be_written_is_refused_before_anything_is_built(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the first engine."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    (root / "engines").write_text("")
    monkeypatch.setattr(engine_build, "build_plan", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(GmosError, match=r"cannot write .*engines/tensorrt-rtx: "):
        command("--bundle", root, "--target", "sm86", "--networks", "tracked_labels")


def test_a_graph_that_changed_after_its_export_is_not_built(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Its hash is checked before the parser sees it."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    path = root / "tracked_labels.onnx"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(GmosError, match=r"tracked_labels\.onnx has changed since the export"):
        command("--bundle", root, "--target", "sm86", "--networks", "tracked_labels")


def test_turing_is_left_out_for_its_lack_of_float32_products(tiny_bundle: Bundle) -> None:
    """Where the library's builder takes it again, `NO_FLOAT32` can go."""
    network = tiny_bundle.networks["sam2_resize"]
    with pytest.raises(GmosError, match=r"cannot build sam2_resize: .*FP32 GEMM is not supported"):
        build_plan(
            load_tensorrt("tensorrt-rtx"),
            tiny_bundle,
            network,
            profiles=[engine_profile(network, network.profiles[0])],
            options=BuildOptions(targets=("sm75",)),
            phases=BuildPhases(lambda *_: None),
        )


def test_a_build_before_a_run_needs_a_gpu(built_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has no --target: it builds for what it runs on."""
    monkeypatch.setattr(engine_build, "find_device", lambda index: None)
    message = (
        r"^no GPU 0 was found here to build engines for and run them on; use --backend onnxruntime --device cpu, or "
        r"build ahead for others: gmos-export build-engines --bundle "
    )
    with pytest.raises(MachineError, match=message):
        build_engines(built_bundle, "tensorrt-rtx")


def build_for(root: Path, device: DeviceIdentity | None) -> EngineBuild:
    return EngineBuild(
        bundle=open_bundle(root),
        library=load_tensorrt("tensorrt-rtx"),
        device=device,
        options=BuildOptions(targets=TARGETS),
    )


@pytest.mark.parametrize("passed", [True, False])
def test_engines_that_can_run_here_are_compared(
    passed: bool, engines_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong one is an error that says what was done about it."""
    asked: list[tuple[Path, str, tuple[str, ...]]] = []

    def check(
        root: Path, flavour: str, networks: list[str], *, device: int, trust: Trust
    ) -> dict[str, EngineCheck]:
        asked.append((root, flavour, tuple(networks)))
        return {name: replace(FAILED, passed=passed) for name in networks}

    monkeypatch.setattr(engine_build, "compare_engines", check)
    build = build_for(engines_copy, RTX_3090)

    def run() -> Any:
        return build_engines(engines_copy, "tensorrt-rtx", networks=["sam2_resize"], build=build, force=True)

    if passed:
        assert [outcome.action for outcome in run()] == ["built"]
    else:
        with pytest.raises(
            GmosError, match=r"wrong results from .* engines of sam2_resize on NVIDIA GeForce RTX 3090"
        ):
            run()
    assert asked == [(engines_copy, "tensorrt-rtx", ("sam2_resize",))]


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 2)])
def test_engines_from_elsewhere_are_compared_by_a_command(
    passed: bool,
    status: int,
    built_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line per engine; a wrong one is status 2."""

    def check(
        root: Path, flavour: str, networks: list[str], *, device: int, trust: Trust
    ) -> dict[str, EngineCheck]:
        assert (root, flavour, device) == (built_bundle, "tensorrt-rtx", 1)
        return {name: replace(FAILED, passed=passed) for name in networks}

    monkeypatch.setattr(engine_comparison, "compare_engines", check)
    monkeypatch.setattr(cuda_device, "find_device", lambda index: RTX_3090)
    given = ["check-engines", "--bundle", str(built_bundle), "--backend", "tensorrt-rtx"]
    given += ["--networks", "dino,proposer", "--device", "1"]
    assert guarded(export_command, "gmos-export", given) == status
    printed = capsys.readouterr()
    verdict = "right" if passed else "WRONG"
    assert printed.out.splitlines() == [
        f"{name}: {verdict} against ONNX Runtime on seeded inputs, off by up to 0.0e+00"
        for name in ("dino", "proposer")
    ]
    assert (
        "engines of dino, proposer on NVIDIA GeForce RTX 3090 (sm86): they are marked" in printed.err
    ) != passed


def test_comparing_needs_a_gpu(built_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line."""
    monkeypatch.setattr(cuda_device, "find_device", lambda index: None)
    given = ["check-engines", "--bundle", str(built_bundle), "--backend", "tensorrt-rtx"]
    with pytest.raises(GmosError, match=r"--device 0: no such GPU was found here; run this on the device"):
        CliRunner().invoke(export_command, given, catch_exceptions=False, standalone_mode=False)


def test_an_engine_is_built_on_the_gpu_that_was_asked_for(
    engines_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --device 1: the builder in every thread of it, and the comparison."""
    entered: list[int] = []
    monkeypatch.setattr(
        engine_build, "Cuda", lambda index: SimpleNamespace(enter=lambda: entered.append(index))
    )

    def plan(*_: Any, enter: Callable[[], None], **__: Any) -> Any:
        enter()
        raise GmosError("far enough")

    monkeypatch.setattr(engine_build, "build_plan", plan)
    ahead = build_for(engines_copy, RTX_3090)
    library = replace(ahead.library, flavour="tensorrt")
    build = replace(ahead, library=library, options=BuildOptions(), index=1)
    with pytest.raises(GmosError, match="far enough"):
        build_engines(engines_copy, "tensorrt", networks=["dino"], build=build)
    assert entered == [1]
    asked: list[int] = []
    monkeypatch.setattr(engine_build, "compare_engines", lambda *_, device, trust: asked.append(device) or {})
    monkeypatch.setattr(
        EngineBuild,
        "build",
        lambda build, planned, phases: read_engine_record(
            record_path(engine_directory(engines_copy, "tensorrt-rtx"), planned.network.name)
        ),
    )
    build_engines(engines_copy, "tensorrt-rtx", networks=["dino"], build=replace(ahead, index=1), force=True)
    assert asked == [1]


def test_cuda_that_does_not_work_is_said_where_a_gpu_is_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ahead of time, for named targets, no GPU is."""

    def broken(index: int) -> None:
        raise GmosError("no usable CUDA device 0 (CUDA error 35)")

    monkeypatch.setattr(engine_build, "find_device", broken)
    library = load_tensorrt("tensorrt-rtx")
    caplog.set_level("INFO")
    assert engine_build.device_for(library, 0, ("sm86",)) is None
    assert "engines will not be compared here: no usable CUDA device 0 (CUDA error 35)" in caplog.text
    for needs, targets in ((library, ()), (replace(library, flavour="tensorrt"), ())):
        with pytest.raises(GmosError, match="CUDA error 35"):
            engine_build.device_for(needs, 0, targets)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (None, "not compared: there is no GPU here"),
        (DeviceIdentity(name="H100", compute_capability=(9, 0)), "not compared: the GPU here is H100 (sm90)"),
    ],
)
def test_engines_that_cannot_run_here_are_not_compared(
    device: DeviceIdentity | None, reason: str, engines_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is said, with who will."""
    caplog.set_level("INFO")
    build = build_for(engines_copy, device)
    build_engines(engines_copy, "tensorrt-rtx", networks=["sam2_resize"], build=build, force=True)
    assert reason in caplog.text
