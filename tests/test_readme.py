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
