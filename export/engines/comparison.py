"""Engines held against ONNX Runtime on the GPU of this machine, and what follows when one is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import GmosError
from ...runtime.bundle.signature import Trust
from ...runtime.contract import NetworkName
from ...runtime.tensorrt.library import Flavour, TensorRT
from ...runtime.tensorrt.record import DeviceIdentity, EngineCheck


def compare_engines(
    bundle_root: Path,
    flavour: Flavour,
    networks: Sequence[NetworkName],
    *,
    device: int,
    trust: Trust | None = None,
) -> Mapping[NetworkName, EngineCheck]:
    """Hold engines against ONNX Runtime on the GPU of that number and note the result beside them.

    Raises:
        GmosError: an engine cannot be loaded or run, or there is no ONNX Runtime.
    """
    # Needs the CUDA bindings and ONNX Runtime, which building does not.
    from ...runtime.tensorrt.check import check_engines  # noqa: PLC0415

    try:
        # Needs onnx-ir, and nothing else of the export.
        from ..onnx.float32_twin import write_float32_twin as twin  # noqa: PLC0415
    except ImportError:
        twin = None  # type: ignore[assignment]
    return check_engines(bundle_root, flavour, networks, device=device, twin=twin, trust=trust)


def refuse_wrong(
    checks: Mapping[NetworkName, EngineCheck], library: TensorRT, device: DeviceIdentity | None
) -> None:
    """Raise if an engine gave wrong results.

    Raises:
        GmosError: with their names, and what can be tried.
    """
    wrong = [name for name, check in checks.items() if not check.passed]
    if wrong:
        raise GmosError(
            f"wrong results from the {library.label} engines of {', '.join(wrong)} on {device}: they are marked, "
            "and gmos-run refuses them; try another --opt-level, a bundle in fp32 or bf16, or another version"
        )
