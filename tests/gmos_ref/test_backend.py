"""The reference backend: array operations, precision, and the contract of every network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.loading import choose_device, choose_precision, load_reference
from gmos_deploy.gmos_ref.presets import TINY, model_spec
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.contract import ModelSpec, TensorSpec, Variant, network_specs
from gmos_deploy.runtime.precision import PrecisionName
from gmos_deploy.runtime.shapes import GRID_AXES, VIDEO_AXES, size_of, with_pi3

BATCH, VIDEO_HW, GRID_HW, OBJECTS, MEMORIES, POINTERS = 2, (40, 60), (3, 4), 3, 2, 4
CPU = torch.device("cpu")


def make_backend(variant: Variant = "gmos", precision: PrecisionName = "fp32") -> TorchBackend:
    networks = stand_in_networks(TINY, variant)
    return TorchBackend(model_spec(TINY, variant), networks, device=CPU, precision=precision)


@pytest.fixture(scope="module")
def backend() -> Iterator[TorchBackend]:
    made = make_backend()
    yield made
    made.close()


def axis_lengths(model: ModelSpec) -> dict[str, int]:
    counts = {"B": BATCH, "O": OBJECTS, "R": MEMORIES, "P": POINTERS}
    fixed = dict(zip((*VIDEO_AXES, *GRID_AXES), (*VIDEO_HW, *GRID_HW), strict=True))
    return with_pi3({**counts, **fixed}, model.patch_px)


def example(spec: TensorSpec, lengths: dict[str, int], model: ModelSpec) -> np.ndarray:
    if spec.host:
        return np.array(VIDEO_HW, np.int64)
    generator = np.random.default_rng(len(spec.name))
    shape = size_of(spec, lengths)
    if spec.dtype == "uint8":
        return generator.integers(0, 2 if spec.name == "prompt" else 256, shape, dtype=np.uint8)
    if spec.dtype == "int64":
        return generator.integers(0, model.memory_frames, shape, dtype=np.int64)
    return generator.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_network_keeps_its_contract(variant: Variant, precision: PrecisionName) -> None:
    """Each runner takes the contract's inputs and gives its outputs: names, shapes, dtypes, finite."""
    backend = make_backend(variant, precision)
    for name, spec in network_specs(backend.model).items():
        lengths = axis_lengths(backend.model)
        if name in ("mask_prompt", "memory_attention", "mask_decoder", "memory_encoder"):
            # The tracker's networks take one frame's features for all objects.
            lengths["B"] = 1
        inputs = {}
        for tensor in spec.inputs:
            host = example(tensor, lengths, backend.model)
            inputs[tensor.name] = host if tensor.host else backend.arrays.upload(host)
        outputs = backend.runner(name)(inputs)
        assert list(outputs) == [tensor.name for tensor in spec.outputs], name
        for tensor in spec.outputs:
            value = outputs[tensor.name]
            expected = [lengths[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
            assert list(value.shape) == expected, (name, tensor.name)
            if tensor.dtype in ("uint8", "float32"):
                assert value.dtype is getattr(torch, tensor.dtype), (name, tensor.name)
            assert torch.isfinite(value.float()).all(), (name, tensor.name)


def test_a_network_of_the_other_variant_is_a_key_error(backend: TorchBackend) -> None:
    """The pipeline never asks for one."""
    with pytest.raises(KeyError):
        backend.runner("gmos_s")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_parked_arrays_come_back_bit_for_bit(backend: TorchBackend, dtype: torch.dtype) -> None:
    """Also those that numpy has no dtype for, and slices of a batch."""
    batch = (torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1)) * 50).to(dtype)
    array = backend.arrays.unstack(batch)[1]
    parked = backend.arrays.to_host(array)
    assert parked.data.nbytes == backend.arrays.nbytes(array)
    assert torch.equal(backend.arrays.from_host(parked), array)
    parked.data.flags.writeable = False
    assert torch.equal(backend.arrays.from_host(parked), array)


def test_stack_and_unstack_are_inverse(backend: TorchBackend) -> None:
    """A new first axis, and gone again."""
    arrays = [backend.arrays.upload(np.full((2, 3), value, np.float32)) for value in range(3)]
    stacked = backend.arrays.stack(arrays)
    assert tuple(stacked.shape) == (3, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(backend.arrays.unstack(stacked), arrays, strict=True))
    half = stacked.bfloat16()
    assert backend.arrays.download(half).dtype == np.float32


def test_half_precision_features_are_stored_in_half(backend: TorchBackend) -> None:
    """Under bf16 the features that the tracker keeps take half of the bytes."""
    half = make_backend(precision="bf16")
    images = np.zeros((1, 3, TINY.sam2.image_px, TINY.sam2.image_px), np.float32)
    full_size, half_size = (
        sum(
            b.arrays.nbytes(array)
            for array in b.runner("sam2_encoder")({"images": b.arrays.upload(images)}).values()
        )
        for b in (backend, half)
    )
    assert half_size * 2 == full_size


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "--device tpu: expected cpu, cuda, cuda:N or auto"),
        ("cuda:x", "--device cuda:x: expected cpu, cuda, cuda:N or auto"),
    ],
)
def test_an_unknown_device_is_refused(device: str, message: str) -> None:
    """With what is expected."""
    with pytest.raises(GmosError, match=message):
        choose_device(device)


def test_precision_follows_the_device() -> None:
    """Left to itself, float32 on a CPU; fp16 is refused there, nothing falls back."""
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(GmosError, match="--precision fp16: not on a CPU; use fp32 or bf16"):
        choose_precision("fp16", CPU)
    with pytest.raises(GmosError, match="--precision int4: expected auto, fp32, bf16 or fp16"):
        choose_precision("int4", CPU)


def float32_settings() -> tuple[object, ...]:
    """What PyTorch may round float32 to on CUDA: in convolutions and in products."""
    backends = torch.backends
    return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision


@pytest.mark.parametrize("exact", [True, False])
def test_float32_on_cuda_is_not_rounded_to_tf32(exact: bool) -> None:
    """In every network and in the tracker; PyTorch's settings are those of before in between and afterwards."""
    backend, before = make_backend(), float32_settings()
    assert not backend._exact, "on a CPU there is nothing to set"
    backend._exact = exact
    seen = []
    backend._networks["sam2_resize"] = lambda inputs: seen.append(float32_settings()) or {}
    backend.runner("sam2_resize")({})
    with backend._network_context():
        seen.append(float32_settings())
    assert seen == [("ieee", "ieee") if exact else before] * 2
    assert float32_settings() == before
    with pytest.raises(ValueError, match="in a network"), backend._network_context():
        raise ValueError("in a network")
    assert float32_settings() == before


def test_out_of_memory_says_what_to_lower(backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's error becomes one line with the options that help."""

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setitem(backend._networks, "sam2_resize", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 20, 8 << 30))
    with pytest.raises(
        GmosError, match=r"out of memory \(3 of 8192 MiB free\): lower --batch_size, .*--offload_cpu"
    ):
        backend.runner("sam2_resize")({})


def test_stand_in_weights_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody takes their masks for GMOS's."""
    load_reference(ReferenceConfig(variant="gmos-s", preset="tiny", device="cpu")).close()
    assert "untrained stand-in weights, its masks mean nothing" in caplog.text
