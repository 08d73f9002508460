"""From flags to a ready reference backend: device, precision, checkpoints or stand-in weights."""

from __future__ import annotations

import logging

import torch

from ..errors import GmosError
from ..runtime.device_name import parse_device
from ..runtime.precision import EXPORTED, PRECISIONS, PrecisionName
from .backend import TorchBackend
from .checkpoints.loading import assign_strict, load_network, network_state
from .checkpoints.stand_in import stand_in_networks
from .gmos.gmos_s import GmosS
from .gmos.proposer import GmosProposer
from .networks import ReferenceNetworks
from .pi3.encoder import Pi3Encoder
from .presets import Preset, model_spec
from .reference_config import ReferenceConfig
from .sam2.model import build_sam2

logger = logging.getLogger(__name__)


def use_threads(count: int) -> None:
    """Compute with so many threads of the CPU, in all of this process."""
    torch.set_num_threads(count)


def load_reference(config: ReferenceConfig) -> TorchBackend:
    """Load the networks and put them on the device.

    Raises:
        GmosError: a checkpoint is missing or unusable, the device is not there, or it cannot run the
            precision.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    sizes = config.sizes
    stand_in = config.pi3_ckpt is None
    networks = stand_in_networks(sizes, config.variant) if stand_in else checkpoint_networks(sizes, config)
    backend = TorchBackend(model_spec(sizes, config.variant), networks, device=device, precision=precision)
    # Said once nothing can be refused any more: a refusal is one line.
    if config.device == "auto":
        logger.info("device auto: %s, PyTorch sees %d CUDA devices", device, torch.cuda.device_count())
    if config.precision == "auto":
        logger.info("precision auto: %s, as the published runs on such a device", precision)
    if stand_in:
        logger.warning(
            "no checkpoints: the %s preset runs on untrained stand-in weights, its masks mean nothing",
            config.preset,
        )
    return backend


def checkpoint_networks(sizes: Preset, config: ReferenceConfig) -> ReferenceNetworks:
    """The networks of a complete set of checkpoints.

    Raises:
        GmosError: a checkpoint is missing or unusable.
    """
    pi3_path, sam2_path, head_path = config.checkpoints().values()
    if pi3_path is None or sam2_path is None or head_path is None:
        raise ValueError("ReferenceConfig lets no incomplete set of checkpoints through")
    # The small files first: a wrong one is found before gigabytes are read.
    head: GmosProposer | GmosS = (
        load_network(head_path, "GMOS", lambda: GmosProposer(sizes.proposer))
        if config.variant == "gmos"
        else load_network(head_path, "GMOS-S", lambda: GmosS(sizes.proposer))
    )
    sam2 = build_sam2(sizes.sam2)
    assign_strict(sam2, network_state(sam2_path, "SAM2"), sam2_path, "SAM2")
    pi3 = load_network(pi3_path, "Pi3", lambda: Pi3Encoder(sizes.pi3))
    return ReferenceNetworks(pi3=pi3, sam2=sam2, head=head)


def choose_device(name: str) -> torch.device:
    """The device of that name (cpu, cuda, cuda:n, auto), if this machine has it."""
    cuda, (kind, number) = torch.cuda.is_available(), parse_device(name)
    if kind == "cpu" or (kind == "auto" and not cuda):
        return torch.device("cpu")
    if not cuda:
        raise GmosError(
            f"--device {name}: this PyTorch ({torch.__version__}) sees no CUDA device; "
            "use --device cpu, or check the driver and that PyTorch is a CUDA build"
        )
    if number >= torch.cuda.device_count():
        raise GmosError(f"--device {name}: PyTorch sees {torch.cuda.device_count()}, counted from 0")
    return torch.device("cuda", number)


def choose_precision(name: str, device: torch.device) -> PrecisionName:
    """The precision of that name, if the device can run it; `auto` is that of the published runs."""
    if name == "auto":
        if device.type == "cpu":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name not in EXPORTED:
        raise GmosError(f"--precision {name}: expected auto, {', '.join(EXPORTED[:-1])} or {EXPORTED[-1]}")
    precision = PRECISIONS[name]
    if device.type == "cpu" and not precision.torch_on_cpu:
        able = " or ".join(other for other in EXPORTED if PRECISIONS[other].torch_on_cpu)
        raise GmosError(f"--precision {name}: not on a CPU; use {able}")
    if (
        precision.dtype == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise GmosError(
            f"--precision {name}: {torch.cuda.get_device_name(device)} has none; use {precision.instead}"
        )
    return precision.name
