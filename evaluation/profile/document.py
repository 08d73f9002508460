"""A profile as a document: networks, layers, stages, what every thread did when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ..report import document as doc
from ..report.document import Cell, Column, Section, Table
from ..report.files import plain
from ..report.origins import origins_section
from .latency import Latency
from .layer_kinds import KindTime, NetworkLayers, SlowLayer
from .profiling import NetworkLatency
from .report import Change, ProfileReport
from .runs import NetworkShare, VideoRun
from .timeline import AHEAD, STAGE_PREFIX, TRACKED, WAIT, ActivityTime, Span, TrackerTime, union

MOST = 2
"""Kinds of layers that a row names, and that a phone has room for."""

Letters = Mapping[str, str]
"""Of each side."""

Item = TypeVar("Item")
Row = tuple[str, VideoRun, Item]
"""What is measured, of which run, and what was found."""


def profile_document(
    report: ProfileReport, *, compared: Sequence[Change] = (), threshold: float = 0.0
) -> doc.Document:
    """The document of a profile.

    Args:
        report: what was measured.
        compared: what a baseline has too.
        threshold: share by which a time may grow.
    """
    letters = doc.lettered(report.sides)
    start_up = "" if report.start_up_s is None else f"started in {report.start_up_s:.1f} s"
    lead = (report.environment.get("date", ""), f"{report.seconds:.0f} s", start_up, f"on {report.video}")
    return doc.Document(
        title="gmos-profile",
        lead=", ".join(part for part in lead if part),
        sides={letter: side for side, letter in letters.items()},
        cards=[
            doc.Card(f"{letters[run.side]}: {run.variant}", f"{run.frames_per_second:.2f}", "frames/s")
            for run in report.runs
        ],
        remarks=Section("Before you believe it", [doc.Remarks(report.warnings, word="warning")]),
        sections=[
            _baseline(compared, threshold),
            _networks(report, letters),
            _layers(report, letters),
            _video(report.runs, letters),
            *(Section(f"Timeline of {letters[run.side]}", [timeline(run)]) for run in report.runs),
            origins_section(report.made_from),
            _machine(report),
            Section(
                "", [doc.Text(line, everywhere=True) for line in (rates_text(report), start_up)], "terminal"
            ),
        ],
        environment=report.environment,
    )


def rates_text(report: ProfileReport) -> str:
    """What the limits were measured as, one device after the other."""
    found = {rates.device: rates for rates in (report.host, *report.rates.values())}
    return "; ".join(
        f"{name}: {'unknown' if rates.flops is None else f'{rates.flops / 1e9:.0f}'} GFLOP/s, "
        f"{rates.bandwidth / 1e9:.1f} GB/s ({rates.how})"
        for name, rates in found.items()
    )


def _baseline(compared: Sequence[Change], threshold: float) -> Section:
    def factor(change: Change) -> Cell:
        tone: doc.Tone = "bad" if change.factor > 1 + threshold else ""
        return Cell(f"{change.factor:.2f}x", change.factor, tone)

    columns: list[Column[Change]] = [
        Column("what", lambda change: change.what),
        Column("before", lambda change: change.before, ".2f"),
        Column("now", lambda change: change.now, ".2f"),
        Column("now / before", factor, ".2f", "of medians"),
    ]
    return Section("Against the baseline", [Table(columns=columns, entries=compared)], "page")


def _networks(report: ProfileReport, letters: Letters) -> Section:
    if not report.networks:
        return Section("", [])
    rounds = len(report.networks[0].latency.samples_s)
    slowest = max(max(entry.latency.samples_s) for entry in report.networks)
    firsts = {letters[entry.first] for entry in report.networks}
    first = firsts.pop() if len(firsts) == 1 else "first side"

    def ratio(entry: NetworkLatency) -> Cell | None:
        found = entry.ratio
        return None if found is None else Cell(f"{found.median:.2f}x", found.median)

    def spread(entry: NetworkLatency) -> Cell | None:
        found = entry.ratio
        return None if found is None else Cell(f"{found.least:.2f}–{found.greatest:.2f}", found.median)

    def device(entry: NetworkLatency) -> float | None:
        return None if entry.device_latency is None else entry.device_latency.median_s * 1e3

    calls = f"of {rounds} calls"
    columns: list[Column[NetworkLatency]] = [
        Column("network", lambda entry: entry.title),
        Column("side", lambda entry: letters[entry.side]),
        Column("median ms", lambda entry: entry.latency.median_s * 1e3, ".2f", calls),
        Column("GPU ms", device, ".2f", f"median {calls}", "room"),
        *_percentiles((90, 95, 99), lambda entry: entry.latency, ".2f"),
        Column("mean", lambda entry: entry.latency.mean_s * 1e3, ".2f", "ms", "wide"),
        Column("spread", lambda entry: entry.latency.deviation_s * 1e3, ".2f", "ms", "wide"),
        Column(f"{first} / this", ratio, ".2f", f"median of {rounds} rounds"),
        Column("from – to", spread, ".2f", f"of {rounds} rounds", "wide"),
        Column("GFLOP", lambda entry: _times(entry.work.flops, 1e-9), ".2f", "", "wide"),
        Column("MB", lambda entry: _times(entry.work.moved_bytes, 1e-6), ".2f", "", "wide"),
        Column("limit / time", lambda entry: entry.roofline, ".0%", "of the median"),
        Column("bound by", lambda entry: entry.limit and entry.limit.bound, shown="room"),
        Column("samples", lambda entry: _strip(slowest, entry.latency), "g", shown="page"),
    ]
    note = (
        "Timed in turns, by the host's clock until the device is done; a GPU's own time is between two CUDA events. A "
        f"ratio is {first}'s time over this side's in the same round, the median of all rounds. The limit is the "
        "larger of operations over rate and bytes over bandwidth; bytes are weights, inputs and outputs, each once. "
        f"{rates_text(report)}. Each tick of a strip is a sample."
    )
    return Section("Networks", [doc.Text(note), Table(columns=columns, entries=report.networks)])


def _percentiles(
    percents: Sequence[int], latency: Callable[[Any], Latency], form: str, shown: doc.Shown = "wide"
) -> Iterator[Column[Any]]:
    def value(percent: int, entry: object) -> float:
        return latency(entry).percentile_s(percent) * 1e3

    for percent in percents:
        yield Column(f"{percent} %", partial(value, percent), form, "ms", shown)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _strip(longest: float, latency: Latency) -> Cell:
    return Cell("", latency.median_s, drawing=doc.Strip(latency.samples_s, longest))


def _layers(report: ProfileReport, letters: Letters) -> Section:
    times: dict[str, float] = {}
    for entry in report.layers:
        for kind in _ran(entry):
            times[kind.kind] = times.get(kind.kind, 0.0) + kind.ms
    order = tuple(sorted(times, key=lambda kind: -times[kind]))

    def share(kind: str, entry: NetworkLayers) -> float | None:
        """Of all providers together."""
        return sum(found.share for found in entry.kinds if found.kind == kind) or None

    def stack(entry: NetworkLayers) -> Cell:
        shares = tuple((kind.kind, kind.share) for kind in _ran(entry))
        return Cell("", shares[0][1] if shares else 0.0, drawing=doc.Stack(shares, order))

    def most(entry: NetworkLayers) -> str:
        return ", ".join(f"{kind.kind} {kind.share:.0%}" for kind in _ran(entry)[:MOST])

    names: list[Column[NetworkLayers]] = [
        Column("network", lambda entry: entry.title),
        Column("side", lambda entry: letters[entry.side]),
    ]
    columns: list[Column[NetworkLayers]] = [
        *names,
        Column("all layers ms", lambda entry: entry.total_ms, ".2f", "mean of calls"),
        Column("clock", lambda entry: entry.clock, shown="room"),
        Column("kinds", stack, "g", shown="page"),
        Column("most of it", most),
    ]
    shares = [
        Column(kind, partial(share, kind), ".0%", shown="always" if number < MOST else "wide")
        for number, kind in enumerate(order)
    ]
    blocks: list[doc.Block] = [
        Table(columns=columns, entries=report.layers),
        Table(columns=[*names, *shares], entries=report.layers, folded="The share of every kind"),
    ]
    for entry in report.layers:
        clock = "on the device" if entry.clock == "device" else "by the host's clock"
        title = f"The slowest layers of {entry.title}, {letters[entry.side]}: {entry.total_ms:.2f} ms {clock}"
        ran = [layer for layer in entry.slowest if layer.ms > 0]
        blocks.append(Table(columns=LAYER_COLUMNS, entries=ran, folded=title))
    if report.without_layers:
        blocks.append(doc.Text(f"no layer times from {', '.join(report.without_layers)}", everywhere=True))
    return Section("Layers", blocks if report.layers or report.without_layers else [])


def _ran(entry: NetworkLayers) -> list[KindTime]:
    """Its kinds without those that never ran."""
    return [kind for kind in entry.kinds if kind.ms > 0]


LAYER_COLUMNS: list[Column[SlowLayer]] = [
    Column("layer", lambda layer: layer.name),
    Column("operator", lambda layer: layer.operator or None, shown="wide"),
    Column("kind", lambda layer: layer.kind, shown="wide"),
    Column("provider", lambda layer: layer.provider or None, shown="wide"),
    Column("ms", lambda layer: layer.ms, ".3f", "mean of calls"),
    Column("share", lambda layer: layer.share, ".0%", "of its network"),
    Column("calls", lambda layer: layer.calls, "g", "", "wide"),
    Column("MB", lambda layer: _times(layer.moved_bytes, 1e-6), ".2f", "", "wide"),
    Column("GB/s", lambda layer: _times(layer.moved_bytes, 1e-6 / layer.ms), ".1f", "", "wide"),
]


def _video(runs: Sequence[VideoRun], letters: Letters) -> Section:
    if not runs:
        return Section("", [])
    columns: list[Column[VideoRun]] = [
        Column("side", lambda run: letters[run.side]),
        Column("frames/s", lambda run: run.frames_per_second, ".2f"),
        Column("frames", lambda run: run.frames, "d", "", "room"),
        Column("load s", lambda run: run.load_s, ".1f"),
        Column("first frames s", lambda run: run.first_frames_s, ".1f"),
        Column("hidden", lambda run: run.overlap.hidden_share, ".0%", "of decoding", "room"),
        Column("waited s", lambda run: run.waited_s, ".2f", "for frames", "room"),
        Column("busy threads", lambda run: run.overlap.busy_threads, ".2f", "mean", "wide"),
        Column("peak MiB", lambda run: run.peak_mib, ".0f"),
        Column("before MiB", lambda run: run.base_mib, ".0f", "", "wide"),
        Column("GPU MiB", lambda run: run.device_mib, ".0f"),
        Column("backend", lambda run: run.description, shown="wide"),
    ]
    note = (
        "Frames per second, stages, tracked frames and memory are of an undisturbed run; networks and activities of a "
        "second one, in which each call is waited for. Hidden: the share of decoding and preparing in which a network "
        "runs too."
    )
    parts = [*_stages(runs, letters), _tracker(runs, letters)]
    return Section("Video", [doc.Text(note), Table(columns=columns, entries=runs), *parts])


def _table(
    what: str,
    runs: Sequence[VideoRun],
    letters: Letters,
    found: Callable[[VideoRun], Mapping[str, Item]],
    columns: Sequence[Column[Row[Item]]],
) -> Table[Row[Item]]:
    """What each run found by name, those of one name beside each other."""
    by_run = [(run, found(run)) for run in runs]
    names = dict.fromkeys(name for _, items in by_run for name in items)
    rows = [(name, run, items[name]) for name in names for run, items in by_run if name in items]
    named: list[Column[Row[Item]]] = [
        Column(what, lambda row: row[0]),
        Column("side", lambda row: letters[row[1].side]),
    ]
    return Table(columns=[*named, *columns], entries=rows)


def _stages(runs: Sequence[VideoRun], letters: Letters) -> Iterator[doc.Block]:
    stages: list[Column[Row[float]]] = [
        Column("s", lambda row: row[2], ".2f"),
        Column("ms a frame", lambda row: row[2] / row[1].frames * 1e3, ".1f"),
    ]
    yield _table("stage", runs, letters, lambda run: run.stage_s, stages)
    networks: list[Column[Row[NetworkShare]]] = [
        Column("s", lambda row: row[2].seconds, ".2f"),
        Column("ms a call", lambda row: row[2].seconds / row[2].calls * 1e3, ".2f", "mean"),
        Column("calls", lambda row: row[2].calls, "d"),
    ]
    yield _table("network", runs, letters, lambda run: {one.network: one for one in run.networks}, networks)
    activities: list[Column[Row[ActivityTime]]] = [
        Column("s", lambda row: row[2].seconds, ".2f", "all threads"),
        Column("ms a frame", lambda row: row[2].seconds / row[1].frames * 1e3, ".2f"),
        Column("calls", lambda row: row[2].calls, "d", "", "wide"),
        Column("threads", lambda row: row[2].threads, "d", "", "wide"),
        Column("hidden s", lambda row: row[2].under_networks_s, ".2f", "a network runs", "room"),
    ]
    yield _table("activity", runs, letters, lambda run: {one.what: one for one in run.activities}, activities)


def _tracker(runs: Sequence[VideoRun], letters: Letters) -> doc.Block:
    longest = max((max(entry.frames.samples_s) for run in runs for entry in run.tracker), default=1.0)
    columns: list[Column[Row[TrackerTime]]] = [
        Column("frames", lambda row: len(row[2].frames.samples_s), "d"),
        Column("median ms", lambda row: row[2].frames.median_s * 1e3, ".1f", "of these frames"),
        *_percentiles((90, 99), lambda row: row[2].frames, ".1f", "always"),
        Column("mean", lambda row: row[2].frames.mean_s * 1e3, ".1f", "ms", "wide"),
        Column("samples", lambda row: _strip(longest, row[2].frames), "g", shown="page"),
    ]
    return _table(
        "tracked objects", runs, letters, lambda run: {str(one.objects): one for one in run.tracker}, columns
    )


def timeline(run: VideoRun) -> doc.Timeline:
    """A row for each thread and activity, and for each network, over the time of the traced run."""
    stages = [span for span in run.spans if span.what.startswith(STAGE_PREFIX)]
    wall_s = max(run.overlap.wall_s, 1e-9)
    networks = sum(span.seconds for span in run.spans if span.is_network)
    by_itself = any(span.what == TRACKED for span in run.spans) and not any(
        span.is_network and span.objects for span in run.spans
    )
    unseen = "; what the tracker runs by itself is not seen" if by_itself else ""
    return doc.Timeline(
        rows=_timeline_rows(run.spans),
        bands=[(span.what.removeprefix(STAGE_PREFIX), span.interval) for span in stages],
        caption=f"{wall_s:.1f} s; a network runs {networks / wall_s:.0%} of the time; "
        f"{run.overlap.busy_threads:.2f} threads are busy on average{unseen}",
    )


def _timeline_rows(spans: Sequence[Span]) -> list[doc.TimelineRow]:
    """In the order of a frame's way."""
    found: dict[tuple[int, doc.Kind, str], list[Span]] = {}
    threads: dict[str, list[str]] = {}
    for span in spans:
        if span.what.startswith(STAGE_PREFIX):
            continue
        label = span.what
        if span.what in AHEAD:
            known = threads.setdefault(span.what, [])
            if span.thread not in known:
                known.append(span.thread)
            label = f"{span.what}, thread {known.index(span.thread) + 1}"
        found.setdefault((*_place(span), label), []).append(span)
    return [
        doc.TimelineRow(label=label, kind=kind, intervals=union(span.interval for span in own))
        for (_, kind, label), own in sorted(found.items(), key=lambda item: item[0][0])
    ]


def _place(span: Span) -> tuple[int, doc.Kind]:
    """Order and kind of a span's row."""
    if span.what in AHEAD:
        return AHEAD.index(span.what), "ahead"
    if span.what == WAIT:
        return 2, "wait"
    if span.is_network:
        return 4, "network"
    if span.what == TRACKED:
        return 5, "ahead"
    return (6 if span.what == "write" else 3), "work"


def _machine(report: ProfileReport) -> Section:
    values: dict[str, Any] = plain(report.machine)
    values |= {f"GPU {gpu.index}, {during}": plain(gpu) for during, gpu in report.gpus}
    if not report.gpus:
        values["GPU clocks and throttling"] = "not told"
    return Section("The machine meanwhile", [doc.facts_of(values)], "page")
