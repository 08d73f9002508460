"""Checkpoint files: formats told apart by content, damage named in one line, nothing executed."""

from __future__ import annotations

import argparse
import os
import pickle
import shlex
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.checkpoints.files import read_state


class Payload:
    """Unpickling this would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.target))}",)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Two tensors, large enough that half of the file is missing in half of the file."""
    return {"a.weight": torch.arange(600.0).view(20, 30), "b.bias": torch.ones(300)}


def refusal(path: Path) -> str:
    """The message that reading a file ends in, which is one line that names the file."""
    with pytest.raises(GmosError) as caught:
        read_state(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert path.name in message
    return message


def same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Equal keys and values."""
    return given.keys() == expected.keys() and all(torch.equal(given[k], expected[k]) for k in expected)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x"])
def test_safetensors(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    """Safetensors are known by their content, whatever their name."""
    save_file(state, tmp_path / name)
    assert same(read_state(tmp_path / name), state)


@pytest.mark.parametrize("entry", ["model_state_dict", "model", None])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickled(tmp_path: Path, state: dict[str, Tensor], entry: str | None, legacy: bool) -> None:
    """Both formats of torch.save are read, with the state dict in an entry or on its own."""
    held = {entry: state, "epoch": 3, "optimizer": {"state": {}}} if entry else state
    torch.save(held, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert same(read_state(tmp_path / "x.pth"), state)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_only_wanted_keys(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    """Keys that nobody wants are left in the file."""
    (save_file if name.endswith("s") else torch.save)(state, tmp_path / name)
    assert list(read_state(tmp_path / name, wanted=lambda key: key.startswith("a."))) == ["a.weight"]


def test_missing(tmp_path: Path) -> None:
    """A path that leads nowhere is said to."""
    assert "does not exist" in refusal(tmp_path / "x.pth")


def test_file_as_folder(tmp_path: Path) -> None:
    """A path through a file is an error like any other."""
    (tmp_path / "file").write_bytes(b"x")
    assert "cannot be read (Not a directory)" in refusal(tmp_path / "file" / "x.pth")


def test_directory(tmp_path: Path) -> None:
    """A directory is said to be one."""
    assert "is a directory: give the file in it" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Missing permissions are named."""
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    path.chmod(stat.S_IWUSR)
    assert "cannot be read (Permission denied)" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>not found</html>", "is not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x08\x00\x00", "is not a checkpoint"),
        (bytes(range(200, 250)), "is not a checkpoint"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{nojson}", "truncated or corrupt"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, content: bytes, message: str) -> None:
    """A text, a pointer, noise: each is told what it is."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert message in refusal(path)


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_truncated(tmp_path: Path, state: dict[str, Tensor], kind: str, kept: float) -> None:
    """A download that stopped anywhere is called truncated, in every format."""
    path = tmp_path / "x.ckpt"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: max(20, int(kept * len(content)))])
    assert "is truncated or corrupt" in refusal(path)


def test_damaged_pickle_in_a_whole_archive(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Wherever a byte of the pickle is wrong, the answer is the state or one line."""
    path, damaged = tmp_path / "x.pth", tmp_path / "y.pth"
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in records if name.endswith("data.pkl"))
    refusals = []
    for position in range(0, len(records[program]), 3):
        content = bytearray(records[program])
        content[position] ^= 0x15
        with zipfile.ZipFile(damaged, "w", zipfile.ZIP_STORED) as archive:
            for name, record in records.items():
                archive.writestr(name, bytes(content) if name == program else record)
        try:
            read_state(damaged)
        except GmosError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all("y.pth" in message and "\n" not in message for message in refusals)


@pytest.mark.parametrize("legacy", [False, True])
def test_refused_types_are_named(tmp_path: Path, state: dict[str, Tensor], legacy: bool) -> None:
    """A file that holds more than tensors is refused with the types and a command that works."""
    path = tmp_path / "my gmos.pth"
    held = {
        "model_state_dict": {f"module.{k}": v for k, v in state.items()},
        "args": argparse.Namespace(lr=1),
    }
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert "holds argparse.Namespace beside tensors" in message
    assert "on a machine where you trust the file" in message
    command = message.split("`")[1]
    # The user's `python` is the one that has PyTorch, as this test's is.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, env={**os.environ, "PATH": path})
    assert same(read_state(tmp_path / "my gmos.safetensors"), held["model_state_dict"])


def test_all_refused_types_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Every refused type of an archive is named, and not only the first."""
    torch.save({"model": state, "lr": np.float64(1), "args": argparse.Namespace()}, tmp_path / "x.pt")
    message = refusal(tmp_path / "x.pt")
    assert "argparse.Namespace" in message
    assert "multiarray.scalar" in message


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_nothing_is_executed(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    """A file with a payload is refused and the payload does not run."""
    path, target = tmp_path / "x.pth", tmp_path / "ran"
    held = {"model_state_dict": state, "extra": Payload(target)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=kind == "zip")
    message = refusal(path)
    assert "is refused" in message
    assert ("system" in message) == (kind != "pickle")
    assert not target.exists()
    with path.open("rb") as file:
        # The payload is live: it does run where the file is trusted.
        pickle.load(file) if kind == "pickle" else torch.load(path, weights_only=False)  # noqa: S301
    assert target.exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (torch.ones(3), "holds a Tensor: expected a checkpoint with a state dict"),
        ([torch.ones(3)], "holds a list"),
        ({}, "empty state dict"),
        ({"model": {}}, "empty state dict"),
        ({"epoch": 3, "weights": {"a": torch.ones(1)}}, "expected an entry model_state_dict or model, found"),
        ({"model": {"a": torch.ones(1), "b": 3}}, "b in its model entry has type int, expected only tensors"),
        ({"model": {3: torch.ones(1)}}, "holds no state dict"),
    ],
)
def test_pickles_of_other_things(tmp_path: Path, held: object, message: str) -> None:
    """A pickle of something else says what it holds."""
    torch.save(held, tmp_path / "x.pth")
    assert message in refusal(tmp_path / "x.pth")


def test_zip_of_other_things(tmp_path: Path) -> None:
    """Numpy archives and TorchScript programs are told apart from checkpoints."""
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert "is a zip archive and not a checkpoint" in refusal(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/constants.pkl", b"")
    assert "is a TorchScript program" in refusal(tmp_path / "x.pt")
