"""How to run the pipeline, as opposed to on what and to where."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ..arrays import Arrays
from ..host_memory import free_host_bytes
from .feature_store import FeatureBudget
from .thresholds import PUBLISHED, Thresholds

MIB = 1 << 20

FREE_MEMORY_SHARE = 0.25
"""Share of the memory free at the start that features may take, on the device and on the host."""

DEFAULT_BATCH_SIZE = 8
"""Windows per network call (published scripts)."""

PREFETCH_FRAMES = 8
"""Frames decoded and resized ahead of use."""


def prepare_workers() -> int:
    """Threads that resize frames; Pillow's Lanczos filter is the slow step and releases the GIL."""
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run.

    `device_budget`, `host_budget` in bytes bound what features of a video may take there; None is a
    quarter of what is free at the start. Features beyond both go to a file in `spill_dir`.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    thresholds: Thresholds = PUBLISHED
    device_budget: int | None = None
    host_budget: int | None = None
    spill_dir: Path | None = None
    prefetch_frames: int = PREFETCH_FRAMES

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise GmosError(f"--batch_size {self.batch_size}: expected at least 1 window")
        for name in ("device_budget", "host_budget"):
            budget = getattr(self, name)
            if budget is not None and budget < 0:
                raise GmosError(f"--{name} {budget}: expected 0 or more")
        if self.spill_dir is not None and not self.spill_dir.is_dir():
            raise GmosError(f"--spill_dir {self.spill_dir}: expected an existing directory")

    @classmethod
    def in_mib(
        cls,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        thresholds: Thresholds = PUBLISHED,
        offload_cpu: bool = False,
        device_budget: int | None = None,
        host_budget: int | None = None,
        spill_dir: Path | None = None,
    ) -> RunOptions:
        """From what commands take: budgets in MiB, and `offload_cpu` for features of which none stay on the device.

        Raises:
            GmosError: a value is out of range, or `offload_cpu` and `device_budget` contradict each other.
        """
        if offload_cpu and device_budget:
            raise GmosError(
                f"--offload_cpu and --device_budget {device_budget} contradict each other; give one"
            )
        device = 0 if offload_cpu else device_budget
        return cls(
            batch_size=batch_size,
            thresholds=thresholds,
            device_budget=None if device is None else device * MIB,
            host_budget=None if host_budget is None else host_budget * MIB,
            spill_dir=spill_dir,
        )

    def settings(self) -> dict[str, Any]:
        """What of it changes results, as JSON values."""
        return {} if self.thresholds == PUBLISHED else {"thresholds": asdict(self.thresholds)}

    def feature_budget(self, arrays: Arrays) -> FeatureBudget:
        """The budget of a run that starts now."""
        device, host = self.device_budget, self.host_budget
        return FeatureBudget(
            device=int(FREE_MEMORY_SHARE * arrays.free_bytes()) if device is None else device,
            host=int(FREE_MEMORY_SHARE * free_host_bytes()) if host is None else host,
            spill_dir=self.spill_dir,
        )
