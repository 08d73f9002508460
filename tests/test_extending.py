"""A source, a backend and a result format from outside the package: registered, and used by a run of the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.errors import GmosError
from gmos_deploy.networks import BACKENDS, BackendEntry, register_backend
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.results.formats import FORMATS, register_format
from gmos_deploy.runtime.video.sequence import Frame, SequenceInput
from gmos_deploy.runtime.video.sources import SOURCES, register_source

HW = (64, 96)
RED = (220, 30, 30)
"""What the stand-in networks see as an object."""


class Pattern:
    """`pattern:N` is N frames of a red box that moves down. Implements `sources.Source` and its reader."""

    kind = "pattern"
    article = "a pattern"
    needs_rate = False
    notes = ()

    def __init__(self, frames: int = 0) -> None:
        self.frames = frames

    def takes(self, given: str) -> bool:
        return given.startswith("pattern:")

    def sequence_name(self, given: str) -> str:
        return given.replace(":", "-")

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        count = given.removeprefix("pattern:")
        if not count.isdecimal():
            raise GmosError(f"{given}: expected pattern:N with a number of frames")
        return SequenceInput(
            name=name,
            path=Path(given),
            kind=self.kind,
            open=lambda: Pattern(int(count)),
            video_hw=HW,
            stride=stride or 1,
            output_fps=fps or 8.0,
            time_base_s=Fraction(1, 8),
            frame_count_estimate=None,
        )

    def __enter__(self) -> Pattern:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.frames):
            rgb = np.full((*HW, 3), 128, np.uint8)
            rgb[4 * index : 4 * index + 24, 20:44] = RED
            yield Frame(index=index, rgb=rgb, time_s=index / 8)


class AreaTable:
    """One line a frame with the areas of the objects. Implements `formats.ResultFormat` and its writer."""

    mode = "areas"
    folders: Mapping[str, Mapping[str, str]] = {"gmos": {"mos": "mos_areas"}}
    ending = ".csv"
    needs_rgb = False

    def writer(self, path: Path, result: str, media: Any) -> AreaTable:
        writer = AreaTable()
        writer.path, writer.lines = path, ["frame,areas"]
        return writer

    def is_whole(self, path: Path, frames: int) -> bool:
        return path.is_file()

    @property
    def frames_written(self) -> int:
        return len(self.lines) - 1

    def __enter__(self) -> AreaTable:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.path.write_text("\n".join(self.lines) + "\n")

    def write(self, answer: FrameResult) -> None:
        self.lines.append(f"{answer.index},{' '.join(str(thing.area) for thing in answer.objects)}")


@pytest.fixture
def registered(colour_backend: Callable[..., Any]) -> Iterator[None]:
    """All three, until the end of the test."""
    before = list(SOURCES), list(FORMATS), dict(BACKENDS)
    register_source(Pattern())
    register_format(AreaTable())
    register_backend(
        BackendEntry(
            name="colours",
            open=lambda choice, _: colour_backend(choice.variant or "gmos"),
            runs="checkpoints",
        )
    )
    yield
    SOURCES[:], FORMATS[:] = before[:2]
    BACKENDS.clear()
    BACKENDS.update(before[2])


def run(tmp_path: Path, *arguments: str) -> int:
    options = ["--backend", "colours", "--preset", "tiny", "--save_dir", str(tmp_path / "out")]
    return guarded(run_command, "gmos-run", [*arguments, *options])


def test_a_run_of_what_was_registered(registered: None, tmp_path: Path) -> None:
    """The command reads the source, runs the backend and writes the format beside the package's own."""
    assert run(tmp_path, "pattern:9", "--save_mode", "areas+mask") == 0
    lines = (tmp_path / "out/mos_areas/pattern-9.csv").read_text().splitlines()
    assert len(lines) == 10
    areas = [int(line.split(",")[1]) for line in lines[1:]]
    assert all(400 < area < 800 for area in areas)
    assert len(list((tmp_path / "out/mos_frame/pattern-9").glob("*.png"))) == 9


def test_finished_results_of_a_format_are_known(registered: None, tmp_path: Path) -> None:
    """--resume asks the format whether its result is whole."""
    assert run(tmp_path, "pattern:9", "--save_mode", "areas") == 0
    table = tmp_path / "out/mos_areas/pattern-9.csv"
    table.write_text("kept")
    assert run(tmp_path, "pattern:9", "--save_mode", "areas", "--resume") == 0
    assert table.read_text() == "kept"
    table.unlink()
    assert run(tmp_path, "pattern:9", "--save_mode", "areas", "--resume") == 0
    assert table.read_text().startswith("frame,areas")


def test_the_style_of_overlays_is_part_of_the_record(
    registered: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option reaches the pixels; --resume does not take one style for the other, and goes on with the same."""
    contents = []
    for style in ("labelled", "published"):
        options = ("pattern:9", "--save_mode", "mp4", "--overlay", style)
        assert run(tmp_path, *options, "--overwrite") == 0
        assert run(tmp_path, *options, "--resume") == 0
        contents.append((tmp_path / "out/mos_mp4/pattern-9.mp4").read_bytes())
    assert contents[0] != contents[1]
    assert run(tmp_path, "pattern:9", "--save_mode", "mp4", "--resume") == 2
    assert "overlay was 'published' and is None" in capsys.readouterr().err


def test_every_format_of_a_run_at_once(registered: None, tmp_path: Path) -> None:
    """From the command to the files, with what the command knows of the video; finished afterwards."""
    modes = ("--save_mode", "mask+tracks+coco+ytvis+yolo+npz")
    assert run(tmp_path, "pattern:9", *modes) == 0
    document = json.loads((tmp_path / "out/mos_tracks/pattern-9/tracks.json").read_text(encoding="utf-8"))
    assert document["video"]["source"] == "pattern:9"
    assert document["video"]["stride"] == document["settings"]["stride"] == 1
    assert [one["id"] for one in document["objects"]] == [1]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {f"{result}_{mode}" for result in ("mos-i", "mos") for mode in modes[1].split("+")[1:]}
    assert run(tmp_path, "pattern:9", *modes, "--resume") == 0
    (tmp_path / "out/mos_yolo/pattern-9/labels/00003.txt").unlink()
    assert run(tmp_path, "pattern:9", *modes, "--resume") == 0
    assert (tmp_path / "out/mos_yolo/pattern-9/labels/00003.txt").is_file()


def test_errors_are_those_of_the_source(
    registered: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and status 2, for a source from outside too."""
    assert run(tmp_path, "pattern:many") == 2
    assert capsys.readouterr().err.splitlines() == [
        "gmos-run: pattern:many: expected pattern:N with a number of frames"
    ]


def test_names_are_taken_once(registered: None) -> None:
    """A second registration under a name is refused, whoever made the first."""
    for register, again in ((register_source, Pattern()), (register_format, AreaTable())):
        with pytest.raises(GmosError, match=r"pattern|areas"):
            register(again)
    with pytest.raises(GmosError, match="the name is taken"):
        register_backend(BackendEntry(name="torch", open=lambda *_: None, runs="checkpoints"))
