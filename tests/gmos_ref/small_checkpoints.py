"""Small checkpoints of every network, written as they are published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gmos_deploy.gmos_ref.checkpoints.loading import Network, load_network, network_state
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
