"""How to run the pipeline, as opposed to on what and to where."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ..arrays import Arrays
from ..contract import Variant
from ..frame_result import MOS_I_ONLY
from ..host_memory import free_host_bytes, usable_cores
from ..levers import EXACT, Levers
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
    return max(1, min(4, usable_cores(), threads_asked_for() or usable_cores()))


def threads_asked_for() -> int | None:
    """What whoever started this process lets it compute with, as OpenMP's variable says; None if it says nothing."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) else None


ALL_CONDITIONING = -1
"""Of --max_conditioning: as many as there are (published scripts; so spells it SAM2's max_cond_frames_in_attn)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditioningLimit:
    """The greatest number of conditioning memories of an object that this run's networks take.

    `problem` says what takes no more, `ways` how to get by.
    """

    most: int
    problem: str
    ways: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run.

    `device_budget`, `host_budget` in bytes bound what features of a video may take there; None is a
    quarter of what is free at the start. Features beyond both go to a file in `spill_dir`. Of an object's
    conditioning memories a frame reads at most `max_conditioning`; None: all, as published. `conditioning_limit`
    is what the networks can take, where there is a limit. `allow_nonfinite`: values that are not finite end no run.
    `levers` are those that trade masks for time. `mos_i_only`: GMOS ends with MOS-I, without its second pass.
    `memory_share` is this process's part of what is free, above 0 and up to 1, where several run side by side.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    thresholds: Thresholds = PUBLISHED
    device_budget: int | None = None
    host_budget: int | None = None
    spill_dir: Path | None = None
    prefetch_frames: int = PREFETCH_FRAMES
    max_conditioning: int | None = None
    conditioning_limit: ConditioningLimit | None = None
    allow_nonfinite: bool = False
    levers: Levers = EXACT
    mos_i_only: bool = False
    memory_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_conditioning"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise GmosError(f"--{name} {value!r}: expected a whole number")
        if self.max_conditioning is not None and self.max_conditioning < 2:
            raise GmosError(
                f"--max_conditioning {self.max_conditioning}: expected 2 memories or more, as SAM2 does, or "
                f"{ALL_CONDITIONING} for all"
            )
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
        max_conditioning: int = ALL_CONDITIONING,
        allow_nonfinite: bool = False,
        levers: Levers = EXACT,
        mos_i_only: bool = False,
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
            max_conditioning=None if max_conditioning == ALL_CONDITIONING else max_conditioning,
            allow_nonfinite=allow_nonfinite,
            levers=levers,
            mos_i_only=mos_i_only,
        )

    def settings(self) -> dict[str, Any]:
        """What of it changes results, as JSON values."""
        found: dict[str, Any] = {}
        if self.thresholds != PUBLISHED:
            found["thresholds"] = asdict(self.thresholds)
        if self.max_conditioning is not None:
            found["max_conditioning"] = self.max_conditioning
        if self.mos_i_only:
            found[MOS_I_ONLY] = True
        return found | self.levers.settings()

    def require(self, variant: Variant) -> None:
        """Refuse what is not for a variant.

        Raises:
            GmosError: GMOS-S is asked to leave something of GMOS out.
        """
        given = {
            "mos_i_only": self.mos_i_only,
            "propose_every": self.levers.propose_every != EXACT.propose_every,
        }
        for name, value in given.items():
            if value and variant != "gmos":
                raise GmosError(
                    f"--{name} is for GMOS, which tracks what it proposes, and this is {variant}; leave it out"
                )

    def require_stream(self) -> None:
        """Refuse what is for files.

        Raises:
            GmosError: a lever that needs frames to come, or a second pass to leave out, which a stream does not have.
        """
        self.levers.require_file()
        if self.mos_i_only:
            raise GmosError(f"--{MOS_I_ONLY} is for files: a stream has no second pass; leave it out")

    def conditioning_bound(self, frames: int) -> int:
        """How many conditioning memories of an object a frame of such a video reads at most in stage 2."""
        bound = math.ceil(self.thresholds.stage2_share * frames)
        return bound if self.max_conditioning is None else min(bound, self.max_conditioning)

    def feature_budget(self, arrays: Arrays) -> FeatureBudget:
        """The budget of a run that starts now."""
        device, host = self.device_budget, self.host_budget
        share = FREE_MEMORY_SHARE * self.memory_share
        return FeatureBudget(
            device=int(share * arrays.free_bytes()) if device is None else device,
            host=int(share * free_host_bytes()) if host is None else host,
            spill_dir=self.spill_dir,
        )
