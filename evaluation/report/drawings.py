"""The plots of a page and the small drawings in its tables, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from .document import Bar, Drawing, Interval, Plot, Spark, Stack, Strip, Timeline

COLOURS = 12
"""Classes k0 to k11 of the page's style."""

BAR_WH, STRIP_WH, SPARK_WH, STACK_WH = (90, 7), (120, 16), (150, 28), (220, 14)

PLOT_WH, MARGIN = (640, 210), 52
NEAR_ONE = (0.9999, 0.999, 0.99, 0.9, 0.8, 0.5)
TIMELINE_WIDTH, ROW, LABEL, HEAD, FOOT = 860, 16, 150, 18, 18

LEAST_WIDTH = 0.4
"""Of the shortest interval; gaps below it are closed, so that a long run stays a small file."""

TICKS = 5
"""About so many marks on a time axis."""

Place = Callable[[float], float]
"""The coordinate of a value."""


def escaped(value: object) -> str:
    """Text for an element or an attribute."""
    return escape(str(value), quote=True)


def colour(name: str, order: Sequence[str]) -> str:
    """The class of a name's colour."""
    return f"k{order.index(name) % COLOURS}"


def _svg(width_height: tuple[int, int], label: str, content: Iterable[str]) -> str:
    width, height = width_height
    return f'<svg width="{width}" height="{height}" role="img" aria-label="{escaped(label)}">{"".join(content)}</svg>'


def _rect(kind: str, *, x: float = 0.0, y: float = 0.0, width: float, height: float, title: str = "") -> str:
    inner = f"<title>{escaped(title)}</title>" if title else ""
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="1">{inner}</rect>'


def drawn(drawing: Drawing) -> str:
    """A drawing of a table's cell."""
    match drawing:
        case Bar():
            width, height = BAR_WH
            full = width * min(1.0, max(0.0, drawing.share))
            bar = _rect("fill" if drawing.good else "bad", width=full, height=height)
            return _svg(BAR_WH, drawing.label, (_rect("track", width=width, height=height), bar))
        case Strip():
            width, height = STRIP_WH
            axis = _rect("track", y=height // 2, width=width, height=1)
            scale = (width - 2) / drawing.longest
            ticks = (_rect("fill", x=scale * x, width=1.2, height=height) for x in drawing.samples)
            return _svg(STRIP_WH, "samples", (axis, *ticks))
        case Spark():
            return _spark(drawing)
        case Stack():
            width, height = STACK_WH
            x, parts = 0.0, []
            for name, share in drawing.shares:
                kind, title = colour(name, drawing.order), f"{name} {share:.0%}"
                parts.append(_rect(kind, x=x, width=width * share, height=height, title=title))
                x += width * share
            return _svg(STACK_WH, "share of each", parts)


def _spark(drawing: Spark) -> str:
    width, height = SPARK_WH
    step = width / max(1, len(drawing.values) - 1)
    path, pen_down = [], False
    for index, value in enumerate(drawing.values):
        if value is not None:
            y = 1 + (height - 2) * (1 - min(1.0, value))
            # A value without neighbours is a point.
            path.append(f"L{index * step:.1f} {y:.1f}" if pen_down else f"M{index * step:.1f} {y:.1f}h.1")
        pen_down = value is not None
    return _svg(
        SPARK_WH, "frame scores", [f'<path class="spark" stroke-linecap="round" d="{"".join(path)}"/>']
    )


def swatch(name: str, order: Sequence[str]) -> str:
    """The colour of a name."""
    return _svg((12, 12), "", [_rect(colour(name, order), width=12, height=12)])


def _figure(content: Iterable[str], label: str, caption: str, size: tuple[int, int], kind: str = "") -> str:
    width, height = size
    return (
        f'<figure><div class="scroll"><svg class="plot{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(label)}">{"".join(content)}</svg></div>'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'


def plot(given: Plot) -> str:
    """Points over something."""
    width, height = PLOT_WH
    across, up = [x for x, _, _ in given.points], [y for _, y, _ in given.points]
    low, high = min(across), max(across)
    least = min([*up, *([] if given.limit is None else [given.limit])])
    # Agreement is near 1: the axis begins at the closest of these.
    bottom = next((start for start in NEAR_ONE if given.near_one and least > start), 0.0)
    top = 1.0 if given.near_one else max(up) or 1.0
    floor, right = height - MARGIN, width - 8

    def y(value: float) -> float:
        return floor - (value - bottom) / (top - bottom) * (floor - HEAD - 10)

    def x(value: float) -> float:
        return MARGIN + (value - low) / ((high - low) or 1.0) * (right - MARGIN)

    placed = [(x(place), y(value), words) for place, value, words in given.points]
    joined = " ".join(f"{across:.1f},{up:.1f}" for across, up, _ in placed)
    line = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in given.line)
    content = [
        f'<path class="axis" fill="none" d="M{MARGIN} {HEAD}V{floor}H{right}"/>',
        _text(0, 12, given.up),
        _text(MARGIN - 6, y(top) + 4, f"{top:.3g}", "end"),
        _text(MARGIN - 6, floor, f"{bottom:g}", "end"),
        _text(MARGIN, floor + 16, f"{low:.4g}"),
        _text(right, floor + 16, f"{high:.4g}", "end"),
        _text(width / 2, floor + 30, given.across, "middle"),
    ]
    if given.limit is not None:
        content.append(f'<path class="limit" d="M{MARGIN} {y(given.limit):.1f}H{right}"/>')
    if line:
        content.append(f'<polyline class="spark" points="{line}"/>')
    if given.joined:
        content.append(f'<polyline class="spark" points="{joined}"/>')
    content += [
        f'<circle class="fill" cx="{across:.1f}" cy="{up:.1f}" r="3"><title>{escaped(words)}</title></circle>'
        for across, up, words in placed
    ]
    return _figure(content, f"{given.up} over {given.across}", given.caption, PLOT_WH)


def timeline(given: Timeline) -> str:
    """A row for each thread and activity over the time that all of them cover."""
    if not given.rows:
        return ""
    ends = [end for row in given.rows for interval in row.intervals for end in interval]
    ends += [end for _, interval in given.bands for end in interval]
    begin, end = min(ends), max(ends)
    scale = (TIMELINE_WIDTH - LABEL) / max(end - begin, 1e-9)
    bottom = HEAD + ROW * len(given.rows)

    def x(moment: float) -> float:
        return LABEL + (moment - begin) * scale

    parts = [*_bands(given.bands, x, bottom), *_seconds(begin, end, x, bottom)]
    for number, row in enumerate(given.rows):
        y = HEAD + ROW * number
        parts.append(_text(0, y + 12, row.label))
        bars = _bars([(x(start), x(stop)) for start, stop in row.intervals], y + 2)
        parts.append(f'<path class="{row.kind}" d="{bars}"/>')
    size = TIMELINE_WIDTH, bottom + FOOT
    return _figure(parts, "what every thread did when", given.caption, size, " timeline")


def _bars(shapes: Sequence[Interval], y: float) -> str:
    """One path of all bars of a row."""
    merged: list[Interval] = []
    for start, end in shapes:
        stop = max(end, start + LEAST_WIDTH)
        if merged and start - merged[-1][1] < LEAST_WIDTH:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    height = ROW - 4
    return "".join(
        f"M{start:.1f} {y}h{stop - start:.1f}v{height}h{start - stop:.1f}z" for start, stop in merged
    )


def _bands(bands: Sequence[tuple[str, Interval]], x: Place, bottom: float) -> Iterable[str]:
    """Every second band behind the rows is tinted; a name has room from about seven pixels a letter on."""
    for number, (name, (start, end)) in enumerate(bands):
        left, width = x(start), x(end) - x(start)
        if number % 2 == 0:
            yield _rect("band", x=left, width=width, height=bottom)
        if width > 7 * len(name):
            yield _text(left + 3, 13, name)


def _seconds(begin: float, end: float, x: Place, bottom: float) -> Iterable[str]:
    """Seconds below the rows, in steps of 1, 2 or 5 times a power of ten."""
    rough = max(end - begin, 1e-6) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    for number in range(int((end - begin) / step) + 1):
        place = x(begin + number * step)
        yield f'<path class="axis" d="M{place:.1f} {HEAD}V{bottom}"/>'
        yield _text(place, bottom + 13, f"{number * step:g} s")
