"""A profile as JSON, JSON lines and terminal tables, and its comparison with an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import GmosError
from .latency import Ratio, ratio
from .profiling import NetworkLatency, VideoRun
from .report_files import OBSERVATIONS_FILE, RESULT_FILE, read_json, write_json, write_json_lines

SCHEMA = "gmos-profile/1"
"""Name and version of the layout of result.json; the number rises when a reader of the old one would break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReport:
    """Everything measured. `rate` is the processor's float32 matrix rate in operations per second."""

    video: str
    sides: tuple[str, ...]
    networks: tuple[NetworkLatency, ...]
    runs: tuple[VideoRun, ...]
    rate: float
    environment: Mapping[str, Any]
    seconds: float

    def ratio_to_first(self, entry: NetworkLatency) -> Ratio | None:
        """The first side's time over this one's, round by round; None for the first side itself."""
        if entry.side == self.sides[0]:
            return None
        first = next(
            other
            for other in self.networks
            if (other.network, other.lengths, other.side) == (entry.network, entry.lengths, self.sides[0])
        )
        return ratio(first.latency.samples_s, entry.latency.samples_s)

    def roofline(self, entry: NetworkLatency) -> float | None:
        """Share of the matrix rate that a network reaches; None where its operations are not known."""
        if entry.flops is None or not self.rate:
            return None
        return entry.flops / self.rate / entry.latency.median_s


def lengths_text(lengths: Mapping[str, int]) -> str:
    """Lengths by axis letter as `B=1 h=7 w=12`."""
    return " ".join(f"{axis}={length}" for axis, length in lengths.items())


def result_json(report: ProfileReport) -> dict[str, Any]:
    """The content of result.json, documented in docs/profile.md."""
    return {
        "schema": SCHEMA,
        "video": report.video,
        "sides": list(report.sides),
        "seconds": round(report.seconds, 3),
        "matrix_gflops": report.rate / 1e9,
        "networks": [_network(report, entry) for entry in report.networks],
        "runs": [_run(run) for run in report.runs],
        "environment": dict(report.environment),
    }


def _network(report: ProfileReport, entry: NetworkLatency) -> dict[str, Any]:
    found = report.ratio_to_first(entry)
    return {
        "network": entry.network,
        "lengths": dict(entry.lengths),
        "side": entry.side,
        "flops": entry.flops,
        "roofline_share": report.roofline(entry),
        "ratio_to_first": None if found is None else asdict(found),
        **entry.latency.as_json(),
    }


def _run(run: VideoRun) -> dict[str, Any]:
    return {
        "side": run.side,
        "description": run.description,
        "frames": run.frames,
        "frames_per_second": run.frames_per_second,
        "load_s": run.load_s,
        "stage_s": dict(run.stage_s),
        "networks": [asdict(share) for share in run.networks],
        "peak_mib": run.peak_mib,
        "device_mib": run.device_mib,
    }


def observations(report: ProfileReport) -> Iterator[dict[str, Any]]:
    """The lines of observations.jsonl: every timed call, and every call within the runs."""
    for entry in report.networks:
        for number, sample in enumerate(entry.latency.samples_s):
            yield {
                "kind": "latency",
                "side": entry.side,
                "network": entry.network,
                "lengths": dict(entry.lengths),
                "round": number,
                "ms": sample * 1e3,
            }
    for run in report.runs:
        for name, start, end in run.spans:
            yield {"kind": "call", "side": run.side, "network": name, "start_s": start, "end_s": end}


def write_files(directory: Path, report: ProfileReport) -> None:
    """Write result.json and observations.jsonl, each whole or not at all.

    Raises:
        GmosError: they cannot be written.
    """
    write_json(directory / RESULT_FILE, result_json(report))
    write_json_lines(directory / OBSERVATIONS_FILE, observations(report))


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


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What both profiles measured: medians by network, lengths and side, and seconds a frame by side.

    Raises:
        GmosError: they have nothing in common, or the earlier one lacks a field.
    """
    try:
        old, new = (_times(result) for result in (before, now))
    except (KeyError, TypeError) as error:
        raise GmosError(f"the baseline lacks {error}; make the profile again") from error
    common = [Change(what=what, before=old[what], now=new[what]) for what in new if what in old]
    if not common:
        raise GmosError(
            "the baseline has no network and no run in common with this profile; name the same sides"
        )
    return common


def _times(result: Mapping[str, Any]) -> dict[str, float]:
    found = {
        f"{entry['side']}: {entry['network']} {lengths_text(entry['lengths'])}, median ms": float(
            entry["p50_ms"]
        )
        for entry in result["networks"]
    }
    for run in result["runs"]:
        rate = float(run["frames_per_second"])
        if rate:
            found[f"{run['side']}: video, ms a frame"] = 1e3 / rate
    return found


def tables(report: ProfileReport) -> RenderableType:
    """The report for the terminal."""
    parts: list[RenderableType] = []
    if report.networks:
        parts.append(_network_table(report))
    if report.runs:
        parts.append(_run_table(report.runs))
    parts.append(Text(f"float32 matrix products in this process: {report.rate / 1e9:.0f} GFLOP/s"))
    return Group(*parts)


def _network_table(report: ProfileReport) -> Table:
    table = Table(title=f"networks, first side: {report.sides[0]}", title_justify="left")
    for head in ("network", "lengths", "side"):
        table.add_column(head)
    for head in ("median ms", "90 %", "99 %", "spread", "first / this", "of matrix rate"):
        table.add_column(head, justify="right")
    for entry in report.networks:
        found, share = report.ratio_to_first(entry), report.roofline(entry)
        latency = entry.latency
        table.add_row(
            entry.network,
            lengths_text(entry.lengths),
            entry.side,
            f"{latency.median_s * 1e3:.2f}",
            f"{latency.percentile_s(90) * 1e3:.2f}",
            f"{latency.percentile_s(99) * 1e3:.2f}",
            f"{latency.deviation_s * 1e3:.2f}",
            "" if found is None else f"{found.median:.2f}x ({found.least:.2f}..{found.greatest:.2f})",
            "" if share is None else f"{share:.0%}",
        )
    return table


def _run_table(runs: Sequence[VideoRun]) -> Table:
    table = Table(title="video", title_justify="left")
    table.add_column("side")
    for head in ("frames", "frames/s", "load s", "stages", "longest networks", "peak MiB"):
        table.add_column(head, justify="right")
    for run in runs:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run.stage_s.items())
        longest = ", ".join(f"{share.network} {share.seconds:.1f} s" for share in run.networks[:3])
        table.add_row(
            run.side,
            str(run.frames),
            f"{run.frames_per_second:.2f}",
            f"{run.load_s:.1f}",
            stages,
            longest,
            f"{run.peak_mib:.0f}",
        )
    return table
