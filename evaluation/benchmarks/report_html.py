"""An evaluation as one self-contained HTML page: numbers, remarks, bars per sequence, the worst frames."""

from __future__ import annotations

import base64
import math
from pathlib import Path

from ... import __version__
from ..report.html_page import escaped, write_page
from .frame_pictures import frame_picture
from .report_table import format_metric
from .results import METRICS, WORST_PER_SEQUENCE, Evaluation, SequenceScores, note_lines

_BAR_WIDTH_PX = 90
_SPARK_WIDTH_PX, _SPARK_HEIGHT_PX = 160, 28


def write_html(path: Path, evaluation: Evaluation, *, worst: int, merged: bool, fbms: bool) -> None:
    """Write the page.

    Args:
        path: where to.
        evaluation: what to show.
        worst: how many of the worst frames to picture.
        merged: all labels of this benchmark are one foreground.
        fbms: annotations follow FBMS-59's own reading rules.

    Raises:
        GmosError: the file cannot be written, or a pictured frame is gone.
    """
    frames = sum(len(sequence.frames) for sequence in evaluation.sequences)
    title = f"{evaluation.evaluator} on {evaluation.dataset}"
    body = "".join(
        (
            f"<h1>{escaped(title)}</h1>",
            f'<p class="dim">sequences: {len(evaluation.sequences)}, frames: {frames},'
            f" time: {evaluation.seconds:.1f} s, gmos-deploy {escaped(__version__)}</p>",
            _cards(evaluation),
            _notes(evaluation),
            _sequences(evaluation),
            _worst_frames(evaluation, worst, merged=merged, fbms=fbms),
            _sources(evaluation),
        )
    )
    write_page(path, title, body)


def _cards(evaluation: Evaluation) -> str:
    cards = []
    for name, value in evaluation.overall.items():
        metric = METRICS[name]
        direction = "" if metric.higher_is_better else '<span class="dim">lower is better</span>'
        cards.append(
            f'<div class="card">{escaped(metric.title)}<b>{format_metric(value)}</b>{direction}</div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _notes(evaluation: Evaluation) -> str:
    lines = note_lines(evaluation.notes)
    if not lines:
        return "<h2>Remarks</h2><p>Nothing was left out, resized or ignored.</p>"
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f'<h2>Remarks</h2><ul class="notes">{items}</ul>'


def _sequences(evaluation: Evaluation) -> str:
    names = [name for name in METRICS if any(name in sequence.metrics for sequence in evaluation.sequences)]
    largest = {
        name: max((s.metrics[name] for s in evaluation.sequences if name in s.metrics), default=0.0)
        for name in names
    }
    heads = ["Sequence", "Frames", *(METRICS[name].title for name in names), "Frame scores"]
    head = "".join(f'<th scope="col"><button type="button">{escaped(cell)}</button></th>' for cell in heads)
    rows = "".join(_sequence_row(sequence, names, largest) for sequence in evaluation.sequences)
    return (
        f'<h2>Sequences</h2><p class="dim">Frame score: {escaped(evaluation.frame_score)}.</p>'
        '<div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _sequence_row(sequence: SequenceScores, names: list[str], largest: dict[str, float]) -> str:
    objects = ""
    if len(sequence.objects) > 1:
        lines = "".join(f"<br>{_object_line(sequence, index)}" for index in range(len(sequence.objects)))
        objects = f'<details class="dim"><summary>{len(sequence.objects)} objects</summary>{lines}</details>'
    cells = [
        f'<td data-v="{escaped(sequence.name)}">{escaped(sequence.name)}{objects}</td>',
        f'<td data-v="{len(sequence.frames)}">{len(sequence.frames)}</td>',
    ]
    for name in names:
        value = sequence.metrics.get(name, math.nan)
        bar = _bar(name, value, largest[name])
        cells.append(f'<td data-v="{value if math.isfinite(value) else -1}">{format_metric(value)}{bar}</td>')
    scores = [frame.score for frame in sequence.frames]
    known = [score for score in scores if score is not None]
    lowest = min(known) if known else -1
    cells.append(f'<td data-v="{lowest}">{_spark(scores)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _object_line(sequence: SequenceScores, index: int) -> str:
    item = sequence.objects[index]
    matched = "nothing" if item.matched is None else f"prediction {item.matched}"
    values = ", ".join(
        f"{METRICS[name].title} {format_metric(value)}" for name, value in item.metrics.items()
    )
    return escaped(f"object {item.label} ({matched}): {values}")


def _bar(name: str, value: float, largest: float) -> str:
    metric = METRICS[name]
    if metric.bar == "none" or not math.isfinite(value):
        return ""
    full = 1.0 if metric.bar == "unit" else largest
    width = _BAR_WIDTH_PX * min(1.0, max(0.0, value / full)) if full > 0 else 0.0
    kind = "fill" if metric.higher_is_better else "bad"
    return (
        f'<svg width="{_BAR_WIDTH_PX}" height="7" role="img" aria-label="{escaped(metric.title)} {value:.4f}">'
        f'<rect class="track" width="{_BAR_WIDTH_PX}" height="7" rx="2"/>'
        f'<rect class="{kind}" width="{width:.1f}" height="7" rx="2"/></svg>'
    )


def _spark(scores: list[float | None]) -> str:
    """Frame scores from left to right, 0 at the bottom and 1 at the top, gaps where nothing is judged."""
    step = _SPARK_WIDTH_PX / max(1, len(scores) - 1)
    path, pen_down = [], False
    for index, score in enumerate(scores):
        if score is None:
            pen_down = False
            continue
        y = 1 + (_SPARK_HEIGHT_PX - 2) * (1 - min(1.0, score))
        path.append(f"{'L' if pen_down else 'M'}{index * step:.1f} {y:.1f}")
        if not pen_down:
            path.append("h.1")
        pen_down = True
    return (
        f'<svg width="{_SPARK_WIDTH_PX}" height="{_SPARK_HEIGHT_PX}" role="img" aria-label="frame scores">'
        f'<path class="spark" stroke-linecap="round" d="{"".join(path)}"/></svg>'
    )


def _worst_frames(evaluation: Evaluation, worst: int, *, merged: bool, fbms: bool) -> str:
    figures = []
    for sequence, frame in evaluation.worst_frames(worst):
        png = frame_picture(sequence, frame, merged=merged, fbms=fbms)
        data = base64.b64encode(png).decode("ascii")
        caption = f"{sequence.name} / {frame.name}"
        figures.append(
            f'<figure><img alt="{escaped(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escaped(caption)}: {format_metric(frame.score)}</figcaption></figure>"
        )
    if not figures:
        return ""
    if any(frame.boxes is not None for _, frame in evaluation.worst_frames(1)):
        legend = "Predicted foreground in blue, annotated box in green, predicted box in red."
    elif merged:
        legend = "Left the annotation, right the prediction, all objects merged."
    else:
        legend = (
            "Left the annotation, right the prediction; matched objects share a colour. Dark grey: does not"
            " count in this frame. Magenta: predicted without a match."
        )
    limit = f"At most {WORST_PER_SEQUENCE} of a sequence."
    pictures = "".join(figures)
    return f'<h2>Worst frames</h2><p class="dim">{legend} {limit}</p><div class="frames">{pictures}</div>'


def _sources(evaluation: Evaluation) -> str:
    rows = "".join(
        f"<p>{escaped(flag)}: <code>{escaped(path)}</code></p>" for flag, path in evaluation.sources.items()
    )
    return f"<h2>Made from</h2>{rows}"
