"""What an engine is built with, checked against what the library on this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...runtime.precision import PRECISIONS
from ...runtime.tensorrt.library import HardwareLevel, TensorRT
from ...runtime.tensorrt.record import DeviceIdentity

OPT_LEVELS = (0, 5)
"""Least and greatest effort of the builder; 3 is its default."""

MOST_WORKSPACE_MIB = 1 << 40
"""What the library's count of bytes holds, and more than any device has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of a build; None leaves a choice to the library.

    `workspace_mib` bounds the scratch memory of a layer; `timing_cache` is a file that tactics are kept
    in, made if it is not there. `half_sums` leaves the library to sum long fp16 products in float16.
    """

    targets: tuple[str, ...] = ()
    workspace_mib: int | None = None
    opt_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: HardwareLevel | None = None
    tf32: bool = False
    half_sums: bool = False

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MOST_WORKSPACE_MIB:
            raise GmosError(f"--workspace {self.workspace_mib}: expected 1 to {MOST_WORKSPACE_MIB} MiB")
        least, greatest = OPT_LEVELS
        if self.opt_level is not None and not least <= self.opt_level <= greatest:
            raise GmosError(f"--opt-level {self.opt_level}: expected {least} to {greatest}")

    def record(self) -> dict[str, Any]:
        """What decides what the engine is, as JSON values; where tactics were kept does not."""
        return {
            "workspace_mib": self.workspace_mib,
            "opt_level": self.opt_level,
            "version_compatible": self.version_compatible,
            "hardware_compatible": self.hardware_compatible,
            "tf32": self.tf32,
            "half_sums": self.half_sums,
        }


def settled(options: BuildOptions, library: TensorRT, device: DeviceIdentity | None) -> BuildOptions:
    """The options with their targets settled, after a check that the library has what they ask for.

    Args:
        options: as given.
        library: that builds.
        device: the GPU of this machine, None without one.

    Raises:
        GmosError: the library lacks an option, which the message names, or there is nothing to build for.
    """
    if options.version_compatible and not library.has_version_compatible:
        raise GmosError(f"--version-compatible: {library.label} cannot build such engines; leave it out")
    if options.timing_cache is not None and not library.has_timing_cache:
        raise GmosError(
            f"--timing-cache: {library.label} times nothing while it builds; leave it out (kernels are tuned and "
            "cached at the first run)"
        )
    level = options.hardware_compatible
    if level is not None and level not in library.hardware_levels:
        has = (
            f"it has {', '.join(library.hardware_levels)}"
            if library.hardware_levels
            else "name GPUs with --target"
        )
        raise GmosError(f"--hardware-compatible {level}: {library.label} lacks it; {has}")
    if library.builds_ahead:
        return replace(options, targets=_known_targets(options.targets, library, device))
    if options.targets:
        raise GmosError(
            f"--target {','.join(options.targets)}: {library.label} builds for the GPU of this machine only; leave it "
            "out, or use --backend tensorrt-rtx"
        )
    if device is None:
        raise GmosError(
            f"{library.label} builds on the GPU that will run the engines, and none was found here; run this on "
            "the device, or use --backend tensorrt-rtx --target"
        )
    return options


def _known_targets(given: Sequence[str], library: TensorRT, device: DeviceIdentity | None) -> tuple[str, ...]:
    known = ", ".join(library.targets)
    if not given:
        if device is None:
            raise GmosError(
                f"--target is missing, and no GPU was found here to build for; {library.label} builds for {known}"
            )
        given = (device.target,)
    for target in given:
        if target not in library.targets:
            raise GmosError(f"--target {target}: {library.label} builds for {known}")
    return tuple(sorted(set(given), key=library.targets.index))


def check_precision(precision: str, options: BuildOptions) -> None:
    """Refuse a precision that a target lacks.

    Raises:
        GmosError: bf16 or fp8 for a GPU without it.
    """
    chosen = PRECISIONS[precision]
    lacking = [target for target in options.targets if target in chosen.lacking_targets]
    if lacking:
        verb = "calibrate" if chosen.quantised else "export"
        raise GmosError(
            f"--target {lacking[0]}: it has no {chosen.weight_dtype.split('_')[0]}, and the bundle is {precision}; "
            f"leave the target out, or {verb} with --precision {chosen.instead}"
        )
