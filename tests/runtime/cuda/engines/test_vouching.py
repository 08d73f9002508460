"""Who vouches for an engine: this user's machine, a key that was named, or a flag; without one it never runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.export import export_command
from gmos_deploy.commands.run import run_command
from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.doctor import bundle_findings as doctor_findings
from gmos_deploy.evaluation.doctor.bundle_findings import bundle_findings
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.bundle.engine_files import sealed_cache
from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.bundle.signature import Trust, sign_bundle, write_key_pair
from gmos_deploy.runtime.bundle.user_key import key_path, require_key
from gmos_deploy.runtime.tensorrt.record import EngineCheck, record_path, write_engine_check
from gmos_deploy.runtime.tensorrt.trust import find_record
from gmos_deploy.sides import parse_side

from .conftest import GPU


@contextmanager
def elsewhere(folder: Path) -> Iterator[None]:
    """Work as another user, or on another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield


def build_elsewhere(world: Any, folder: Path, **fields: Any) -> None:
    with elsewhere(folder):
        for name in world.bundle.networks:
            world.write_engine(name, **fields)


def engines(world: Any) -> Path:
    return world.bundle.root / "engines" / world.flavour


def resolved(world: Any, **options: Any) -> Any:
    return NetworkChoice(bundle=world.bundle.root, **options).resolve()


def run_dino(world: Any, **options: Any) -> None:
    """Load the networks as gmos-run does."""
    with closing(resolved(world, backend=world.flavour, **options).load()) as backend:
        backend.runner("dino")


@pytest.fixture
def foreign(world: Any, installed: Callable[[Any], None], tmp_path: Path) -> Any:
    """Engines that another machine has built, whole and with a record that fits."""
    installed(world)
    build_elsewhere(world, tmp_path / "elsewhere")
    return world


def test_what_this_user_built_runs(world: Any, installed: Callable[[Any], None]) -> None:
    """Nothing need be said."""
    installed(world)
    run_dino(world)
    assert resolved(world).choice.backend == "tensorrt"


def test_an_engine_from_elsewhere_is_refused(foreign: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with what can be done; nothing of it was loaded."""
    with pytest.raises(GmosError) as refused:
        run_dino(foreign)
    text = str(refused.value)
    assert "nobody vouches for it (it was sealed by another user or on another machine)" in text
    assert (
        f"build it again: gmos-export build-engines --bundle {foreign.bundle.root} --backend tensorrt" in text
    )
    assert "--trust KEY.pub" in text
    assert "--trust_engines if you know where it comes from: an engine is native code" in text
    assert not foreign.library.runtimes
    arguments = ["clip.mp4", "--bundle", str(foreign.bundle.root), "--trust", "nowhere.pub"]
    assert guarded(run_command, "gmos-run", arguments) == 2
    assert "nowhere.pub cannot be read" in capsys.readouterr().err


def test_auto_never_runs_one(foreign: Any) -> None:
    """It takes ONNX Runtime and says why."""
    source = resolved(foreign)
    assert source.choice.backend == "onnxruntime"
    (note,) = source.notes
    assert note.startswith("backend auto: onnxruntime, the tensorrt engines cannot be used: ")
    assert "nobody vouches for it" in note
    assert resolved(foreign, trust_engines=True).choice.backend == "tensorrt"


def test_a_flag_runs_them_all(foreign: Any) -> None:
    """Those of sides too."""
    run_dino(foreign, trust_engines=True)
    side = parse_side("--b", f"tensorrt:{foreign.bundle.root}", {"trust": (), "trust_engines": True})
    side.load().close()
    with pytest.raises(GmosError, match="nobody vouches for it"):
        parse_side("--b", f"tensorrt:{foreign.bundle.root}").load()


def test_a_signature_whose_key_was_named_runs_them(foreign: Any, tmp_path: Path) -> None:
    """That of anybody else does not, and neither does a signature that nobody was named for."""
    public, other = write_key_pair(tmp_path / "key"), write_key_pair(tmp_path / "other")
    sign_bundle(foreign.bundle.root, tmp_path / "key")
    run_dino(foreign, trust=(public,))
    assert resolved(foreign, trust=(public,)).choice.backend == "tensorrt"
    with pytest.raises(GmosError, match="is signed with the key"):
        run_dino(foreign, trust=(other,))
    with pytest.raises(GmosError, match="nobody vouches for it"):
        run_dino(foreign)
    plan = engines(foreign) / "dino.engine"
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    with pytest.raises(GmosError, match=r"dino\.engine was changed"):
        resolved(foreign, trust=(public,))


def test_a_signed_bundle_stays_whole_when_it_is_used(foreign: Any, tmp_path: Path) -> None:
    """Comparisons, runtime caches and engines that are made here have this user's seal."""
    public = write_key_pair(tmp_path / "key")
    sign_bundle(foreign.bundle.root, tmp_path / "key")
    trust = Trust(keys=(public,))
    record = find_record(open_bundle(foreign.bundle.root, trust), "dino", "tensorrt")
    check = EngineCheck(date="2026", device=GPU.name, against="ONNX Runtime", passed=True)
    path = record_path(engines(foreign), "dino")
    write_engine_check(path, record, check)
    (engines(foreign) / "dino.runtime_cache").write_bytes(sealed_cache(b"kernels", record.plan_sha256))
    foreign.write_engine("mask_decoder")
    copy = shutil.copytree(foreign.bundle.root, tmp_path / "copy")
    # As a wrong engine leaves it, and a file that another process is writing just now.
    for name in ("dino.failed/inputs.json", ".dino.runtime_cache.0123.gmos-tmp"):
        (copy / "engines" / "tensorrt" / name).parent.mkdir(exist_ok=True)
        (copy / "engines" / "tensorrt" / name).write_text("")
    found = find_record(open_bundle(copy, trust), "dino", "tensorrt")
    assert (found.check, found.unvouched) == (check, None)
    (copy / "engines" / "tensorrt" / "proposer.runtime_cache").write_bytes(b"raw")
    with pytest.raises(GmosError, match=r"proposer\.runtime_cache was added"):
        open_bundle(copy, trust)


def test_whoever_signs_engines_of_others_is_told(
    foreign: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nobody signs a graph that is not that of the export."""
    write_key_pair(tmp_path / "key")
    arguments = ["sign", str(foreign.bundle.root), "--key", str(tmp_path / "key")]
    assert guarded(export_command, "gmos-export", arguments) == 0
    assert "files of engines were not made by this user's machine, such as engines/" in caplog.text
    for name in foreign.bundle.networks:
        foreign.write_engine(name)
    caplog.clear()
    assert guarded(export_command, "gmos-export", arguments) == 0
    assert not caplog.text
    graph = foreign.bundle.root / "dino.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    assert guarded(export_command, "gmos-export", arguments) == 2
    assert "dino.onnx has changed since the export; export the bundle again" in capsys.readouterr().err


def test_a_record_that_was_rewritten_is_refused(world: Any, installed: Callable[[Any], None]) -> None:
    """Another network's plan, or leave for host code: the seal is over all of the record, and that over the plan."""
    installed(world)
    plan, record = engines(world) / "dino.engine", engines(world) / "dino.engine.json"
    before = json.loads(record.read_text())
    changes: list[dict[str, Any]] = [
        {"options": {"version_compatible": True}},
        {"plan_sha256": world.records["proposer"].plan_sha256},
        {"built": "2020"},
        {"more": 1},
    ]
    for change in changes:
        record.write_text(json.dumps({**before, **change}))
        with pytest.raises(GmosError, match=r"nobody vouches for it \(it was changed after it was sealed\)"):
            run_dino(world)
    record.write_text(json.dumps({name: value for name, value in before.items() if name != "seal"}))
    with pytest.raises(GmosError, match=r"nobody vouches for it \(it has no seal of this user's\)"):
        run_dino(world)
    shutil.copy(engines(world) / "proposer.engine.json", record)
    shutil.copy(engines(world) / "proposer.engine", plan)
    with pytest.raises(GmosError, match=r"is of proposer for tensorrt, expected dino"):
        run_dino(world)


def test_links_out_of_the_bundle_are_refused(
    world: Any, installed: Callable[[Any], None], tmp_path: Path
) -> None:
    """Of the plan, the record or the folder."""
    installed(world)
    for name in ("dino.engine", "dino.engine.json"):
        path = engines(world) / name
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
        with pytest.raises(
            GmosError,
            match=r"is a link out of the bundle; copy the bundle with cp -rL .* do not trust it, build",
        ):
            run_dino(world)
        path.unlink()
        (tmp_path / name).rename(path)
    engines(world).rename(tmp_path / "engines")
    engines(world).symlink_to(tmp_path / "engines")
    with pytest.raises(GmosError, match="is a link out of the bundle"):
        run_dino(world)


def test_a_signed_bundle_of_links_runs_its_engines(foreign: Any, tmp_path: Path) -> None:
    """As a model hub's cache keeps it; what a link leads to is what was signed, or nothing runs."""
    public = write_key_pair(tmp_path / "key")
    sign_bundle(foreign.bundle.root, tmp_path / "key")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(foreign.bundle.root.rglob("*"))):
        if path.is_file():
            path.rename(blobs / str(number))
            path.symlink_to(blobs / str(number))
    with pytest.raises(GmosError, match="is a link out of the bundle"):
        run_dino(foreign)
    run_dino(foreign, trust=(public,))
    (engines(foreign) / "dino.engine").resolve().write_bytes(b"plan of pino")
    with pytest.raises(GmosError, match=r"dino\.engine was changed; do not trust it"):
        run_dino(foreign, trust=(public,))


def test_a_comparison_from_elsewhere_is_not_believed(world: Any, tmp_path: Path) -> None:
    """That an engine is right; that it is wrong is."""
    path, record = record_path(engines(world), "dino"), world.records["dino"]
    right = EngineCheck(date="2026", device=GPU.name, against="ONNX Runtime", passed=True)
    with elsewhere(tmp_path):
        write_engine_check(path, record, right)
    assert find_record(world.bundle, "dino", "tensorrt").check is None
    assert find_record(replace(world.bundle, trust=Trust(engines=True)), "dino", "tensorrt").check == right
    with elsewhere(tmp_path):
        write_engine_check(path, record, replace(right, passed=False))
    assert find_record(world.bundle, "dino", "tensorrt").check == replace(right, passed=False)
    write_engine_check(path, replace(record, plan_sha256="another"), right)
    assert find_record(world.bundle, "dino", "tensorrt").check is None, "it is of another plan"


def test_that_an_engine_is_wrong_cannot_be_taken_out(
    world: Any, installed: Callable[[Any], None], tmp_path: Path
) -> None:
    """It is under the seal of the record, too; a signed bundle without its comparison is not as it was signed."""
    installed(world)
    path, record = record_path(engines(world), "dino"), world.records["dino"]
    wrong = EngineCheck(date="2026", device=GPU.name, against="ONNX Runtime", passed=False)
    write_engine_check(path, record, wrong)
    public = write_key_pair(tmp_path / "key")
    sign_bundle(world.bundle.root, tmp_path / "key")
    comparison = engines(world) / "dino.engine.check.json"
    comparison.unlink()
    assert find_record(world.bundle, "dino", "tensorrt").check == wrong
    with pytest.raises(GmosError, match="its results were wrong"):
        run_dino(world)
    with pytest.raises(GmosError, match=r"dino\.engine\.check\.json is missing"):
        run_dino(world, trust=(public,))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "check": None}))
    with pytest.raises(GmosError, match=r"it was changed after it was sealed"):
        run_dino(world)
    path.write_text(json.dumps(content))
    write_engine_check(path, record, replace(wrong, passed=True))
    assert find_record(world.bundle, "dino", "tensorrt").check == replace(wrong, passed=True)
    comparison.unlink()
    assert find_record(world.bundle, "dino", "tensorrt").check is None
    run_dino(world)


def test_what_changes_after_the_check_is_not_what_runs(
    world: Any, installed: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan is read once: not mapped, and not opened a second time."""
    installed(world)
    plan = engines(world) / "dino.engine"
    real, seen = world.library.deserialize, []

    def deserialize(content: Any, **options: Any) -> Any:
        if content == b"plan of dino":
            # In place, as another process writes into a file that is mapped.
            with plan.open("r+b") as file:
                file.write(b"PLAN OF DINO")
            seen.append(bytes(content))
        return real(content, **options)

    monkeypatch.setattr(
        type(world.library), "deserialize", lambda _, *given, **options: deserialize(*given, **options)
    )
    run_dino(world)
    assert seen == [b"plan of dino"]
    assert plan.read_bytes() == b"PLAN OF DINO"


def test_kernels_compiled_elsewhere_are_not_loaded(
    make_world: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime cache is native code too: one without a seal, or with another's, is compiled again."""
    world = make_world(flavour="tensorrt-rtx")
    kept, plan = engines(world) / "dino.runtime_cache", world.records["dino"].plan_sha256
    with elsewhere(tmp_path):
        theirs = sealed_cache(b"compiled elsewhere", plan)
    other = sealed_cache(b"another engine's", world.records["proposer"].plan_sha256)
    for content in (b"raw", theirs, other):
        kept.write_bytes(content)
        caplog.clear()
        with caplog.at_level("INFO"), closing(world.backend()) as backend:
            backend.runner("dino")
        assert "dino.runtime_cache is not used" in caplog.text
        assert [cache.content for cache, *_ in world.caches[-1:]] != [b"compiled elsewhere"]
    kept.write_bytes(theirs)
    world.bundle = replace(world.bundle, trust=Trust(engines=True))
    with closing(world.backend()) as backend:
        backend.runner("dino")
    assert world.caches[-1][0].content == b"compiled elsewhere"
    # Whoever is trusted anyway needs no key of this user, which may be unusable.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    require_key()
    key_path().chmod(0o644)
    with closing(world.backend()) as backend:
        backend.runner("dino")
    assert world.caches[-1][0].content == b"compiled elsewhere"


def test_the_doctor_says_that_nobody_vouches(foreign: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that builds the engine here."""
    monkeypatch.setattr(doctor_findings, "load_tensorrt", lambda flavour: foreign.library)
    found = {one.name: one for one in bundle_findings(foreign.bundle.root, GPU)}
    assert found["tensorrt dino"].state == "wrong"
    assert "nobody vouches for it" in found["tensorrt dino"].found
    assert "--trust KEY.pub" in found["tensorrt dino"].found
    assert found["tensorrt dino"].mend.startswith("gmos-export build-engines")
    trusted = {one.name: one for one in bundle_findings(foreign.bundle.root, GPU, trust=Trust(engines=True))}
    assert "tensorrt dino" not in trusted


def test_trust_needs_a_bundle() -> None:
    """Checkpoints hold no code, and nano's bundle is the package's own."""
    for options in ({"trust": (Path("KEY.pub"),)}, {"trust_engines": True}):
        with pytest.raises(GmosError, match=r"--trust.* goes with --bundle, which was not given"):
            NetworkChoice(**options).resolve()  # type: ignore[arg-type]
    assert os.environ["XDG_CONFIG_HOME"], "tests have keys of their own"


def test_a_key_that_others_may_know_vouches_for_nothing(
    world: Any, installed: Callable[[Any], None], tmp_path: Path
) -> None:
    """Neither does auto run what it sealed, nor does who asks for it."""
    installed(world)
    with elsewhere(tmp_path / "home"):
        for name in world.bundle.networks:
            world.write_engine(name)
        assert resolved(world).choice.backend == "tensorrt"
        key_path().chmod(0o644)
        with pytest.raises(GmosError, match="has mode 644, expected 600: others may know it"):
            run_dino(world)
        source = resolved(world)
    assert source.choice.backend == "onnxruntime"
    assert "has mode 644, expected 600" in source.notes[0]
    assert not world.library.runtimes
