"""What the reference computes for the gate's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..gmos_ref.backend import ReferenceNetworks, TorchBackend
from ..gmos_ref.tracker_networks import tracker_networks
from ..runtime.contract import ModelSpec, NetworkName, network_specs

Array = NDArray[Any]


class Reference:
    """The reference networks in float32 on the CPU, called with the contract's tensors."""

    def __init__(self, model: ModelSpec, networks: ReferenceNetworks) -> None:
        self._specs = network_specs(model)
        self._backend = TorchBackend(model, networks, device=torch.device("cpu"), precision="fp32")
        self._tracker = tracker_networks(networks.sam2) if model.variant == "gmos" else {}

    @torch.inference_mode()
    def run(self, name: NetworkName, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name; floating-point ones are float32."""
        spec = self._specs[name]
        tensors = {
            tensor.name: inputs[tensor.name] if tensor.host else torch.from_numpy(inputs[tensor.name])
            for tensor in spec.inputs
        }
        module = self._tracker.get(name)
        if module is None:
            outputs = self._backend.runner(name)(tensors)
        else:
            values = module(*(torch.as_tensor(tensors[tensor.name]) for tensor in spec.inputs))
            values = values if isinstance(values, tuple) else (values,)
            outputs = {tensor.name: value for tensor, value in zip(spec.outputs, values, strict=True)}
        return {name: np.asarray(self._backend.download(output)) for name, output in outputs.items()}
