"""What is stopped at every step: commands whose networks are stored results, and how to tell old from new."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gmos_deploy.errors import GmosError
from gmos_deploy.fleet.statuses import FAILED_STATUS
from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.contract import NetworkName

HERE = Path(__file__).parent
LENGTH = 5
"""Frames of the video: a window."""


def load(path: str) -> ModuleType:
    """A conftest of the tests as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), HERE.parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def digest(folder: Path) -> str:
    """Of all files that are no work in progress, by name and content."""
    found = sha256()
    for path in sorted(folder.rglob("*")):
        of_work = "work-" in str(path) or ".gmos/claims" in path.as_posix() or path.name.endswith(".gmos-tmp")
        if path.is_file() and not of_work:
            found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return found.hexdigest()


class Scenario:
    """A command in a folder: `act(new)` is run to its end with False first, then stopped with True."""

    modules: tuple[str, ...] = ()
    """What `act` needs."""
    begins = False
    """Whether `next_call` does anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self) -> None:
        """Before anything is forked: imports, stand-ins."""

    def act(self, new: bool) -> int | None:
        raise NotImplementedError

    def next_call(self) -> None:
        """What the next call does before all else."""

    def version(self) -> Any:
        """Tells old from new; raises or differs from both if it is neither."""
        raise NotImplementedError


class Run(Scenario):
    """gmos-run --overwrite, on another video of the same name."""

    modules = ("run", "commands.run", "runtime.results.outputs")
    begins = True
    existing = "--overwrite"

    def once(self) -> None:
        from PIL import Image

        from gmos_deploy.networks import BackendEntry, register_backend

        conftest = load("conftest.py")
        register_backend(
            BackendEntry(name="colours", open=lambda *_: conftest.ColourBackend(), runs="checkpoints")
        )
        for name, step in (("old", 6), ("new", 9)):
            place = self.folder / name / "clip"
            place.mkdir(parents=True)
            for index in range(LENGTH):
                rgb = np.full((64, 96, 3), 128, np.uint8)
                rgb[step * index : step * index + 16, 20:40] = conftest.COLOURS[0]
                Image.fromarray(rgb).save(place / f"{index:05d}.png")

    def act(self, new: bool) -> int | None:
        from gmos_deploy.cli import guarded
        from gmos_deploy.commands.run import run_command

        clip = self.folder / ("new" if new else "old") / "clip"
        given = [clip, "--fps", 24, "--stride", 1, "--backend", "colours", "--preset", "tiny"]
        given += ["--variant", "gmos", "--save_dir", self.folder / "out", "--save_mode", "mask", "--quiet"]
        return guarded(run_command, "gmos-run", [*map(str, given), self.existing])

    def next_call(self) -> None:
        from gmos_deploy.runtime.results.outputs import check_save_dir

        check_save_dir(self.folder / "out")

    def version(self) -> Any:
        record = json.loads((self.folder / "out/.gmos/clip.gmos.json").read_text())
        assert record["complete"], "half of the results are in place"
        (self.folder / "out/.gmos/clip.gmos.first-pass.npz").unlink(missing_ok=True)
        return digest(self.folder / "out")


class FirstRun(Run):
    """gmos-run --resume in a new place: all or nothing."""

    existing = "--resume"

    def act(self, new: bool) -> int | None:
        return super().act(new) if new else 0

    def version(self) -> Any:
        place = self.folder / "out"
        record = place / ".gmos/clip.gmos.json"
        if not record.exists():
            left = [path for path in place.rglob("*") if path.is_file() and "first-pass" not in path.name]
            left = [path for path in left if path.parent.name != "claims"]
            assert left == []
            return "nothing"
        return super().version()


class Batch(Run):
    """gmos-run --resume on a list in which one video is bad: each sequence is all there or not at all."""

    existing = "--resume"

    def act(self, new: bool) -> int | None:
        from gmos_deploy.cli import guarded
        from gmos_deploy.commands.run import run_command

        if not new:
            return 0
        given = [self.folder / "old/clip", self.folder / "gone.mp4", self.folder / "new/clip", "--stride", 1]
        given += ["--backend", "colours", "--preset", "tiny", "--variant", "gmos", "--save_mode", "mask"]
        given += ["--save_dir", self.folder / "out", "--json_lines", self.folder / "lines.jsonl", "--quiet"]
        with redirect_stdout(StringIO()):
            status = guarded(run_command, "gmos-run", [*map(str, given), self.existing])
        return 0 if status == FAILED_STATUS else status or 1

    def version(self) -> Any:
        place = self.folder / "out"
        lines = self.folder / "lines.jsonl"
        for line in lines.read_bytes().splitlines() if lines.exists() else ():
            json.loads(line)
        found = []
        for name in ("old_clip", "new_clip"):
            record = place / f".gmos/{name}.gmos.json"
            files = [path for path in place.rglob("*.png") if path.parent.name == name]
            if record.exists():
                assert json.loads(record.read_text())["complete"], "half of the results are in place"
                assert len(files) == 2 * LENGTH
                found.append(name)
            else:
                assert files == []
        for path in place.glob(".gmos/*.first-pass.npz") if len(found) == 2 else ():
            path.unlink()
        return "both" if len(found) == 1 else digest(place) if found else "nothing"


def engine_contents(folder: Path, networks: Sequence[NetworkName]) -> list[bytes]:
    """The plans of a bundle, each as its record says."""
    from gmos_deploy.runtime.tensorrt import record as records
    from gmos_deploy.runtime.tensorrt.trust import plan_difference

    directory = records.engine_directory(open_bundle(folder).root, "tensorrt-rtx")
    found = []
    for name in networks:
        plan = records.plan_path(directory, name)
        record = records.read_engine_record(records.record_path(directory, name))
        assert plan_difference(plan, record, content=True) is None, f"{name} is neither old nor new"
        found.append(plan.read_bytes())
    return found


class Engines(Scenario):
    """gmos-export build-engines --force."""

    modules = ("export.engines.build",)
    networks: tuple[NetworkName, ...] = ("dino", "tracked_labels")

    def once(self) -> None:
        from gmos_deploy.export.engines import build

        conftest = load("runtime/cuda/engines/conftest.py")
        self.build, self.made = build, conftest
        sizes = {"pi3_sizes": ((84, 56),), "max_batch": 4}
        model = conftest.model_spec(conftest.TINY, "gmos")
        conftest.write_fake_bundle(self.folder / "bundle", SimpleNamespace(model=model, **sizes))
        self.library = SimpleNamespace(
            builds_ahead=True, flavour="tensorrt-rtx", full_version="1", label="fake", targets=("sm86",)
        )

    def act(self, new: bool) -> int | None:
        from gmos_deploy.export.engines.options import BuildOptions

        content = (b"new" if new else b"old") * 50

        def built(*_: Any, **__: Any) -> Any:
            return self.build.BuiltPlan(
                data=memoryview(content),
                tensors=(),
                activation_bytes=(),
                weight_bytes=1,
                attention=SimpleNamespace(lost=None, record=dict),  # type: ignore[arg-type]
                seconds=0.0,
            )

        self.build.build_plan = built
        bundle = open_bundle(self.folder / "bundle")
        build = self.build.EngineBuild(
            bundle=bundle,
            library=self.library,
            device=None,
            options=BuildOptions(targets=("sm86",)),
        )
        self.build.build_engines(bundle.root, "tensorrt-rtx", networks=self.networks, build=build, force=True)
        return 0

    def version(self) -> Any:
        found = set(engine_contents(self.folder / "bundle", self.networks))
        # One engine after the other.
        return sorted(found)[-1] if len(found) == 1 else "both"


class Bundles(Scenario):
    """What writes bundles, each with a mark in a network's graph."""

    def once(self) -> None:
        conftest = load("runtime/cuda/engines/conftest.py")
        model = conftest.model_spec(conftest.TINY, "gmos")
        sizes = {"pi3_sizes": ((84, 56),), "max_batch": 4}
        self.parent = conftest.write_fake_bundle(
            self.folder / "parent", SimpleNamespace(model=model, **sizes)
        ).root
        # As a half-precision one, which calibration takes.
        manifest = self.parent / "bundle.json"
        manifest.write_text(manifest.read_text().replace('"fp32"', '"fp16"'))

    def copy_network(self, root: Path, name: str, mark: str) -> Any:
        entry = open_bundle(self.parent).networks[name]  # type: ignore[index]
        (root / f"{name}.onnx").write_text(f"{mark} graph of {name}")
        return entry

    def version(self) -> Any:
        bundle = open_bundle(self.folder / "out")
        for file in bundle.files:
            bundle.files.verified(file)
        return (self.folder / "out/dino.onnx").read_text()


class Export(Bundles):
    """gmos-export onnx --force."""

    modules = ("export.onnx.bundle_export",)

    def once(self) -> None:
        super().once()
        from gmos_deploy.export.onnx import bundle_export

        self.export = bundle_export
        self.export.table_source = lambda _: SimpleNamespace(
            position_embedding=np.zeros((2, 2, 4), np.float32)
        )

    def act(self, new: bool) -> int | None:
        mark, copy = "new" if new else "old", self.copy_network

        class Exporter:
            def __init__(self, root: Path, *_: Any, **__: Any) -> None:
                self.root = root

            def export(self, name: str) -> Any:
                entry = copy(self.root, name, mark)
                return replace(entry, gate={"differences": []})

        self.export.NetworkExporter = Exporter  # type: ignore[misc, assignment]
        parent = open_bundle(self.parent)
        plan = SimpleNamespace(
            model=parent.model,
            precision="fp16",
            head_precision="fp16",
            opset=20,
            sizes=SimpleNamespace(pi3=SimpleNamespace(head_dim=parent.pi3.head_dim, rope_base=100.0)),
        )
        self.export.write_bundle(
            self.folder / "out",
            plan,  # type: ignore[arg-type]
            SimpleNamespace(pi3=None),  # type: ignore[arg-type]
            resolutions=(),
            checkpoints={},
            validated=False,
        )
        return 0


class ExportInTwoSteps(Export):
    """The same where the file system cannot exchange two names; a reader may find neither, but the next export does."""

    begins = True

    def once(self) -> None:
        super().once()
        from gmos_deploy.runtime.bundle import new_bundle

        new_bundle.exchanged = lambda *_: False  # type: ignore[assignment]

    def next_call(self) -> None:
        from gmos_deploy.runtime.bundle.new_bundle import new_bundle

        with suppress(GmosError), new_bundle(self.folder / "out"):
            raise GmosError("begun, no more")


class Calibrate(Bundles):
    """gmos-export calibrate --force."""

    modules = ("calibration.calibrate",)

    def once(self) -> None:
        super().once()
        from PIL import Image

        from gmos_deploy.calibration import calibrate

        self.calibrate = calibrate
        for index in range(LENGTH):
            place = self.folder / "clip"
            place.mkdir(exist_ok=True)
            Image.fromarray(np.full((64, 96, 3), 20 * index, np.uint8)).save(place / f"{index:05d}.png")

    def act(self, new: bool) -> int | None:
        from gmos_deploy.calibration.config import CalibrationConfig
        from gmos_deploy.calibration.network_forms import CalibratedNetwork
        from gmos_deploy.calibration.sampling.record_calls import SampleLimits
        from gmos_deploy.runtime.bundle.new_bundle import new_bundle
        from gmos_deploy.runtime.comparison.parity import LIMITS

        mark, module = "new" if new else "old", self.calibrate

        def sample(_: Any, bundle: Any, sequences: Any, store: Any, *, networks: Any, **__: Any) -> Any:
            name = sequences[0].name
            settings = {"video": {"name": name}, "stride": 1, "mark": mark}
            found = store.finished(name, settings)
            if found is None:
                store.start(name)
                store.write(name, networks[0], 0, {"frames": np.zeros(3)})
                samples = [
                    {"file": store.path(name, networks[0], 0).name, "index": 0, "kind": [], "bytes": 24}
                ]
                none = {one: {"seen": 0, "samples": []} for one in networks}
                found = {
                    "settings": settings,
                    "frames": LENGTH,
                    "networks": none | {networks[0]: {"seen": 1, "samples": samples}},
                }
                store.finish(name, found)
            return {name: found}

        def forms(maker: Any, name: Any, samples: Any) -> Any:
            for sample in samples:
                sample.load()
            maker.work.once(list[int], lambda: [1, 2], "choice", name)
            made = CalibratedNetwork(
                name=name,
                choices=(),
                excluded=frozenset(),
                limits=LIMITS["int8"],
                differences=(),
                calibrated_on=(),
                validated_on=(),
            )
            return {"quantised": made}

        def write(out: Path, parent: Any, _: Any, **__: Any) -> Any:
            with new_bundle(out) as root:
                shutil.copytree(parent.root, root, dirs_exist_ok=True, copy_function=shutil.copy)
                (root / "dino.onnx").write_text(f"{mark} graph of dino")
                manifest = json.loads((root / "bundle.json").read_text())
                data = (root / "dino.onnx").read_bytes()
                manifest["files"]["dino.onnx"] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
                (root / "bundle.json").write_text(json.dumps(manifest))
            return open_bundle(out)

        module.open_bundle_backend = lambda *_, **__: SimpleNamespace(close=lambda: None)  # type: ignore[assignment]
        module.sample_videos = sample
        module.FormMaker.forms = forms  # type: ignore[method-assign]
        module.write_quantised = write
        limits = SampleLimits(max_samples=4, max_bytes=1 << 20, frames=None, seed=int(new))
        module.calibrate(
            CalibrationConfig(
                bundle=self.parent,
                inputs=(self.folder / "clip",),
                precision="int8",
                out=self.folder / "out",
                limits=limits,
                stride=1,
                force=True,
            )
        )
        return 0


class Report(Scenario):
    """`--report DIR` over an earlier report: its files are whole, each of them."""

    modules = ("evaluation.report.files",)

    def act(self, new: bool) -> int | None:
        from gmos_deploy.evaluation.report.document import Document
        from gmos_deploy.evaluation.report.files import write_report

        mark = "new" if new else "old"
        document = Document(title=mark, sections=())
        write_report(self.folder / "out", document, {"mark": mark}, [mark])
        return 0

    def version(self) -> Any:
        found = {json.loads((self.folder / "out/result.json").read_text())["mark"]}
        found.add(json.loads((self.folder / "out/observations.jsonl").read_text()))
        found |= {mark for mark in ("old", "new") if mark in (self.folder / "out/report.html").read_text()}
        assert found <= {"old", "new"}
        return found.pop() if len(found) == 1 else "both"


def command(module: str, name: str, *given: object) -> int:
    """A command of `commands`."""
    from gmos_deploy.cli import guarded

    commands = importlib.import_module(f"gmos_deploy.commands.{module}")
    return guarded(getattr(commands, f"{name}_command"), f"gmos-{name}", [str(one) for one in given])


class RealRun(Run):
    """gmos-run --overwrite with nano."""

    def act(self, new: bool) -> int | None:
        clip = self.folder / ("new" if new else "old") / "clip"
        given = [clip, "--fps", 24, "--stride", 1, "--save_dir", self.folder / "out", "--overwrite"]
        return command("run", "run", *given, "--backend", "onnxruntime", "--save_mode", "mask+mp4")


class RealExport(Scenario):
    """gmos-export onnx --force with tiny networks."""

    def act(self, new: bool) -> int | None:
        given = ["--out", self.folder / "out", "--preset", "tiny", "--variant", "gmos-s", "--force"]
        return command("export", "export", "onnx", *given, "--max_batch", 8 if new else 4)

    def version(self) -> Any:
        bundle = open_bundle(self.folder / "out")
        for file in bundle.files:
            bundle.files.verified(file)
        return str(bundle.networks["dino"].profiles)


class RealEngines(Scenario):
    """gmos-export build-engines --force with TensorRT-RTX."""

    networks: tuple[NetworkName, ...] = ("sam2_resize", "foreground_map")

    def once(self) -> None:
        given = ["--out", self.folder / "bundle", "--preset", "tiny", "--variant", "gmos-s"]
        assert command("export", "export", "onnx", *given, "--no_validation") == 0

    def act(self, new: bool) -> int | None:
        given = ["--bundle", self.folder / "bundle", "--backend", "tensorrt-rtx", "--force"]
        given += ["--networks", ",".join(self.networks), "--target", "sm86" if new else "sm89"]
        return command("export", "export", "build-engines", *given)

    def version(self) -> Any:
        from gmos_deploy.runtime.tensorrt import record as records

        whole = engine_contents(self.folder / "bundle", self.networks)
        assert len(whole) == len(self.networks)
        directory = records.engine_directory(self.folder / "bundle", "tensorrt-rtx")
        found = {
            records.read_engine_record(records.record_path(directory, name)).targets for name in self.networks
        }
        return found.pop() if len(found) == 1 else "both"


class RealCalibrate(RealExport):
    """gmos-export calibrate --force."""

    def once(self) -> None:
        from PIL import Image

        given = [
            "--out",
            self.folder / "half",
            "--preset",
            "tiny",
            "--variant",
            "gmos-s",
            "--precision",
            "fp16",
        ]
        assert command("export", "export", "onnx", *given, "--head_precision", "fp16", "--no_validation") == 0
        (self.folder / "clip").mkdir()
        draw = np.random.default_rng(0)
        for index in range(2 * LENGTH):
            rgb = draw.integers(0, 255, (64, 96, 3), np.uint8)
            Image.fromarray(rgb).save(self.folder / f"clip/{index:05d}.png")

    def act(self, new: bool) -> int | None:
        given = [
            self.folder / "clip",
            "--fps",
            24,
            "--stride",
            1,
            "--bundle",
            self.folder / "half",
            "--force",
        ]
        given += ["--out", self.folder / "out", "--precision", "int8", "--seed", int(new), "--no_validation"]
        return command("calibrate", "calibrate", *given, "--networks", "dino")

    def version(self) -> Any:
        super().version()
        return json.loads((self.folder / "out/bundle.json").read_text())["calibration"]["seed"]


REAL: dict[str, Callable[[Path], Scenario]] = {
    "real-run": RealRun,
    "real-export": RealExport,
    "real-build-engines": RealEngines,
    "real-calibrate": RealCalibrate,
}

SCENARIOS: dict[str, Callable[[Path], Scenario]] = {
    "run": Run,
    "first-run": FirstRun,
    "batch": Batch,
    "export": Export,
    "export-in-two-steps": ExportInTwoSteps,
    "build-engines": Engines,
    "calibrate": Calibrate,
    "report": Report,
    **REAL,
}
