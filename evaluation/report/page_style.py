"""The style and the script of a page: phone, desktop, dark mode, tables that sort; nothing is loaded."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5c6670;--paper:#fff;--panel:#f4f6f8;--line:#d8dee4;
--bar:#2f7ed8;--bad:#c8553d;--good:#2a8a50;--note:#fff6dd;--noteline:#d9a400;--failed:#fdecea}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--dim:#9aa4ae;--paper:#14181c;--panel:#1d2329;
--line:#343c44;--bar:#5aa2f0;--bad:#e58a74;--good:#5cc487;--note:#332b12;--noteline:#c79a1b;--failed:#3a211d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1500px;padding:1rem;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.8rem 0 .5rem}
p{margin:.3rem 0}ul{margin:.3rem 0;padding-left:1.2rem}.dim{color:var(--dim);font-size:.88em;max-width:60rem}
code{font-size:.92em}
.good{color:var(--good)}.bad{color:var(--bad)}td.dim{font-size:inherit}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;margin:.8rem 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.5rem .7rem}
.card b{display:block;font-size:1.4rem;line-height:1.25;font-variant-numeric:tabular-nums}
.remarks{background:var(--note);border-left:4px solid var(--noteline);margin:.3rem 0;padding:.5rem .5rem .5rem 1.6rem;
border-radius:0 6px 6px 0}
.remarks.dim{background:none;border:0;padding-left:1.2rem}
.remarks.bad{background:var(--failed);border-color:var(--bad);color:inherit}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.4rem 0}
dt{color:var(--dim)}dd{margin:0}
.sides dt{color:var(--ink);font-weight:700}
details{margin:.4rem 0}summary{cursor:pointer;padding:.15rem 0}
.table{display:inline-block;vertical-align:top;max-width:100%;margin:.5rem 2.5rem 1rem 0}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92em}
th,td{padding:.3rem .45rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
overflow-wrap:break-word}
th{vertical-align:bottom;line-height:1.25;overflow-wrap:normal}
th small{display:block;font-weight:400;color:var(--dim)}
.n{text-align:right}td.n{white-space:nowrap}
td svg{margin-top:.25rem}td.n svg{margin-left:auto}
th:first-child,td:first-child{position:sticky;left:0;background:var(--paper);padding-left:0;z-index:1;min-width:9rem}
tbody tr:hover td{background:var(--panel)}
th button{all:unset;cursor:pointer;font-weight:600}
button:focus-visible,summary:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.more{display:none;font:inherit;font-size:.85em;color:var(--dim);background:none;border:1px solid var(--line);
border-radius:6px;padding:.2rem .6rem;margin-top:.4rem;cursor:pointer}
svg{display:block}.fill,.network{fill:var(--bar)}.wait{fill:var(--bad)}svg .bad{fill:var(--bad)}.track{fill:var(--line)}
.ahead{fill:#7a9e3e}.work{fill:#a06ec0}.band{fill:var(--panel);stroke:var(--line);stroke-width:.5}
.k0{fill:#2f7ed8}.k1{fill:#d9822b}.k2{fill:#7a9e3e}.k3{fill:#a06ec0}.k4{fill:#c8553d}.k5{fill:#3aa6a0}
.k6{fill:#c2a32b}.k7{fill:#d66ba0}.k8{fill:#7c8793}.k9{fill:#5f6fd0}.k10{fill:#8a6d4b}.k11{fill:#4f9d5d}
.key{display:inline-block;margin-right:.9rem}.key svg{display:inline-block;vertical-align:-1px;margin-right:.3rem}
.spark{fill:none;stroke:var(--bar);stroke-width:1.5}
.axis{stroke:var(--line)}.limit{stroke:var(--bad);stroke-dasharray:5 4}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,28rem),1fr));gap:.8rem;margin:.6rem 0}
.figures.wide{grid-template-columns:1fr}
figure{margin:0;min-width:0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.6rem}
figure img{max-width:100%;height:auto;display:block}
.figures:not(.wide) img{width:100%}
figcaption{font-size:.88em;margin-top:.4rem;color:var(--dim)}
.plot{width:100%;height:auto}.plot text{fill:var(--dim);font-size:12px}
.plot.timeline{min-width:44rem}.plot.timeline text{font-size:11px}
@media (max-width:600px){body{padding:.8rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.35rem}
.sides{grid-template-columns:max-content 1fr;gap:.15rem .7rem}
th,td{padding:.3rem .25rem}th:first-child,td:first-child{min-width:5rem}
.table{margin-right:0}table:not(.all) .wide{display:none}.more{display:inline-block}}
"""

SCRIPT = """
for(const th of document.querySelectorAll('th button'))th.addEventListener('click',()=>{
const cell=th.parentElement,head=cell.parentElement,body=cell.closest('table').tBodies[0];
const column=[...head.children].indexOf(cell),up=cell.getAttribute('aria-sort')!=='ascending';
for(const other of head.children)other.removeAttribute('aria-sort');
cell.setAttribute('aria-sort',up?'ascending':'descending');
const key=row=>row.children[column].dataset.v;
const order=(a,b)=>cell.classList.contains('n')?a-b:a.localeCompare(b,undefined,{numeric:true});
body.append(...[...body.rows].sort((a,b)=>up?order(key(a),key(b)):order(key(b),key(a))))});
for(const more of document.querySelectorAll('.more'))more.addEventListener('click',()=>{
const all=more.parentElement.querySelector('table').classList.toggle('all');
more.textContent=all?'fewer columns':'all columns';more.setAttribute('aria-expanded',all)});
"""
