"""One self-contained HTML page: style for phone, desktop and dark mode, tables that sort, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...runtime.atomic_file import replaced_at_end

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5c6670;--paper:#fff;--panel:#f4f6f8;--line:#d8dee4;
--bar:#2f7ed8;--bad:#c8553d;--note:#fff6dd;--noteline:#d9a400}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--dim:#9aa4ae;--paper:#14181c;--panel:#1d2329;
--line:#343c44;--bar:#5aa2f0;--bad:#e58a74;--note:#332b12;--noteline:#c79a1b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:1rem;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
details{margin:.3rem 0}summary{cursor:pointer}
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
.ahead{fill:#7a9e3e}.move{fill:#a06ec0}.band{fill:var(--panel);stroke:var(--line);stroke-width:.5}
.k0{fill:#2f7ed8}.k1{fill:#d9822b}.k2{fill:#7a9e3e}.k3{fill:#a06ec0}.k4{fill:#c8553d}.k5{fill:#3aa6a0}
.k6{fill:#c2a32b}.k7{fill:#d66ba0}.k8{fill:#7c8793}.k9{fill:#5f6fd0}.k10{fill:#8a6d4b}.k11{fill:#4f9d5d}
.key{display:inline-block;margin-right:.7rem}.key svg{display:inline-block;margin:0}
@media (max-width:600px){td:first-child{white-space:normal;min-width:9rem}}
.spark{fill:none;stroke:var(--bar);stroke-width:1.5}
.frames{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:.8rem}
figure{margin:0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.5rem}
.frames.wide{grid-template-columns:1fr}
.card.pass b{color:#2e9e5b}.card.fail b{color:var(--bad)}
.plot{width:100%;height:auto;margin:0}.plot text{fill:var(--dim);font-size:12px}
.plot.timeline{min-width:44rem}.plot.timeline text{font-size:11px}
figure .scroll{overflow-x:auto}
.axis{stroke:var(--line)}.limit{stroke:var(--bad);stroke-dasharray:5 4}
figure+figure{margin-top:.6rem}.frames figure+figure{margin-top:0}
figure img{width:100%;height:auto;display:block;image-rendering:auto}
figcaption{font-size:.88em;margin-top:.3rem}
"""

SCRIPT = """
for(const th of document.querySelectorAll('th button'))th.addEventListener('click',()=>{
const cell=th.parentElement,head=cell.parentElement,body=cell.closest('table').tBodies[0];
const column=[...head.children].indexOf(cell),up=cell.getAttribute('aria-sort')!=='ascending';
for(const other of head.children)other.removeAttribute('aria-sort');
cell.setAttribute('aria-sort',up?'ascending':'descending');
const key=row=>row.children[column].dataset.v;
const order=(a,b)=>column?(+a||0)-(+b||0):a.localeCompare(b,undefined,{numeric:true});
body.append(...[...body.rows].sort((a,b)=>up?order(key(a),key(b)):order(key(b),key(a))))});
"""


def escaped(value: object) -> str:
    """Text for an element or an attribute."""
    return escape(str(value), quote=True)


def sortable_table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table whose head cells sort it; heads are HTML, rows are `table_row`'s."""
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in heads)
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def table_row(name: str, *cells: tuple[float, str]) -> str:
    """A row: its name, then cells of the value they sort by and their HTML."""
    rest = "".join(f'<td data-v="{value}">{text}</td>' for value, text in cells)
    return f'<tr><td data-v="{escaped(name)}">{escaped(name)}</td>{rest}</tr>'


def environment_section(environment: Mapping[str, Any]) -> str:
    """What `evaluation.report.environment` found, without what it did not find."""
    rows = "".join(
        f"<p>{escaped(name)}: <code>{escaped(_plain(value))}</code></p>"
        for name, value in environment.items()
        if value not in (None, [], {})
    )
    return f"<h2>Made on</h2>{rows}"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def write_page(path: Path, title: str, body: str) -> None:
    """Write a page.

    Args:
        path: where to.
        title: plain text.
        body: HTML; sortable tables have a button in each head cell and `data-v` on each cell.

    Raises:
        GmosError: the file cannot be written.
    """
    page = "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>",
            body,
            f"<script>{SCRIPT}</script></body></html>\n",
        )
    )
    with replaced_at_end(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
