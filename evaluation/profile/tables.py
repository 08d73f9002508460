"""A profile as terminal tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .layer_kinds import SLOWEST
from .report import ProfileReport, lengths_text
from .runs import VideoRun


def tables(report: ProfileReport) -> RenderableType:
    """The report for the terminal."""
    parts: list[RenderableType] = []
    if report.networks:
        parts.append(_networks(report))
    if report.layers:
        parts += [_kinds(report), _slowest(report)]
    if report.without_layers:
        parts.append(Text(f"no layer times from {', '.join(report.without_layers)}"))
    if report.runs:
        parts += [_runs(report.runs), _ahead(report.runs)]
    if any(run.tracker for run in report.runs):
        parts.append(_tracker(report.runs))
    parts.append(Text(rates_text(report)))
    if report.start_up_s is not None:
        parts.append(Text(f"started in {report.start_up_s:.1f} s"))
    parts += [Text(f"warning: {line}") for line in report.warnings]
    return Group(*parts)


def rates_text(report: ProfileReport) -> str:
    """What the limits were measured as, one device after the other."""
    found = {rates.device: rates for rates in (report.host, *report.rates.values())}
    return "; ".join(
        f"{name}: {'unknown' if rates.flops is None else f'{rates.flops / 1e9:.0f}'} GFLOP/s, "
        f"{rates.bandwidth / 1e9:.1f} GB/s ({rates.how})"
        for name, rates in found.items()
    )


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in words:
        table.add_column(head)
    for head in numbers:
        table.add_column(head, justify="right")
    return table


def _networks(report: ProfileReport) -> Table:
    on_device = any(entry.device_latency for entry in report.networks)
    numbers = ["median ms", "90 %", "95 %", "99 %", "mean", "spread"]
    numbers += ["GPU median"] if on_device else []
    table = _table(
        "networks", ("network", "lengths", "side"), [*numbers, "first / this", "of the limit", "bound by"]
    )
    for entry in report.networks:
        found, share, least = report.ratio_to_first(entry), report.roofline(entry), report.limit(entry)
        latency, device = entry.latency, entry.device_latency
        cells = [f"{latency.percentile_s(percent) * 1e3:.2f}" for percent in (50, 90, 95, 99)]
        cells += [f"{latency.mean_s * 1e3:.2f}", f"{latency.deviation_s * 1e3:.2f}"]
        if on_device:
            cells.append("" if device is None else f"{device.median_s * 1e3:.2f}")
        table.add_row(
            entry.network,
            lengths_text(entry.lengths),
            escape(entry.side),
            *cells,
            "" if found is None else f"{found.median:.2f}x ({found.least:.2f}..{found.greatest:.2f})",
            "" if share is None else f"{share:.0%}",
            "" if least is None else least.bound,
        )
    return table


def _kinds(report: ProfileReport) -> Table:
    table = _table("layers by kind", ("network", "side", "kinds"), ("all ms", "clock"))
    for entry in report.layers:
        kinds = ", ".join(f"{kind.kind} {kind.share:.0%}" for kind in entry.kinds)
        table.add_row(entry.network, escape(entry.side), kinds, f"{entry.total_ms:.2f}", entry.clock)
    return table


def _slowest(report: ProfileReport) -> Table:
    table = _table(
        f"the {SLOWEST} slowest layers of a side",
        ("side", "network", "layer", "kind"),
        ("ms", "of its network"),
    )
    for side in report.sides:
        found = [(entry, layer) for entry in report.layers if entry.side == side for layer in entry.slowest]
        for entry, layer in sorted(found, key=lambda pair: -pair[1].ms)[:SLOWEST]:
            table.add_row(
                escape(side),
                entry.network,
                escape(layer.name),
                layer.kind,
                f"{layer.ms:.2f}",
                f"{layer.share:.0%}",
            )
    return table


def _runs(runs: Sequence[VideoRun]) -> Table:
    table = _table(
        "video",
        ("side", "variant"),
        (
            "frames", "frames/s", "load s", "first frames s", "stages", "longest networks", "peak MiB", "GPU MiB"
        ),
    )  # fmt: skip
    for run in runs:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run.stage_s.items())
        longest = ", ".join(f"{share.network} {share.seconds:.1f} s" for share in run.networks[:3])
        table.add_row(
            escape(run.side),
            run.variant,
            str(run.frames),
            f"{run.frames_per_second:.2f}",
            f"{run.load_s:.1f}",
            f"{run.first_frames_s:.1f}",
            stages,
            longest,
            f"{run.peak_mib:.0f}",
            "" if run.device_mib is None else f"{run.device_mib:.0f}",
        )
    return table


def _ahead(runs: Sequence[VideoRun]) -> Table:
    table = _table(
        "beside the networks",
        ("side", "seconds by activity"),
        ("hidden behind networks", "waited for frames s", "threads busy"),
    )
    for run in runs:
        done = ", ".join(f"{entry.what} {entry.seconds:.2f}" for entry in run.activities)
        share = run.overlap.hidden_share
        table.add_row(
            escape(run.side),
            done,
            "" if share is None else f"{share:.0%}",
            f"{run.waited_s:.2f}",
            f"{run.overlap.busy_threads:.2f}",
        )
    return table


def _tracker(runs: Sequence[VideoRun]) -> Table:
    table = _table(
        "tracker, a frame by its objects", ("side",), ("objects", "frames", "median ms", "90 %", "99 %")
    )
    for run in runs:
        for entry in run.tracker:
            cells = [f"{entry.frames.percentile_s(percent) * 1e3:.1f}" for percent in (50, 90, 99)]
            table.add_row(escape(run.side), str(entry.objects), str(len(entry.frames.samples_s)), *cells)
    return table
