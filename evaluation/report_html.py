"""An evaluation as one self-contained HTML page: numbers, remarks, bars per sequence, the worst frames."""

from __future__ import annotations

import base64
import math
from html import escape
from pathlib import Path

from .. import __version__
from ..runtime.atomic_file import replaced_at_end
from .frame_pictures import frame_picture
from .report_table import format_metric
from .results import METRICS, WORST_PER_SEQUENCE, Evaluation, SequenceScores, note_lines

_BAR_WIDTH_PX = 90
_SPARK_WIDTH_PX, _SPARK_HEIGHT_PX = 160, 28

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5c6670;--paper:#fff;--panel:#f4f6f8;--line:#d8dee4;
--bar:#2f7ed8;--bad:#c8553d;--note:#fff6dd;--noteline:#d9a400}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--dim:#9aa4ae;--paper:#14181c;--panel:#1d2329;
--line:#343c44;--bar:#5aa2f0;--bad:#e58a74;--note:#332b12;--noteline:#c79a1b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:1rem;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}
p{margin:.3rem 0}.dim{color:var(--dim);font-size:.88em}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem}
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.5rem .7rem}
.card b{display:block;font-size:1.45rem;font-variant-numeric:tabular-nums}
.notes{background:var(--note);border-left:4px solid var(--noteline);margin:0;padding:.5rem .5rem .5rem 1.6rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;
overflow-wrap:normal;white-space:nowrap}
th{white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid var(--bar)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
svg{display:block;margin-left:auto}.fill{fill:var(--bar)}.bad{fill:var(--bad)}.track{fill:var(--line)}
.spark{fill:none;stroke:var(--bar);stroke-width:1.5}
.frames{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:.8rem}
figure{margin:0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.5rem}
figure img{width:100%;height:auto;display:block;image-rendering:auto}
figcaption{font-size:.88em;margin-top:.3rem}
"""

_SCRIPT = """
for(const th of document.querySelectorAll('th button'))th.addEventListener('click',()=>{
const cell=th.parentElement,head=cell.parentElement,body=cell.closest('table').tBodies[0];
const column=[...head.children].indexOf(cell),up=cell.getAttribute('aria-sort')!=='ascending';
for(const other of head.children)other.removeAttribute('aria-sort');
cell.setAttribute('aria-sort',up?'ascending':'descending');
const key=row=>row.children[column].dataset.v;
const order=(a,b)=>column?(+a||0)-(+b||0):a.localeCompare(b,undefined,{numeric:true});
body.append(...[...body.rows].sort((a,b)=>up?order(key(a),key(b)):order(key(b),key(a))))});
"""


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
    page = "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{_text(title)}</h1>",
            f'<p class="dim">sequences: {len(evaluation.sequences)}, frames: {frames},'
            f" time: {evaluation.seconds:.1f} s, gmos-deploy {_text(__version__)}</p>",
            _cards(evaluation),
            _notes(evaluation),
            _sequences(evaluation),
            _worst_frames(evaluation, worst, merged=merged, fbms=fbms),
            _sources(evaluation),
            f"<script>{_SCRIPT}</script></body></html>\n",
        )
    )
    with replaced_at_end(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _cards(evaluation: Evaluation) -> str:
    cards = []
    for name, value in evaluation.overall.items():
        metric = METRICS[name]
        direction = "" if metric.higher_is_better else '<span class="dim">lower is better</span>'
        cards.append(f'<div class="card">{_text(metric.title)}<b>{format_metric(value)}</b>{direction}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _notes(evaluation: Evaluation) -> str:
    lines = note_lines(evaluation.notes)
    if not lines:
        return "<h2>Remarks</h2><p>Nothing was left out, resized or ignored.</p>"
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f'<h2>Remarks</h2><ul class="notes">{items}</ul>'


def _sequences(evaluation: Evaluation) -> str:
    names = [name for name in METRICS if any(name in sequence.metrics for sequence in evaluation.sequences)]
    largest = {
        name: max((s.metrics[name] for s in evaluation.sequences if name in s.metrics), default=0.0)
        for name in names
    }
    heads = ["Sequence", "Frames", *(METRICS[name].title for name in names), "Frame scores"]
    head = "".join(f'<th scope="col"><button type="button">{_text(cell)}</button></th>' for cell in heads)
    rows = "".join(_sequence_row(sequence, names, largest) for sequence in evaluation.sequences)
    return (
        f'<h2>Sequences</h2><p class="dim">Frame score: {_text(evaluation.frame_score)}.</p>'
        '<div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _sequence_row(sequence: SequenceScores, names: list[str], largest: dict[str, float]) -> str:
    objects = ""
    if len(sequence.objects) > 1:
        lines = "".join(f"<br>{_object_line(sequence, index)}" for index in range(len(sequence.objects)))
        objects = f'<details class="dim"><summary>{len(sequence.objects)} objects</summary>{lines}</details>'
    cells = [
        f'<td data-v="{_text(sequence.name)}">{_text(sequence.name)}{objects}</td>',
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
    return _text(f"object {item.label} ({matched}): {values}")


def _bar(name: str, value: float, largest: float) -> str:
    metric = METRICS[name]
    if metric.bar == "none" or not math.isfinite(value):
        return ""
    full = 1.0 if metric.bar == "unit" else largest
    width = _BAR_WIDTH_PX * min(1.0, max(0.0, value / full)) if full > 0 else 0.0
    kind = "fill" if metric.higher_is_better else "bad"
    return (
        f'<svg width="{_BAR_WIDTH_PX}" height="7" role="img" aria-label="{_text(metric.title)} {value:.4f}">'
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
            f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_text(caption)}: {format_metric(frame.score)}</figcaption></figure>"
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
        f"<p>{_text(flag)}: <code>{_text(path)}</code></p>" for flag, path in evaluation.sources.items()
    )
    return f"<h2>Made from</h2>{rows}"
