"""A profile as JSON and JSON lines, and its comparison with an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...runtime.files.made_from import KEY, MadeFrom
from ...runtime.files.typed_json import typed
from ..report.files import RESULT_FILE, plain, read_json
from .layer_kinds import NetworkLayers, lengths_text
from .machine import GpuUse, MachineUse
from .profiling import NetworkLatency
from .roofline import Rates
from .runs import VideoRun

SCHEMA = "gmos-profile/1"
"""Name and version of the layout of result.json; the number rises when a reader of the old one would break."""

NETWORKS = "networks"
"""What was measured while a GPU was watched, if it was no side's run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReport:
    """Everything measured.

    `host` are the processor's rates, `rates` those of each side's device where networks were timed.
    `start_up_s` is from the start of the process to its first work, `machine` what else went on, `gpus` the
    GPUs by what was measured, `without_layers` the sides whose library does not tell them.
    """

    video: str
    sides: tuple[str, ...]
    networks: Sequence[NetworkLatency]
    layers: Sequence[NetworkLayers]
    without_layers: tuple[str, ...]
    runs: tuple[VideoRun, ...]
    host: Rates
    rates: Mapping[str, Rates]
    start_up_s: float | None
    machine: MachineUse
    gpus: tuple[tuple[str, GpuUse], ...]
    notes: tuple[str, ...]
    made_from: MadeFrom
    environment: Mapping[str, Any]
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the times."""
        found = [*self.notes, *self.machine.warnings()]
        for during, gpu in self.gpus:
            found += [f"{during}: {line}" for line in gpu.warnings()]
        return found


def result_json(report: ProfileReport) -> dict[str, Any]:
    """The content of result.json, documented in docs/profile.md."""
    result: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            "video": report.video,
            "sides": report.sides,
            "seconds": round(report.seconds, 3),
            "start_up_s": report.start_up_s,
            "warnings": report.warnings,
            "matrix_gflops": (report.host.flops or 0.0) / 1e9,
            "copy_gbps": report.host.bandwidth / 1e9,
            "rates": [
                {
                    "side": side,
                    "device": rates.device,
                    "gflops": None if rates.flops is None else rates.flops / 1e9,
                    "gbps": rates.bandwidth / 1e9,
                    "how": rates.how,
                }
                for side, rates in report.rates.items()
            ],
            "networks": [_network(entry) for entry in report.networks],
            "layers": report.layers,
            "without_layers": report.without_layers,
            "runs": [_run(run) for run in report.runs],
            "machine": report.machine,
            "gpus": [{"during": during, **plain(gpu)} for during, gpu in report.gpus],
            KEY: report.made_from,
            "environment": report.environment,
        }
    )
    return result


def _network(entry: NetworkLatency) -> dict[str, Any]:
    return {
        "network": entry.network,
        "lengths": entry.lengths,
        "side": entry.side,
        "first": entry.first,
        "flops": entry.work.flops,
        "bytes": entry.work.moved_bytes,
        "limit_ms": None if entry.limit is None else entry.limit.seconds * 1e3,
        "bound": None if entry.limit is None else entry.limit.bound,
        "roofline_share": entry.roofline,
        "ratio_to_first": entry.ratio,
        **entry.latency.as_json(),
        "device": None if entry.device_latency is None else entry.device_latency.as_json(),
    }


def _run(run: VideoRun) -> dict[str, Any]:
    return {
        **plain(run, omit=("spans", "gpus")),
        "frames_per_second": run.frames_per_second,
        "tracker": [
            {
                "objects": entry.objects,
                "frames": len(entry.frames.samples_s),
                # observations.jsonl has the samples.
                **{name: value for name, value in entry.frames.as_json().items() if name != "samples_ms"},
            }
            for entry in run.tracker
        ],
        "overlap": {**plain(run.overlap), "hidden_share": run.overlap.hidden_share},
    }


def observations(report: ProfileReport) -> Iterator[dict[str, Any]]:
    """The lines of observations.jsonl: every timed call, and what every thread did in the runs."""
    for entry in report.networks:
        device = entry.device_latency
        for number, sample in enumerate(entry.latency.samples_s):
            line: dict[str, Any] = {
                "kind": "latency",
                "side": entry.side,
                "network": entry.network,
                "lengths": dict(entry.lengths),
                "round": number,
                "ms": sample * 1e3,
            }
            yield line if device is None else {**line, "device_ms": device.samples_s[number] * 1e3}
    for run in report.runs:
        for tracked in run.tracker:
            for sample in tracked.frames.samples_s:
                yield {"kind": "tracked", "side": run.side, "objects": tracked.objects, "ms": sample * 1e3}
        for span in run.spans:
            line = {"kind": "call" if span.is_network else "span", "side": run.side}
            line["network" if span.is_network else "what"] = span.what
            line |= {"thread": span.thread, "start_s": span.start_s, "end_s": span.end_s}
            yield line if span.objects is None else {**line, "objects": span.objects}


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json of this version.

    Raises:
        GmosError: it cannot be read, is no JSON, or has another schema.
    """
    return read_json(path, schema=SCHEMA, what=f"{RESULT_FILE} of gmos-profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A time that both profiles have: `what`, seconds or milliseconds before and now."""

    what: str
    before: float
    now: float

    @property
    def factor(self) -> float:
        """Now over before."""
        return self.now / self.before if self.before else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _NetworkTime:
    side: str
    network: str
    lengths: Mapping[str, int]
    p50_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunTime:
    side: str
    frames_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """What is compared, of the content of result.json."""

    networks: tuple[_NetworkTime, ...]
    runs: tuple[_RunTime, ...]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What both profiles measured: medians by network, lengths and side, and seconds a frame by side.

    Raises:
        GmosError: they have nothing in common, or the earlier one lacks a field.
    """
    old, new = (_times(result) for result in (before, now))
    common = [Change(what=what, before=old[what], now=new[what]) for what in new if what in old]
    if not common:
        raise GmosError(
            "the baseline has no network and no run in common with this profile; name the same sides"
        )
    return common


def _times(result: Mapping[str, Any]) -> dict[str, float]:
    times = typed(result, _Times, where="the baseline", advice="make the profile again")
    found = {
        f"{entry.side}: {entry.network} {lengths_text(entry.lengths)}, median ms": entry.p50_ms
        for entry in times.networks
    }
    return found | {
        f"{run.side}: video, ms a frame": 1e3 / run.frames_per_second
        for run in times.runs
        if run.frames_per_second
    }
