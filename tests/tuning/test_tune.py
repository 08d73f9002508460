"""`gmos-export tune` on a backend that sees colours: a recipe, its report, and a search that was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.commands.tune import tune_command
from gmos_deploy.runtime.bundle.recipe import read_recipe
from gmos_deploy.tuning.measuring import Measurer

FRAMES = 24

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def videos(
    colour_video: Callable[..., Path], register: Callable[..., None], colour_backend: Any
) -> list[Path]:
    """Two videos in which a box moves until it stops, and a backend for them."""
    register("colours", lambda choice: colour_backend(choice.variant or "gmos"))
    return [
        colour_video(name, [[(1, 2 + 2 * min(i, stop), 8, 16, 24)] for i in range(FRAMES)])
        for name, stop in (("street", 17), ("yard", 20))
    ]


@pytest.fixture(autouse=True)
def counted_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that follow from what was computed, so that a search is the same again."""
    measured = Measurer._run

    def run(self: Measurer, sequence: Any, levers: Any) -> Any:
        trial, maps = measured(self, sequence, levers)
        decoded = trial.frames if trial.decoded is None else trial.decoded
        return replace(trial, seconds=0.1 * decoded + 0.05 * trial.frames), maps

    monkeypatch.setattr(Measurer, "_run", run)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """A command in this process: exit status, stdout, stderr."""

    def run(command: Any, *arguments: Any) -> tuple[int, str, str]:
        program = "gmos-run" if command is run_command else "gmos-export"
        status = guarded(command, program, [str(one) for one in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


BASE = ("--backend", "colours", "--preset", "tiny", "--stride", 1)


def test_a_recipe_and_its_report(call: Call, videos: list[Path], tmp_path: Path) -> None:
    """The fastest that holds; gmos-run takes it, and its results say what it set."""
    out, report = tmp_path / "fast.json", tmp_path / "report"
    status, shown, err = call(
        tune_command, videos[0], "--held_out", videos[1], *BASE, "--target_masks", 0.7, "--out", out,
        "--name", "fast", "--report", report, "--rounds", 2, "--variant", "gmos-s",
    )  # fmt: skip
    assert status == 0, err
    recipe = read_recipe(out)
    assert recipe.name == "fast"
    assert recipe.levers["geometry_every"] > 1
    assert recipe.speedup > 1
    (kept,) = recipe.agreement
    assert kept.result == "foreground"
    assert kept.worst >= 0.7
    assert [clip.name for clip in recipe.tuned_on] == ["street"]
    assert [clip.name for clip in recipe.held_out_on] == ["yard"]
    assert recipe.held_out[0].worst_video == "yard"
    assert any("tuned on 1 video:" in line for line in recipe.warnings)
    assert any("street has 24 frames: too short" in line for line in recipe.warnings)
    result = json.loads((report / "result.json").read_text())
    assert result["schema"] == "gmos-tune/1"
    assert result["finished"]
    trials = [json.loads(line) for line in (report / "observations.jsonl").read_text().splitlines()]
    assert len(trials) >= 2
    assert set(result["counted"]) == {"gmos-s", "gmos, 1 object", "gmos, 3 objects", "gmos, 10 objects"}
    page = (report / "report.html").read_text()
    assert "<polyline" in page
    assert "--recipe" in shown
    assert [path.name for path in tmp_path.glob(".*unfinished")] == []

    status, _, err = call(
        run_command, videos[1], *BASE, "--variant", "gmos-s", "--recipe", out, "--save_dir", tmp_path / "run"
    )
    assert status == 0, err
    settings = json.loads((tmp_path / "run/.gmos/yard.gmos-s.json").read_text())["settings"]
    assert recipe.levers.items() <= settings.items()


def test_gmos_rests_on_prompts(call: Call, videos: list[Path], tmp_path: Path) -> None:
    """And that few of them say little is said."""
    out = tmp_path / "tuned.json"
    status, _, err = call(
        tune_command,
        *videos,
        *BASE,
        "--target_masks",
        0.5,
        "--out",
        out,
        "--levers",
        "propose",
        "--rounds",
        1,
    )
    assert status == 0, err
    recipe = read_recipe(out)
    assert {one.result for one in recipe.agreement} == {"mos-i", "mos"}
    assert recipe.levers.keys() <= {"propose_every"}
    assert any("rest on" in line for line in recipe.warnings) == (
        sum(1 for line in recipe.warnings if "prompts" in line) == 1
    )
    assert any(line.startswith("no video was held out") for line in recipe.warnings)


def test_a_search_that_was_stopped_goes_on(
    call: Call, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was stopped, with the same recipe and trials, and nothing is measured twice."""
    base = (tune_command, videos[0], *BASE, "--target_masks", 0.7, "--variant", "gmos-s", "--rounds", 1)
    report = ("--report", tmp_path / "whole")
    counts: list[int] = []
    measured = Measurer._run

    def counting(self: Measurer, sequence: Any, levers: Any) -> Any:
        counts.append(1)
        return measured(self, sequence, levers)

    monkeypatch.setattr(Measurer, "_run", counting)
    assert call(*base, "--out", tmp_path / "whole.json", *report)[0] == 0
    whole, all_runs = read_recipe(tmp_path / "whole.json"), len(counts)
    counts.clear()

    class Stopped(BaseException):
        """As a kill."""

    def stopping(after: int) -> Iterator[int]:
        yield from range(after)
        raise Stopped

    for after in (0, 1, 2):
        steps = stopping(after)

        def run(self: Measurer, sequence: Any, levers: Any, steps: Any = steps) -> Any:
            next(steps)
            return counting(self, sequence, levers)

        with monkeypatch.context() as patch:
            patch.setattr(Measurer, "_run", run)
            with pytest.raises(Stopped):
                call(*base, "--out", tmp_path / "stopped.json")

    assert call(*base, "--out", tmp_path / "stopped.json", "--report", tmp_path / "again")[0] == 0
    found = read_recipe(tmp_path / "stopped.json")
    assert replace(found, made="") == replace(whole, made="")
    one, other = (
        [
            json.loads(line)["levers"]
            for line in (tmp_path / name / "observations.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "again")
    )
    assert one == other
    assert len(counts) == all_runs


def test_no_time(call: Call, videos: list[Path], tmp_path: Path) -> None:
    """For the exact run alone ends with what would do."""
    status, _, err = call(
        tune_command,
        videos[0],
        *BASE,
        "--target_masks",
        0.9,
        "--budget_minutes",
        1e-6,
        "--out",
        tmp_path / "x.json",
    )
    assert status == 2
    assert (
        "--budget_minutes 1e-06: the exact run alone takes longer; raise it, or take fewer videos or --frames"
        in err
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--target_masks", 0), "--target_masks 0: expected a mean IoU above 0, up to 1"),
        (
            ("--target_masks", 0.9, "--levers", "magic"),
            "--levers magic: expected some of geometry, propose, conditioning, area",
        ),
        (
            ("--target_masks", 0.9, "--name", "exact"),
            "--name exact: expected letters, digits, - and _, and not exact",
        ),
        (("--target_masks", 0.9, "--frames", 0), "--frames 0: expected 1 or more"),
        (("--target_masks", 0.9, "--budget_minutes", 0), "--budget_minutes 0: expected more than 0"),
        (("--target_masks", 0.9, "--budget_minutes", "nan"), "--budget_minutes nan: expected more than 0"),
        (("--target_masks", 0.9, "--out", "."), "--out . is a directory; expected a recipe's file"),
    ],
)
def test_bad_input(call: Call, videos: list[Path], wrong: tuple[Any, ...], message: str) -> None:
    """One line, status 2."""
    status, _, err = call(tune_command, videos[0], *BASE, *wrong)
    assert status == 2
    assert message in err


def test_a_video_is_not_held_out_and_tuned_on(call: Call, videos: list[Path], tmp_path: Path) -> None:
    """What is fitted is not judged by itself."""
    status, _, err = call(
        tune_command,
        videos[0],
        "--held_out",
        videos[0],
        *BASE,
        "--target_masks",
        0.9,
        "--out",
        tmp_path / "x.json",
    )
    assert status == 2
    assert "--held_out street: it is tuned on as well; hold out other videos" in err


def test_recipes_that_do_not_fit(call: Call, videos: list[Path], tmp_path: Path) -> None:
    """Another variant, levers beside it, a name without a bundle; `exact` is none."""
    out = tmp_path / "fast.json"
    tuned = (
        tune_command,
        videos[0],
        *BASE,
        "--target_masks",
        0.7,
        "--variant",
        "gmos-s",
        "--out",
        out,
        "--rounds",
        1,
    )
    assert call(*tuned)[0] == 0
    run = (run_command, videos[0], *BASE, "--save_dir", tmp_path / "run", "--overwrite")
    for more, message in (
        (("--recipe", out), "was tuned for gmos-s, and the networks are gmos; tune one for them"),
        (
            ("--variant", "gmos-s", "--recipe", out, "--geometry_every", 2),
            "and --geometry_every were both given",
        ),
        (("--recipe", "fast"), "--recipe fast is a name, and there is no bundle to look in"),
    ):
        status, _, err = call(*run, *more)
        assert status == 2
        assert message in err
    assert call(*run, "--recipe", "exact")[0] == 0
    settings = json.loads((tmp_path / "run/.gmos/street.gmos.json").read_text())["settings"]
    assert "geometry_every" not in settings


def test_local_layers_of_checkpoints(
    call: Call, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe says what the networks must be loaded as, and runs on those alone."""
    measured = Measurer._run

    def run(self: Measurer, sequence: Any, levers: Any) -> Any:
        trial, maps = measured(self, sequence, levers)
        return replace(trial, seconds=trial.seconds / (2 if "local_layers" in levers else 1)), maps

    monkeypatch.setattr(Measurer, "_run", run)
    out = tmp_path / "local.json"
    base = ("--backend", "torch", "--device", "cpu", "--preset", "tiny", "--variant", "gmos-s", "--stride", 1)
    status, shown, err = call(
        tune_command, videos[0], *base, "--target_masks", 1e-6, "--levers", "local,precision", "--rounds", 1,
        "--frames", 4, "--out", out,
    )  # fmt: skip
    assert status == 0, err
    recipe = read_recipe(out)
    assert recipe.networks["local_layers"] == 1
    assert not recipe.levers
    assert "1 local layer" in recipe.device
    assert "--local_layers 1" in shown
    run_it = (run_command, videos[0], *base, "--recipe", out, "--save_dir", tmp_path / "run")
    status, _, err = call(*run_it)
    assert status == 2
    assert "was tuned with --local_layers 1, and these networks have another; give --local_layers 1" in err
    more = [one for name, value in recipe.networks.items() for one in (f"--{name}", value)]
    assert call(*run_it, *more)[0] == 0
    settings = json.loads((tmp_path / "run/.gmos/street.gmos-s.json").read_text())["settings"]
    assert settings["local_layers"] == 1


def test_what_no_other_networks_are_there_for(call: Call, videos: list[Path], tmp_path: Path) -> None:
    """It is said what would be needed; another bundle goes with a bundle, local layers with a backend that has them."""
    base = (videos[0], *BASE, "--variant", "gmos-s", "--target_masks", 0.9)
    status, shown, _ = call(
        tune_command, *base, "--levers", "local,precision", "--out", tmp_path / "x.json", "--rounds", 1
    )
    assert status == 0
    words = " ".join(shown.split())
    assert "local_layers: they need another export; name it with --other_bundle, or give checkpoints" in words
    assert "precision: name bundles in others with --other_bundle, or give checkpoints" in words
    status, _, err = call(tune_command, *base, "--other_bundle", tmp_path)
    assert status == 2
    assert "tried as the lever precision beside --bundle; give --bundle" in err
    status, _, err = call(tune_command, *base, "--local_layers", 1)
    assert status == 2
    assert "--local_layers 1 goes with --backend torch, not with colours" in err
