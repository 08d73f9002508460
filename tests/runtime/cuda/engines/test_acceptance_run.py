"""The acceptance run from its first step to its last, on a machine whose GPU and library are fake."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.child_process import ChildRun
from gmos_deploy.evaluation.profile import roofline
from gmos_deploy.evaluation.profile.roofline import Rates
from gmos_deploy.runtime.bundle.engine_files import CACHE_SUFFIX, sealed_cache
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.tensorrt.record import EngineCheck, engine_directory, record_path
from gmos_deploy.runtime.video.inputs import resolve_frames
from gmos_deploy.sides import Side

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"

FRAMES, VIDEO_HW = 10, (70, 90)

Accepted = Callable[..., dict[str, Any]]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def accepted(
    module: Callable[[str], ModuleType],
    make_world: Callable[..., Any],
    timed_cuda: Callable[..., Any],
    installed: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Accepted:
    """Results of the steps by name, on a world that was changed before; keywords are of the world."""
    acceptance = module("acceptance")
    record, layer, engines, networks, videos, times = (
        module(f"acceptance_steps.{name}")
        for name in ("record", "cuda_layer", "engines", "networks", "videos", "times")
    )

    def silent(world: Any) -> Any:
        """Networks that propose nothing: numbers without a meaning would be no objects that can be tracked."""
        right = world.compute

        def compute(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
            answer = right(name, inputs)
            return (
                {key: 0 * values for key, values in answer.items()} if name == "proposal_labels" else answer
            )

        world.compute = compute
        return world

    # Of nano, on real backends.
    ours = tuple(name for name in acceptance.STEPS if name not in ("reference", "ONNX Runtime"))

    def run(
        change: Callable[[Any], None] = lambda _: None,
        steps: Sequence[str] = ours,
        trust_engines: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        sizes = {"pi3_sizes": ((154, 126),), "max_batch": 8}
        world, trusted = (silent(make_world(**sizes, **options, make_cuda=timed_cuda)) for _ in range(2))
        change(world)
        installed(world)
        rng, model = np.random.default_rng(3), world.model
        ground = rng.integers(0, 256, (*VIDEO_HW, 3), np.uint8)
        clip = resolve_frames(
            [np.roll(ground, 2 * t, axis=1) for t in range(FRAMES)],
            name="clip",
            fps=16,
            stride=2,
            pi3_area_px=model.pi3_area_px,
            patch_px=model.patch_px,
        )

        def compare(root: Path, flavour: str, names: list[Any], **_: Any) -> dict[Any, EngineCheck]:
            check = EngineCheck(date="2026", device="Fake GPU", against="another world", passed=True)
            for name in names:
                world.write_engine(name, check=check)
            return dict.fromkeys(names, check)

        monkeypatch.setattr(engines, "compare_engines", compare)
        monkeypatch.setattr(engines, "load_tensorrt", lambda _: world.library)
        load = Side.load
        monkeypatch.setattr(
            Side,
            "load",
            lambda side: trusted.backend() if side.networks.backend == "onnxruntime" else load(side),
        )
        for place in (layer, videos):
            monkeypatch.setattr(place, "Cuda", lambda index: Cuda(index, world.fake_cuda))
        for place in (networks, videos):
            monkeypatch.setattr(place, "acceptance_video", lambda *_: clip)
            monkeypatch.setattr(place, "trusted", lambda _: trusted.backend())
        monkeypatch.setattr(layer, "SIZES", (1, 4097))
        monkeypatch.setattr(layer, "CALLS", 5)
        monkeypatch.setattr(layer, "examine", partial(layer.examine, rounds=3, load_bytes=1 << 16))
        rates = Rates(device="cpu", flops=1e11, bandwidth=1e10, how="given")
        for place in (networks, videos):
            monkeypatch.setattr(place, "host_rates", lambda: rates)
        monkeypatch.setattr(roofline, "COPY_BYTES", 1 << 16)
        monkeypatch.setattr(times, "WARM_S", 0.0)
        monkeypatch.setattr(times, "MEASURE_S", 0.01)
        context = record.Context(
            bundle=world.bundle.root,
            out=tmp_path,
            usable=(world.flavour, "onnxruntime on cpu"),
            device=0,
            frames=FRAMES,
            seconds=0.0,
            trust_engines=trust_engines,
        )

        def here(name: str, given: Any) -> ChildRun:
            notes = record.Notes(lambda _: None)
            try:
                acceptance.STEPS[name].work(given, notes)
            except record.MissingError as error:
                notes.add(name, "missing", str(error))
            return ChildRun(value=[asdict(item) for item in notes.items], fault="", seconds=0.1, log="")

        results = acceptance.run_steps(steps, context, 1e6, run=here)
        return {result.name: result for result in results}

    return run


def verdicts(result: Any) -> dict[str, str]:
    return {item["name"]: item["verdict"] for item in result.items}


def test_a_machine_where_everything_is_right(accepted: Accepted) -> None:
    """Nothing fails, and every step has looked at the engines."""
    found = accepted()
    assert [(name, result.items) for name, result in found.items() if result.failed] == []
    assert found["engines"].items[0]["words"].startswith("fits, compared in")
    assert verdicts(found["networks"])["tensorrt: pi3_decoder"] == "passed"
    assert verdicts(found["memories"])["tensorrt: R=36 P=36"] == "passed"
    assert [name for name, verdict in verdicts(found["video"]).items() if verdict == "passed"] == [
        "tensorrt",
        "tensorrt, again",
        "tensorrt, no graphs",
        "tensorrt, no graphs, again",
    ]
    assert verdicts(found["memory"])["tensorrt"] == "passed"
    assert "the first time loaded after" in found["second start"].items[1]["words"]
    assert verdicts(found["times"])["tensorrt: mask_decoder"] == "noted"


def test_what_fails_is_named_and_the_other_steps_go_on(accepted: Accepted) -> None:
    """An engine that cannot run, at the step that calls it."""

    def change(world: Any) -> None:
        world.broken["memory_attention"] = "a kernel is missing"

    found = accepted(change, steps=("engines", "memories", "memory"))
    assert [name for name, result in found.items() if result.failed] == ["memories", "memory"]
    assert "a kernel is missing" in next(
        item["words"] for item in found["memories"].items if item["verdict"] == "failed"
    )


def test_only_the_step_engines_builds_them(accepted: Accepted) -> None:
    """Where that fails, the steps after it do not try again: it would take the minutes of each."""

    def change(world: Any) -> None:
        record_path(engine_directory(world.bundle.root, "tensorrt"), "dino").unlink()

    found = accepted(change, steps=("engines", "networks", "video", "memory", "second start", "times"))
    assert [name for name, result in found.items() if result.failed] == ["engines"]
    for name in ("networks", "video", "memory", "second start", "times"):
        assert "engines of dino, which the step engines builds" in [
            item["words"] for item in found[name].items
        ]


def test_engines_that_were_built_elsewhere(
    accepted: Accepted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trusted they are compared here and run; without trust they are built again, and else nothing runs them."""

    def change(world: Any) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
            for name in world.bundle.networks:
                world.write_engine(name)

    found = accepted(change, steps=("engines", "memories"), trust_engines=True)
    assert [name for name, result in found.items() if result.failed] == []
    assert found["engines"].items[0]["words"].startswith("fits, compared in")
    built: list[Any] = []

    def build(root: Path, flavour: str, *, networks: list[str], **_: Any) -> None:
        built.extend(networks)
        raise GmosError("there is no builder here")

    monkeypatch.setattr("acceptance_steps.engines.build_engines", build)
    found = accepted(change, steps=("engines", "memories"))
    assert [name for name, result in found.items() if result.failed] == ["engines", "memories"]
    assert len(built) == len(found["engines"].items) - 1
    assert "nobody vouches for it" in found["memories"].items[1]["words"]


def test_the_first_start_finds_no_kernels_of_the_steps_before(accepted: Accepted) -> None:
    """Or it would be as warm as the second."""
    caches: list[Path] = []

    def change(world: Any) -> None:
        file = engine_directory(world.bundle.root, world.flavour) / f"dino{CACHE_SUFFIX}"
        file.write_bytes(sealed_cache(b"compiled before", world.records["dino"].plan_sha256))
        caches.append(file)

    accepted(change, steps=("second start",), flavour="tensorrt-rtx")
    assert caches[0].read_bytes().endswith(b"compiled before")
    accepted(change, steps=("first start",), flavour="tensorrt-rtx")
    assert caches[1].read_bytes().endswith(b"compiled here")
