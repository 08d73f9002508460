"""Loading each network: round trips, strict keys, and files given for another network."""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import shlex
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.checkpoints.loading import (
    FLAGS,
    PI3_UNUSED_PREFIXES,
    Network,
    assign_strict,
    check_keys,
    load_network,
    network_state,
    read_state,
)
from gmos_deploy.gmos_ref.checkpoints.stand_in import deterministic_state
from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.presets import TINY

State = dict[str, Tensor]

NETWORKS: dict[Network, Callable[[], nn.Module]] = {
    "Pi3": lambda: Pi3Encoder(TINY.pi3),
    "GMOS": lambda: GmosProposer(TINY.proposer),
    "GMOS-S": lambda: GmosS(TINY.proposer),
}

LOADERS: dict[Network, Callable[[Path], Any]] = {
    "Pi3": lambda path: load_network(path, "Pi3", lambda: Pi3Encoder(TINY.pi3)),
    "SAM2": lambda path: network_state(path, "SAM2"),
    "GMOS": lambda path: load_network(path, "GMOS", lambda: GmosProposer(TINY.proposer)),
    "GMOS-S": lambda path: load_network(path, "GMOS-S", lambda: GmosS(TINY.proposer)),
}


def state_of(network: Network) -> State:
    """A small state dict of that network; SAM2's is not held against a network here."""
    if network == "SAM2":
        return {
            "image_encoder.trunk.patch_embed.proj.weight": torch.ones(2, 3),
            "no_mem_embed": torch.ones(1, 1, 4),
        }
    return deterministic_state(NETWORKS[network]())


def write(path: Path, network: Network, state: State) -> Path:
    """A checkpoint as that network is published."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif network == "Pi3":
        torch.save(state, path)
    elif network == "SAM2":
        torch.save({"model": state}, path)
    else:
        torch.save({"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("network", NETWORKS)
def test_round_trip(tmp_path: Path, network: Network, suffix: str) -> None:
    """A network comes back with its weights, in evaluation mode and without gradients."""
    state = state_of(network)
    module = LOADERS[network](write(tmp_path / f"x{suffix}", network, state))
    assert type(module) is type(NETWORKS[network]())
    assert not module.training
    assert not any(p.requires_grad or p.is_meta for p in module.parameters())
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_sam2_state(tmp_path: Path, suffix: str) -> None:
    """A SAM2 state dict is read from its model entry or from safetensors."""
    state = state_of("SAM2")
    assert network_state(write(tmp_path / f"x{suffix}", "SAM2", state), "SAM2").keys() == state.keys()


def test_prefix_may_be_absent(tmp_path: Path) -> None:
    """GMOS keys without the distributed prefix load as well."""
    torch.save({"model_state_dict": state_of("GMOS")}, tmp_path / "x.pth")
    assert isinstance(
        load_network(tmp_path / "x.pth", "GMOS", lambda: GmosProposer(TINY.proposer)), GmosProposer
    )


def test_mixed_prefix(tmp_path: Path) -> None:
    """A prefix on some keys only is an error that counts them."""
    state = state_of("GMOS")
    state["module.obj_token"] = state.pop("obj_token")
    torch.save({"model_state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(
        GmosError, match=rf"x\.pth: 1 of {len(state)} keys start with 'module\.', expected all"
    ):
        load_network(tmp_path / "x.pth", "GMOS", lambda: GmosProposer(TINY.proposer))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pi3_heads_are_ignored(tmp_path: Path, suffix: str) -> None:
    """The published heads that GMOS does not use are left out, and only those."""
    state = state_of("Pi3")
    state |= {f"{prefix}0.weight": torch.ones(2) for prefix in PI3_UNUSED_PREFIXES}
    assert isinstance(
        load_network(write(tmp_path / f"x{suffix}", "Pi3", state), "Pi3", lambda: Pi3Encoder(TINY.pi3)),
        Pi3Encoder,
    )
    state["global_head.0.weight"] = torch.ones(2)
    path = write(tmp_path / f"y{suffix}", "Pi3", state)
    with pytest.raises(GmosError, match=r"1 unexpected \(global_head\.0\.weight\)"):
        load_network(path, "Pi3", lambda: Pi3Encoder(TINY.pi3))


@pytest.mark.parametrize(("given", "network"), list(itertools.permutations(FLAGS, 2)))
def test_wrong_network(tmp_path: Path, given: Network, network: Network) -> None:
    """A checkpoint given for another network is recognised, and the message says where it belongs."""
    path = write(tmp_path / "x.pth", given, state_of(given))
    message = (
        rf"x\.pth looks like a {given} checkpoint and was given as {network}: give it with {FLAGS[given]}, "
        rf"and the {network} checkpoint with {FLAGS[network]}$"
    )
    with pytest.raises(GmosError, match=message):
        LOADERS[network](path)


def test_other_checkpoint_entirely(tmp_path: Path) -> None:
    """A state dict of some other network fails on its keys."""
    save_file({"conv1.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(GmosError, match=r"\d+ missing \(.*, \.\.\); 1 unexpected \(conv1\.weight\)"):
        load_network(tmp_path / "x.safetensors", "GMOS", lambda: GmosProposer(TINY.proposer))


def test_every_fault_is_counted() -> None:
    """Missing, unexpected and misshapen keys are named together in one line, the first three of each."""
    expected = {f"a{i}": (2,) for i in range(6)}
    given = {"a5": torch.ones(3), **{f"b{i}": torch.ones(1) for i in range(2)}}
    with pytest.raises(GmosError) as caught:
        check_keys(expected, given, Path("x.pth"), "GMOS")
    assert str(caught.value) == (
        "x.pth does not fit the GMOS network: keys 5 missing (a0, a1, a2, ..); 2 unexpected (b0, b1); "
        "1 of another shape (a5 is [3], expected [2]); check that the file and the preset belong together"
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_other_preset(tmp_path: Path, network: Network) -> None:
    """A checkpoint of another size shows as misshapen keys."""
    path = write(tmp_path / "x.pth", network, state_of(network))
    wider = replace(TINY.proposer, dim=128)
    loaders: dict[Network, Callable[[], Any]] = {
        "Pi3": lambda: load_network(path, "Pi3", lambda: Pi3Encoder(replace(TINY.pi3, dino_grid=7))),
        "GMOS": lambda: load_network(path, "GMOS", lambda: GmosProposer(wider)),
        "GMOS-S": lambda: load_network(path, "GMOS-S", lambda: GmosS(wider)),
    }
    with pytest.raises(GmosError, match=r"of another shape \(.* is \[.*\], expected \[.*file and the preset"):
        loaders[network]()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_dtypes_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """Weights stored in another floating dtype are converted."""
    state = {key: tensor.to(dtype) for key, tensor in state_of("GMOS-S").items()}
    module = load_network(
        write(tmp_path / "x.safetensors", "GMOS-S", state), "GMOS-S", lambda: GmosS(TINY.proposer)
    )
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert torch.equal(module.fg_out.weight, state["fg_out.weight"].float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """Eight-bit weights, which mean nothing without their scales, are an error that names the first."""
    state = state_of("GMOS-S")
    state["fg_out.weight"] = state["fg_out.weight"].to(dtype)
    path = write(tmp_path / "x.safetensors", "GMOS-S", state)
    with pytest.raises(GmosError, match=rf"fg_out\.weight of the GMOS-S network is {dtype}, expected"):
        load_network(path, "GMOS-S", lambda: GmosS(TINY.proposer))


def test_assign_takes_the_tensors_over() -> None:
    """Loading copies nothing: the module holds the very storage that was read."""
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    with torch.device("meta"):
        layer = nn.Linear(3, 2)
    assign_strict(layer, state, Path("x.pth"), "test")
    assert layer.weight.data_ptr() == state["weight"].data_ptr()


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
