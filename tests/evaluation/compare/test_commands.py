"""gmos-parity: verdict, exit status, reports, and sides as they are written on the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.cli import guarded
from gmos_deploy.commands.parity import parity_command, video_command
from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.compare.report import SCHEMA, read_result
from gmos_deploy.evaluation.compare.sides import limits_of
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.levers import Levers
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.overlay import davis_palette
from gmos_deploy.sides import Side, parse_side

FRAMES = 5


@pytest.fixture
def run_parity(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit status, stdout, stderr."""

    def call(*arguments: Any, command: Any = parity_command) -> tuple[int, str, str]:
        status = guarded(command, "gmos-parity", [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def write_masks(
    root: Path,
    *,
    shift: int = 0,
    ids: tuple[int, int] = (1, 2),
    lost: int | None = None,
    video_hw: tuple[int, int] = (40, 60),
) -> Path:
    """A gmos-run output with two boxes; `shift` moves the first on frame 3, `lost` drops object 2 from there."""
    folder = root / "mos_frame" / "clip"
    folder.mkdir(parents=True)
    for index in range(FRAMES):
        labels = np.zeros(video_hw, np.uint8)
        left = 5 + index + (shift if index == 3 else 0)
        labels[5:20, left : left + 15] = ids[0]
        if lost is None or index < lost:
            labels[22:38, 30:50] = ids[1]
        image = Image.fromarray(labels, mode="P")
        image.putpalette(davis_palette().tobytes())
        image.save(folder / f"{index:05d}.png")
    return root


@pytest.fixture
def same(tmp_path: Path) -> Path:
    return write_masks(tmp_path / "same")


def test_pass(run_parity: Callable[..., tuple[int, str, str]], same: Path, tmp_path: Path) -> None:
    """Equal masks: status 0, a table and the verdict."""
    status, out, err = run_parity("masks", same, write_masks(tmp_path / "b"))
    assert (status, err) == (0, "")
    assert "PASS (fp32)" in out
    assert "1.00000" in out


@pytest.mark.parametrize(
    ("difference", "line"),
    [
        ({"shift": 3}, "frame 00003 IoU 0.83333 (limit 0.98), object 1: 0.66667 (225 px in A, 225 px in B)"),
        ({"ids": (2, 1)}, "the same objects under other ids: 1 of A is 2 of B, 2 of A is 1 of B"),
        ({"lost": 4}, "frame 00004 IoU 0.50000 (limit 0.98), object 2: 0.00000 (320 px in A, 0 px in B)"),
    ],
)
def test_planted_difference(
    run_parity: Callable[..., tuple[int, str, str]],
    same: Path,
    tmp_path: Path,
    difference: dict[str, Any],
    line: str,
) -> None:
    """A planted difference is status 1, and is named where it is."""
    other = write_masks(tmp_path / "b", **difference)
    status, out, _ = run_parity("masks", same, other, "--profile", "fp16", "--report", tmp_path / "report")
    assert status == 1
    assert "FAIL (fp16)" in out
    found = read_result(tmp_path / "report" / "result.json")
    assert any(line in failure for failure in found["failures"]), found["failures"]


def test_hidden_names_are_compared(
    run_parity: Callable[..., tuple[int, str, str]], same: Path, tmp_path: Path
) -> None:
    """Results of `.clip.mp4` count; a folder of records does not."""
    trees = [same, write_masks(tmp_path / "b", lost=2)]
    for tree in trees:
        (tree / "mos_frame" / "clip").rename(tree / "mos_frame" / ".clip")
        (tree / ".gmos").mkdir()
    status, out, _ = run_parity("masks", *trees)
    assert status == 1
    assert "mos of .clip" in out
    assert run_parity("masks", same / "mos_frame", same / "mos_frame")[0] == 0
    (trees[1] / "mos_frame" / ".clip").rename(trees[1] / "mos_frame" / "clip")
    status, _, err = run_parity("masks", *trees)
    assert (status, "mos of video .clip" in err) == (2, True)


def test_masks_name_what_their_records_tell(
    run_parity: Callable[..., tuple[int, str, str]], same: Path, tmp_path: Path
) -> None:
    """Bundles, checkpoints and clips of both sides."""
    other = write_masks(tmp_path / "b")
    for tree, sha256 in ((same, "1" * 64), (other, "2" * 64)):
        made = {
            "bundles": [{"name": "bundle", "sha256": sha256}],
            "clips": [{"name": "clip", "sha256": None}],
        }
        (tree / ".gmos").mkdir()
        (tree / ".gmos" / "clip.gmos.json").write_text(json.dumps({"sequence": "clip", "made_from": made}))
    assert run_parity("masks", same, other, "--report", tmp_path / "report")[0] == 0
    found = read_result(tmp_path / "report" / "result.json")["made_from"]
    assert [bundle["sha256"][0] for bundle in found["bundles"]] == ["1", "2"]
    assert [clip["name"] for clip in found["clips"]] == ["clip"]
    assert "1" * 64 in (tmp_path / "report" / "report.html").read_text().replace("<wbr>", "")


def test_any_ids(run_parity: Callable[..., tuple[int, str, str]], same: Path, tmp_path: Path) -> None:
    """Other ids pass where they are allowed."""
    swapped = write_masks(tmp_path / "b", ids=(2, 1))
    assert run_parity("masks", same, swapped, "--any_ids")[0] == 0


def test_own_limits(run_parity: Callable[..., tuple[int, str, str]], same: Path, tmp_path: Path) -> None:
    """Limits given replace the profile's, each on its own."""
    shifted = write_masks(tmp_path / "b", shift=1)
    assert run_parity("masks", same, shifted, "--profile", "fp16")[0] == 1
    looser = ("--profile", "fp16", "--min_frame_iou", "0.9")
    assert run_parity("masks", same, shifted, *looser)[0] == 1
    assert run_parity("masks", same, shifted, *looser, "--min_mean_iou", "0.98")[0] == 0


def test_report(run_parity: Callable[..., tuple[int, str, str]], same: Path, tmp_path: Path) -> None:
    """The report round-trips: every observation is a line, the page has plot, table and pictures, offline."""
    shifted = write_masks(tmp_path / "b", shift=3)
    report = tmp_path / "deep" / "report"
    _, out, _ = run_parity("masks", same, shifted, "--report", report)
    assert f"report: {report / 'report.html'}" in out.replace("\n", "")
    found = json.loads((report / "result.json").read_text())
    assert found["schema"] == SCHEMA
    assert found["passed"] is False
    assert (found["a"], found["b"]) == (str(same), str(shifted))
    assert found["environment"]["packages"]["numpy"] == np.__version__
    (result,) = found["results"]
    assert result["worst_frame"]["name"] == "00003"
    assert result["different_pixels"] == 2 * 3 * 15
    lines = [json.loads(line) for line in (report / "observations.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [f"{index:05d}" for index in range(FRAMES)]
    assert np.mean([line["iou"] for line in lines]) == pytest.approx(result["mean_iou"])
    page = (report / "report.html").read_text()
    assert page.count("<polyline") == 1
    assert page.count("data:image/png;base64,") == 1
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "FAIL" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["masks", "{same}", "{tmp}/none"], "none does not exist; expected a directory of label-map PNGs"),
        (["masks", "{same}"], "Missing argument 'B'"),
        (["masks", "{same}", "{same}", "--report", "{file}"], "file is a file; expected a directory"),
        (["masks", "{same}", "{same}", "--min_mean_iou", "1.5"], "1.5 is not in the range"),
    ],
)
def test_bad_input(
    run_parity: Callable[..., tuple[int, str, str]],
    same: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """What cannot be compared is one line and status 2, not a failed comparison."""
    file = tmp_path / "file"
    file.touch()
    words = [word.format(same=same, tmp=tmp_path, file=file) for word in arguments]
    status, _, err = run_parity(*words)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_video_runs_what_is_not_there(
    run_parity: Callable[..., tuple[int, str, str]],
    register: Callable[..., None],
    colour_backend: Callable[..., Any],
    colour_video: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """A side with networks is run on the videos, one with masks is read."""
    asked: list[str | None] = []

    def load(choice: NetworkChoice) -> Any:
        asked.append(choice.preset)
        return colour_backend("gmos")

    register("colours", load)
    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])
    masks = write_masks(tmp_path / "masks", video_hw=(64, 96))
    shutil.copytree(masks / "mos_frame", masks / "mos-i_frame")
    sides = ["--a", f"masks:{masks}", "--b", "colours:tiny"]
    status, out, err = run_parity(
        clip, "--stride", 1, *sides, "--keep", tmp_path / "kept", command=video_command
    )
    assert status == 1, err
    assert asked == ["tiny"]
    assert "B: colours:tiny" in out
    assert len(list((tmp_path / "kept" / "b" / "mos_frame").rglob("*.png"))) == FRAMES


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        ("torch:preset=tiny,precision=int8", (), "is that of a calibrated bundle"),
        ("torch:preset=tiny,precision=fp16,device=cpu", (), "--precision fp16: not on a CPU"),
        ("onnxruntime:{empty}", (), "is no bundle"),
        ("masks:{empty}", (), "has no label maps"),
        ("colours:preset=tiny,variant=gmos-s", (), "is gmos and colours:preset=tiny,variant=gmos-s gmos-s"),
        ("colours:small", ("--teacher_forced",), "expected the same networks"),
        ("colours:small", ("--keep", "{file}"), "cannot write"),
        (
            "colours:small",
            ("--trust", "{file}"),
            "--trust goes with a side that runs a bundle, and none does",
        ),
        ("colours:small", ("--trust_engines",), "--trust_engines goes with a side that runs a bundle"),
    ],
)
def test_both_sides_are_checked_before_one_runs(
    run_parity: Callable[..., tuple[int, str, str]],
    register: Callable[..., None],
    colour_video: Callable[..., Path],
    tmp_path: Path,
    other: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Hours of one side would be for nothing."""
    register("colours", lambda _: pytest.fail("a side was loaded"))
    clip = colour_video("clip", [[(1, 4, 8, 16, 24)] for _ in range(FRAMES)])
    places = {"empty": tmp_path / "empty", "file": tmp_path / "file"}
    places["empty"].mkdir()
    places["file"].touch()
    given = [text.format(**places) for text in ("--b", other, *options)]
    status, _, error = run_parity(clip, "--stride", 1, "--a", "colours:tiny", *given, command=video_command)
    assert status == 2
    assert len(error.splitlines()) == 1
    assert message in error


def test_a_side_has_the_limits_of_its_own_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are held to those of the less exact one; masks say nothing."""
    monkeypatch.setattr(
        Side, "open_bundle", lambda side: side.bundle and SimpleNamespace(precision=side.bundle.name)
    )
    sides = [parse_side("--a", text) for text in ("torch:tiny", f"masks:{tmp_path}")]
    assert limits_of(sides) == "fp32"
    for precision in ("fp16", "int8", "fp8"):
        (tmp_path / precision).mkdir()
        sides.append(parse_side("--b", f"onnxruntime:{tmp_path / precision}"))
        assert limits_of(sides) == precision
    assert limits_of([*sides[:2], parse_side("--b", "torch:preset=tiny,precision=bf16")]) == "bf16"


def test_sides_with_levers() -> None:
    """Levers by name, or a recipe; each side's run has its own."""
    side = parse_side("--a", "torch:preset=nano,geometry_every=2,geometry_change=0.25,max_conditioning=8")
    options = side.options(RunOptions(batch_size=3))
    assert options.levers == Levers(geometry_every=2, geometry_change=0.25)
    assert (options.max_conditioning, options.batch_size) == (8, 3)
    assert parse_side("--a", "torch:nano").options(RunOptions()) == RunOptions()
    assert parse_side("--a", "torch:preset=nano,recipe=exact").options(RunOptions()) == RunOptions()
    for text, message in (
        ("torch:preset=nano,geometry_every=often", "geometry_every often: expected a number"),
        ("torch:preset=nano,recipe=fast", "--recipe fast is a name, and there is no bundle to look in"),
        ("torch:preset=nano,variant=gmos-s,propose_every=2", "--propose_every is for GMOS"),
        (
            "torch:preset=nano,recipe=x.json,geometry_every=2",
            "--recipe x.json and --geometry_every were both given",
        ),
    ):
        with pytest.raises(GmosError, match=message):
            parse_side("--a", text).options(RunOptions())


def test_side_of_each_kind(tmp_path: Path) -> None:
    """A lone value is what that kind needs; named ones are gmos-run's options."""
    assert parse_side("--a", "torch:small").networks.preset == "small"
    assert parse_side("--a", f"onnxruntime:{tmp_path}").bundle == tmp_path
    side = parse_side("--a", f"tensorrt:bundle={tmp_path},device=cuda:1,precision=int8")
    assert side.networks == NetworkChoice(
        backend="tensorrt", bundle=tmp_path, device="cuda:1", precision="int8"
    )
    assert parse_side("--b", f"masks:{tmp_path}").masks == tmp_path
    assert parse_side("--a", "torch").networks.preset is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reference", "--a reference: expected KIND:VALUE with one of torch, onnxruntime"),
        ("masks:", "expected masks:DIR with a directory"),
        ("onnxruntime", "expected onnxruntime:DIR with a bundle"),
        ("masks:/nowhere", "/nowhere does not exist"),
        ("torch:preset=tiny,speed=9", "'speed=9' is no NAME=VALUE with one of bundle, preset"),
        ("torch:preset=tiny,preset=small", "preset is given twice"),
        ("torch:preset=", "'preset=' is no NAME=VALUE"),
        ("torch:precision=int4", "precision int4, expected one of auto, fp32, bf16, fp16, int8, fp8"),
    ],
)
def test_bad_side(text: str, message: str) -> None:
    """What a side lacks or does not know is named."""
    with pytest.raises(GmosError, match=re.escape(message)):
        parse_side("--a", text)
