"""What the README shows of the front door runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import gmos_deploy
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer

README = Path(gmos_deploy.__file__).parent / "README.md"


def lines_shown() -> str:
    """The Python lines of the README."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(block)


def test_the_readme_is_short() -> None:
    """Under two hundred lines, and the front door in about ten."""
    assert README.read_text(encoding="utf-8").count("\n") < 200
    assert lines_shown().count("\n") <= 10


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in headings}


def test_what_the_readme_names_is_there() -> None:
    """Files and headings of this repository; pictures by their whole addresses, as a package index needs them."""
    text = README.read_text(encoding="utf-8")
    project = (README.parent / "pyproject.toml").read_text(encoding="utf-8")
    (home,) = re.findall(r'^Homepage = "https://github\.com/(.+)"$', project, re.MULTILINE)
    assert f"git clone https://github.com/{home} " in text
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures
    for address in pictures:
        own = f"https://raw.githubusercontent.com/{home}/main/"
        assert address.startswith(own)
        assert (README.parent / address.removeprefix(own)).is_file()
    targets = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert len(targets) > 20
    for target in targets:
        file, _, heading = target.partition("#")
        place = README.parent / file if file else README
        assert place.exists(), target
        assert not heading or heading in anchors(place), target


def test_what_holds_the_mended_faults_is_there() -> None:
    """Every test that docs/gpu.md names for one, by its file and how its name begins or ends."""
    text = (README.parent / "docs" / "gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) [^|]+\|([^|]+)\|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 25))
    for number, cell in rows:
        names = re.findall(r"`([^`]+)`", cell)
        files = [
            README.parent / "tests" / name for name in names if re.fullmatch(r"[\w/]+/test_\w+\.py", name)
        ]
        tests = [name for name in names if "…" in name or name.startswith("test_")]
        assert files or "](" in cell or "docs" in cell, number
        source = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for name in tests:
            pattern = ".*".join(map(re.escape, name.split("…")))
            assert re.search(rf"def (test_.*)?{pattern}", source), (number, name)


def test_the_table_of_commands() -> None:
    """It names every program that is installed, and no other."""
    text = README.read_text(encoding="utf-8")
    table = text.partition("## Which command for me")[2].partition("\n## ")[0]
    project = (README.parent / "pyproject.toml").read_text(encoding="utf-8")
    installed = set(re.findall(r"^(gmos-\w+) = ", project, re.MULTILINE))
    assert set(re.findall(r"`(gmos-\w+)", table)) == installed


def test_the_lines_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nano on a box that moves over noise: it is found, and its masks and overlays are saved."""
    pytest.importorskip("torch")
    # The reference, which this line names nowhere: nano as a bundle is tested elsewhere.
    monkeypatch.setattr("gmos_deploy.nano_bundle.prefers_bundle", lambda: False)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (112, 196, 3), np.uint8)
    with Mp4Writer(tmp_path / "street.mp4", video_hw=ground.shape[:2], fps=8) as writer:
        for index in range(6):
            frame = ground.copy()
            frame[30:80, 20 + 12 * index : 70 + 12 * index] = (230, 60, 40)
            writer.write(frame, index / 8)
    exec(compile(lines_shown(), "README.md", "exec"), {})  # noqa: S102 - the README is ours
    printed = capsys.readouterr().out.splitlines()
    assert printed
    assert all(re.fullmatch(r"\d\.\d\d s: object \d at \(.*\), (moving|still)", line) for line in printed)
    assert len(list((tmp_path / "results/mos_frame/street").glob("*.png"))) == 6
    assert (tmp_path / "results/mos-i_mp4/street.mp4").is_file()
