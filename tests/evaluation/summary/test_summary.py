"""gmos-report and gmos-eval table: results known by their content, one page, one table, foreign files refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.calibration.report import SCHEMA as CALIBRATION
from gmos_deploy.cli import guarded
from gmos_deploy.commands.evaluate import evaluate_command
from gmos_deploy.commands.report import report_command
from gmos_deploy.evaluation import report
from gmos_deploy.evaluation.benchmarks.report import JSON_SCHEMA
from gmos_deploy.evaluation.compare.report import SCHEMA as PARITY
from gmos_deploy.evaluation.doctor.command import SCHEMA as DOCTOR
from gmos_deploy.evaluation.profile.report import SCHEMA as PROFILE
from gmos_deploy.evaluation.summary.saved import KINDS, read_saved
from gmos_deploy.tuning.report import SCHEMA as TUNING

Save = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]

DOCUMENTATION = Path(report.__file__).parents[2] / "docs" / "report.md"
COMMANDS = re.findall(
    r"^gmos-report (.+?)(?: +#.*)?$", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE
)

HASH = "0123456789abcdef" * 4

MADE = {
    "environment": {"date": "2026-12-01T00:00:00+00:00", "gmos_deploy": "0.1.0", "cpu": "A CPU", "cores": 2},
    "made_from": {
        "bundles": [{"name": "bundle", "sha256": HASH}],
        "checkpoints": [
            {
                "flag": "pi3_ckpt",
                "name": "model.safetensors",
                "sha256": HASH[::-1],
                "licence": "CC-BY-NC-4.0",
                "source": "https://huggingface.co/yyfz233/Pi3",
            }
        ],
        "clips": [{"name": "street", "sha256": HASH, "stride": 3, "fps": 24.0, "dataset": None}],
    },
}

RESULTS: dict[str, dict[str, Any]] = {
    "parity": {
        "schema": "gmos-parity/1", "kind": "video", "passed": False, "profile": "fp32",
        "failures": ["mos of street: 0.9"], "a": "torch:nano", "b": "onnxruntime:bundle",
        "born_in": [{"sequence": "street", "words": "born in: proposer"}],
        "results": [
            {
                "result": "mos", "sequence": "street", "frames": 8, "mean_iou": 0.98765, "different_pixels": 7,
                "worst_frame": {"name": "00003", "iou": 0.9},
            }
        ],
    },
    "networks": {
        "schema": "gmos-parity/1", "kind": "networks", "passed": True, "profile": "fp32", "failures": [],
        "a": "torch:nano", "b": "onnxruntime:bundle",
        "outputs": [
            {"network": "dino", "output": "tokens", "relative": 1e-6, "cosine": 1.0, "changed": 0.0, "max_abs": None}
        ],
    },
    "profile": {
        "schema": "gmos-profile/1", "video": "street.mp4", "sides": ["torch:nano"], "warnings": ["a busy machine"],
        "networks": [
            {
                "network": "dino", "lengths": {"B": 1}, "side": "torch:nano", "p50_ms": 12.345, "p99_ms": 20,
                "ratio_to_first": None,
            }
        ],
        "runs": [
            {
                "side": "torch:nano", "variant": "gmos", "description": "PyTorch", "frames": 8,
                "frames_per_second": 4.5, "load_s": 1.0, "peak_mib": 800.0, "device_mib": None,
            }
        ],
    },
    "evaluation": {
        "schema": "gmos-eval/1", "evaluator": "davis", "dataset": "davis17",
        "overall": {"j_and_f": 0.8046, "j_mean": 0.8, "j_recall": 1.0, "f_mean": None},
        "notes": [{"code": "skipped_sequences", "count": 2, "text": "sequences left out because files are missing"}],
        "sequences": [{"name": "bear", "frames": ["00000"], "metrics": {"j_and_f": 0.8046, "j_mean": 0.8}}],
    },
    "calibration": {
        "schema": "gmos-calibration/2", "calibration": {"precision": "int8", "ranges": "entropy"},
        "weight_bytes": {"before": 20 << 20, "after": 10 << 20},
        "networks": [{"name": "dino", "layers": 8, "weight_only": 1, "error": None}],
    },
    "tuning": {
        "schema": "gmos-tune/1", "finished": False, "warnings": ["tuned on 1 video"], "left_out": ["wider gaps"],
        "finalists": [{"levers": {"geometry_every": 2}, "speedup": 1.4567}, {"levers": {}, "speedup": 1.0}],
        "recipe": {
            "format": 1, "name": "tuned", "variant": "gmos-s", "levers": {"geometry_every": 2}, "bundle": HASH,
            "backend": "onnxruntime", "device": "a CPU", "target_masks": 0.95, "speedup": 1.4567,
            "agreement": [{"result": "foreground", "mean": 0.9712, "worst": 0.9611, "worst_video": "street"}],
            "held_out": [{"result": "foreground", "mean": 0.8912, "worst": 0.8812, "worst_video": "yard"}],
        },
    },
    "acceptance": {
        "schema": "gmos-acceptance/1", "failed": False,
        "steps": [
            {
                "name": "video", "proves": "masks", "seconds": 3.0, "unfinished": True,
                "items": [{"name": "engines", "verdict": "missing", "words": "no GPU"}],
            }
        ],
    },
    "doctor": {
        "schema": "gmos-doctor/1", "status": 0,
        "findings": [{"group": "What can run here", "name": "onnxruntime on cpu", "state": "ok", "found": "ready"}],
    },
}  # fmt: skip


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Writes one of the results, with changes, into the folder that commands run in."""
    monkeypatch.chdir(tmp_path)

    def write(kind: str, name: str | None = None, **changes: Any) -> Path:
        path = Path(f"{name or kind}.json")
        path.write_text(json.dumps({**MADE, **RESULTS[kind], **changes}))
        return path

    return write


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command on a terminal of 80 columns: status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(command: Any, *words: object) -> tuple[int, str, str]:
        status = guarded(command, command.name, [str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_every_schema_is_that_of_its_command() -> None:
    """None is forgotten when its number rises."""
    assert {PARITY, PROFILE, JSON_SCHEMA, DOCTOR, CALIBRATION, TUNING, "gmos-acceptance/1"} == set(KINDS)


def test_one_page_of_everything(save: Save, call: Call) -> None:
    """Verdicts, numbers, hashes in full, licences, strides, machine, versions; what failed is first."""
    status, out, err = call(report_command, "page.html", *map(save, RESULTS), "--title", "Release 1")
    assert (status, err) == (0, "")
    page = Path("page.html").read_text(encoding="utf-8").replace("<wbr>", "")
    for words in (
        "<title>Release 1</title>", "failed: gmos-parity video", "gmos-parity video: mos of street: 0.9",
        "born in: proposer", "0.98765", "PASS", "gmos-profile: a busy machine", "12.35", "4.50 frames/s", "80.5",
        "20.0 to 10.0 MiB of weights", "1.46 times as fast", "0.881", "tuned on 1 video", "wider gaps",
        "unfinished: video", "ready: onnxruntime on cpu", HASH, HASH[::-1], "CC-BY-NC-4.0",
        "https://huggingface.co/yyfz233/Pi3", "gmos-deploy 0.1.0", "A CPU", "2026-12-01",
        "sequences left out because files are missing: 2",
    ):  # fmt: skip
        assert words in page, words
    assert re.search(r"clip +street +3 +24 ", out), "stride and rate"
    assert "failed: gmos-parity video" in out.splitlines()[-2]
    assert out.endswith("report: page.html\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_run(command: str, save: Save, call: Call) -> None:
    """Every line of the documentation works, on results of these names."""
    names = {"parity/result.json": "parity", "profile/result.json": "profile", "doctor.json": "doctor"}
    words = shlex.split(command)
    for word in words:
        if word.endswith(".json"):
            Path(word).parent.mkdir(exist_ok=True)
            save(names.get(word, "evaluation"), word.removesuffix(".json"))
    assert call(report_command, *words)[0] == 0
    assert Path(words[0]).is_file()


def test_a_terminal_of_80_columns(save: Save, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, out, _ = call(report_command, "page.html", *map(save, RESULTS))
    out = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80, out


def test_the_page_as_markdown(save: Save, call: Call) -> None:
    """The same tables, for a release's text; what Markdown would take for its own is escaped."""
    status, _, _ = call(report_command, "page.md", *map(save, RESULTS), "--title", "a_b *c*")
    text = Path("page.md").read_text(encoding="utf-8")
    assert status == 0
    assert text.startswith("# a\\_b \\*c\\*\n")
    assert "**failed: gmos-parity video**" in text
    assert "| mos of street | 8 | 0.98765 | 0.90000 | 00003 | 7 |" in text
    assert HASH in text
    assert "svg" not in text


def test_nothing_failed(save: Save, call: Call) -> None:
    """A page of what passed says so, and of versions that differ."""
    made = {"gmos_deploy": "0.2.0"}
    _, out, _ = call(report_command, "page.html", save("networks"), save("doctor", environment=made))
    assert "nothing failed" in out
    assert "made by several versions of gmos-deploy: 0.1.0, 0.2.0" in out


def test_old_results_without_origins_are_read(save: Save, call: Call) -> None:
    """Those of versions that wrote no hashes, environment or licences."""
    path = save("evaluation")
    path.write_text(json.dumps(RESULTS["evaluation"]))
    assert call(report_command, "page.html", path)[0] == 0
    assert read_saved(path).made_from.bundles == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"format": 2}', "is no result of gmos-deploy (schema none)"),
        ('{"schema": "gmos-parity/99"}', "(schema 'gmos-parity/99'); expected JSON that gmos-parity"),
        ('{"schema": ["x"]}', "is no result of gmos-deploy"),
        ('{"schema": "gmos-parity/1"}', "result: object missing required field"),
        (
            '{"schema": "gmos-doctor/1", "status": "0", "findings": []}',
            "result.status: expected int, got str",
        ),
        ('{"schema": "gmos-eval/1", "evaluator": "gmos-2k"}', "counts a CSV of motion annotations"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_foreign_files_are_refused(text: str, message: str, save: Save, call: Call) -> None:
    """With one line that says what was expected; no page is written, and none that was there is touched."""
    Path("bad.json").write_text(text)
    Path("page.html").write_text("before")
    status, _, err = call(report_command, "page.html", save("doctor"), "bad.json")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert Path("page.html").read_text() == "before"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["doctor.json", "doctor.json"], "doctor.json: expected the page first, OUT.html or OUT.md"),
        (["page.html", "nowhere.json"], "nowhere.json does not exist"),
        (["page.html", "."], ". is no file"),
        (["nowhere/../doctor.json/page.html", "doctor.json"], "cannot write"),
    ],
)
def test_what_cannot_be_read_or_written(words: list[str], message: str, save: Save, call: Call) -> None:
    """A result is never overwritten by a page whose name was forgotten."""
    before = save("doctor").read_text()
    status, _, err = call(report_command, *words)
    assert status == 2
    assert message in err
    assert Path("doctor.json").read_text() == before


def test_a_table_in_percent(save: Save, call: Call) -> None:
    """A row for each dataset, one decimal as papers print; counts are counts; what is unknown is a dash."""
    mos_i = {"j_mov": 0.51234, "mtiou": 1.0206, "fp_count": 0.456, "mtiou_frame_level": 0.5}
    second = save("evaluation", "second", evaluator="mos-i", dataset="davis17-im", overall=mos_i, notes=[])
    status, out, _ = call(evaluate_command, "table", save("evaluation"), second, "--format", "csv")
    assert status == 0
    head, davis, im = csv.reader(io.StringIO(out))
    assert head == ["dataset", "J_mov (%)", "mtIoU (%)", "FP count", "J&F (%)", "J mean (%)", "sequences"]
    assert davis == ["davis17", "–", "–", "–", "80.5", "80.0", "1"]
    assert im == ["davis17-im", "51.2", "102.1", "0.46", "–", "–", "1"]


def test_forms_of_the_table(save: Save, call: Call) -> None:
    """Signs of LaTeX and Markdown are escaped, and remarks go with the numbers."""
    path = save("evaluation", dataset="a_b|c")
    _, latex, _ = call(evaluate_command, "table", path, "--format", "latex")
    assert r"dataset & J\&F (\%) & J mean (\%) & sequences \\" in latex
    assert r"a\_b|c & 80.5 & 80.0 & 1 \\" in latex
    assert "\n% a_b|c (evaluation.json): sequences left out because files are missing: 2\n" in latex
    _, marked, _ = call(evaluate_command, "table", path, "--format", "markdown")
    assert "| a\\_b\\|c | 80.5 | 80.0 | 1 |" in marked
    _, text, _ = call(evaluate_command, "table", path)
    assert "remark: a_b|c (evaluation.json): sequences left out" in text


def test_names_of_others_are_only_shown(save: Save, call: Call) -> None:
    """No formula for a spreadsheet, no command for LaTeX, no escape for the terminal."""
    path = save("evaluation", dataset="=cmd|'/C calc'!A0\n\\input{x}\x1b[31m")
    _, out, err = call(evaluate_command, "table", path, "--format", "csv")
    assert list(csv.reader(io.StringIO(out)))[1][0].startswith("'=cmd|")
    _, latex, _ = call(evaluate_command, "table", path, "--format", "latex")
    assert not any(line.startswith("\\input") for line in latex.splitlines())
    _, text, _ = call(evaluate_command, "table", path)
    assert "\x1b" not in out + err + latex + text


def test_results_of_another_dataset_get_a_remark(save: Save, call: Call) -> None:
    """As their records tell; and a dataset that comes twice is told by its file."""
    clips = [{"name": name, "sha256": None, "dataset": "davis16"} for name in ("bear", "boat")]
    other = save("evaluation", "other", made_from={"clips": clips}, notes=[])
    _, out, err = call(evaluate_command, "table", save("evaluation"), other, "--format", "csv")
    assert (
        "remark: davis17 (other.json): 2 of 1 sequences were run as davis16, and are scored as davis17" in err
    )
    assert '"davis17, other.json",' in out


def test_chosen_metrics(save: Save, call: Call) -> None:
    """All, or those named, in their order."""
    path = save("evaluation")
    _, out, _ = call(evaluate_command, "table", path, "--metrics", "all", "--format", "csv")
    assert out.startswith("dataset,J&F (%),J mean (%),J recall (%),sequences\n")
    _, out, _ = call(evaluate_command, "table", path, "--metrics", "j_mean,j_and_f", "--format", "csv")
    assert out.startswith("dataset,J mean (%),J&F (%),sequences\n")
    status, _, err = call(evaluate_command, "table", path, "--metrics", "j_mov")
    assert (status, "--metrics j_mov: expected all, or some of j_and_f" in err) == (2, True)
    status, _, err = call(evaluate_command, "table", save("doctor"))
    assert (status, "is no result of gmos-eval" in err) == (2, True)
