"""Checkpoint files: formats, damage, what is not a plain tensor, wrappers, shards; nothing in them is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shlex
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.checkpoints.loading import (
    PI3_UNUSED_PREFIXES,
    Network,
    check_keys,
    load_network,
    network_state,
)
from gmos_deploy.gmos_ref.checkpoints.reading import read_state
from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.presets import TINY
from gmos_deploy.runtime.files.checkpoint_identity import checkpoint_identity, checkpoint_sha256

from .small_checkpoints import State, state_of, write


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


def test_a_header_of_any_length_is_one(tmp_path: Path) -> None:
    """The length 128 begins as a pickle does; every 32nd file has such a one."""
    path, lengths = tmp_path / "x.safetensors", set()
    for letters in range(1, 257, 8):
        given = {"k" * letters: torch.ones(2)}
        save_file(given, path)
        lengths.add(path.read_bytes()[0])
        assert same(read_state(path), given)
    assert 0x80 in lengths


@pytest.mark.parametrize("legacy", [False, True])
def test_a_name_tells_nothing(tmp_path: Path, state: dict[str, Tensor], legacy: bool) -> None:
    """Files of torch.save are known by their content, too; PyTorch itself goes by this ending."""
    path = tmp_path / "x.safetensors"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert same(read_state(path), state)


def test_keys_of_any_length_make_short_messages(tmp_path: Path) -> None:
    """And one line."""
    path = tmp_path / "x.pth"
    torch.save({f"{number}{'k' * 100_000}": torch.zeros(2, dtype=torch.complex64) for number in "12"}, path)
    with pytest.raises(GmosError, match=r"x\.pth: 1k+ is of torch\.complex64") as caught:
        read_state(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    torch.save({f"{number}{'k' * 100_000}": torch.zeros(2) for number in "12"}, path)
    with pytest.raises(GmosError, match=r"2 unexpected \(1k+, 2k+\)") as caught:
        load_network(path, "GMOS", lambda: torch.nn.Linear(2, 2))
    assert len(str(caught.value)) < 600 + len(str(path))


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


def test_members_that_lie_over_one_another_are_refused(tmp_path: Path, state: State) -> None:
    """The directory of an archive may have one a million times: its checksum would be asked for as often."""
    path = tmp_path / "x.pth"
    torch.save(state, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist += archive.filelist * 10
        archive._didModify = True  # type: ignore[attr-defined]
    assert "its members are larger than itself" in refusal(path)


def test_compressed_archives_are_refused(tmp_path: Path, state: State) -> None:
    """PyTorch writes none, and what they unpack to has no bound."""
    torch.save(state, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "y.pth has compressed members: expected a checkpoint as torch.save writes it" in refusal(
        tmp_path / "y.pth"
    )


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
        (
            {"epoch": 3, "weights": {"a": torch.ones(1)}},
            "expected one of the entries model_state_dict, model, state_dict",
        ),
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


def saved(path: Path, held: object) -> Path:
    torch.save(held, path)
    return path


def test_a_changed_byte_is_found(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Wherever it is among the weights: the archive has a checksum of each of them."""
    path = saved(tmp_path / "x.pth", {"model": state})
    content = path.read_bytes()
    at = content.index(state["a.weight"].numpy().tobytes())
    for place in (at, at + 1000, at + 2399):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "truncated or corrupt (the checksum of x/data/0 does not fit)" in refusal(
            path
        ) or "CRC" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    """With the tensor's name: a run would give masks that mean nothing."""
    state = {key: tensor.to(dtype) for key, tensor in state_of("GMOS-S").items()}
    state["fg_out.weight"].view(-1)[-1] = value
    path = write(tmp_path / "x.safetensors", "GMOS-S", state)
    with pytest.raises(GmosError, match=r"x\.safetensors: fg_out\.weight of the GMOS-S network has values"):
        load_network(path, "GMOS-S", lambda: GmosS(TINY.proposer))


def test_values_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    """They are finite in the file and not in the network."""
    state = {key: tensor.double() for key, tensor in state_of("GMOS-S").items()}
    state["fg_out.weight"].view(-1)[0] = 1e300
    with pytest.raises(
        GmosError, match=r"fg_out\.weight of the GMOS-S network has values that are not finite"
    ):
        load_network(
            write(tmp_path / "x.safetensors", "GMOS-S", state), "GMOS-S", lambda: GmosS(TINY.proposer)
        )


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "a.weight is sparse, expected a plain tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "a.weight is sparse, expected a plain tensor"),
        (lambda: torch.ones(3, device="meta"), "a.weight is on the meta device, without values"),
        (lambda: torch.ones(3, dtype=torch.complex64), "a.weight is of torch.complex64"),
        (lambda: torch.ones(1).expand(1 << 40), "a.weight is larger than what is stored of it"),
        (quantised, "a.weight is of torch.qint8|is refused|truncated or corrupt"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_tensors_without_plain_values_are_refused(
    tmp_path: Path, make: Callable[[], Tensor], message: str
) -> None:
    """Each is told by what it is."""
    found = refusal(saved(tmp_path / "x.pth", {"a.weight": make()}))
    assert any(part in found for part in message.split("|")), found


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[8,4]}}',
        b'{"a":{"dtype":"X9","shape":[4],"data_offsets":[0,16]}}',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}',
    ],
)
def test_headers_of_safetensors_have_bounds(tmp_path: Path, header: bytes) -> None:
    """Shapes beyond 64 bits, places beyond the file, and depth are one line."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    assert "is truncated or corrupt" in refusal(path)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    """They would be waited for."""
    os.mkfifo(tmp_path / "x.pth")
    assert "cannot be read (it is a named pipe and no regular file)" in refusal(tmp_path / "x.pth")
    assert "cannot be read (it is a device and no regular file)" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "model.module._orig_mod.", "generator."]
)
@pytest.mark.parametrize("network", ["Pi3", "GMOS", "GMOS-S", "SAM2"])
def test_what_all_keys_have_in_front_is_left_out(tmp_path: Path, network: Network, prefix: str) -> None:
    """For every network, nested or unknown, also before the heads of Pi3 that are not used."""
    state = state_of(network)
    more = {f"{other}0.weight": torch.ones(2) for other in PI3_UNUSED_PREFIXES if network == "Pi3"}
    path = saved(tmp_path / "x.pth", {f"{prefix}{key}": value for key, value in (state | more).items()})
    assert network_state(path, network).keys() == state.keys()


@pytest.mark.parametrize("held", ["state_dict", "ema", "module", "state_dict/model", "model/module"])
def test_entries_of_trainers_are_read(tmp_path: Path, state: dict[str, Tensor], held: str) -> None:
    """Also one inside another; where there are several, a line says which one is taken."""
    wrapped: Any = state
    for name in reversed(held.split("/")):
        wrapped = {"epoch": 1, name: wrapped}
    assert same(read_state(saved(tmp_path / "x.pth", wrapped)), state)


def test_which_of_several_entries_is_taken_is_said(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """Weights and their moving average differ."""
    path = saved(tmp_path / "x.pth", {"ema": {"a.weight": torch.zeros(1)}, "state_dict": state})
    assert same(read_state(path), state)
    assert "x.pth: its entry state_dict is taken; it has ema too" in caplog.text


@pytest.mark.parametrize("entry", [None, "model"])
def test_the_command_for_a_pickled_module_works(tmp_path: Path, entry: str | None) -> None:
    """A whole module, on its own or in an entry."""
    path = tmp_path / "x.pth"
    module = nn.Linear(3, 2)
    torch.save({entry: module} if entry else module, path)
    message = refusal(path)
    assert "torch.nn.modules.linear.Linear" in message
    program = shlex.split(message.split("`")[1])
    subprocess.run([sys.executable, *program[1:]], check=True, capture_output=True)
    assert same(read_state(tmp_path / "x.safetensors"), module.state_dict())


def shards(folder: Path, parts: list[State]) -> list[Path]:
    """A checkpoint in parts, with its index."""
    paths = [folder / f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        save_file(part, path)
    weight_map = {key: path.name for path, part in zip(paths, parts, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map}), encoding="utf-8"
    )
    return [*paths, folder / "model.safetensors.index.json"]


def test_shards_are_read_together(tmp_path: Path) -> None:
    """By any of them, or by their index; which files they are is part of the checkpoint's identity."""
    state = state_of("GMOS-S")
    keys = list(state)
    paths = shards(tmp_path, [{key: state[key] for key in keys[i::3]} for i in range(3)])
    for path in paths:
        assert same(dict(network_state(path, "GMOS-S")), state)
    first = {checkpoint_identity(path) for path in paths}
    assert len(first) == len({checkpoint_sha256(path) for path in paths}) == 1
    save_file({key: state[key] + 1 for key in keys[2::3]}, paths[2])
    assert checkpoint_identity(paths[0]) not in first


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """By one of the others and by the index; an index that leads elsewhere is refused."""
    paths = shards(tmp_path, [{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    paths[1].unlink()
    for path in (paths[0], paths[2]):
        with pytest.raises(
            GmosError, match=r"stands for 2 shards, and .*00002-of-00002.safetensors is missing"
        ):
            read_state(path)
    paths[2].write_text('{"weight_map": {"a": "../x.safetensors"}}', encoding="utf-8")
    save_file({"a": torch.ones(1)}, tmp_path.parent / "x.safetensors")
    assert "is missing" in refusal_text(paths[2])
    save_file({"a": torch.ones(1)}, paths[1])
    assert "a is in another shard of" in refusal_text(paths[0])


def refusal_text(path: Path) -> str:
    with pytest.raises(GmosError) as caught:
        read_state(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("width", "blocks", "pointers", "name"),
    [
        (144, 48, False, "SAM 2.0 Hiera-L"),
        (96, 12, True, "SAM 2.1 Hiera-T"),
        (112, 24, True, r"SAM 2.1 Hiera-B\+"),
    ],
)
def test_other_sam2_networks_are_named(
    tmp_path: Path, width: int, blocks: int, pointers: bool, name: str
) -> None:
    """By the shapes of their keys."""

    def keys(width: int, blocks: int, pointers: bool) -> State:
        state = {"image_encoder.trunk.patch_embed.proj.weight": torch.ones(width, 1)}
        state |= {f"image_encoder.trunk.blocks.{i}.norm": torch.ones(1) for i in range(blocks)}
        return state | ({"obj_ptr_tpos_proj.weight": torch.ones(1)} if pointers else {})

    expected = {key: tuple(one.shape) for key, one in keys(144, 48, True).items()}
    given = network_state(saved(tmp_path / "x.pt", {"model": keys(width, blocks, pointers)}), "SAM2")
    with pytest.raises(GmosError, match=rf"x\.pt is {name}, expected SAM 2\.1 Hiera-L: give its checkpoint"):
        check_keys(expected, given, tmp_path / "x.pt", "SAM2")


def test_a_checkpoint_that_differs_in_its_middle_is_another(tmp_path: Path) -> None:
    """Results of the one are not taken for those of the other."""
    found = set()
    for name, middle in (("a", 0), ("b", 1)):
        path = tmp_path / name / "weights.pth"
        path.parent.mkdir()
        path.write_bytes(bytes(2 << 20) + bytes([middle]) + bytes(2 << 20))
        found.add(checkpoint_identity(path))
    assert len(found) == 2
