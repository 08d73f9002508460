"""Loading each network: round trips, strict keys, and files given for another network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.checkpoints.loading import (
    FLAGS,
    PI3_UNUSED_PREFIXES,
    Network,
    assign_strict,
    check_keys,
    load_network,
    network_state,
)
from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.presets import TINY

from .small_checkpoints import LOADERS, NETWORKS, state_of, write


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
