"""What the reference computes for the gate's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from ...gmos_ref.backend import TorchBackend
from ...gmos_ref.reference_networks import ReferenceNetworks
from ...runtime.contract import ModelSpec, NetworkName, network_specs
from ...runtime.precision import PrecisionName

Array = NDArray[Any]


class Reference:
    """The reference networks on the CPU, called with the contract's tensors."""

    def __init__(self, model: ModelSpec, networks: ReferenceNetworks) -> None:
        self._model = model
        self._networks = networks
        self._specs = network_specs(model)
        self._backends: dict[PrecisionName, TorchBackend] = {}

    def run(
        self, name: NetworkName, inputs: Mapping[str, Array], precision: PrecisionName = "fp32"
    ) -> dict[str, Array]:
        """Outputs by name for inputs by name; floating-point ones are float32.

        Another precision is as the reference computes in it: autocast, the heads in float32.
        """
        if precision not in self._backends:
            self._backends[precision] = TorchBackend(
                self._model, self._networks, device=torch.device("cpu"), precision=precision
            )
        backend = self._backends[precision]
        tensors = {
            tensor.name: inputs[tensor.name] if tensor.host else torch.from_numpy(inputs[tensor.name])
            for tensor in self._specs[name].inputs
        }
        outputs = backend.runner(name)(tensors)
        return {name: backend.download(output) for name, output in outputs.items()}
