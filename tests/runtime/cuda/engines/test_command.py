"""`gmos-run`'s options for engines: what is refused before anything is loaded, what auto takes, what --build does."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.errors import GmosError
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.bundle.signature import Trust
from gmos_deploy.runtime.tensorrt.choice import usable_flavour
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineCheck,
    engine_directory,
    plan_path,
    record_path,
)


def request(world: Any, **options: Any) -> NetworkChoice:
    return NetworkChoice(bundle=world.bundle.root, **options)


def test_engines_are_chosen_by_name(world: Any) -> None:
    """With their options; what decides whether two results are the same names flavour and bundle."""
    source = request(
        world, backend="tensorrt", device="cuda:1", memory_budget=5 << 20, cuda_graphs=False
    ).resolve()
    assert (source.choice.memory_budget, source.choice.cuda_graphs) == (5 << 20, False)
    assert source.model == world.model
    assert source.settings() == {
        "backend": "tensorrt",
        "bundle": world.bundle.identity,
        "device": "cuda:1",
    }


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_missing_engines_are_one_line_with_the_command(
    world: Any, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    """Status 2, before any input is looked at."""
    shutil.rmtree(world.bundle.root / "engines")
    arguments = ["nowhere.mp4", "--bundle", str(world.bundle.root), "--backend", backend]
    assert guarded(run_command, "gmos-run", arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    library = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[backend]
    command = f"gmos-export build-engines --bundle {world.bundle.root} --backend {backend}"
    # There is no GPU here that could tell what to build for.
    command += " --target sm86,sm89,sm120" if backend == "tensorrt-rtx" else ""
    assert f"has no {library} engines; build them: {command}, or add --build" in error


def test_some_missing_engines_are_named(world: Any) -> None:
    """The others are kept."""
    directory = engine_directory(world.bundle.root, "tensorrt")
    for name in ("dino", "mask_decoder"):
        record_path(directory, name).unlink()
    with pytest.raises(
        GmosError, match=r"no TensorRT engines of dino, mask_decoder; .*--networks dino,mask_decoder"
    ):
        request(world, backend="tensorrt").resolve()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "onnxruntime", "build": True},
            "--build goes with --backend tensorrt or tensorrt-rtx, and the ba",
        ),
        ({"backend": "torch", "memory_budget": 1}, "--memory_budget goes with .* the backend is torch"),
        ({"backend": "auto", "cuda_graphs": False}, "--no_cuda_graphs goes with .* the backend is auto"),
        ({"backend": "tensorrt", "bundle": None}, "--backend tensorrt runs a bundle; give --bundle DIR"),
        ({"backend": "tensorrt-rtx", "preset": "tiny"}, "--preset tiny: the networks come from --bundle"),
        ({"backend": "tensorrt", "device": "cpu"}, "--device cpu: --backend tensorrt runs on cuda"),
        ({"backend": "tensorrt", "precision": "fp16"}, "--precision fp16: .* was exported in fp32"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    world: Any, options: dict[str, Any], message: str
) -> None:
    """With what would go together."""
    with pytest.raises(GmosError, match=message):
        NetworkChoice(**{"bundle": world.bundle.root, **options}).resolve()


def test_auto_takes_engines_that_fit(world: Any, installed: Callable[[Any], None]) -> None:
    """Not on --device cpu."""
    installed(world)
    source = request(world).resolve()
    assert source.choice.backend == "tensorrt"
    assert source.notes == ("backend auto: tensorrt, its engines fit Fake GPU (sm87)",)
    cpu = request(world, device="cpu").resolve()
    assert cpu.choice.backend == "onnxruntime"
    assert cpu.notes == ("backend auto: onnxruntime, which runs on --device cpu",)


def test_auto_says_why_engines_cannot_be_used(world: Any, installed: Callable[[Any], None]) -> None:
    """And takes ONNX Runtime."""
    installed(world)

    def reason() -> str:
        source = request(world).resolve()
        assert source.choice.backend == "onnxruntime"
        (note,) = source.notes
        return note.removeprefix("backend auto: ")

    other = DeviceIdentity(name="Orin", compute_capability=(8, 6))
    world.write_engine("dino", device=other)
    assert "onnxruntime, the tensorrt engines cannot be used: " in reason()
    assert "was built on Orin (sm86), and this GPU is Fake GPU (sm87)" in reason()
    failed = EngineCheck(date="2026", device="Fake GPU", against="ONNX Runtime", passed=False)
    world.write_engine("dino", check=failed)
    assert "its results were wrong" in reason()
    record_path(engine_directory(world.bundle.root, "tensorrt"), "dino").unlink()
    assert "no TensorRT engines of dino" in reason()
    world.fake_cuda.failures["cudaGetDeviceCount"] = 0
    assert usable_flavour(world.bundle, 3) == (
        None,
        "the tensorrt engines cannot be used: no CUDA device 3 was found",
    )
    shutil.rmtree(world.bundle.root / "engines")
    assert reason() == "onnxruntime, the bundle has no engines"


def test_build_builds_first(
    world: Any, installed: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when the networks are loaded, on the device that runs them."""
    installed(world)
    shutil.rmtree(world.bundle.root / "engines")
    asked: list[Any] = []

    def build_engines(root: Any, flavour: str, *, device: int, trust: Any) -> None:
        asked.append((root, flavour, device, trust))
        for name in world.bundle.networks:
            world.write_engine(name)

    builder = ModuleType("gmos_deploy.export.engines.build")
    builder.build_engines = build_engines  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gmos_deploy.export.engines.build", builder)
    source = request(world, backend="tensorrt", build=True).resolve()
    assert not asked
    backend = source.load()
    assert asked == [(world.bundle.root, "tensorrt", 0, Trust())]
    assert "TensorRT 10.3.0" in backend.description
    backend.close()


def test_a_stale_engine_is_refused_when_it_is_loaded(world: Any, installed: Callable[[Any], None]) -> None:
    """Nothing stays on the device."""
    installed(world)
    world.write_engine("mask_decoder", library_version="10.2.0")
    source = request(world, backend="tensorrt").resolve()
    with pytest.raises(
        GmosError, match=r"built with TensorRT 10\.2\.0, and TensorRT 10\.3\.0 is installed; build"
    ):
        source.load()
    assert not world.fake_cuda.device
    plan = plan_path(engine_directory(world.bundle.root, "tensorrt"), "mask_decoder")
    plan.unlink()


def test_engines_that_were_checked_here_need_no_warning(world: Any, installed: Callable[[Any], None]) -> None:
    """Those checked on another GPU do."""
    installed(world)
    good = EngineCheck(date="2026", device="Fake GPU", against="ONNX Runtime", passed=True)
    for name in world.bundle.networks:
        world.write_engine(name, check=good)
    backend = request(world, backend="tensorrt").resolve().load()
    assert backend.warnings() == []  # type: ignore[attr-defined]
    backend.close()
    world.write_engine("dino", check=dataclasses.replace(good, device="Orin"))
    backend = request(world, backend="tensorrt").resolve().load()
    (line,) = backend.warnings()  # type: ignore[attr-defined]
    assert line.startswith("the engines of dino were not compared with ONNX Runtime on this GPU")
    assert line.endswith(f"gmos-export check-engines --bundle {world.bundle.root} --backend tensorrt")
    backend.close()
