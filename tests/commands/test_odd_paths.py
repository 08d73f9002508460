"""What no command can use as a path: pipes, devices, links in circles, names that no file can have."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.cli import guarded

Words = Callable[[str], list[str]]

COMMANDS: dict[str, tuple[str, Words]] = {
    "inspect": ("export", lambda path: ["inspect", path]),
    "run a bundle": ("run", lambda path: ["--bundle", path, "clip.mp4"]),
    "run a video": ("run", lambda path: [path]),
    "run checkpoints": (
        "run",
        lambda path: ["clip.mp4", "--pi3_ckpt", path, "--sam2_ckpt", path, "--gmos_ckpt", path],
    ),
    "results": (
        "evaluate",
        lambda path: ["mos-i", "--dataset", "davis17-im", "--res_dir", path, "--anno_dir", "."],
    ),
    "label maps": ("parity", lambda path: ["masks", path, path]),
    "a side": (
        "parity",
        lambda path: ["video", "clip.mp4", "--a", f"onnxruntime:{path}", "--b", "torch:nano"],
    ),
    "a baseline": ("profile", lambda path: ["clip.mp4", "--side", "torch:nano", "--baseline", path]),
    "engines": ("export", lambda path: ["build-engines", "--bundle", path, "--backend", "tensorrt-rtx"]),
    "the doctor's bundle": ("doctor", lambda path: ["--bundle", path]),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with all of them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, target in (("piped", None), ("endless", "/dev/zero"), ("looped", "bundle.json")):
        (tmp_path / name).mkdir()
        if target is None:
            os.mkfifo(tmp_path / name / "bundle.json")
        else:
            (tmp_path / name / "bundle.json").symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path", ["pipe", "/dev/zero", "loop", "piped", "endless", "looped", "n" * 300, "\udcff", ""]
)
@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.usefixtures("folder")
def test_is_one_line_and_status_2(what: str, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    """At once: no pipe is waited for, no device is read to its end, nothing is a traceback."""
    module, words = COMMANDS[what]
    command: Any = getattr(import_module(f"gmos_deploy.commands.{module}"), f"{module}_command")
    assert guarded(command, "gmos-x", words(path)) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("gmos-x: ")
    assert not out
