"""Workers on a Ray cluster, or on this machine by Ray: actors that hold the networks, one video at a time each."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import GmosError, MachineError
from ..runtime.cuda.driver import device_count
from ..runtime.host_memory import usable_cores
from ..runtime.results.outputs import check_save_dir
from .dispatch import Died, Ended, Lifelines
from .listing import Item
from .segmenter import PATHS, Segmenter, absolute
from .sequence_runner import RunSettings

logger = logging.getLogger(__name__)

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, which ends with the run."""

TELEMETRY_OFF = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}
LOOPBACK = "127.0.0.1"

WAITED_S = 60.0
"""Without a single worker after so long, it is said what they wait for."""

REASON_LETTERS = 300


ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


def is_address(text: str) -> bool:
    """Whether what follows --ray is an address; else it is an input."""
    return ADDRESS.fullmatch(text) is not None and not Path(text).exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class RayChoice:
    """Where, and what a worker gets.

    `address` of a cluster, "auto" for the one that this machine belongs to, or `LOCAL`. `workers` None: as many as
    there is room for. `gpus` may be a part of one; None is one where the cluster has GPUs.
    """

    address: str = LOCAL
    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.cpus < math.inf:
            raise GmosError(f"--cpus_per_worker {self.cpus:g}: expected more than 0")
        if self.gpus is not None and (
            not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus != int(self.gpus))
        ):
            raise GmosError(
                f"--gpus_per_worker {self.gpus:g}: expected a part of a GPU, such as 0.5, or a whole number of them"
            )


@dataclass(slots=True, kw_only=True)
class _Actor:
    handle: Any
    starting: Any
    """Of `Segmenter.ready`; None once it is."""
    running: Any = None
    item: Item | None = None


class RayWorkers:
    """Actors of a cluster. A context manager.

    Args:
        choice: where.
        settings: of the run.
        marker: a file in the place of the results that this process has written: workers must see it.
        sequences: how many there are at most.
        actor: what Ray keeps alive; it has `run`, `ready` and `facts`.

    Raises:
        GmosError: Ray is not installed or not reached, or has no room for a single worker.
    """

    def __init__(
        self, choice: RayChoice, settings: RunSettings, marker: Path, sequences: int, actor: type = Segmenter
    ) -> None:
        self._ray = _import_ray()
        self._choice = choice
        self._settings = with_absolute_paths(settings)
        self._marker = absolute(str(marker))
        self._sequences = sequences
        self._actor = actor
        self._actors: list[_Actor] = []
        self._began = False
        self._printing = ExitStack()
        self._told = False
        self._start = time.monotonic()

    def __enter__(self) -> RayWorkers:
        ray = self._ray
        # Ray shows what is printed elsewhere; standard output is the summary's, which holds it already.
        self._printing.enter_context(redirect_stdout(sys.stderr))
        try:
            if not ray.is_initialized():
                with _own_signals():
                    _connect(ray, self._choice.address)
                self._began = True
            count, options = self._room()
            self._lifelines = Lifelines(count)
            self._class = ray.remote(self._actor).options(
                max_restarts=0, scheduling_strategy="SPREAD", **options
            )
            for _ in range(count):
                self._actors.append(self._new())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def idle(self) -> list[int]:
        """See `dispatch.Pool`."""
        return [k for k, one in enumerate(self._actors) if one.starting is None and one.running is None]

    def give(self, worker: int, item: Item) -> None:
        """See `dispatch.Pool`."""
        actor = self._actors[worker]
        actor.item = item
        actor.running = actor.handle.run.remote(replace(item, given=absolute(item.given)))

    def events(self, timeout_s: float) -> list[Ended | Died]:
        """See `dispatch.Pool`."""
        waiting = {one.running or one.starting: k for k, one in enumerate(self._actors)}
        waiting.pop(None, None)
        if not waiting:
            time.sleep(timeout_s)
            return []
        ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=timeout_s)
        if ready:
            # All that has come meanwhile.
            ready, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        self._tell_waiting()
        found = (self._heard(waiting[reference], reference) for reference in ready)
        return [event for event in found if event is not None]

    def close(self) -> None:
        """See `dispatch.Pool`."""
        for one in self._actors:
            with suppress(Exception):
                self._ray.kill(one.handle)
        self._actors.clear()
        if self._began:
            self._ray.shutdown()
            self._began = False
        self._printing.close()
        # What workers had begun that could not clear up: of a lost node's, one may have died after the next had looked.
        with suppress(GmosError):
            check_save_dir(self._settings.save_dir)

    def _room(self) -> tuple[int, dict[str, float]]:
        """How many workers, and what each asks of Ray."""
        has = self._ray.cluster_resources()
        gpus = self._choice.gpus
        if gpus is None:
            gpus = 1.0 if has.get("GPU") and self._settings.networks.device != "cpu" else 0.0
        asked = {"num_cpus": self._choice.cpus, "num_gpus": gpus}
        room = int(has.get("CPU", 0) / self._choice.cpus)
        if gpus:
            # Parts of GPUs are not put together.
            cards = int(has.get("GPU", 0))
            room = min(room, cards * int(1 / gpus) if gpus <= 1 else int(cards / gpus))
        if not room and self._choice.workers is None:
            raise GmosError(
                f"the cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs, no room for a worker of "
                f"{self._choice.cpus:g} and {gpus:g}; lower --cpus_per_worker or --gpus_per_worker, or give --workers "
                "where the cluster grows"
            )
        return max(1, min(self._choice.workers or room, self._sequences)), asked

    def _new(self) -> _Actor:
        handle = self._class.remote(self._settings)
        return _Actor(handle=handle, starting=handle.ready.remote(self._marker))

    def _heard(self, k: int, reference: Any) -> Ended | Died | None:  # noqa: ANN401 - Ray's
        actor, exceptions = self._actors[k], self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, GmosError):
                raise MachineError(str(cause)) from error
            return self._died(k, f"{type(cause).__name__}: {cause}")
        except exceptions.RayError as error:
            reason = " ".join(str(error).split())
            if isinstance(error, exceptions.RayActorError) and "creation task" in reason:
                cause = getattr(error, "cause", None)
                raise MachineError(reason if cause is None else str(cause)) from error
            return self._died(k, reason[:REASON_LETTERS])
        if actor.starting is not None:
            actor.starting = None
            if answer:
                raise MachineError(
                    f"--save_dir {self._settings.save_dir}: {answer}, which was written for it; expected a place on a "
                    "file system that all nodes share"
                )
            return None
        actor.item = actor.running = None
        self._lifelines.done()
        backend, load_s = (None, 0.0) if answer.status != "done" else self._facts(actor)
        return Ended(worker=k, summary=answer, backend=backend, load_s=load_s)

    def _facts(self, actor: _Actor) -> tuple[str | None, float]:
        if self._told_facts:
            return None, 0.0
        with suppress(self._ray.exceptions.RayError):
            found: tuple[str | None, float] = self._ray.get(actor.handle.facts.remote(), timeout=10)
            self._told_facts = True
            return found
        return None, 0.0

    _told_facts = False

    def _died(self, k: int, reason: str) -> Died:
        with suppress(Exception):
            self._ray.kill(self._actors[k].handle)
        self._actors[k] = self._new()
        self._lifelines.died(reason)
        return Died(worker=k, reason=reason)

    def _tell_waiting(self) -> None:
        starting = sum(one.starting is not None for one in self._actors)
        if not self._told and starting == len(self._actors) and time.monotonic() - self._start > WAITED_S:
            self._told = True
            logger.warning(
                "no worker has started yet: %d wait for room on the cluster (ray status tells)", starting
            )


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """The same settings in every working directory."""
    networks, spill = settings.networks, settings.options.spill_dir
    found = {name: getattr(networks, name) for name in PATHS}
    paths: dict[str, Any] = {
        name: None if path is None else Path(absolute(str(path))) for name, path in found.items()
    }
    return replace(
        settings,
        save_dir=Path(absolute(str(settings.save_dir))),
        networks=replace(
            networks,
            trust=tuple(Path(absolute(str(path))) for path in networks.trust),
            **paths,
        ),
        options=replace(settings.options, spill_dir=None if spill is None else Path(absolute(str(spill)))),
    )


def _import_ray() -> Any:  # noqa: ANN401 - an extra
    os.environ.update({name: os.environ.get(name, value) for name, value in TELEMETRY_OFF.items()})
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.exceptions  # noqa: PLC0415 - the same
    except ImportError as error:
        raise GmosError(
            f"--ray needs Ray ({error}); install it with pip install 'gmos-deploy[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:  # noqa: ANN401 - as above
    try:
        if address == LOCAL:
            ray.init(
                address=LOCAL,
                num_cpus=usable_cores(),
                num_gpus=device_count(),
                include_dashboard=False,
                configure_logging=False,
                _node_ip_address=LOOPBACK,
            )
        else:
            ray.init(address=address, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GmosError(
            f"--ray {address}: no cluster is reached there ({' '.join(str(error).split()):.{REASON_LETTERS}}); "
            "expected auto on a node of one, or its HOST:PORT; without an address Ray starts on this machine"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the answers to signals that the command has: Ray sets its own."""
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.getsignal(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
