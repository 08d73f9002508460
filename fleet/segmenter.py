"""Videos in, records out: what Ray keeps alive on a cluster, for Ray Data and for gmos-run.

    from gmos_deploy.fleet import Segmenter, rows_of

    ray.data.from_items(rows_of(["/shared/clips/*.mp4"])).map_batches(
        Segmenter, fn_constructor_kwargs={"save_dir": "/shared/out"}, batch_size=1, num_gpus=0.5, concurrency=4
    )

Nothing here imports Ray but what asks it, inside one of its workers, for the part of a machine that this one has.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..errors import GmosError, MachineError
from ..networks import NetworkChoice
from ..runtime.host_memory import usable_cores
from ..runtime.pipeline.options import RunOptions
from ..runtime.results.outputs import check_save_dir
from .batch import run_one
from .listing import Item, list_inputs
from .sequence_runner import RunSettings, SequenceRunner
from .shares import shared
from .statuses import SequenceSummary
from .worker_process import WorkerLog

logger = logging.getLogger(__name__)

PATHS = ("bundle", "pi3_ckpt", "sam2_ckpt", "gmos_ckpt", "gmos_s_ckpt")
IN_MIB = ("offload_cpu", "device_budget", "host_budget")
MIB = 1 << 20

SEEN_S = 10.0
"""A new file on a shared file system may take so long to be seen everywhere."""

LOST_STATUS = 70
"""A worker ends with it when its device is lost, to be started anew."""


def rows_of(inputs: Iterable[str | Path]) -> list[dict[str, str]]:
    """Rows for Ray Data of inputs as gmos-run's: `path`, absolute, and `name`, distinct over the whole list.

    Raises:
        GmosError: as `list_inputs`.
    """
    return [{"path": absolute(item.given), "name": item.name} for item in list_inputs(inputs).items]


def absolute(path: str) -> str:
    """The same input wherever a process runs."""
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100 - links stay what they are called


def settings_of(*, save_dir: str | Path, **options: Any) -> RunSettings:
    """Settings of a run by `gmos-run`'s names of its options, budgets in MiB.

    Sequences that are finished with the same settings are skipped, unless `existing` is "error" or "overwrite".

    Raises:
        GmosError: an option that does not exist, or that cannot be used.
    """
    choice = {one.name for one in fields(NetworkChoice)}
    how = {one.name for one in fields(RunOptions)} | set(IN_MIB)
    run = {one.name for one in fields(RunSettings)} - {"networks", "options", "save_dir"}
    unknown = sorted(set(options) - choice - how - run)
    if unknown:
        raise GmosError(
            f"{unknown[0]}: no option of a run; expected some of {', '.join(sorted(choice | how | run))}"
        )
    networks: dict[str, Any] = {name: value for name, value in options.items() if name in choice}
    networks |= {name: Path(value) for name, value in networks.items() if name in PATHS and value is not None}
    if networks.get("memory_budget") is not None:
        networks["memory_budget"] *= MIB
    return RunSettings(
        networks=NetworkChoice(**networks),
        options=RunOptions.in_mib(
            **{name: value for name, value in options.items() if name in how - choice},
        ),
        save_dir=Path(save_dir),
        **{"existing": "resume", **{name: value for name, value in options.items() if name in run}},
    )


class Segmenter:
    """Holds networks and runs the videos it is given. Each is filed as gmos-run files it.

    Args:
        settings: of the run, for whoever has them; else
        options: as `settings_of`.

    Inside a Ray worker its CPUs are the threads of the networks, and its part of a GPU bounds what it takes there.

    Raises:
        GmosError: something given cannot be used, or the results cannot be written.
    """

    def __init__(self, settings: RunSettings | None = None, **options: Any) -> None:
        given = settings_of(**options) if settings is None else settings
        self._log = _worker_log()
        self._runner = SequenceRunner(_share_of_ray(given))
        check_save_dir(given.save_dir)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Run a batch of Ray Data.

        Args:
            batch: columns `path` and, where names are not those of the files, `name`.

        Returns:
            Columns `path`, `name`, `status` (done, skipped, failed), `error` (empty if there is none), `frames`,
            `seconds`, and `record`, all that gmos-run --json tells, as JSON.

        Raises:
            GmosError: the batch has no such column, or the machine or the networks fail.
        """
        if "path" not in batch:
            raise GmosError(
                f"a batch with columns {', '.join(batch)}: expected path, and name if there is one"
            )
        paths = [str(path) for path in batch["path"]]
        names = (
            [str(name) for name in batch["name"]] if "name" in batch else [Path(path).stem for path in paths]
        )
        answers = [self.run(Item(path, name)) for path, name in zip(paths, names, strict=True)]
        return {
            "path": paths,
            "name": names,
            "status": [str(one.status) for one in answers],
            "error": [one.error or "" for one in answers],
            "frames": [one.frames for one in answers],
            "seconds": [float(sum(one.stage_s.values())) for one in answers],
            "record": [json.dumps(asdict(one), default=str, ensure_ascii=False) for one in answers],
        }

    def run(self, item: Item) -> SequenceSummary:
        """Run a video.

        Raises:
            MachineError: the machine or the networks fail. Where a new process may do better, this one ends.
        """
        self._log.sequence = item.name
        try:
            return run_one(item, self._runner, goes_on=True)
        except MachineError as error:
            if not error.restarts:
                raise
            logger.error("%s", error)  # noqa: TRY400 - what is lost is in the message
            sys.stderr.flush()
            os._exit(LOST_STATUS)
        finally:
            self._log.sequence = ""

    def ready(self, marker: str) -> str:
        """Whether a file is seen here that was written elsewhere: empty, or in words where it is not."""
        until = time.monotonic() + SEEN_S
        while not Path(marker).exists():
            if time.monotonic() > until:
                return f"{os.uname().nodename if hasattr(os, 'uname') else 'a worker'} does not see {marker}"
            time.sleep(0.2)
        return ""

    def facts(self) -> tuple[str | None, float]:
        """What runs the networks, and how many seconds they took to load; None before."""
        return self._runner.description, self._runner.load_s


def _worker_log() -> WorkerLog:
    """The log of this process; of a program that has set up its own, that."""
    package = logging.getLogger("gmos_deploy")
    log = WorkerLog("gmos-run", os.getpid())
    if not package.handlers:
        package.handlers, package.level = [log], logging.INFO
    return log


def _share_of_ray(settings: RunSettings) -> RunSettings:
    """The settings with what Ray gave this worker; as they are outside of one."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return settings
    assigned = ray.get_runtime_context().get_assigned_resources()
    cpus, gpus = float(assigned.get("CPU", 0)), float(assigned.get("GPU", 0))
    threads = settings.networks.threads or max(1, int(cpus))
    return shared(
        settings,
        threads=threads,
        host_share=min(1.0, threads / usable_cores()),
        device_share=gpus if 0 < gpus < 1 else 1.0,
    )
