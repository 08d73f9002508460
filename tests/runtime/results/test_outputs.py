"""Results of a sequence: all or none, never half, and known when finished."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.media import Media
from gmos_deploy.runtime.results.completion import Existing, ResultSet, finished, should_skip
from gmos_deploy.runtime.results.outputs import check_save_dir, file_results, work_directory
from gmos_deploy.runtime.video.reader import VideoReader

HW = (16, 24)
FRAMES = 3
MEDIA = Media(video_hw=HW, fps=10)
SETTINGS: dict[str, Any] = {"precision": "fp16", "stride": 3}

CRASHING_RUN = """
import os, sys
from pathlib import Path
from gmos_deploy.runtime.results.outputs import work_directory
with work_directory(Path(sys.argv[1]), ".gmos") as work:
    (work / "half.png").write_bytes(b"half")
    os._exit(9)
"""


@pytest.fixture
def results(tmp_path: Path) -> ResultSet:
    """Masks and overlays of one GMOS sequence."""
    return ResultSet(
        save_dir=tmp_path / "out",
        sequence="bear",
        variant="gmos",
        modes=frozenset(("mask", "mp4")),
        settings=SETTINGS,
    )


def label_map(value: int) -> Any:
    """A square of one label."""
    labels = np.zeros(HW, dtype=np.uint8)
    labels[4:12, 6:18] = value
    return labels


def answer(index: int, *, value: int = 1) -> FrameResult:
    """One frame with the same map under every name."""
    names = ("mos-i", "mos", "foreground", "probability")
    return FrameResult(
        index=index,
        time_s=index / 10,
        maps=dict.fromkeys(names, label_map(value)),
        rgb=np.full((*HW, 3), 40, dtype=np.uint8),
    )


def answers(
    *, value: int = 1, frames: int = FRAMES, then: Callable[[], object] = lambda: None
) -> Generator[FrameResult, None, None]:
    """Every frame, and what happens after the last one."""
    for index in range(frames):
        yield answer(index, value=value)
    then()


def run(results: ResultSet, *, existing: Existing = "error", **how: Any) -> None:
    """A whole successful run."""
    file_results(answers(**how), results, MEDIA, existing=existing)


def snapshot(place: Path) -> dict[str, bytes | None]:
    """All files below a place with their contents, and all directories."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


def files(place: Path) -> list[str]:
    """All files below a place."""
    return sorted(name for name, content in snapshot(place).items() if content is not None)


def mask_value(results: ResultSet) -> int:
    """The label that the run in place wrote."""
    with Image.open(results.save_dir / "mos_frame" / "bear" / "00000.png") as image:
        return int(np.asarray(image).max())


def test_gmos_results_are_all_in_place(results: ResultSet) -> None:
    """The published folders, one PNG a frame, overlays, and a record."""
    run(results)
    masks = [f"{kind}_frame/bear/{index:05d}.png" for kind in ("mos-i", "mos") for index in range(FRAMES)]
    masks += [f"{kind}_frame/bear/index.csv" for kind in ("mos-i", "mos")]
    expected = [".gmos/bear.gmos.json", *masks, "mos-i_mp4/bear.mp4", "mos_mp4/bear.mp4"]
    assert files(results.save_dir) == sorted(expected)
    with VideoReader(results.save_dir / "mos_mp4" / "bear.mp4") as reader:
        assert len(list(reader)) == FRAMES
    record = json.loads(results.record_path.read_text(encoding="utf-8"))
    assert record.pop("software").startswith("gmos-deploy ")
    assert record.pop("made_from") == {"bundles": [], "checkpoints": [], "clips": []}
    assert record == {
        "format": 1,
        "sequence": "bear",
        "variant": "gmos",
        "modes": ["mask", "mp4"],
        "frames": FRAMES,
        "complete": True,
        "settings": SETTINGS,
    }
    assert finished(results)


def test_gmos_s_results_are_beside_them(results: ResultSet) -> None:
    """Both variants share an output place without touching each other."""
    run(results)
    before = snapshot(results.save_dir)
    single = replace(results, variant="gmos-s", modes=frozenset(("mask", "mp4", "prob")))
    assert not finished(single)
    run(single)
    after = snapshot(results.save_dir)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {".gmos", "frame", "mp4", "prob"}
    with Image.open(results.save_dir / "prob" / "bear" / "00002.png") as image:
        assert image.mode == "L"


@pytest.mark.parametrize("ending", [KeyboardInterrupt, GmosError])
def test_a_run_that_does_not_finish_leaves_nothing(
    results: ResultSet, tmp_path: Path, ending: type[BaseException]
) -> None:
    """Neither after an error, nor after Ctrl-C; the answers are closed."""
    closed = []

    def stopped() -> Generator[FrameResult, None, None]:
        try:
            yield from answers()
            raise ending
        finally:
            closed.append(True)

    with pytest.raises(ending):
        file_results(stopped(), results, MEDIA)
    assert closed
    assert snapshot(tmp_path) == {}


def test_nothing_shows_before_the_end(results: ResultSet) -> None:
    """A reader of the output place never sees half a sequence."""
    seen = []
    run(results, then=lambda: seen.extend(path.name for path in results.save_dir.iterdir()))
    assert seen == [".gmos"]


def test_missing_frames_are_a_mistake(results: ResultSet, tmp_path: Path) -> None:
    """A record of a sequence that is not whole would be a lie."""
    twice = (answer(index) for index in (0, 1, 1))
    with pytest.raises(RuntimeError, match="frames written, 3 expected"):
        file_results(twice, results, MEDIA)
    assert snapshot(tmp_path) == {}


def test_existing_results_are_not_touched(results: ResultSet) -> None:
    """Neither recorded ones nor those of other programs."""
    run(results)
    before = snapshot(results.save_dir)
    with pytest.raises(GmosError, match=r"mos-i_frame/bear exists already.*use --resume .*--overwrite"):
        run(results, value=2)
    assert snapshot(results.save_dir) == before
    results.record_path.unlink()
    with pytest.raises(GmosError, match="exists already"):
        should_skip(results, "error")


def test_overwriting_replaces_everything(results: ResultSet) -> None:
    """Old frames that the new run does not have are gone."""
    run(results)
    (results.save_dir / "mos_frame" / "bear" / "00099.png").write_bytes(b"old")
    names = files(results.save_dir)
    run(results, existing="overwrite", value=2)
    assert files(results.save_dir) == [name for name in names if not name.endswith("00099.png")]
    assert mask_value(results) == 2


def test_resuming_skips_what_is_finished(results: ResultSet) -> None:
    """The same settings and at most the same modes."""
    assert not should_skip(results, "resume")
    run(results)
    assert should_skip(results, "resume")
    assert should_skip(replace(results, modes=frozenset(("mask",))), "resume")
    assert not should_skip(results, "overwrite")


@pytest.mark.parametrize("lost", ["mos_mp4/bear.mp4", "mos_frame/bear/00001.png"])
def test_resuming_redoes_what_is_not_whole(results: ResultSet, lost: str) -> None:
    """Somebody deleted a file since."""
    run(results)
    (results.save_dir / lost).unlink()
    assert not should_skip(results, "resume")
    run(results, existing="resume", value=2)
    assert should_skip(results, "resume")
    assert mask_value(results) == 2


def test_resuming_with_other_settings_says_what_differs(results: ResultSet) -> None:
    """Results of two settings in one place would be taken for one."""
    run(results)
    other = replace(results, settings={"precision": "bf16", "stride": 3, "engine": "b"})
    message = (
        "results of bear made with other settings: engine was None and is 'b', "
        "precision was 'fp16' and is 'bf16'; .*--overwrite"
    )
    with pytest.raises(GmosError, match=message):
        should_skip(other, "resume")


def test_tuples_in_settings_compare_as_lists(results: ResultSet) -> None:
    """JSON has no tuples."""
    results = replace(results, settings={"video_hw": (16, 24)})
    run(results)
    assert finished(results)


def test_resuming_over_unknown_results_is_refused(results: ResultSet) -> None:
    """Masks without a record may be anybody's."""
    (results.save_dir / "mos_frame" / "bear").mkdir(parents=True)
    with pytest.raises(GmosError, match=r"mos_frame/bear has no completion record.*use --overwrite"):
        should_skip(results, "resume")


GOOD_RECORD = '{"format": 1, "modes": ["mask"], "frames": 3, "settings": {}, "complete": true}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "is no completion record: .*expected object, got array"),
        ("{}", "missing required field format"),
        ('{"format": 1}', "missing required field modes"),
        ("\udcff", "is not JSON"),
        ('{"format": 1' + "0" * 400 + "}", "has a number of 401 digits"),
        ('{"format": ' + "[" * 200 + "]" * 200 + "}", "more than 64 objects and lists inside each other"),
        (GOOD_RECORD.replace("3", "-1"), "frames: expected int >= 0"),
        (GOOD_RECORD.replace('"mask"', "3"), r"modes\[.*expected str, got int"),
    ],
)
def test_damaged_records_are_named(results: ResultSet, content: str, message: str) -> None:
    """They are no traceback, and --overwrite gets past them."""
    results.record_path.parent.mkdir(parents=True)
    results.record_path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(GmosError, match=rf"bear.gmos.json.*{message}.*--overwrite"):
        finished(results)
    run(results, existing="overwrite")
    assert finished(results)


def test_records_of_newer_versions_are_named(results: ResultSet) -> None:
    """What they mean is unknown."""
    results.record_path.parent.mkdir(parents=True)
    results.record_path.write_text('{"format": 2}')
    with pytest.raises(GmosError, match=r"bear.gmos.json has record format 2, expected 1"):
        finished(results)


@pytest.mark.parametrize("stride", [3, 4])
def test_other_modes_stay_only_with_the_same_settings(results: ResultSet, stride: int) -> None:
    """An overlay made with other settings would contradict the new masks."""
    run(results)
    masks_only = replace(results, modes=frozenset(("mask",)), settings={**SETTINGS, "stride": stride})
    run(masks_only, existing="overwrite", value=2)
    same = stride == SETTINGS["stride"]
    assert (results.save_dir / "mos_mp4" / "bear.mp4").exists() == same
    assert finished(replace(masks_only, modes=frozenset(("mask", "mp4")))) == same
    assert finished(masks_only)


@pytest.mark.parametrize("before", ["0" * 64, None])
def test_results_of_another_input_are_never_taken_for_these(results: ResultSet, before: str | None) -> None:
    """Neither does --resume skip it, nor does --overwrite keep the other modes beside the new one."""
    run(replace(results, settings={**SETTINGS, "input": before} if before else SETTINGS))
    other = replace(results, modes=frozenset(("mp4",)), settings={**SETTINGS, "input": "1" * 64})
    made = "another input" if before else "an input that was not noted"
    with pytest.raises(GmosError, match=f"results of bear made from {made}; expected the same video"):
        should_skip(other, "resume")
    run(other, existing="overwrite", value=2)
    assert files(results.save_dir) == [".gmos/bear.gmos.json", "mos-i_mp4/bear.mp4", "mos_mp4/bear.mp4"]
    assert finished(other)
    assert not finished(replace(other, modes=results.modes))


@pytest.fixture
def failing_rename(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the n-th move fail as on a full disk; later moves work again."""

    def fail_at(count: int) -> None:
        calls = iter(range(1000))
        real: Callable[[Path, Path], Path] = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if next(calls) == count:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(self, target)

        monkeypatch.setattr(Path, "rename", rename)

    return fail_at


@pytest.mark.parametrize("count", range(8))
def test_a_failed_commit_puts_everything_back(
    results: ResultSet, failing_rename: Callable[[int], None], count: int
) -> None:
    """Wherever it fails: four old results out of the way, four new ones in."""
    run(results)
    before = snapshot(results.save_dir)
    failing_rename(count)
    with pytest.raises(GmosError, match=r"cannot write .*out: the disk is full"):
        run(results, existing="overwrite", value=2)
    assert snapshot(results.save_dir) == before
    assert finished(results)


@pytest.mark.parametrize("count", range(10))
def test_old_or_new_is_whole_after_every_move_has_failed(
    results: ResultSet, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """From one of them on, as on a disk that is gone: those that put back too. The next run finishes."""
    run(results)
    before = snapshot(results.save_dir)
    calls = iter(range(1000))
    with monkeypatch.context() as patch:
        real: Callable[[Path, Path], Path] = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if next(calls) >= count:
                raise OSError(errno.EROFS, "Read-only file system")
            return real(self, target)

        patch.setattr(Path, "rename", rename)
        if count < 9:
            with pytest.raises(GmosError, match=r"cannot write .*out: the file system is read-only"):
                run(results, existing="overwrite", value=2)
        else:
            run(results, existing="overwrite", value=2)
    check_save_dir(results.save_dir)
    assert finished(results)
    assert snapshot(results.save_dir) == before or mask_value(results) == 2
    assert not list((results.save_dir / ".gmos").glob("work-*"))


@pytest.mark.parametrize("count", range(4))
def test_a_failed_first_commit_leaves_nothing(
    results: ResultSet, tmp_path: Path, failing_rename: Callable[[int], None], count: int
) -> None:
    """Folders made on the way included."""
    failing_rename(count)
    with pytest.raises(GmosError, match="the disk is full"):
        run(results)
    assert snapshot(tmp_path) == {}


def test_a_record_that_cannot_be_written_takes_the_results_back(
    results: ResultSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of all."""
    calls = iter(range(1000))
    real = Path.replace

    def fail_second(self: Path, target: Path) -> Path:
        if next(calls) == 1:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fail_second)
    with pytest.raises(GmosError, match=r"cannot write .*bear.gmos.json: the disk quota is used up"):
        run(results)
    assert snapshot(tmp_path) == {}


def test_a_run_killed_while_moving_is_redone(results: ResultSet) -> None:
    """Its record says so; resuming does not take the results for somebody else's."""
    run(results)
    record = json.loads(results.record_path.read_text())
    results.record_path.write_text(json.dumps({**record, "complete": False}))
    (results.save_dir / "mos_mp4" / "bear.mp4").unlink()
    assert not should_skip(results, "resume")
    run(results, existing="resume", value=2)
    assert should_skip(results, "resume")
    assert mask_value(results) == 2


KILLED_AT = """
import os, sys
from pathlib import Path
from gmos_deploy.runtime.results.outputs import PRIVATE_FOLDER, work_directory
with work_directory(Path(sys.argv[1]), PRIVATE_FOLDER) as work:
    (work / "new/mos_frame").mkdir(parents=True)
    (work / "moves.json").write_text(sys.argv[2])
    os._exit(9)
"""


@pytest.mark.parametrize("sequence", ["../bear", "a/b", "..", ""])
def test_what_a_dead_run_left_moves_nothing_out_of_the_place(results: ResultSet, sequence: str) -> None:
    """Somebody may have written it; the message names it."""
    moves: dict[str, Any] = {
        "sequence": sequence,
        "variant": "gmos",
        "written": ["mask"],
        "dropped": [],
        "made_from": {},
        "record": {"modes": ["mask"], "frames": 3, "settings": {}, "complete": True, "not_finite": {}},
    }
    text = json.dumps(moves)
    subprocess.run([sys.executable, "-c", KILLED_AT, str(results.save_dir), text], check=False)
    with pytest.raises(GmosError, match=r"moves.json names .*, which is no sequence; remove it"):
        check_save_dir(results.save_dir)
    # Damage is not repaired, and not obeyed.
    for found in results.save_dir.glob(".gmos/*/content/moves.json"):
        found.write_text(text[:20])
    check_save_dir(results.save_dir)
    assert files(results.save_dir.parent) == []


def test_results_that_turn_up_meanwhile_are_kept(results: ResultSet) -> None:
    """Two runs of one sequence: the first to finish wins, whatever its policy."""
    for existing, message in (("error", "exists already"), ("resume", "finished by another run")):
        place = replace(results, save_dir=results.save_dir / existing)

        with pytest.raises(GmosError, match=message):
            run(place, existing=existing, value=2, then=partial(run, place))
        assert mask_value(place) == 1
        assert finished(place)


def test_an_unwritable_place_is_a_clear_error(results: ResultSet, tmp_path: Path) -> None:
    """A file is in the way, as a parent or as a folder of results."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(GmosError, match=r"cannot write .*file/out: a part of this path is a file"):
        run(replace(results, save_dir=tmp_path / "file" / "out"))
    results.save_dir.mkdir()
    (results.save_dir / "mos_frame").write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(GmosError, match="out/mos_frame is a file; expected a directory for results"):
        run(results)
    assert snapshot(tmp_path) == before


def test_a_full_disk_while_writing_leaves_nothing(
    results: ResultSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth file does not fit."""
    calls: Iterator[int] = iter(range(1000))
    real = Path.write_bytes

    def fill(self: Path, data: bytes) -> int:
        if next(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(GmosError, match=r"cannot write .*\.png: the disk is full; free some space"):
        run(results)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize(("variant", "modes"), [("gmos", ()), ("gmos", ("prob",)), ("gmos-s", ("png",))])
def test_modes_must_belong_to_the_variant(tmp_path: Path, variant: Variant, modes: tuple[str, ...]) -> None:
    """A mode that no folder belongs to would write nothing."""
    with pytest.raises(GmosError, match=f"expected some of mask, mp4.* for {variant}"):
        ResultSet(save_dir=tmp_path, sequence="bear", variant=variant, modes=frozenset(modes))


def test_names_in_any_language_work(results: ResultSet) -> None:
    """In folders, records and videos."""
    sequence = replace(results, sequence="вело 自転車")
    run(sequence)
    assert finished(sequence)
    assert (sequence.save_dir / "mos_mp4" / "вело 自転車.mp4").is_file()


def test_a_finished_sequence_is_not_written_again(results: ResultSet) -> None:
    """The caller asks first; entering all the same is its mistake."""
    run(results)
    with pytest.raises(RuntimeError, match="bear is finished"):
        run(results, existing="resume")


def everything(place: Path) -> list[str]:
    """All paths below a place."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_nothing_is_left(tmp_path: Path) -> None:
    """The parents made for it are removed too, those that were there stay."""
    with work_directory(tmp_path / "a" / "b", ".gmos") as work:
        (work / "file").write_text("x")
        assert work.is_relative_to(tmp_path / "a" / "b" / ".gmos")
    assert everything(tmp_path) == []
    assert tmp_path.exists()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, GmosError])
def test_nothing_is_left_after_an_error(tmp_path: Path, ending: type[BaseException]) -> None:
    """Ctrl-C included."""

    def stop() -> None:
        with work_directory(tmp_path, ".gmos") as work:
            (work / "file").write_text("x")
            raise ending

    with pytest.raises(ending):
        stop()
    assert everything(tmp_path) == []


def test_what_others_put_beside_it_stays(tmp_path: Path) -> None:
    """Parents are removed only where they are empty."""
    with work_directory(tmp_path / "out", ".gmos"):
        (tmp_path / "out" / "mine").write_text("x")
    assert everything(tmp_path) == ["out", "out/mine"]


def test_dead_runs_are_cleaned_up_and_live_ones_are_not(tmp_path: Path) -> None:
    """A killed process leaves its directory; the next run removes it."""
    with work_directory(tmp_path, ".gmos") as alive:
        crashed = subprocess.run([sys.executable, "-c", CRASHING_RUN, str(tmp_path)], check=False)
        assert crashed.returncode == 9
        assert len(list((tmp_path / ".gmos").iterdir())) == 2
        with work_directory(tmp_path, ".gmos") as work:
            assert alive.exists()
            assert work.exists()
            assert len(list((tmp_path / ".gmos").iterdir())) == 2
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "cannot write .*file: a part of this path is a file|there is a file where"),
        ("file/out", "cannot write .*file/out: a part of this path is a file, not a directory"),
        (f"{'n' * 300}", "the name is too long; choose a shorter one"),
        ("/proc/results", "cannot write /proc/results: "),
    ],
)
def test_unwritable_places_are_found_at_once(tmp_path: Path, place: str, message: str) -> None:
    """Before any network is loaded."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(GmosError, match=message) as caught:
        check_save_dir(tmp_path / place)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == ["file"]


def test_a_good_place_is_left_as_it_was(tmp_path: Path) -> None:
    """The check makes nothing that stays."""
    check_save_dir(tmp_path / "new" / "out")
    check_save_dir(tmp_path)
    assert everything(tmp_path) == []
