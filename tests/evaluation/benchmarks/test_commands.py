"""The gmos-eval commands, as documented and with everything that can be wrong."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.commands.evaluate import evaluate_command
from gmos_deploy.errors import GmosError

Labels = NDArray[np.uint8]
RunEval = Callable[..., Result]

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "evaluation.md"
COMMANDS = re.findall(r"^gmos-eval (.+)$", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)

TIME_ANNOTATION = """seq_name,time_anno,ann_frames,vid_frames,dataset,split
bear,"{'2': [[0, 1]], '1': [[0, 2]]}",3,3,davis,test
boat,{},3,3,davis,test
00ff,"{'1': [[1, 2]]}",3,15,ytvos,test
"""


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_tree: Callable[..., list[Path]],
    square: Callable[..., Labels],
) -> Path:
    """A folder with every dataset that the documentation's commands name, tiny, and results for them."""
    monkeypatch.chdir(tmp_path)
    annotated = [square((1, 1, 1 + t, 4), (2, 7, 9, 3)) for t in range(3)]
    predicted = [square((2, 1, 1 + t, 4), (1, 7, 9, 2)) for t in range(3)]
    (tmp_path / "gmos_2k").mkdir()
    (tmp_path / "gmos_2k" / "time_annotation.csv").write_text(TIME_ANNOTATION)
    for name in ("davis/test/bear", "ytvos/test/00ff"):
        write_tree(tmp_path / "gmos_2k" / "annotations" / name, annotated)
    davis = tmp_path / "DAVIS"
    for name in ("bear", "boat"):
        write_tree(davis / "Annotations" / "480p" / name, annotated)
        write_tree(davis / "Annotations_unsupervised" / "480p" / name, annotated)
    for year in ("2016", "2017"):
        (davis / "ImageSets" / year).mkdir(parents=True)
        (davis / "ImageSets" / year / "val.txt").write_text("bear\nboat\n")
    (tmp_path / "davis17-m.txt").write_text("boat\n")
    for name in ("bear", "boat", "00ff", "frog", "cars1"):
        write_tree(tmp_path / "out" / "mos_frame" / name, predicted)
        write_tree(tmp_path / "out" / "mos-i_frame" / name, predicted)
    write_tree(tmp_path / "SegTrackv2" / "JPEGImages" / "frog", annotated)
    for item, label in (("1", 1), ("2", 2)):
        write_tree(
            tmp_path / "SegTrackv2" / "GroundTruth" / "frog" / item, [(a == label) * a for a in annotated]
        )
    for index in (1, 2, 3):
        frame = tmp_path / "FBMS_clean" / "JPEGImages" / "cars1" / f"{index:05d}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12)).save(frame)
    mask = tmp_path / "FBMS_clean" / "Annotations" / "cars1" / "00003.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray((annotated[2] > 0).astype(np.uint8) * 255).save(mask)
    make_moca(tmp_path)
    return tmp_path


def make_moca(root: Path) -> None:
    """One video of 32x24 with two boxes, and probability maps of 16x12 for its three frames."""
    frames = root / "MoCA_filtered" / "JPEGImages" / "crab"
    probabilities = root / "out_s" / "prob" / "crab"
    frames.mkdir(parents=True)
    probabilities.mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (32, 24)).save(frames / f"{index:05d}.jpg")
        grey = np.zeros((12, 16), np.uint8)
        grey[2:8, 3:9] = 26 + index
        Image.fromarray(grey).save(probabilities / f"{index:05d}.png")
    rows = [f'{i},/crab/{i:05d}.jpg,"[2,6,4,{width},12]",0' for i, width in enumerate((12, 24))]
    (root / "MoCA_filtered" / "annotations.csv").write_text(
        ",file_list,box,metadata\n" + "\n".join(rows) + "\n"
    )


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_run(run_eval: RunEval, command: str) -> None:
    """Every command line of the documentation works and writes the files that it names."""
    arguments = shlex.split(command)
    for other in COMMANDS if arguments[0] == "table" else ():
        # What the table is made of, by other commands.
        if "--json" in (words := shlex.split(other)) and words[words.index("--json") + 1] in arguments:
            assert run_eval(*words).exit_code == 0
    result = run_eval(*arguments)
    assert result.exit_code == 0, result.exception
    for flag in ("--json", "--csv", "--html"):
        if flag in arguments:
            assert Path(arguments[arguments.index(flag) + 1]).stat().st_size > 0


def test_every_command_is_documented() -> None:
    """The documentation's examples cover all commands."""
    assert {command.split()[0] for command in COMMANDS} == set(evaluate_command.commands)


def evaluate_to_json(run_eval: RunEval, *arguments: object) -> dict[str, object]:
    """Run a command and read the JSON that it writes."""
    result = run_eval(*arguments, "--json", "result.json", "--jobs", 1)
    assert result.exit_code == 0, result.exception
    return json.loads(Path("result.json").read_text())


MOS_I = ("mos-i", "--dataset", "davis17-im", "--res_dir", "out", "--root", "gmos_2k")


@pytest.mark.usefixtures("workplace")
def test_mos_i_report(run_eval: RunEval) -> None:
    """The JSON carries the metrics, the matching, the frames and what was counted."""
    report = evaluate_to_json(run_eval, *MOS_I)
    (sequence,) = report["sequences"]
    assert report["schema"] == "gmos-eval/1"
    assert report["sources"]["predictions"] == str(Path("out") / "mos-i_frame")
    assert [(item["label"], item["matched"]) for item in sequence["objects"]] == [(1, 2), (2, 1)]
    assert sequence["objects"][0]["metrics"]["j_mov"] == pytest.approx(1)
    assert sequence["objects"][1]["metrics"]["j_mov"] == pytest.approx(4 / 9)
    assert report["overall"]["fp_count"] == pytest.approx(1 / 3)
    assert sequence["frame_scores"] == pytest.approx([13 / 18, 13 / 18, 1 / 2])
    assert [item["frame"] for item in report["worst_frames"]] == ["00002", "00000", "00001"]
    assert {note["code"]: note["count"] for note in report["notes"]} == {
        "rows_without_motion": 1,
        "unlisted_prediction_sequences": 4,
    }


@pytest.mark.usefixtures("workplace")
def test_csv_has_rows_for_all_levels(run_eval: RunEval) -> None:
    """One row for the whole, each sequence and each object, in the JSON's names and numbers."""
    assert run_eval(*MOS_I, "--csv", "result.csv", "--jobs", 1).exit_code == 0
    report = evaluate_to_json(run_eval, *MOS_I)
    with Path("result.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["level"], row["sequence"], row["object"], row["matched"]) for row in rows] == [
        ("overall", "", "", ""),
        ("sequence", "bear", "", ""),
        ("object", "bear", "1", "2"),
        ("object", "bear", "2", "1"),
    ]
    assert float(rows[0]["mtiou"]) == report["overall"]["mtiou"]
    assert rows[2]["mtiou"] == ""


@pytest.mark.usefixtures("workplace")
def test_processes_change_nothing(run_eval: RunEval) -> None:
    """Two processes give the same numbers in the same order as one."""
    arguments = ("davis", "--res_dir", "out", "--root", "DAVIS")
    alone = evaluate_to_json(run_eval, *arguments)
    assert run_eval(*arguments, "--json", "two.json", "--jobs", 2).exit_code == 0
    together = json.loads(Path("two.json").read_text())
    alike = {"seconds": 0, "environment": {}}
    assert {**together, **alike} == {**alone, **alike}


@pytest.mark.usefixtures("workplace")
def test_foreground_reports(run_eval: RunEval) -> None:
    """SegTrackv2 merges object folders; FBMS-59's frame 00003 is the third prediction, 00002."""
    report = evaluate_to_json(
        run_eval, "motion-grouping", "--dataset", "segtrackv2", "--res_dir", "out", "--root", "SegTrackv2"
    )
    assert report["overall"]["j_frame_mean"] == pytest.approx(20 / 25)
    report = evaluate_to_json(
        run_eval, "motion-grouping", "--dataset", "fbms59", "--res_dir", "out", "--root", "FBMS_clean"
    )
    (sequence,) = report["sequences"]
    assert sequence["frames"] == ["00003"]
    assert sequence["frame_scores"] == pytest.approx([20 / 25])
    assert {note["code"]: note["count"] for note in sequence["notes"]} == {
        "unpaired_prediction_frames": 2,
        "frames_paired_by_position": 1,
    }


@pytest.mark.usefixtures("workplace")
def test_moca_report(run_eval: RunEval) -> None:
    """Boxes are scaled to the frames; success is pooled; frames without a box are counted."""
    report = evaluate_to_json(run_eval, "moca", "--res_dir", "out_s", "--root", "MoCA_filtered")
    assert report["overall"]["j"] == pytest.approx((1 + 0.5) / 2)
    assert report["overall"]["success_0.5"] == 0.5
    assert {note["code"]: note["count"] for note in report["notes"]} == {
        "resized_predictions": 2,
        "grey_maps": 2,
        "frames_without_box": 1,
    }


@pytest.mark.usefixtures("workplace")
def test_gmos_2k_counts(run_eval: RunEval) -> None:
    """The summary names every split and what is peculiar."""
    result = run_eval("gmos-2k", "gmos_2k/time_annotation.csv", "--json", "counts.json")
    counts = json.loads(Path("counts.json").read_text())
    assert (counts["rows"], list(counts["by_split"])) == (3, ["davis/test", "ytvos/test"])
    assert counts["by_split"]["davis/test"]["motion_pct_object_mean"] == 83.333
    assert "rows that list their object ids unsorted: 1" in result.stdout
    assert "sequences of the CSV where nothing moves ({}), not scored: 1" in result.stdout


@pytest.mark.usefixtures("workplace")
def test_terminal_table(run_eval: RunEval) -> None:
    """The numbers, the folders they come from and the remarks; sequences and objects with --verbose."""
    short, long = run_eval(*MOS_I, "--jobs", 1).stdout, run_eval(*MOS_I, "--jobs", 1, "--verbose").stdout
    assert "mos-i on davis17-im (sequences: 1, frames: 3)" in short
    assert re.search(r"J_mov +0\.7222", short)
    assert f"predictions: {Path('out') / 'mos-i_frame'}" in short
    assert "note: predicted sequences outside the split, not scored: 4" in short
    assert "object 2" not in short
    assert re.search(r"object 2 .* 0\.4444", long)


@pytest.mark.usefixtures("workplace")
def test_page_is_self_contained(run_eval: RunEval) -> None:
    """One file: no address but the page's own, remarks, bars and pictures inside, names escaped."""
    Path("out/mos-i_frame").rename("out/<b>&_frame")
    arguments = (*MOS_I[:4], "out/<b>&_frame", *MOS_I[5:])
    assert run_eval(*arguments, "--html", "page.html", "--jobs", 1, "--worst-frames", 2).exit_code == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"(?!data:)", page)
    assert page.count('src="data:image/png;base64,') == 2
    assert "prefers-color-scheme:dark" in page
    assert "predicted sequences outside the split, not scored: 4" in page
    assert "out/&lt;b&gt;&amp;_frame" in page
    assert "<b>&_frame" not in page
    assert 'aria-label="J_mov 0.7222"' in page


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    "arguments",
    [
        ("davis", "--res_dir", "out", "--root", "DAVIS", "--dataset", "davis16"),
        ("motion-grouping", "--dataset", "segtrackv2", "--res_dir", "out", "--root", "SegTrackv2"),
        ("moca", "--res_dir", "out_s", "--root", "MoCA_filtered"),
        ("moca", "--res_dir", "out_l", "--root", "MoCA_filtered"),
    ],
)
def test_pages_of_merged_and_box_benchmarks(
    run_eval: RunEval,
    write_tree: Callable[..., list[Path]],
    square: Callable[..., Labels],
    arguments: tuple[str],
) -> None:
    """Every kind of benchmark has its pictures."""
    write_tree(Path("out_l/crab"), [square((1, 2, 3, 6))] * 3)
    assert run_eval(*arguments, "--html", "page.html", "--jobs", 1).exit_code == 0
    assert "data:image/png" in Path("page.html").read_text(encoding="utf-8")


def fails_with(result: Result) -> str:
    """The message of a command that failed because of what it was given."""
    assert isinstance(result.exception, GmosError)
    message = str(result.exception)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("workplace")
def test_missing_sequences_are_listed_before_anything_runs(run_eval: RunEval) -> None:
    """One line for each missing file on stderr, one line in the end; or they are left out and counted."""
    for path in Path("out/mos_frame/boat").iterdir():
        path.unlink()
    Path("out/mos_frame/bear/00001.png").unlink()
    Path("DAVIS/ImageSets/2017/val.txt").write_text("bear\nboat\ncows\n")
    result = run_eval("davis", "--res_dir", "out", "--root", "DAVIS")
    lines = [line for line in result.stderr.splitlines() if line.startswith("missing: ")]
    assert lines[0] == "missing: DAVIS/Annotations_unsupervised/480p/cows"
    assert lines[1] == "missing: out/mos_frame/bear/00001.png"
    assert lines[2:] == ["missing: out/mos_frame/boat/*.png"]
    message = (
        "3 missing in 3 of 3 sequences (bear, boat, cows), first: DAVIS/Annotations_unsupervised/480p/cows"
    )
    assert fails_with(result).startswith(message)
    # Nothing is left to skip to.
    assert isinstance(
        run_eval("davis", "--res_dir", "out", "--root", "DAVIS", "--skip_missing").exception, GmosError
    )
    Path("DAVIS/ImageSets/2017/val.txt").write_text("boat\ncars\n")
    Path("out/mos_frame/frog").rename("out/mos_frame/cars")
    Path("DAVIS/Annotations_unsupervised/480p/bear").rename("DAVIS/Annotations_unsupervised/480p/cars")
    report = evaluate_to_json(run_eval, "davis", "--res_dir", "out", "--root", "DAVIS", "--skip-missing")
    assert [sequence["name"] for sequence in report["sequences"]] == ["cars"]
    assert {key: report["notes"][1][key] for key in ("code", "count")} == {
        "code": "skipped_sequences",
        "count": 1,
    }


@pytest.mark.usefixtures("workplace")
def test_problems_of_several_sequences_make_one_line(run_eval: RunEval) -> None:
    """Every sequence is tried, and each broken one is named."""
    for name in ("bear", "boat"):
        Path(f"out/mos_frame/{name}/00001.png").write_bytes(b"broken")
    message = fails_with(run_eval("davis", "--res_dir", "out", "--root", "DAVIS", "--jobs", 1))
    assert message.startswith("2 of 2 sequences cannot be evaluated: ")
    assert message.count("unreadable image") == 2


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("mos-i", "--dataset", "davis17-im", "--res_dir", "out"),
            "mos-i needs --anno_dir and --time_anno_csv",
        ),
        (("davis", "--res_dir", "out"), "davis needs --root of the DAVIS folder, or --anno_dir"),
        (
            ("davis", "--dataset", "davis16-m", "--res_dir", "out", "--anno_dir", "DAVIS/Annotations/480p"),
            "davis16-m: needs the list of its sequences",
        ),
        (("davis", "--res_dir", "out_s", "--root", "DAVIS"), "only a prob tree, which holds probabilities"),
        (("davis", "--res_dir", "nowhere", "--root", "DAVIS"), "nowhere does not exist"),
        (("davis", "--res_dir", "out", "--anno_dir", "nowhere"), "nowhere does not exist"),
        (("moca", "--res_dir", "out_s", "--root", "SegTrackv2"), "no annotations.csv"),
        (("gmos-2k", "nowhere.csv"), "cannot read the motion-annotation CSV"),
        ((*MOS_I, "--html", "gmos_2k/time_annotation.csv/page.html"), "cannot write"),
    ],
)
def test_wrong_arguments_are_explained(run_eval: RunEval, arguments: tuple[str, ...], message: str) -> None:
    """What is missing and which option gives it."""
    assert message in fails_with(run_eval(*arguments))


@pytest.mark.usefixtures("workplace")
def test_probabilities_given_by_name_are_refused(run_eval: RunEval) -> None:
    """A prob tree is found out by its values, whatever its name."""
    gradient = Image.fromarray(np.tile(np.arange(0, 160, 10, dtype=np.uint8), (12, 1)))
    for index in range(3):
        gradient.save(f"out/mos_frame/bear/{index:05d}.png")
    result = run_eval("davis", "--res_dir", "out/mos_frame", "--root", "DAVIS", "--jobs", 1)
    assert "a probability map and not labels: give the `frame` tree" in fails_with(result)


@pytest.mark.usefixtures("workplace")
def test_an_annotation_folder_alone_is_enough(run_eval: RunEval) -> None:
    """Without the dataset every annotated sequence is scored; extra predictions are only counted."""
    for index in (3, 4):
        Image.new("L", (16, 12)).save(f"out/mos_frame/bear/{index:05d}.png")
    report = evaluate_to_json(
        run_eval,
        "davis",
        "--res_dir",
        "out",
        "--anno_dir",
        "DAVIS/Annotations_unsupervised/480p",
    )
    assert [sequence["name"] for sequence in report["sequences"]] == ["bear", "boat"]
    assert report["notes"][0]["code"] == "unpaired_prediction_frames"
    assert report["notes"][0]["count"] == 2


@pytest.mark.usefixtures("workplace")
def test_the_layout_of_motion_grouping_gets_a_hint(run_eval: RunEval) -> None:
    """masks/VIDEO/gap1/*.png: the message says where the masks are, and what to do."""
    masks = Path("out_s/prob/crab")
    (masks / "gap1").mkdir()
    for mask in list(masks.glob("*.png")):
        mask.rename(masks / "gap1" / mask.name)
    Path("annotated/crab").mkdir(parents=True)
    Image.new("L", (16, 12)).save("annotated/crab/00000.png")
    for words in (
        ("moca", "--res_dir", "out_s/prob", "--root", "MoCA_filtered"),
        ("davis", "--res_dir", "out_s/prob", "--anno_dir", "annotated"),
    ):
        error = str(run_eval(*words).exception)
        assert "out_s/prob/crab/*.png (they are in gap1/, as motion-grouping writes them: move" in error


@pytest.mark.usefixtures("workplace")
def test_one_foreground_scored_by_object_is_said(run_eval: RunEval) -> None:
    """Results of GMOS-S as davis17, which is the default; as davis16 they are right."""
    Path("out/mos_frame").rename("out/frame")
    shutil.rmtree("out/mos-i_frame")
    report: dict[str, Any] = evaluate_to_json(run_eval, "davis", "--res_dir", "out", "--root", "DAVIS")
    assert "foreground_as_objects" in {note["code"] for note in report["notes"]}
    assert report["made_from"] == {"bundles": [], "checkpoints": [], "clips": []}
    assert report["environment"]["gmos_deploy"]
    report = evaluate_to_json(
        run_eval, "davis", "--dataset", "davis16", "--res_dir", "out", "--root", "DAVIS"
    )
    assert "foreground_as_objects" not in {note["code"] for note in report["notes"]}
