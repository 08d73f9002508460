"""What each of several workers gets of a machine: cores, host memory, a GPU or a part of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import GmosError
from ..runtime.cuda.driver import device_count
from ..runtime.host_memory import usable_cores
from .sequence_runner import RunSettings

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What libraries read when they are loaded."""

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A worker's part: settings of its runs, and variables of its environment that it must start with."""

    settings: RunSettings
    environment: Mapping[str, str]


def local_shares(settings: RunSettings, workers: int) -> list[Share]:
    """The parts of the workers of this machine.

    Threads are --threads, else the cores divided; budgets that were given are those of all workers together, and are
    divided. Several GPUs that are not chosen by number are dealt out; workers on one have an equal part of it.

    Args:
        settings: of the run.
        workers: how many.

    Raises:
        GmosError: engines are to be built first.
    """
    if settings.networks.build:
        raise GmosError(
            "--build and --workers were both given, and workers would build the same engines at once; build them first "
            "with gmos-export build-engines"
        )
    cores = usable_cores()
    cards = _cards(settings.networks.device)
    shares = []
    for k in range(workers):
        # The first ones take what does not divide evenly.
        threads = settings.networks.threads or max(1, cores // workers + (k < cores % workers))
        on_card = 1 if not cards else len(range(k % len(cards), workers, len(cards)))
        environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
        if len(cards) > 1:
            environment[VISIBLE] = cards[k % len(cards)]
        shares.append(
            Share(
                settings=shared(
                    settings,
                    threads=threads,
                    host_share=1 / workers,
                    device_share=1 / on_card if cards else 1 / workers,
                ),
                environment=environment,
            )
        )
    return shares


def shared(settings: RunSettings, *, threads: int, host_share: float, device_share: float) -> RunSettings:
    """The settings of a worker that has a part of a machine.

    Args:
        settings: of the run.
        threads: of the worker, 0 for one per physical core.
        host_share: its part of host memory, above 0 and up to 1.
        device_share: its part of a GPU.
    """
    networks, options = settings.networks, settings.options
    return replace(
        settings,
        networks=replace(
            networks,
            threads=threads,
            memory_share=device_share,
            memory_budget=_part(networks.memory_budget, device_share, least=1),
        ),
        options=replace(
            options,
            device_budget=_part(options.device_budget, device_share),
            host_budget=_part(options.host_budget, host_share),
            memory_share=min(host_share, device_share),
        ),
    )


def _part(whole: int | None, share: float, least: int = 0) -> int | None:
    return None if whole is None else max(least, int(whole * share))


def _cards(device: str) -> list[str]:
    """The GPUs that a device's name leaves open, as `CUDA_VISIBLE_DEVICES` calls them."""
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get(VISIBLE)
    named = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    count = device_count()
    return (named or [])[:count] if named is not None else [str(k) for k in range(count)]
