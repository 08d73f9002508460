"""Lists of short videos on networks that see colours, and gmos-run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command

FRAMES = 3


@pytest.fixture
def clips(colour_video: Callable[..., Path], tmp_path: Path) -> Callable[..., list[Path]]:
    """Makes directories of frames in which a box moves, by their names, in `videos`."""

    def make(*names: str) -> list[Path]:
        (tmp_path / "videos").mkdir(exist_ok=True)
        return [
            colour_video(
                f"videos/{name}",
                [[(1, 4 + 6 * index, 8 + 4 * number, 16, 24)] for index in range(FRAMES)],
            )
            for number, name in enumerate(names)
        ]

    return make


@pytest.fixture
def gmos_run(
    capsys: pytest.CaptureFixture[str],
    register: Callable[..., None],
    colour_backend: Callable[..., Any],
    tmp_path: Path,
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on colours into `out`: exit status, stdout, stderr."""
    register("colours", lambda _: colour_backend())

    def call(*arguments: Any) -> tuple[int, str, str]:
        base = [
            "--backend",
            "colours",
            "--preset",
            "tiny",
            "--variant",
            "gmos",
            "--save_dir",
            tmp_path / "out",
        ]
        given = [*arguments, "--stride", 1, "--save_mode", "mask", *base]
        status = guarded(run_command, "gmos-run", [str(one) for one in given])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their places, but for what says where and when it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
