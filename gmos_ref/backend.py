"""The runtime's backend on PyTorch: the reference networks and their tensors on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import GmosError
from ..runtime.arrays import HostArray, SimpleArrays
from ..runtime.backend import Runner
from ..runtime.contract import ModelSpec, NetworkName, network_specs
from ..runtime.host_memory import free_host_bytes
from ..runtime.precision import PRECISIONS, PrecisionName
from ..runtime.tracker import FrameFeatures
from .networks import HeadNetwork, ReferenceNetworks, Sam2Resize, foreground_map, proposal_labels
from .sam2.tracker import Sam2Tracker
from .sam2.tracker_networks import tracker_runners

RESOLUTIONS_KEPT = 4
"""Pi3 resolutions whose tables are kept; a run over many videos meets few."""

Inputs = Mapping[str, Any]
"""Tensors by name, and NumPy arrays where the contract reads on the host."""


def video_size(inputs: Inputs) -> tuple[int, int]:
    """The host input `video_hw` as a pair of ints."""
    height, width = np.asarray(inputs["video_hw"]).tolist()
    return height, width


class TorchArrays(SimpleArrays):
    """Tensors of one device. Copies to it are started and not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, host: NDArray[np.generic]) -> Tensor:
        """On a CPU the array's own memory."""
        return torch.from_numpy(host).to(self._device, non_blocking=True)

    def download(self, array: Tensor) -> NDArray[Any]:
        """Waits for the device."""
        whole = array.float() if array.is_floating_point() else array
        return whole.cpu().numpy()

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """A copy with a new first axis."""
        return torch.stack(list(arrays))

    def unstack(self, array: Tensor) -> Sequence[Tensor]:
        """Views."""
        return array.unbind()

    def between(self, first: Tensor, last: Tensor, shares: Sequence[float]) -> list[Tensor]:
        """On the device, in float32."""
        start = first.float()
        step = last.float() - start
        # As the host computes it for other backends, bit by bit.
        return [(start + step * share).to(first.dtype) for share in shares]

    def nbytes(self, array: Tensor) -> int:
        """Bytes of the elements."""
        return array.nbytes

    def to_host(self, array: Tensor) -> HostArray:
        """Pinned memory, if the device is a GPU."""
        host = torch.empty(
            array.shape, dtype=array.dtype, device="cpu", pin_memory=self._device.type == "cuda"
        )
        host.copy_(array)
        return HostArray(
            data=host.flatten().view(torch.uint8).numpy(),
            shape=tuple(array.shape),
            dtype=str(array.dtype).removeprefix("torch."),
        )

    def from_host(self, parked: HostArray) -> Tensor:
        """On a CPU the parked memory itself, if it can be written."""
        dtype = getattr(torch, parked.dtype)
        if not parked.data.size:  # torch cannot view no bytes as another dtype
            return torch.empty(parked.shape, dtype=dtype, device=self._device)
        # torch cannot share memory that is mapped read-only: that is a file, and read here.
        data = parked.data if parked.data.flags.writeable else np.array(parked.data)
        flat = torch.from_numpy(data).view(dtype)
        return flat.view(parked.shape).to(self._device, non_blocking=True)

    def free_bytes(self) -> int:
        """Of the GPU, beside what PyTorch keeps for later."""
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0]
        return free_host_bytes()

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within this, CUDA's float32 convolutions and products keep their 24 bits; PyTorch is as before afterwards.

    PyTorch rounds the factors of convolutions to the eleven bits of TF32 unless told otherwise. Its settings are those
    of the process.
    """
    # `fp32_precision` took the place of `allow_tf32` in torch 2.9; those who use both get an error.
    conv = getattr(torch.backends.cudnn, "conv", None)
    settings = (
        ((torch.backends.cudnn, "allow_tf32", False), (torch.backends.cuda.matmul, "allow_tf32", False))
        if conv is None
        else ((conv, "fp32_precision", "ieee"), (torch.backends.cuda.matmul, "fp32_precision", "ieee"))
    )
    before = [getattr(place, name) for place, name, _ in settings]
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)


class TorchBackend:
    """Runs the reference networks eagerly, as the published implementation does.

    `bf16` and `fp16` are autocast for Pi3, the SAM2 encoder and the tracker; the heads stay float32, with TF32
    where PyTorch allows it. In `fp32` nothing is rounded to TF32.
    """

    def __init__(
        self, model: ModelSpec, networks: ReferenceNetworks, *, device: torch.device, precision: PrecisionName
    ) -> None:
        self.model = model
        self.arrays = TorchArrays(device)
        self._device = device
        self._precision = precision
        self._dtype: torch.dtype = getattr(torch, PRECISIONS[precision].dtype)
        self._exact = device.type == "cuda" and precision == "fp32"
        self._sam2 = networks.sam2.to(device).eval()
        self._pi3 = networks.pi3.to(device).eval()
        no_mem_embed = self._sam2.no_mem_embed
        self._head = HeadNetwork(networks.head, no_mem_embed, model.kept_queries).to(device).eval()
        self._resize = Sam2Resize(model.sam2_image_px).to(device)
        self._tables = lru_cache(maxsize=RESOLUTIONS_KEPT)(self._pi3.tables)
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        self.description = f"torch {torch.__version__} on {device}{name}, {precision}{model.approximations}"
        self._networks: dict[str, Callable[[Inputs], dict[str, Tensor]]] = {
            "sam2_resize": lambda x: {"images": self._resize(x["frames"])},
            "dino": self._run_dino,
            "pi3_decoder": self._run_pi3_decoder,
            "sam2_encoder": self._run_sam2_encoder,
            "proposer": self._run_head,
            "gmos_s": self._run_head,
            "proposal_labels": lambda x: {"labels": proposal_labels(x["mask_logits"], video_size(x))},
            "foreground_map": self._run_foreground_map,
        }
        if model.variant == "gmos":
            self._networks |= tracker_runners(model, self._sam2)

    def runner(self, network: NetworkName) -> Runner:
        """The network's module in the precision of this backend; KeyError if the variant has none."""
        spec = network_specs(self.model)[network]
        run = self._networks[spec.name]

        def call(inputs: Inputs) -> dict[str, Tensor]:
            with torch.inference_mode(), self._network_context():
                return run(inputs)

        return call

    def tracker(
        self,
        features: FrameFeatures,
        *,
        frames: int | None,
        video_hw: tuple[int, int],
        max_conditioning: int | None = None,
        look_back: int = 0,
    ) -> Sam2Tracker:
        """The sam2 package's own tracker, as the published runs have it."""
        return Sam2Tracker(
            self._sam2,
            features,
            frames=frames,
            video_hw=video_hw,
            context=self._network_context,
            max_conditioning=max_conditioning,
            look_back=look_back,
        )

    def close(self) -> None:
        """Give the tables and what PyTorch keeps for later back."""
        self._tables.cache_clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run_dino(self, inputs: Inputs) -> dict[str, Tensor]:
        frames = inputs["frames"]
        patch = self.model.patch_px
        tables = self._tables(frames.shape[-2] // patch, frames.shape[-1] // patch)
        tokens = self._pi3.encode_frames(frames.float() / 255, tables)
        if not self.model.frame_blocks:
            return {"tokens": tokens}
        return dict(zip(("tokens", "registers"), self._pi3.decode_frames(tokens, tables), strict=True))

    def _run_pi3_decoder(self, inputs: Inputs) -> dict[str, Tensor]:
        tokens = inputs["tokens"]
        tables = self._tables(*tokens.shape[2:4])
        return {"geometry": self._pi3.decode_window(tokens, tables, inputs.get("registers"))}

    def _run_sam2_encoder(self, inputs: Inputs) -> dict[str, Tensor]:
        # Autocast leaves f in float32, as the sum of two levels; it is kept for the whole video, so it
        # is rounded like s0 and s1 here, in the precision that the layers after it read it in.
        return {
            name: maps.to(self._dtype) for name, maps in self._sam2.encode_image(inputs["images"]).items()
        }

    def _run_head(self, inputs: Inputs) -> dict[str, Tensor]:
        return self._head(*(inputs[name] for name in ("geometry", "s0", "s1", "f")))._asdict()

    def _run_foreground_map(self, inputs: Inputs) -> dict[str, Tensor]:
        mask, probability = foreground_map(inputs["foreground_logits"], video_size(inputs))
        return {"mask": mask, "probability": probability}

    @contextmanager
    def _network_context(self) -> Iterator[None]:
        """In the precision of this backend; out of memory is one line that says what to do."""
        half = self._dtype != torch.float32
        exact = exact_float32() if self._exact else nullcontext()
        try:
            with exact, torch.autocast(self._device.type, dtype=self._dtype, enabled=half):
                yield
        except torch.cuda.OutOfMemoryError as error:
            free, total = (value / 2**20 for value in torch.cuda.mem_get_info(self._device))
            raise GmosError(
                f"{self._device} is out of memory ({free:.0f} of {total:.0f} MiB free): lower --batch_size, "
                "or keep features in host memory with --offload_cpu"
            ) from error
