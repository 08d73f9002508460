"""A list goes on after a bad video and says so: statuses, summaries, JSON of everything, lines as sequences end."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.errors import MachineError
from gmos_deploy.fleet import sequence_runner
from gmos_deploy.interruption import Interrupted

Run = Callable[..., tuple[int, str, str]]
Clips = Callable[..., list[Path]]


def test_a_bad_video_in_the_middle(gmos_run: Run, clips: Clips, tmp_path: Path) -> None:
    """The others are done, status 3; text names it where it fails and at the end."""
    a, b = clips("a", "b")
    rotten = tmp_path / "rotten.mp4"
    rotten.write_bytes(b"not a video")
    status, out, err = gmos_run(a, rotten, tmp_path / "gone.mp4", b)
    assert status == 3
    lines = out.splitlines()
    assert any(line.startswith("rotten: failed: ") for line in lines)
    assert f"gone: failed: {tmp_path / 'gone.mp4'} does not exist" in out
    assert lines[-2:] == ["2 done, 2 failed", "failed: rotten, gone"]
    assert "a: 3 frames" in out
    assert "b: 3 frames" in out
    assert "rotten" in err
    for name in ("a", "b"):
        assert len(list((tmp_path / f"out/mos_frame/{name}").glob("*.png"))) == 3
    assert not (tmp_path / "out/.gmos/claims").exists()


def test_the_same_as_json_and_as_lines(gmos_run: Run, clips: Clips, tmp_path: Path) -> None:
    """One document with all of them; a line of each in the file, which later runs add to."""
    a, b = clips("a", "b")
    lines = tmp_path / "run.jsonl"
    status, out, _ = gmos_run(a, tmp_path / "gone.mp4", b, "--json", "--json_lines", lines)
    assert status == 3
    found = json.loads(out)
    assert [(one["name"], one["status"]) for one in found["sequences"]] == [
        ("a", "done"),
        ("gone", "failed"),
        ("b", "done"),
    ]
    assert "does not exist" in found["sequences"][1]["error"]
    assert found["sequences"][0]["error"] is None
    assert (found["counts"], found["error"], found["backend"]) == ({"done": 2, "failed": 1}, None, "colours")
    assert [clip["name"] for clip in found["made_from"]["clips"]] == ["a", "b"]
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(one["name"], one["status"]) for one in records] == [
        (one["name"], one["status"]) for one in found["sequences"]
    ]
    assert gmos_run(a, b, "--resume", "--json_lines", lines)[0] == 0
    assert [json.loads(line)["status"] for line in lines.read_text().splitlines()[3:]] == ["skipped"] * 2


def test_json_is_printed_whatever_happens(
    gmos_run: Run, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and bad, refused at once, interrupted: one document, and the status as ever."""
    a, b = clips("a", "b")
    status, out, err = gmos_run(tmp_path / "gone.mp4", "--json")
    assert (status, json.loads(out)["sequences"]) == (2, [])
    assert "does not exist" in json.loads(out)["error"]
    assert err.count("\n") == 1
    status, out, _ = gmos_run(a, b, "--json", "--shard", "9/3")
    assert (status, "--shard 9/3" in json.loads(out)["error"]) == (2, True)
    real = sequence_runner.file_results

    def interrupted(answers: Any, results: Any, *rest: Any, **how: Any) -> Any:
        if results.sequence == "b":
            raise Interrupted
        return real(answers, results, *rest, **how)

    monkeypatch.setattr(sequence_runner, "file_results", interrupted)
    status, out, err = gmos_run(a, b, "--json")
    assert status == 130
    found = json.loads(out)
    assert ([one["name"] for one in found["sequences"]], found["error"]) == (["a"], "interrupted")
    assert "gmos-run: interrupted; what was finished is kept" in err
    assert not (tmp_path / "out/.gmos/claims").exists()


def test_stop_on_error_ends_with_the_first(gmos_run: Run, clips: Clips, tmp_path: Path) -> None:
    """Status 2 and its line, as for one video alone; those before it are done."""
    a, b = clips("a", "b")
    status, out, err = gmos_run(a, tmp_path / "gone.mp4", b, "--stop_on_error")
    assert status == 2
    assert "gone.mp4 does not exist" in err.splitlines()[-1]
    assert "a: 3 frames" in out
    assert not (tmp_path / "out/mos_frame/b").exists()


@pytest.mark.parametrize("fault", ["disk", "device", "networks"])
def test_what_is_the_machines_ends_a_list(
    fault: str,
    gmos_run: Run,
    clips: Clips,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    register: Callable[..., None],
) -> None:
    """A full disk, a lost device, networks that do not load: the next video would fail as well."""
    a, b = clips("a", "b")

    def failing(*_: Any, **__: Any) -> Any:
        if fault == "disk":
            from gmos_deploy.runtime.files.atomic_file import writing

            with writing(tmp_path / "out"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    if fault == "networks":

        def none(_: Any) -> Any:
            raise MachineError("no such device")

        register("colours", none)
    else:
        monkeypatch.setattr(sequence_runner, "file_results", failing)
    if fault == "device":
        with pytest.raises(RuntimeError, match="CUDA error"):
            gmos_run(a, b)
        return
    status, out, err = gmos_run(a, b)
    assert status == 2
    assert ("the disk is full" if fault == "disk" else "no such device") in err.splitlines()[-1]
    assert "b: " not in out


def test_what_nobody_expected_is_one_videos(
    gmos_run: Run, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its traceback in the log; alone it is one, as ever."""
    a, b = clips("a", "b")
    real = sequence_runner.file_results

    def failing(answers: Any, results: Any, *rest: Any, **how: Any) -> Any:
        if results.sequence == "a":
            raise ValueError("a fault of a library")
        return real(answers, results, *rest, **how)

    monkeypatch.setattr(sequence_runner, "file_results", failing)
    status, out, err = gmos_run(a, b)
    assert (status, "b: 3 frames" in out) == (3, True)
    assert "a: failed: ValueError: a fault of a library" in out
    assert "a: this was not expected" in err
    with pytest.raises(ValueError, match="a fault of a library"):
        gmos_run(a)


def test_results_of_an_earlier_run_are_refused_at_once(gmos_run: Run, clips: Clips) -> None:
    """Of a list the command says so before it loads anything."""
    a, b, c = clips("a", "b", "c")
    assert gmos_run(a, b)[0] == 0
    status, out, err = gmos_run(c, a, b)
    assert (status, out) == (2, "")
    assert "has results of a and 1 more of these 3 sequences already; use --resume" in err
    assert gmos_run(c, a, b, "--resume")[0] == 0


def test_names_of_the_list_are_those_of_the_results(gmos_run: Run, clips: Clips, tmp_path: Path) -> None:
    """Two cameras that both write `clip`."""
    (tmp_path / "videos").mkdir()
    for camera in ("cam1", "cam2"):
        (tmp_path / "videos" / camera).mkdir()
    clips("cam1/clip", "cam2/clip")
    status, _, err = gmos_run(tmp_path / "videos/*/clip")
    assert status == 0, err
    assert sorted(path.name for path in (tmp_path / "out/mos_frame").iterdir()) == ["cam1_clip", "cam2_clip"]


def test_many_failures_are_counted(gmos_run: Run, tmp_path: Path) -> None:
    """All are told as they fail; the end names twenty."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"/nowhere/{k}.mp4\n" for k in range(60)))
    status, out, _ = gmos_run("--inputs_from", listed, "--quiet")
    assert status == 3
    assert out.count(": failed: ") == 60
    assert out.splitlines()[-1].endswith("19 and 40 more")
