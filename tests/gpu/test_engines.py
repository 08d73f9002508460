"""Building on a real GPU: engines of every precision are right, and their records true."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.export.engines.build import EngineBuild, build_engines
from gmos_deploy.export.engines.options import BuildOptions, settled
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.tensorrt.gpu import find_device
from gmos_deploy.runtime.tensorrt.library import FLAVOURS, Flavour, TensorRT
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity, engine_directory, plan_path
from gmos_deploy.runtime.tensorrt.trust import find_record, verified_plan

pytestmark = pytest.mark.gpu

ATTENTIVE = ("dino", "pi3_decoder", "sam2_encoder", "memory_attention")
"""Networks whose attention is long enough to matter."""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_engine_is_built_and_right(
    flavour: Flavour,
    precision: str,
    gpu: DeviceIdentity,
    installed: Callable[[Flavour], TensorRT],
    gpu_bundle: Callable[[str], Bundle],
) -> None:
    """A wrong one would be an error of the build; each record says that it was compared here."""
    library, bundle = installed(flavour), gpu_bundle(precision)
    build_engines(bundle.root, flavour)
    for name in bundle.networks:
        record, plan = verified_plan(bundle, name, library, gpu)
        assert record.check is not None, name
        assert record.check.passed, name
        engine = library.deserialize(plan)
        sizes = [
            engine.get_device_memory_size_for_profile_v2(i) for i in range(engine.num_optimization_profiles)
        ]
        # The builder's log against the engine itself; alignment may add a little.
        assert all(
            abs(size - logged) <= 0.01 * size + 4096
            for size, logged in zip(sizes, record.activation_bytes, strict=True)
        )
        found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        assert found == {tensor.name for tensor in record.tensors}
        if precision != "fp32" and name in ATTENTIVE:
            assert record.attention["lost"] is None, name
    assert {outcome.action for outcome in build_engines(bundle.root, flavour)} == {"kept"}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_changed_plan_never_reaches_the_library(
    flavour: Flavour,
    gpu: DeviceIdentity,
    installed: Callable[[Flavour], TensorRT],
    gpu_bundle: Callable[[str], Bundle],
) -> None:
    """And is built again by the command that the refusal names."""
    library, bundle = installed(flavour), gpu_bundle("fp16")
    build_engines(bundle.root, flavour, networks=["mask_decoder"])
    path = plan_path(engine_directory(bundle.root, flavour), "mask_decoder")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(GmosError, match=r"has changed since it was built; do not trust it"):
        verified_plan(bundle, "mask_decoder", library, gpu)
    (outcome,) = build_engines(bundle.root, flavour, networks=["mask_decoder"])
    assert outcome.action == "built"


@pytest.mark.parametrize(
    "options",
    [
        {"version_compatible": True},
        {"hardware_compatible": "ampere-plus"},
        {"hardware_compatible": "same-capability"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_compatible_engines_build_and_are_right(
    options: dict[str, object],
    gpu: DeviceIdentity,
    installed: Callable[[Flavour], TensorRT],
    gpu_bundle: Callable[[str], Bundle],
    tmp_path: Path,
) -> None:
    """Where the installed version has them; a timing cache is left for the next build."""
    library, bundle = installed("tensorrt"), gpu_bundle("fp16")
    asked = BuildOptions(timing_cache=tmp_path / "tactics.cache", **options)  # type: ignore[arg-type]
    try:
        chosen = settled(asked, library, gpu)
    except GmosError as error:
        pytest.skip(str(error))
    build = EngineBuild(bundle=bundle, library=library, device=gpu, options=chosen)
    build_engines(bundle.root, "tensorrt", networks=["mask_decoder"], build=build)
    check = find_record(bundle, "mask_decoder", "tensorrt").check
    assert check is not None
    assert check.passed
    assert (tmp_path / "tactics.cache").stat().st_size > 0


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_second_gpu_builds_and_runs(
    flavour: Flavour,
    installed: Callable[[Flavour], TensorRT],
    gpu_bundle: Callable[[str], Bundle],
    tmp_path: Path,
) -> None:
    """With --device 1: the engine is of that GPU and was compared on it."""
    second, library = find_device(1), installed(flavour)
    if second is None:
        pytest.skip("this machine has one GPU")
    if library.builds_ahead and second.target not in library.targets:
        pytest.skip(f"{library.label} has no kernels for {second}")
    root = Path(shutil.copytree(gpu_bundle("fp16").root, tmp_path / "bundle"))
    build_engines(root, flavour, networks=["mask_decoder"], device=1, force=True)
    record = find_record(open_bundle(root), "mask_decoder", flavour)
    assert record.check is not None
    assert (record.check.passed, record.check.device) == (True, second.name)
    if not library.builds_ahead:
        assert record.device == second
