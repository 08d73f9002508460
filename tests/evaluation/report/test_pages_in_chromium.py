"""Every report page in a real browser: no errors, plots drawn, tables that sort, phone width, dark mode."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gmos_deploy.cli import guarded
from gmos_deploy.commands.evaluate import evaluate_command
from gmos_deploy.commands.parity import networks_command, parity_command
from gmos_deploy.commands.profile import profile_command
from gmos_deploy.commands.report import report_command
from gmos_deploy.commands.tune import tune_command
from gmos_deploy.runtime.layer_times import LayerTime, LayerTimes

Draw = Callable[..., Any]
Write = Callable[[Path, Sequence[Any]], list[Path]]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--allow-file-access-from-files",
    "--virtual-time-budget=20000", "--hide-scrollbars",
)  # fmt: skip
LIMIT_S = 600
"""A second or two on a quiet machine; a busy one may take minutes."""

WIDTHS = {"phone": 390, "desktop": 1280}

FETCHES = re.compile(
    r"""(?:src|href)\s*=\s*(?!["']?(?:data:|#))\S|url\((?!\s*["']?data:)|@import|\b(?:fetch|import)\("""
)
"""What would make a page load something."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

LISTEN = """<script>
window.problems=[];
addEventListener('error',e=>problems.push('error: '+(e.message||e.target.src)),true);
addEventListener('unhandledrejection',e=>problems.push('rejected: '+e.reason));
for(const kind of ['error','warn'])console[kind]=(...words)=>problems.push(kind+': '+words.join(' '));
</script>"""

EXAMINE = """<script>
addEventListener('load',()=>setTimeout(()=>{
const visible=node=>{const box=node.getBoundingClientRect();return box.width>0&&box.height>0};
for(const part of document.querySelectorAll('details'))part.open=true;
const frames=[...document.querySelectorAll('.table .scroll')];
const cut=()=>frames.filter(node=>node.scrollWidth>node.clientWidth)
.map(node=>node.querySelector('th').textContent+' '+(node.scrollWidth-node.clientWidth));
const cutAtFirst=cut();
const texts=[...document.querySelectorAll('td,th,figcaption,dd,.card')].filter(visible);
const clipped=texts.filter(node=>node.scrollWidth>node.clientWidth+1).map(node=>node.textContent);
for(const more of document.querySelectorAll('.more'))if(visible(more))more.click();
const stay=frames.map(node=>{node.scrollLeft=99;const first=node.querySelector('td').getBoundingClientRect().left;
node.scrollLeft=0;return first-node.getBoundingClientRect().left});
const drawn=[...document.querySelectorAll('svg')],unsorted=[];let sorted=0;
const number=text=>+text||0;
for(const table of document.querySelectorAll('table'))for(const button of table.querySelectorAll('th button')){
const cell=button.parentElement,column=[...cell.parentElement.children].indexOf(cell);
for(const way of ['ascending','descending']){
button.click();
const values=[...table.tBodies[0].rows].map(row=>row.children[column].dataset.v);
const numbers=cell.classList.contains('n'),order=numbers?values.map(number):values;
const wrong=order.some((value,i)=>i&&(way==='ascending'?1:-1)*
(numbers?order[i-1]-value:order[i-1].localeCompare(value,undefined,{numeric:true}))>0);
if(wrong||cell.getAttribute('aria-sort')!==way)unsorted.push(button.textContent+' '+way);
sorted+=1}}
const style=getComputedStyle(document.body),root=document.documentElement;
parent.postMessage({cutAtFirst,clipped,stay,problems,sorted,unsorted,title:document.title,
svg:drawn.filter(visible).length,hidden:drawn.filter(node=>!visible(node)).length,
shapes:document.querySelectorAll('svg rect,svg path').length,
plots:[...document.querySelectorAll('svg.plot')].filter(visible).length,
images:[...document.images].map(image=>image.complete&&image.naturalWidth>0),
tables:document.querySelectorAll('table').length,
overflow:root.scrollWidth-root.clientWidth,width:root.clientWidth,
paper:style.backgroundColor,ink:style.color,
loaded:performance.getEntriesByType('resource').map(entry=>entry.name).filter(name=>!name.startsWith('data:'))
},'*')},500));
</script>"""

GATHER = """<!doctype html><meta charset="utf-8"><title>waiting</title><body><pre id="found"></pre><script>
const found={{}};
addEventListener('message',event=>{{
for(const frame of document.querySelectorAll('iframe'))
if(frame.contentWindow===event.source)found[frame.name]=event.data;
document.getElementById('found').textContent=JSON.stringify(found)}});
</script>{frames}"""


@pytest.fixture(scope="session")
def browser() -> str:
    """The browser of this machine."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"none of {', '.join(BROWSERS)} is installed: the pages were not opened in a browser")


def evaluation_page(folder: Path, square: Draw, write_tree: Write) -> Path:
    """Of gmos-eval, on two sequences."""
    for kind, shift in (("annotations", 0), ("predictions", 2)):
        for name in ("cat", "dog"):
            frames = [square((1, 2, 3 + index + shift, 5), (2, 8, 8, 3)) for index in range(4)]
            write_tree(folder / kind / name, frames)
    page = folder / "report.html"
    trees = ["--anno_dir", folder / "annotations", "--res_dir", folder / "predictions"]
    words = [
        str(word) for word in ("davis", *trees, "--html", page, "--json", folder / "result.json", "--jobs", 1)
    ]
    result = CliRunner().invoke(evaluate_command, words)
    assert result.exit_code == 0, result.output
    return page


def telling(backend: Any) -> Any:
    """A backend that tells the times of layers."""
    layers = tuple(
        LayerTime(
            name=f"node_{index}", operator=operator, provider="CPU", ms=float(index + 1), moved_bytes=1e6
        )
        for index, operator in enumerate(("MatMul", "Add", "Transpose", "Softmax"))
    )
    backend.layer_times = lambda *_, **__: LayerTimes(layers=layers, clock="host", iterations=1)
    return backend


@pytest.fixture
def pages(
    tmp_path: Path,
    square: Draw,
    write_tree: Write,
    colour_backend: Callable[..., Any],
    colour_video: Callable[..., Path],
    load_sides: Callable[..., None],
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Path]:
    """A page of every command that writes one, and beside it what the command prints on a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(6)])
    evaluated = evaluation_page(tmp_path / "evaluated", square, write_tree)

    def call(command: Any, *words: Any, status: Sequence[int]) -> None:
        found = guarded(command, "gmos", [str(word) for word in words])
        printed = capsys.readouterr()
        assert found in status, printed.err
        Path(words[-1], "printed.txt").write_text(COLOUR.sub("", printed.out), encoding="utf-8")

    for side, shift in (("a", 0), ("b", 3)):
        boxes = [square((1, 2, 1 + index + shift, 7)) for index in range(3)]
        write_tree(tmp_path / side / "mos_frame" / "clip", boxes)
    call(parity_command, "masks", tmp_path / "a", tmp_path / "b", "--report", tmp_path / "masks", status=(1,))
    sides = ("--a", "torch:a", "--b", "torch:b", "--report", tmp_path / "networks")
    load_sides(lambda _: colour_backend("gmos-s"))
    call(networks_command, clip, *sides, status=(0,))
    sides = ("--side", "torch:a", "--side", "torch:b", "--layers", "--iterations", 2)
    base = ("--only", "video", "--report", tmp_path / "base")
    call(profile_command, clip, *sides, *base, status=(0,))
    baseline = ("--baseline", tmp_path / "base" / "result.json", "--report", tmp_path / "profile")
    load_sides(lambda _: telling(colour_backend("gmos-s")))
    call(profile_command, clip, *sides, *baseline, status=(0, 1))
    register("colours", lambda _: colour_backend("gmos-s"))
    words = ("--target_masks", 0.9, "--rounds", 1, "--backend", "colours", "--preset", "tiny", "--stride", 1)
    place = ("--variant", "gmos-s", "--out", tmp_path / "x.json")
    call(tune_command, clip, *words, *place, "--report", tmp_path / "tune", status=(0,))
    results = [tmp_path / name / "result.json" for name in ("masks", "networks", "profile", "evaluated")]
    summary = tmp_path / "summary"
    summary.mkdir()
    assert guarded(report_command, "gmos", [str(word) for word in (summary / "report.html", *results)]) == 0
    (summary / "printed.txt").write_text(COLOUR.sub("", capsys.readouterr().out), encoding="utf-8")
    reports = {
        name: tmp_path / name / "report.html" for name in ("masks", "networks", "profile", "summary", "tune")
    }
    return {"eval": evaluated, **reports}


def opened(browser: str, pages: dict[str, Path], folder: Path, *flags: str) -> dict[str, dict[str, Any]]:
    """What a browser finds in each page at each width, by `page width`."""
    folder.mkdir()
    frames = []
    for name, page in pages.items():
        text = page.read_text(encoding="utf-8")
        assert text.count("<head>") == text.count("</body>") == 1
        watched = text.replace("<head>", f"<head>{LISTEN}").replace("</body>", f"{EXAMINE}</body>")
        (folder / f"{name}.html").write_text(watched, encoding="utf-8")
        frames += [
            f'<iframe name="{name} {size}" src="{name}.html" width="{width}" height="800" style="border:0"></iframe>'
            for size, width in WIDTHS.items()
        ]
    gather = folder / "gather.html"
    gather.write_text(GATHER.format(frames="".join(frames)), encoding="utf-8")
    command = [
        browser,
        *FLAGS,
        *flags,
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        gather.as_uri(),
    ]
    output = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    found = re.search(r'<pre id="found">(.*?)</pre>', output.stdout, re.DOTALL)
    assert found is not None, output.stderr[-2000:]
    assert found[1], f"no page answered: {output.stderr[-2000:]}"
    answers: dict[str, dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert set(answers) == {f"{name} {size}" for name in pages for size in WIDTHS}
    return answers


def test_pages_load_nothing(pages: dict[str, Path]) -> None:
    """Style, script and pictures are in the file; this one needs no browser."""
    for name, page in pages.items():
        text = page.read_text(encoding="utf-8")
        assert not (found := FETCHES.search(text)), f"{name}: {found}"
        assert text.count("<script>") == 1


def test_terminals_of_80_columns(pages: dict[str, Path]) -> None:
    """No line is longer, nothing is cut, and the words of every head and name are whole."""
    for name, page in pages.items():
        if name == "eval":
            continue
        text = (page.parent / "printed.txt").read_text(encoding="utf-8")
        tables = text.partition("report: ")[0]
        assert max(len(line.rstrip()) for line in tables.splitlines()) <= 80, text
        assert "…" not in tables
        heads = re.findall(r'<button type="button">([^<]*)</button>', page.read_text(encoding="utf-8"))
        words = {word for head in heads for word in html.unescape(head).split()}
        assert len(words & set(tables.split())) > 5, name
    profile = (pages["profile"].parent / "printed.txt").read_text(encoding="utf-8")
    assert re.search(r"\ngmos_s B=1 .* A +[\d.]+ +– *\n", profile), "a row a network and side: median, ratio"
    assert re.search(r"\n +B +[\d.]+ +[\d.]+x\s", profile)


def test_pages_in_a_browser(browser: str, pages: dict[str, Path], tmp_path: Path) -> None:
    """Every page opens without an error, shows its plots and pictures, sorts, and fits a phone."""
    answers = opened(browser, pages, tmp_path / "light")
    for where, found in answers.items():
        assert found["problems"] == [], where
        assert found["loaded"] == [], where
        assert found["width"] == WIDTHS[where.split()[1]], where
        assert found["overflow"] <= 0, f"{where}: {found['overflow']} pixels beyond the screen"
        assert found["cutAtFirst"] == [], f"{where}: columns are cut"
        assert found["clipped"] == [], where
        assert all(abs(left) < 2 for left in found["stay"]), f"{where}: the first column does not stay"
        assert found["sorted"] > 0, where
        assert found["unsorted"] == [], where
        assert all(found["images"]), where
        assert found["paper"] == "rgb(255, 255, 255)", where
        assert found["title"], where
    # Bars and sparks of two sequences; a plot of IoU by frame; two timelines; strips of each network and side.
    assert answers["eval desktop"]["svg"] >= 4
    assert answers["eval desktop"]["images"]
    assert answers["masks desktop"]["plots"] >= 1
    assert answers["masks desktop"]["images"]
    assert answers["networks desktop"]["tables"] >= 1
    assert answers["tune desktop"]["plots"] == 1
    assert answers["profile desktop"]["plots"] == 2
    assert answers["profile desktop"]["svg"] >= 2 + 2 * 6 * 2
    assert answers["profile desktop"]["hidden"] == 0
    assert answers["profile desktop"]["shapes"] > 50


def test_pages_in_dark_mode(browser: str, pages: dict[str, Path], tmp_path: Path) -> None:
    """Light letters on dark paper."""
    for where, found in opened(browser, pages, tmp_path / "dark", "--force-dark-mode").items():
        paper, ink = (
            sum(int(word) for word in re.findall(r"\d+", found[name])) / 3 for name in ("paper", "ink")
        )
        assert paper < 60, where
        assert ink > 180, where
        assert found["problems"] == [], where
