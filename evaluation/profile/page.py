"""A profile as one self-contained HTML page: networks, layers, stages, what every thread did when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..report.html_page import environment_section, escaped, sortable_table, table_row, write_page
from .layer_kinds import NetworkLayers
from .plots import kind_bar, kind_legend, sample_strip, timeline
from .report import Change, ProfileReport, lengths_text
from .runs import VideoRun
from .tables import rates_text

Cell = tuple[float, str]


def write_profile_page(
    path: Path, report: ProfileReport, *, compared: Sequence[Change], threshold: float
) -> None:
    """Write the page.

    Raises:
        GmosError: it cannot be written.
    """
    cards = "".join(
        f'<div class="card">{escaped(run.side)}<b>{run.frames_per_second:.2f}</b>'
        f'<span class="dim">frames/s, {escaped(run.variant)}</span></div>'
        for run in report.runs
    )
    start_up = "" if report.start_up_s is None else f", started in {report.start_up_s:.1f} s"
    body = "".join(
        (
            "<h1>gmos-profile</h1>",
            f'<p class="dim">{escaped(report.environment.get("date", ""))}, {report.seconds:.0f} s{start_up}, on '
            f"<code>{escaped(report.video)}</code></p>",
            f'<div class="cards">{cards}</div>',
            _warnings(report),
            _baseline(compared, threshold),
            _networks(report),
            _layers(report),
            *(_run(run) for run in report.runs),
            _machine(report),
            environment_section(report.environment),
        )
    )
    write_page(path, "gmos-profile", body)


def _number(value: float | None, form: str = ".2f", unit: float = 1.0) -> Cell:
    """A cell of a number that may not be known."""
    return (0.0, "–") if value is None else (value * unit, f"{value * unit:{form}}")


def _share(value: float | None) -> Cell:
    return (0.0, "–") if value is None else (value, f"{value:.0%}")


def _warnings(report: ProfileReport) -> str:
    if not report.warnings:
        return ""
    items = "".join(f"<li>{escaped(line)}</li>" for line in report.warnings)
    return f'<h2>Before you believe it</h2><ul class="notes">{items}</ul>'


def _baseline(compared: Sequence[Change], threshold: float) -> str:
    if not compared:
        return ""
    rows = [
        table_row(
            change.what,
            _number(change.before),
            _number(change.now),
            (change.factor, f"{change.factor:.2f}x" + (" slower" if change.factor > 1 + threshold else "")),
        )
        for change in compared
    ]
    return "<h2>Against the baseline</h2>" + sortable_table(("What", "Before", "Now", "Now / before"), rows)


def _networks(report: ProfileReport) -> str:
    if not report.networks:
        return ""
    slowest = max(max(entry.latency.samples_s) for entry in report.networks)
    on_device = any(entry.device_latency for entry in report.networks)
    rows = []
    for entry in report.networks:
        found, least, latency = report.ratio_to_first(entry), report.limit(entry), entry.latency
        numbers = [_number(latency.percentile_s(percent), unit=1e3) for percent in (50, 90, 95, 99)]
        numbers += [_number(latency.mean_s, unit=1e3), _number(latency.deviation_s, unit=1e3)]
        if on_device:
            device = entry.device_latency
            numbers.append(_number(None if device is None else device.median_s, unit=1e3))
        rows.append(
            table_row(
                f"{entry.network} {lengths_text(entry.lengths)}, {entry.side}",
                *numbers,
                (0, "–") if found is None else (found.median, f"{found.median:.2f}x"),
                _number(entry.work.flops, unit=1e-9),
                _number(entry.work.moved_bytes, unit=1e-6),
                _share(report.roofline(entry)),
                (0, "–") if least is None else (float(least.bound == "memory"), least.bound),
                (latency.median_s, sample_strip(latency, slowest)),
            )
        )
    heads = ["Network", "Median ms", "90 %", "95 %", "99 %", "Mean", "Spread"]
    heads += ["GPU median ms"] if on_device else []
    heads += ["First / this", "GFLOP", "MB", "Of the limit", "Bound by", "Samples"]
    events = " The GPU's own is between two CUDA events." if on_device else ""
    note = (
        "Timed in turns, by the host's clock until the device is done."
        f"{events} The first side of a model is what the others are compared with. The limit is the larger of "
        "operations over rate and bytes over bandwidth; bytes are weights, inputs and outputs, each once. "
        f"{escaped(rates_text(report))}. Each tick of a strip is a sample."
    )
    return f'<h2>Networks</h2><p class="dim">{note}</p>' + sortable_table(heads, rows)


def _layers(report: ProfileReport) -> str:
    without = (
        f'<p class="dim">No layer times from {escaped(", ".join(report.without_layers))}.</p>'
        if report.without_layers
        else ""
    )
    if not report.layers:
        return without
    times: dict[str, float] = {}
    for entry in report.layers:
        for kind in entry.kinds:
            times[kind.kind] = times.get(kind.kind, 0.0) + kind.ms
    order = sorted(times, key=lambda kind: -times[kind])
    rows = [
        table_row(
            f"{entry.network} {lengths_text(entry.lengths)}, {entry.side}",
            _number(entry.total_ms),
            (entry.kinds[0].share, kind_bar(entry.kinds, order)),
            *(_share(_kind_share(entry, kind)) for kind in order),
        )
        for entry in report.layers
    ]
    heads = ("Network", "All layers ms", "Kinds", *(escaped(kind) for kind in order))
    details = "".join(_slowest(entry) for entry in report.layers)
    return (
        f"<h2>Layers</h2>{kind_legend(order)}{sortable_table(heads, rows)}{without}"
        f"<h3>The slowest layers of each network</h3>{details}"
    )


def _kind_share(entry: NetworkLayers, kind: str) -> float | None:
    """Of all providers together."""
    return sum(found.share for found in entry.kinds if found.kind == kind) or None


def _slowest(entry: NetworkLayers) -> str:
    rows = [
        table_row(
            layer.name,
            _text(layer.operator),
            _text(layer.kind),
            _text(layer.provider),
            _number(layer.ms, ".3f"),
            _share(layer.share),
            _number(layer.calls, "g"),
            _number(layer.moved_bytes, ".2f", 1e-6),
            _number(
                None if layer.moved_bytes is None or not layer.ms else layer.moved_bytes / layer.ms,
                ".1f",
                1e-6,
            ),
        )
        for layer in entry.slowest
    ]
    heads = ("Layer", "Operator", "Kind", "Provider", "ms", "Share", "Calls", "MB", "GB/s")
    clock = "on the device" if entry.clock == "device" else "by the host's clock"
    title = f"{entry.network} {lengths_text(entry.lengths)}, {entry.side}: {entry.total_ms:.2f} ms {clock}"
    return f"<details><summary>{escaped(title)}</summary>{sortable_table(heads, rows)}</details>"


def _text(text: str) -> Cell:
    """A cell that does not sort by a number."""
    return 0.0, escaped(text) or "–"


def _run(run: VideoRun) -> str:
    stages = [
        table_row(name, _number(seconds), _number(seconds / run.frames, ".1f", 1e3))
        for name, seconds in run.stage_s.items()
    ]
    device = "" if run.device_mib is None else f", {run.device_mib:.0f} MiB of the device's"
    base = "" if run.base_mib is None else f" ({run.base_mib:.0f} before it)"
    return (
        f"<h2>Video, {escaped(run.side)}</h2><p>{escaped(run.description)}: {run.frames} frames at "
        f"{run.frames_per_second:.2f} frames/s; loaded in {run.load_s:.1f} s, first frames after "
        f"{run.first_frames_s:.1f} s; peak {run.peak_mib:.0f} MiB{base}{device}</p>"
        + sortable_table(("Stage", "Seconds", "ms a frame"), stages)
        + _tracker(run)
        + _threads(run)
    )


def _tracker(run: VideoRun) -> str:
    if not run.tracker:
        return ""
    longest = max(max(entry.frames.samples_s) for entry in run.tracker)
    rows = [
        table_row(
            f"{entry.objects}",
            _number(float(len(entry.frames.samples_s)), "g"),
            *(_number(entry.frames.percentile_s(percent), ".1f", 1e3) for percent in (50, 90, 99)),
            _number(entry.frames.mean_s, ".1f", 1e3),
            (entry.frames.median_s, sample_strip(entry.frames, longest)),
        )
        for entry in run.tracker
    ]
    heads = ("Objects", "Frames", "Median ms", "90 %", "99 %", "Mean", "Samples")
    return '<p class="dim">Tracked frames by their number of objects:</p>' + sortable_table(heads, rows)


def _threads(run: VideoRun) -> str:
    found = run.overlap
    done = [
        table_row(
            entry.what,
            _number(float(entry.calls), "g"),
            _number(float(entry.threads), "g"),
            _number(entry.seconds),
            _number(entry.seconds / run.frames, ".2f", 1e3),
            _number(entry.under_networks_s),
        )
        for entry in run.activities
    ]
    shares = [
        table_row(
            share.network,
            _number(float(share.calls), "g"),
            _number(share.seconds),
            _number(share.seconds / share.calls, unit=1e3),
        )
        for share in run.networks
    ]
    hidden = "nothing" if found.hidden_share is None else f"{found.hidden_share:.0%}"
    return (
        f'<p class="dim">A second run, in which each call is waited for: decoding and preparing take '
        f"{found.ahead_s:.2f} s, {hidden} of it while a network runs; {found.busy_threads:.2f} threads are busy on "
        f"average. In the first run the networks waited {run.waited_s:.2f} s for frames.</p>"
        + timeline(run)
        + sortable_table(
            ("Activity", "Calls", "Threads", "Seconds", "ms a frame", "While a network runs s"), done
        )
        + sortable_table(("Network", "Calls", "Seconds", "ms a call"), shares)
    )


def _machine(report: ProfileReport) -> str:
    use = report.machine
    known = {
        "load average before and after": (use.load_before, use.load_after),
        "cores used by other programs": (use.others_cores,),
        "share taken by the hypervisor": (use.stolen_share,),
        "clock before, after and at most, MHz": (
            use.clock_before_mhz,
            use.clock_after_mhz,
            use.greatest_clock_mhz,
        ),
    }
    lines = [
        f"{name}: " + ", ".join("not told" if value is None else f"{value:.4g}" for value in values)
        for name, values in known.items()
    ]
    for during, gpu in report.gpus:
        lines.append(
            f"GPU {gpu.index}, {during}: {gpu.clock_least_mhz} to {gpu.clock_greatest_mhz} of {gpu.clock_limit_mhz} "
            f"MHz, {gpu.temperature_c} C, {gpu.power_w} W, throttled: {', '.join(gpu.throttled) or 'no'}"
        )
    if not report.gpus:
        lines.append("GPU clocks and throttling: not told")
    return "<h2>The machine meanwhile</h2>" + "".join(f"<p>{escaped(line)}</p>" for line in lines)
