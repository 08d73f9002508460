"""A profile as one self-contained HTML page: networks, stages, the calls over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .html_page import environment_section, escaped, sortable_table, table_row, write_page
from .latency import Latency
from .profile_report import Change, ProfileReport, lengths_text
from .profiling import VideoRun

PLOT_WIDTH_PX, ROW_PX, LABEL_PX = 760, 18, 130
STRIP_WIDTH_PX, STRIP_HEIGHT_PX = 150, 16
SPAN_LIMIT = 4000
"""Calls drawn of a run's timeline; observations.jsonl has all."""


def write_profile_page(
    path: Path, report: ProfileReport, *, compared: Sequence[Change], threshold: float
) -> None:
    """Write the page.

    Raises:
        GmosError: it cannot be written.
    """
    cards = "".join(
        f'<div class="card">{escaped(run.side)}<b>{run.frames_per_second:.2f}</b>'
        '<span class="dim">frames/s</span></div>'
        for run in report.runs
    )
    body = "".join(
        (
            "<h1>gmos-profile</h1>",
            f'<p class="dim">{escaped(report.environment.get("date", ""))}, {report.seconds:.0f} s, on '
            f"<code>{escaped(report.video)}</code>; float32 matrix products at {report.rate / 1e9:.0f} GFLOP/s</p>",
            f'<div class="cards">{cards}</div>',
            _baseline(compared, threshold),
            _networks(report),
            *(_run(run) for run in report.runs),
            environment_section(report.environment),
        )
    )
    write_page(path, "gmos-profile", body)


def _baseline(compared: Sequence[Change], threshold: float) -> str:
    if not compared:
        return ""
    rows = [
        table_row(
            change.what,
            (change.before, f"{change.before:.2f}"),
            (change.now, f"{change.now:.2f}"),
            (change.factor, f"{change.factor:.2f}x" + (" slower" if change.factor > 1 + threshold else "")),
        )
        for change in compared
    ]
    return "<h2>Against the baseline</h2>" + sortable_table(("What", "Before", "Now", "Now / before"), rows)


def _networks(report: ProfileReport) -> str:
    if not report.networks:
        return ""
    slowest = max(max(entry.latency.samples_s) for entry in report.networks)
    rows = []
    for entry in report.networks:
        found, share, latency = report.ratio_to_first(entry), report.roofline(entry), entry.latency
        name = f"{entry.network} {lengths_text(entry.lengths)}, {entry.side}"
        numbers = [
            (latency.percentile_s(percent) * 1e3, f"{latency.percentile_s(percent) * 1e3:.2f}")
            for percent in (50, 90, 95, 99)
        ]
        rows.append(
            table_row(
                name,
                *numbers,
                (0 if found is None else found.median, "–" if found is None else f"{found.median:.2f}x"),
                (0 if share is None else share, "–" if share is None else f"{share:.0%}"),
                (latency.median_s, _strip(latency, slowest)),
            )
        )
    heads = ("Network", "Median ms", "90 %", "95 %", "99 %", "First / this", "Of matrix rate", "Samples")
    note = f"Timed in turns; the first side is {escaped(report.sides[0])}. Each tick of a strip is a sample."
    return f'<h2>Networks</h2><p class="dim">{note}</p>' + sortable_table(heads, rows)


def _strip(latency: Latency, longest_s: float) -> str:
    """Every sample as a tick on an axis from 0 to the longest sample of all."""
    ticks = "".join(
        f'<rect class="fill" x="{STRIP_WIDTH_PX * sample / longest_s:.1f}" width="1.2" height="{STRIP_HEIGHT_PX}"/>'
        for sample in latency.samples_s
    )
    return (
        f'<svg width="{STRIP_WIDTH_PX}" height="{STRIP_HEIGHT_PX}" role="img" aria-label="samples">'
        f'<rect class="track" y="{STRIP_HEIGHT_PX // 2}" width="{STRIP_WIDTH_PX}" height="1"/>{ticks}</svg>'
    )


def _run(run: VideoRun) -> str:
    stages = [
        table_row(
            name, (seconds, f"{seconds:.2f}"), (seconds / run.frames, f"{1e3 * seconds / run.frames:.1f}")
        )
        for name, seconds in run.stage_s.items()
    ]
    shares = [
        table_row(
            share.network,
            (share.calls, str(share.calls)),
            (share.seconds, f"{share.seconds:.2f}"),
            (share.seconds / share.calls, f"{1e3 * share.seconds / share.calls:.2f}"),
        )
        for share in run.networks
    ]
    device = f", {run.device_mib:.0f} MiB of the device's" if run.device_mib else ""
    return (
        f"<h2>Video, {escaped(run.side)}</h2><p>{escaped(run.description)}: {run.frames} frames at "
        f"{run.frames_per_second:.2f} frames/s, loaded in {run.load_s:.1f} s, peak {run.peak_mib:.0f} MiB{device}</p>"
        + sortable_table(("Stage", "Seconds", "ms a frame"), stages)
        + '<p class="dim">Networks of a second run, in which each call is waited for:</p>'
        + sortable_table(("Network", "Calls", "Seconds", "ms a call"), shares)
        + _timeline(run)
    )


def _timeline(run: VideoRun) -> str:
    """A row per network with its calls over the time of the run."""
    if not run.spans:
        return ""
    spans = run.spans[:SPAN_LIMIT]
    names = list(dict.fromkeys(name for name, _, _ in spans))
    end = max(stop for _, _, stop in spans)
    scale = (PLOT_WIDTH_PX - LABEL_PX) / end
    parts = []
    for row, name in enumerate(names):
        y = row * ROW_PX
        calls = "".join(
            f'<rect class="fill" x="{LABEL_PX + start * scale:.1f}" y="{y + 3}" '
            f'width="{max(0.4, (stop - start) * scale):.1f}" height="{ROW_PX - 6}"/>'
            for called, start, stop in spans
            if called == name
        )
        parts.append(f'<text x="0" y="{y + 13}">{escaped(name)}</text>{calls}')
    height = ROW_PX * len(names)
    busy = sum(stop - start for _, start, stop in spans) / end
    cut = f", the first {SPAN_LIMIT} calls" if len(run.spans) > SPAN_LIMIT else ""
    return (
        f'<figure><svg class="plot timeline" viewBox="0 0 {PLOT_WIDTH_PX} {height}" role="img" '
        f'aria-label="calls over time">{"".join(parts)}</svg><figcaption>{end:.1f} s{cut}; a network runs '
        f"{busy:.0%} of the time</figcaption></figure>"
    )
