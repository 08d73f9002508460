"""The preview's page: picture, numbers and objects; everything it shows is put there as text."""

from __future__ import annotations

import html
from collections.abc import Callable

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1a1a1a;--soft:#666;--line:#ddd;--bad:#b00020}
@media(prefers-color-scheme:dark){:root{--paper:#141414;--ink:#eee;--soft:#aaa;--line:#383838;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;padding:1rem;background:var(--paper);color:var(--ink);font:15px/1.4 system-ui,sans-serif}
header{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline;margin-bottom:.75rem}
h1{font-size:1.15rem;margin:0;overflow-wrap:anywhere}
#state{color:var(--soft)}#state.bad{color:var(--bad)}
main{display:grid;grid-template-columns:minmax(0,3fr) minmax(17rem,1fr);gap:1rem;align-items:start}
@media(max-width:50rem){main{grid-template-columns:minmax(0,1fr)}}
#frame{background:#000;aspect-ratio:16/9;display:grid;place-items:center;border-radius:4px;overflow:hidden}
#frame.shown{aspect-ratio:auto}
#frame img{display:block;width:100%;height:auto}#frame p{color:#bbb;margin:1rem;text-align:center}
[hidden]{display:none!important}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr));gap:.5rem;margin:0 0 1rem}
dl div{border:1px solid var(--line);border-radius:4px;padding:.35rem .5rem}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.25rem .4rem;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:normal;font-size:.8rem}
th:first-child,td:first-child{text-align:left}
.spot{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin-right:.4em;border:1px solid var(--soft)}
form{display:flex;flex-wrap:wrap;gap:.5rem;max-width:26rem}
input,button{font:inherit;padding:.4rem .6rem;min-width:0;flex:1 1 8rem}button{flex:0 0 auto}
"""

SCRIPT = """
const at=id=>document.getElementById(id);
const whole=['answers','dropped','resets','viewers','memory MiB','delay ms'];
let over=false;
function state(text,bad){at('state').textContent=text;at('state').classList.toggle('bad',bad)}
function text(tag,value){const node=document.createElement(tag);node.textContent=value;return node}
function shown(name,value){
if(value===null)return '–';
if(typeof value!=='number')return String(value);
return whole.includes(name)||Number.isInteger(value)?value.toFixed(0):value.toFixed(1)}
function numbers(all){
at('numbers').replaceChildren(...Object.entries(all).map(([name,value])=>{
const part=document.createElement('div');part.append(text('dt',name),text('dd',shown(name,value)));return part}));
const ago=all['last answer s ago'];
if(ago===null)state('waiting for the first answer',false);
else if(ago>3)state('no answer for '+ago.toFixed(0)+' s',true);else state('live',false)}
function objects(all){
at('objects').replaceChildren(...all.map(one=>{
const row=document.createElement('tr'),id=text('td',one.id),spot=document.createElement('span');
spot.className='spot';spot.style.background='rgb('+one.colour.map(Number).join(',')+')';id.prepend(spot);
row.append(id,text('td',one.slot),text('td',one.moving?'moving':'still'),text('td',one.area),
text('td',one.iou===null?'–':one.iou.toFixed(2)));return row}));
at('none').hidden=all.length>0}
function answer(told){
numbers(told.numbers);objects(told.objects);
at('frame').classList.toggle('shown',told.picture!==null);
at('picture').hidden=told.picture===null;at('waiting').hidden=told.picture!==null;
if(told.picture!==null)at('picture').src='data:image/jpeg;base64,'+told.picture;
at('when').textContent='frame '+told.index+', '+told.time_s.toFixed(2)+' s'}
function watch(){
const events=new EventSource('events');
events.addEventListener('answer',event=>answer(JSON.parse(event.data)));
events.addEventListener('numbers',event=>numbers(JSON.parse(event.data).numbers));
events.addEventListener('end',()=>{over=true;events.close();state('the run has ended',true);setTimeout(watch,3000)});
events.onopen=()=>{over=false};
events.onerror=()=>{
events.close();if(!over)state('no connection, or too many viewers; trying again',true);setTimeout(watch,3000);
fetch('/').then(page=>{if(page.status===401)location.reload()}).catch(()=>{})}}
watch();
"""

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} – gmos-run</title><link rel="icon" href="data:,"><style nonce="{nonce}">{style}</style></head><body>
"""

PAGE = """<header><h1>{name}</h1><span id="state" role="status">connecting</span><span id="when"></span></header>
<main><div id="frame"><img id="picture" alt="the latest frame with its objects" hidden>
<p id="waiting">waiting for the first answer</p></div>
<section><dl id="numbers"></dl>
<table><thead><tr><th scope="col">object</th><th scope="col">slot</th><th scope="col">motion</th>
<th scope="col">area px</th><th scope="col">IoU</th></tr></thead><tbody id="objects"></tbody></table>
<p id="none">no objects</p></section></main>
<script nonce="{nonce}">{script}</script></body></html>
"""

DOOR = """<header><h1>{name}</h1></header>
<p>{why}</p>
<form method="post" action="/"><input type="password" name="token" aria-label="token" autocomplete="off" required>
<button>Look</button></form></body></html>
"""


def page_of(name: str) -> Callable[[str], str]:
    """The page of a stream; what is returned takes the nonce of its style and script."""
    shown = html.escape(name)
    return lambda nonce: (HEAD + PAGE).format(name=shown, nonce=nonce, style=STYLE, script=SCRIPT)


def token_page(name: str, *, wrong: bool) -> Callable[[str], str]:
    """The page that asks for the token."""
    shown = html.escape(name)
    why = "That is not the token." if wrong else "This preview needs the token that gmos-run was given."
    return lambda nonce: (HEAD + DOOR).format(name=shown, nonce=nonce, style=STYLE, why=why)
