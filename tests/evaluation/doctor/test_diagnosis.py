"""What follows from what the libraries answered, on machines that are scripted here, and on this one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gmos_deploy.cli import guarded
from gmos_deploy.commands.doctor import doctor_command
from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.child_process import ChildRun
from gmos_deploy.evaluation.doctor import command as doctor
from gmos_deploy.evaluation.doctor import gpu, libraries
from gmos_deploy.evaluation.doctor.command import diagnose, lines, summary
from gmos_deploy.evaluation.doctor.finding import Finding, exit_status
from gmos_deploy.evaluation.doctor.machine import machine_findings
from gmos_deploy.evaluation.doctor.probes import ask
from gmos_deploy.evaluation.doctor.system import Jetson
from gmos_deploy.evaluation.summary.saved import SavedDiagnosis, read_saved

ORIN = Jetson(model="NVIDIA Jetson AGX Orin", release=(36, "4.3"))

Answers = dict[str, Any]


def card(name: str, capability: tuple[int, int], *, integrated: bool = False) -> dict[str, Any]:
    """A GPU as the driver tells it."""
    return {
        "name": name,
        "compute_capability": list(capability),
        "integrated": integrated,
        "memory_bytes": 8 << 30,
    }


def workstation(**changes: Any) -> Answers:
    """An RTX 4090 on which everything works; keywords replace answers by question."""
    bindings = {"version": "13.5.0", "error": None, "status": 0, "runtime": 13050, "devices": 1}
    return {
        "cuda": {
            "driver": 13020,
            "init": 0,
            "devices": [card("RTX 4090", (8, 9))],
            "bindings": bindings,
        },
        "cudnn": {"version": 92002, "place": "libcudnn.so.9"},
        "torch": {"version": "2.13.0", "cuda": "13.0", "missing": [], "error": None, "device": "RTX 4090"},
        "onnxruntime cpu": {"version": "1.32.0", "providers": ["CUDAExecutionProvider"], "error": None},
        "onnxruntime cuda:0": {"version": "1.32.0", "providers": ["CUDAExecutionProvider"], "error": None},
        "tensorrt tensorrt cuda": {"version": "10.13.2", "targets": [], "error": None},
        "tensorrt tensorrt-rtx cuda": {"version": "1.7.1", "targets": ["sm89", "sm120"], "error": None},
        **changes,
    }


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """The findings by name on a machine with these answers; a text in their place is how the question ended."""
    monkeypatch.setattr(libraries, "find_spec", lambda name: object())
    monkeypatch.setattr(libraries, "_is_installed", lambda name: name == "onnxruntime")

    def diagnosed(answers: Answers, jetson: Jetson | None = None, **options: Any) -> dict[str, Finding]:
        monkeypatch.setattr(doctor, "find_jetson", lambda: jetson)

        def scripted(*question: str) -> ChildRun:
            answer = answers[" ".join(question)]
            if isinstance(answer, ChildRun):
                return answer
            ended = answer if isinstance(answer, str) else ""
            return ChildRun(value=None if ended else answer, fault=ended, seconds=0.1, log="")

        everything = diagnose(ask=scripted, **options)
        return {
            f"{one.group}: {one.name}" if one.group == "What can run here" else one.name: one
            for one in everything
        }

    return diagnosed


def test_a_machine_on_which_everything_works(found: Callable[..., dict[str, Finding]]) -> None:
    """Every backend is ready, and the exit status says so."""
    answers = found(workstation())
    assert {one.state for one in answers.values()} == {"ok"}
    assert answers["GPU"].found == "cuda:0 RTX 4090 (sm89, 8192 MiB)"
    assert answers["cuDNN"].found == "9.20.2, libcudnn.so.9"
    assert exit_status(list(answers.values())) == 0


def test_bindings_that_are_newer_than_the_driver(found: Callable[..., dict[str, Finding]]) -> None:
    """The README's line on a JetPack 6 installed CUDA 13's: error 35 is named, and what mends it."""
    cuda = {
        "driver": 12060,
        "init": 0,
        "devices": [card("Orin", (8, 7), integrated=True)],
        "bindings": {"version": "13.5.0", "error": None, "status": 35, "runtime": 13050, "devices": None},
    }
    answers = found(workstation(cuda=cuda), ORIN)
    bindings = answers["cuda-bindings"]
    assert bindings.state == "wrong"
    assert bindings.found == "13.5.0 with CUDA runtime 13.5, and the driver takes CUDA up to 12.6: error 35"
    assert bindings.mend == "pip install 'cuda-bindings<13'"
    assert answers["What can run here: tensorrt"].found == "needs cuda-bindings (wrong)"
    # Another backend runs all the same, and yet what is wrong must be heard of.
    assert answers["What can run here: onnxruntime on cpu"].state == "ok"
    assert exit_status(list(answers.values())) == 1


@pytest.mark.parametrize(
    ("driver", "jetson", "command"),
    [
        (12060, ORIN, "pip install 'cuda-bindings<13'"),
        (13000, None, "pip install cuda-bindings"),
        (None, ORIN, "pip install 'cuda-bindings<13'"),
        (None, None, "pip install cuda-bindings"),
    ],
)
def test_the_bindings_that_fit(driver: int | None, jetson: Jetson | None, command: str) -> None:
    """By the driver; where there is none, by the JetPack."""
    assert gpu.bindings_command(driver, jetson) == command


def test_what_is_missing_alone_is_no_failure(found: Callable[..., dict[str, Finding]]) -> None:
    """A machine without a GPU runs on its processor, and lacks nothing."""
    none = {"driver": None, "init": None, "devices": [], "bindings": None}
    cpu = {"version": "1.32.0", "providers": ["CPUExecutionProvider"], "error": None}
    library = {"version": "1.7.1", "targets": ["sm89"], "error": None}
    answers = found(
        workstation(
            **{
                "cuda": none,
                "cudnn": {"version": None, "place": None},
                "onnxruntime cpu": cpu,
                "tensorrt tensorrt": {"version": "10.13.2", "targets": [], "error": None},
                "tensorrt tensorrt-rtx": library,
            }
        )
    )
    assert [name for name, one in answers.items() if one.state == "wrong"] == []
    assert {one.state for one in answers.values()} == {"ok", "optional"}
    assert answers["GPU"].state == answers["NVIDIA driver"].state == answers["cuDNN"].state == "optional"
    on_cuda = answers["What can run here: onnxruntime on cuda"]
    assert (on_cuda.state, on_cuda.found) == ("optional", "needs GPU, cuda-bindings")
    assert exit_status(list(answers.values())) == 0


def test_what_a_card_could_use_is_missing(
    found: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card without a driver, and one without the bindings: each with what mends it."""
    none = {"driver": None, "init": None, "devices": [], "bindings": None}
    without = {"tensorrt tensorrt": {"version": "10", "targets": [], "error": None}}
    without["tensorrt tensorrt-rtx"] = without["tensorrt tensorrt"]
    monkeypatch.setattr(gpu, "has_nvidia_card", lambda: True)
    answers = found(workstation(cuda=none, cudnn={"version": None, "place": None}, **without))
    assert {answers[name].state for name in ("NVIDIA driver", "GPU", "cuda-bindings")} == {"missing"}
    assert answers["What can run here: tensorrt"].state == "missing"
    answers = found(workstation(cuda={**workstation()["cuda"], "bindings": None}))
    assert (answers["cuda-bindings"].state, answers["cuda-bindings"].mend) == (
        "missing",
        "pip install cuda-bindings",
    )
    assert answers["What can run here: tensorrt"].found == "needs cuda-bindings"


def test_a_provider_that_is_listed_and_does_not_load(found: Callable[..., dict[str, Finding]]) -> None:
    """onnxruntime-gpu lists CUDA whether it can use it or not: a session tells."""
    broken = {
        "version": "1.32.0",
        "providers": [],
        "error": "libcudnn_adv.so.9: cannot open shared object file",
    }
    answers = found(workstation(**{"onnxruntime cuda:0": broken}))
    assert answers["onnxruntime CUDA"].state == "wrong"
    assert "libcudnn_adv.so.9" in answers["onnxruntime CUDA"].found
    assert answers["onnxruntime CUDA"].mend == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert answers["What can run here: onnxruntime on cuda"].state == "missing"


def test_what_onnxruntime_only_prints_is_told(found: Callable[..., dict[str, Finding]]) -> None:
    """It takes the CPU in silence, and the library that it lacked is in its log."""
    log = (
        "[E:onnxruntime:Default, provider_bridge_ort.cc:1862 TryGetProviderInfo_CUDA] provider_bridge_ort.cc:1539\n"
        " FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared "
        "object file: No such file or directory\n"
    )
    value = {"version": "1.32.0", "providers": [], "error": "ONNX Runtime could not use cuda:0"}
    asked = ChildRun(value=value, fault="", seconds=1.0, log=log)
    finding = found(workstation(**{"onnxruntime cuda:0": asked}))["onnxruntime CUDA"]
    assert finding.found.startswith(
        "libcudnn.so.9: cannot open shared object file: No such file or directory: ONNX"
    )


def test_a_library_that_crashes_takes_nothing_with_it(found: Callable[..., dict[str, Finding]]) -> None:
    """How it ended is the finding."""
    answers = found(workstation(torch="crashed with SIGSEGV; last it printed: loading"))
    assert answers["torch"].state == "wrong"
    assert "SIGSEGV" in answers["torch"].found
    assert answers["What can run here: tensorrt"].state == "ok"


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({"cuda": None, "device": None}, "missing", "built for CPUs"),
        ({"device": None}, "wrong", "sees no GPU"),
        ({"error": "no kernel image is available"}, "wrong", "no kernel image"),
    ],
)
def test_pytorch_on_the_gpu(
    change: dict[str, Any], state: str, words: str, found: Callable[..., dict[str, Finding]]
) -> None:
    """A build for CPUs lacks something; one for CUDA that does not work is wrong."""
    answers = found(workstation(torch={**workstation()["torch"], **change}))
    assert answers["torch CUDA"].state == state
    assert words in answers["torch CUDA"].found


def test_a_gpu_for_which_rtx_has_no_kernels(found: Callable[..., dict[str, Finding]]) -> None:
    """Hopper: the library works, and engines of the other one are the way."""
    cuda = {**workstation()["cuda"], "devices": [card("NVIDIA H200", (9, 0))]}
    answers = found(workstation(cuda=cuda))
    assert answers["RTX target"].state == "optional"
    assert "H200 is sm90, for which TensorRT-RTX 1.7.1 has no kernels" in answers["RTX target"].found
    assert answers["What can run here: tensorrt-rtx"].found == "needs RTX target"


def test_two_onnxruntimes_overwrite_each_other(
    found: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same module in two distributions: the command removes both first."""
    monkeypatch.setattr(libraries, "_is_installed", lambda name: True)
    finding = found(workstation())["onnxruntime"]
    assert finding.state == "wrong"
    assert finding.mend == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'gmos-deploy[gpu]'"


def test_what_is_not_installed_on_a_jetson_comes_with_jetpack(
    found: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is not for it is not offered."""
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    answers = found(workstation(), ORIN)
    venv = "python3 -m venv --system-site-packages .venv"
    assert answers["tensorrt"].mend == f"sudo apt install nvidia-jetpack && {venv}"
    assert answers["tensorrt-rtx"].mend == ""
    assert answers["onnxruntime"].mend == "pip install 'gmos-deploy[cpu]'"


def test_a_driver_that_does_not_start(found: Callable[..., dict[str, Finding]]) -> None:
    """It is there and shows nothing, as after an update of it."""
    cuda = {"driver": 13020, "init": 804, "devices": [], "bindings": None}
    answers = found(
        workstation(
            **{
                "cuda": cuda,
                "tensorrt tensorrt": workstation()["tensorrt tensorrt cuda"],
                "tensorrt tensorrt-rtx": workstation()["tensorrt tensorrt-rtx cuda"],
            }
        )
    )
    assert answers["NVIDIA driver"].state == "wrong"
    assert "cuInit failed with error 804" in answers["NVIDIA driver"].found


def test_an_unknown_device_is_refused(found: Callable[..., dict[str, Finding]]) -> None:
    """As the commands' --device is."""
    with pytest.raises(GmosError, match="--device 3: CUDA shows 1 devices, counted from 0"):
        found(workstation(), device=3)


def test_lines_fit_80_columns_and_commands_stay_whole() -> None:
    """A command that is longer than a line is not broken: it could not be copied."""
    command = "gmos-export build-engines --bundle /some/where --backend tensorrt-rtx --target sm86,sm89"
    found = [
        Finding(group="GPU", name="cuda-bindings", state="wrong", found="words " * 40, mend=command),
        Finding(group="What can run here", name="torch on cpu", state="ok", found="ready"),
    ]
    shown = list(lines(found))
    plain = [line.replace("\x1b[0m", "").replace("\x1b[1m", "") for line in shown]
    assert any(line.strip() == f"$ {command}" for line in plain)
    assert all(len(line) <= 95 for line in plain if command not in line)
    assert summary(found) == "ready: torch on cpu; 1 wrong"


def test_names_of_others_are_no_codes_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Only our own colours reach it, and a pipe gets none."""
    found = [Finding(group="Bundle", name="files", state="wrong", found="a\x1b[2Jb", mend="rm 'a\x1b[2Jb'")]
    for line in lines(found):
        click.echo(line)
    assert capsys.readouterr().out.splitlines() == [
        "Bundle",
        "wrong     files  a\\x1b[2Jb",
        "          $ rm 'a\\x1b[2Jb'",
        "",
        "no backend can run here; 1 wrong",
    ]


def test_this_machine_as_json(tmp_path: Path) -> None:
    """The real libraries answer, in processes of their own."""
    ran = CliRunner().invoke(doctor_command, ["--json"], standalone_mode=False)
    answer = json.loads(ran.stdout)
    found = {one["name"]: one for one in answer["findings"] if one["group"] != "What can run here"}
    assert answer["schema"] == "gmos-doctor/1"
    assert answer["made_from"] == {"bundles": [], "checkpoints": [], "clips": []}
    (tmp_path / "doctor.json").write_text(ran.stdout)
    assert isinstance(read_saved(tmp_path / "doctor.json"), SavedDiagnosis)
    assert found["onnxruntime CPU"]["state"] == "ok"
    assert found["python"]["state"] == found["codecs"]["state"] == "ok"
    assert ran.return_value == answer["status"]
    if find_spec("tensorrt_rtx") is not None:
        assert "sm89" in found["tensorrt-rtx"]["found"]


def test_a_question_that_cannot_be_answered_says_why() -> None:
    """As for a device that is not there."""
    found = ask("onnxruntime", "cuda:0")
    assert found.fault == ""
    assert "CUDA" in found.value["error"]


def test_bad_input_has_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle that is none."""
    assert guarded(doctor_command, "gmos-doctor", ["--bundle", str(tmp_path)]) == 2
    assert "is no bundle" in capsys.readouterr().err


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no cache folder then, and no traceback about it."""
    monkeypatch.setattr("gmos_deploy.evaluation.doctor.machine.user_cache", lambda: None)
    found = {one.name: one for one in machine_findings(None)}
    assert found["cache folder"].state == "wrong"
    assert found["cache folder"].found == "none: this user has no home directory"
    assert "XDG_CACHE_HOME" in found["cache folder"].mend
    assert "space for caches" not in found
    assert "space for videos" in found


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_cache_folder_that_cannot_be_made(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is in its place, or a link to nowhere; the folder around it can be written."""
    given = tmp_path / "given"
    if kind == "file":
        given.touch()
    else:
        given.symlink_to("nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(given))
    found = {one.name: one for one in machine_findings(None)}
    assert found["cache folder"].state == "wrong"
    assert "cannot be written (Not a directory)" in found["cache folder"].found
    given.unlink()
    found = {one.name: one for one in machine_findings(None)}
    assert found["cache folder"].state == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux finds libraries")
def test_a_driver_that_cannot_be_loaded_is_not_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else lies where its library should be."""
    (tmp_path / "libcuda.so.1").write_text("no library" * 100)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    driver = {one.name: one for one in gpu.gpu_findings(ask("cuda"), ask("cudnn"), None)}["NVIDIA driver"]
    assert driver.state == "wrong"
    assert "cannot be loaded" in driver.found
    assert "invalid ELF header" in driver.found
    assert "LD_LIBRARY_PATH" in driver.found
