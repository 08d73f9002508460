"""The plots of a profile as inline SVG: samples, shares of kinds, and what every thread did when."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..report.html_page import escaped
from .latency import Latency
from .layer_kinds import KindTime
from .runs import VideoRun
from .timeline import AHEAD, STAGE_PREFIX, TRACKED, WAIT, Interval, Span, union

PLOT_WIDTH_PX, ROW_PX, LABEL_PX, HEAD_PX, FOOT_PX = 860, 16, 150, 18, 18
STRIP_WIDTH_PX, STRIP_HEIGHT_PX = 150, 16
BAR_WIDTH_PX, BAR_HEIGHT_PX = 320, 14

LEAST_PX = 0.4
"""Width of the shortest span; gaps below it are closed, so that a long run stays a small file."""

TICKS = 5
"""About so many marks on the time axis."""

Place = Callable[[float], float]
"""The x of a moment."""

COLOURS = 12
"""Classes k0 to k11 of the page's style."""


def sample_strip(latency: Latency, longest_s: float) -> str:
    """Every sample as a tick on an axis from 0 to the longest sample of all."""
    ticks = "".join(
        f'<rect class="fill" x="{STRIP_WIDTH_PX * sample / longest_s:.1f}" width="1.2" height="{STRIP_HEIGHT_PX}"/>'
        for sample in latency.samples_s
    )
    return (
        f'<svg width="{STRIP_WIDTH_PX}" height="{STRIP_HEIGHT_PX}" role="img" aria-label="samples">'
        f'<rect class="track" y="{STRIP_HEIGHT_PX // 2}" width="{STRIP_WIDTH_PX}" height="1"/>{ticks}</svg>'
    )


def kind_bar(kinds: Sequence[KindTime], order: Sequence[str]) -> str:
    """The shares of the kinds beside each other; `order` gives a kind its colour."""
    x, parts = 0.0, []
    for kind in kinds:
        width = BAR_WIDTH_PX * kind.share
        parts.append(
            f'<rect class="{kind_class(kind.kind, order)}" x="{x:.1f}" width="{width:.1f}" height="{BAR_HEIGHT_PX}">'
            f"<title>{escaped(kind.kind)} {kind.share:.0%}</title></rect>"
        )
        x += width
    return (
        f'<svg width="{BAR_WIDTH_PX}" height="{BAR_HEIGHT_PX}" role="img" aria-label="share of each kind">'
        f"{''.join(parts)}</svg>"
    )


def kind_legend(order: Sequence[str]) -> str:
    """Colour and name of every kind."""
    marks = "".join(
        f'<span class="key"><svg width="12" height="12" role="presentation"><rect class="{kind_class(kind, order)}" '
        f'width="12" height="12" rx="2"/></svg> {escaped(kind)}</span> '
        for kind in order
    )
    return f'<p class="dim">{marks}</p>'


def kind_class(kind: str, order: Sequence[str]) -> str:
    """The class of a kind's colour."""
    return f"k{order.index(kind) % COLOURS}"


def timeline(run: VideoRun) -> str:
    """A row for each thread and activity, and for each network, over the time of the traced run."""
    rows = _rows(run.spans)
    if not rows:
        return ""
    begin = min(span.start_s for span in run.spans)
    end = max(span.end_s for span in run.spans)
    scale = (PLOT_WIDTH_PX - LABEL_PX) / max(end - begin, 1e-9)
    bottom = HEAD_PX + ROW_PX * len(rows)

    def x(moment: float) -> float:
        return LABEL_PX + (moment - begin) * scale

    parts = [_stages(run.spans, x, bottom), _axis(begin, end, x, bottom)]
    for place, (label, kind, spans) in enumerate(rows):
        y = HEAD_PX + ROW_PX * place
        shapes = [(x(start), x(stop)) for start, stop in union(span.interval for span in spans)]
        parts.append(
            f'<text x="0" y="{y + 12}">{escaped(label)}</text><path class="{kind}" d="{_bars(shapes, y + 2)}"/>'
        )
    networks = sum(span.seconds for span in run.spans if span.is_network)
    by_itself = any(span.what == TRACKED for span in run.spans) and not any(
        span.is_network and span.objects for span in run.spans
    )
    unseen = "; what the tracker runs by itself is not seen" if by_itself else ""
    return (
        f'<figure><div class="scroll"><svg class="plot timeline" viewBox="0 0 {PLOT_WIDTH_PX} {bottom + FOOT_PX}" '
        f'role="img" aria-label="what every thread did when">{"".join(parts)}</svg></div><figcaption>'
        f"{end - begin:.1f} s; a network runs {networks / max(end - begin, 1e-9):.0%} of the time{unseen}"
        "</figcaption></figure>"
    )


def _rows(spans: Sequence[Span]) -> list[tuple[str, str, list[Span]]]:
    """Label, style class and spans of each row, in the order of a frame's way."""
    found: dict[tuple[int, str, str], list[Span]] = {}
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
    ordered = sorted(found.items(), key=lambda item: item[0][0])
    return [(label, kind, own) for (_, kind, label), own in ordered]


def _place(span: Span) -> tuple[int, str]:
    """Order and style class of a span's row."""
    if span.what in AHEAD:
        return AHEAD.index(span.what), "ahead"
    if span.what == WAIT:
        return 2, "bad"
    if span.is_network:
        return 4, "fill"
    if span.what == TRACKED:
        return 5, "ahead"
    return (6 if span.what == "write" else 3), "move"


def _bars(shapes: Sequence[Interval], y: float) -> str:
    """One path of all bars of a row."""
    merged: list[Interval] = []
    for start, end in shapes:
        stop = max(end, start + LEAST_PX)
        if merged and start - merged[-1][1] < LEAST_PX:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    height = ROW_PX - 4
    return "".join(
        f"M{start:.1f} {y}h{stop - start:.1f}v{height}h{start - stop:.1f}z" for start, stop in merged
    )


def _stages(spans: Sequence[Span], x: Place, bottom: float) -> str:
    """Bands behind the rows, with the names of the stages above them."""
    parts = []
    stages = [span for span in spans if span.what.startswith(STAGE_PREFIX)]
    for number, span in enumerate(stages):
        left, right = x(span.start_s), x(span.end_s)
        name = span.what.removeprefix(STAGE_PREFIX)
        band = f'<rect class="band" x="{left:.1f}" width="{right - left:.1f}" height="{bottom}"/>'
        # A name has room from about seven pixels a letter on.
        label = (
            f'<text x="{left + 3:.1f}" y="13">{escaped(name)}</text>' if right - left > 7 * len(name) else ""
        )
        parts.append((band if number % 2 == 0 else "") + label)
    return "".join(parts)


def _axis(begin: float, end: float, x: Place, bottom: float) -> str:
    """Seconds below the rows, in steps of 1, 2 or 5 times a power of ten."""
    rough = max(end - begin, 1e-6) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    parts = []
    for number in range(int((end - begin) / step) + 1):
        place = x(begin + number * step)
        parts.append(
            f'<path class="axis" d="M{place:.1f} {HEAD_PX}V{bottom}"/>'
            f'<text x="{place:.1f}" y="{bottom + 13}">{number * step:g} s</text>'
        )
    return "".join(parts)
