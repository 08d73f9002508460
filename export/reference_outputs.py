"""What the reference computes for the gate's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from ..gmos_ref.backend import TorchBackend
from ..gmos_ref.reference_networks import ReferenceNetworks
from ..runtime.contract import ModelSpec, NetworkName, network_specs

Array = NDArray[Any]


class Reference:
    """The reference networks in float32 on the CPU, called with the contract's tensors."""

    def __init__(self, model: ModelSpec, networks: ReferenceNetworks) -> None:
        self._specs = network_specs(model)
        self._backend = TorchBackend(model, networks, device=torch.device("cpu"), precision="fp32")

    def run(self, name: NetworkName, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name; floating-point ones are float32."""
        tensors = {
            tensor.name: inputs[tensor.name] if tensor.host else torch.from_numpy(inputs[tensor.name])
            for tensor in self._specs[name].inputs
        }
        outputs = self._backend.runner(name)(tensors)
        return {name: self._backend.download(output) for name, output in outputs.items()}
