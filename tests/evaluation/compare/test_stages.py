"""gmos-parity video stage by stage: planted differences, free-running and teacher-forced, and where they are born."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.parity import video_command
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.tracker import TrackerStep

FRAMES = 8

Change = Callable[[Any], Any]


def drop_object(step: TrackerStep, passes: int, *, in_pass: int = 0) -> TrackerStep:
    """The second object vanishes from frame 4 on, in one of the two passes."""
    if step.frame < 4 or passes != in_pass or len(step.object_ids) < 2:
        return step
    masks, labels = step.masks.copy(), step.labels.copy()
    masks[1] = False
    labels[labels == 2] = 0
    return TrackerStep(
        frame=step.frame, object_ids=step.object_ids, masks=masks, labels=labels, ious=step.ious
    )


def shift_masks(logits: np.ndarray) -> np.ndarray:
    """Every proposal a cell to the right."""
    return np.roll(logits, 1, axis=-1)


def doubt(scores: np.ndarray) -> np.ndarray:
    """The second proposal's predicted IoU falls below what is trusted."""
    changed = scores.copy()
    changed[:, 1] = 0.6
    return changed


@pytest.fixture
def compare(
    colour_backend: Callable[..., Any],
    colour_video: Callable[..., Path],
    plant_change: Callable[..., Any],
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., tuple[int, str, dict[str, Any], list[dict[str, Any]]]]:
    """Compares the colour backend with a planted one: exit status, stdout, result.json and observations."""
    boxes = [[(1, 4 + 4 * index, 8, 16, 24), (2, 40 - 4 * index, 60, 16, 24)] for index in range(FRAMES)]
    clip = colour_video("clip", boxes)

    def call(
        *options: str,
        plant: tuple[str, str, Any] | None = None,
        plant_a: tuple[str, str, Any] | None = None,
        variant: str = "gmos",
        levers_b: str = "",
    ) -> tuple[int, str, dict[str, Any], list[dict[str, Any]]]:
        def load(choice: NetworkChoice) -> Any:
            backend = colour_backend(choice.variant)
            planted = plant_a if choice.precision == "fp32" else plant
            return backend if planted is None else plant_change(backend, *planted)

        register("colours", load)
        report = tmp_path / "report"
        sides = [f"colours:preset=tiny,precision={name},variant={variant}" for name in ("fp32", "auto")]
        sides[1] += f",{levers_b}" if levers_b else ""
        arguments = [clip, "--stride", 1, "--a", sides[0], "--b", sides[1], "--report", report, *options]
        status = guarded(video_command, "gmos-parity", [str(word) for word in arguments])
        captured = capsys.readouterr()
        assert captured.err == ""
        lines = (report / "observations.jsonl").read_text().splitlines()
        return (
            status,
            captured.out,
            json.loads((report / "result.json").read_text()),
            [json.loads(line) for line in lines],
        )

    return call


def stage(result: Mapping[str, Any], name: str, mode: str) -> dict[str, Any]:
    (found,) = [entry for entry in result["stages"] if (entry["stage"], entry["mode"]) == (name, mode)]
    return dict(found)


Compare = Callable[..., tuple[int, str, dict[str, Any], list[dict[str, Any]]]]


def test_equal_sides(compare: Compare, tmp_path: Path) -> None:
    """A side agrees with itself in every stage and mode; the page has them."""
    status, out, result, lines = compare("--teacher_forced")
    assert status == 0
    free = [entry["stage"] for entry in result["stages"] if entry["mode"] == "free"]
    forced = [entry["stage"] for entry in result["stages"] if entry["mode"] == "teacher_forced"]
    assert free == ["proposer", "mos-i", "mos"]
    assert forced == ["pi3", "sam2_encoder", "proposer", "mos-i", "mos"]
    assert {entry["beyond"] for entry in result["stages"]} == {None}
    assert result["born_in"] == [{"sequence": "clip", "stages": [], "words": "nothing differs"}]
    assert stage(result, "proposer", "free")["proposals_a"] == 2 * FRAMES
    assert stage(result, "proposer", "free")["kept_a"] > 0
    assert stage(result, "mos", "free")["matched"] == 2
    assert "nothing differs" in out
    proposers = [line for line in lines if line.get("stage") == "proposer" and line["mode"] == "free"]
    assert [line["frame"] for line in proposers] == [f"{index:05d}" for index in range(FRAMES)]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h2>Stages</h2>" in page
    assert "teacher-forced" in page


@pytest.mark.parametrize(
    ("plant", "stages", "expected_status"),
    [
        (("dino", "tokens", lambda tokens: tokens * 0.1), ["pi3"], 1),
        (("sam2_encoder", "s0", lambda maps: np.roll(maps, 1, axis=2)), ["sam2_encoder"], 1),
        # The fake's tracker finds colours whatever shape it was prompted with: the masks are the same.
        (("proposer", "mask_logits", shift_masks), ["proposer"], 0),
        (("proposer", "ious", doubt), ["proposer"], 1),
        (("tracker", "", drop_object), ["mos-i"], 1),
        (("tracker", "", lambda step, passes: drop_object(step, passes, in_pass=1)), ["mos"], 1),
    ],
    ids=["pi3", "sam2", "shifted masks", "doubted mask", "MOS-I drops an object", "MOS drops an object"],
)
def test_birth(
    compare: Compare, plant: tuple[str, str, Any], stages: list[str], expected_status: int
) -> None:
    """A planted difference is beyond the limits in its own stage only, on A's inputs; the masks give the verdict."""
    status, out, result, _ = compare("--teacher_forced", plant=plant)
    assert status == expected_status
    assert result["born_in"][0]["stages"] == stages
    assert f"clip: born in: {stages[0]}" in out
    assert stage(result, stages[0], "teacher_forced")["beyond"]
    for name in {"proposer", "mos-i", "mos"} - set(stages):
        assert stage(result, name, "teacher_forced")["beyond"] is None, name


@pytest.mark.parametrize(
    "levers", ["geometry_every=2", "propose_every=2", "geometry_every=2,geometry_change=0.0"]
)
def test_a_recipe_against_the_exact_run(compare: Compare, levers: str) -> None:
    """Levers of a side are its own; proposals are compared where every frame has some."""
    _, out, result, _ = compare(levers_b=levers)
    assert levers in result["sides"]["b"] if "sides" in result else levers in out
    stages = {entry["stage"] for entry in result["stages"]}
    assert stages == {"mos-i", "mos"} | (set() if "propose" in levers else {"proposer"})


def test_levers_are_no_networks(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    """Teacher forcing compares networks."""
    with pytest.raises(AssertionError, match="leave its levers out"):
        compare("--teacher_forced", levers_b="geometry_every=2")


def test_free_running_shows_what_follows(compare: Compare) -> None:
    """Without teacher forcing a proposer's difference is in the trackers too, and nothing says where it is born."""
    status, out, result, lines = compare(plant=("proposer", "ious", doubt))
    assert status == 1
    assert all(stage(result, name, "free")["beyond"] for name in ("proposer", "mos-i", "mos"))
    assert result["born_in"] == []
    assert "--teacher_forced" in out
    assert {line["mode"] for line in lines if "stage" in line} == {"free"}


def test_a_small_error_with_large_consequences(compare: Compare) -> None:
    """An encoder's error within the limits that turns decisions over: no stage is blamed, the way is named."""

    def almost(value: float) -> tuple[str, str, Change]:
        return ("pi3_decoder", "geometry", lambda geometry: np.where(geometry > 0.5, value, geometry))

    status, _, result, _ = compare("--teacher_forced", plant_a=almost(0.500001), plant=almost(0.499999))
    assert status == 1
    (birth,) = result["born_in"]
    assert birth["stages"] == []
    assert birth["words"].endswith("but the errors of pi3 take proposer beyond them")


def test_a_side_that_does_not_repeat_itself(compare: Compare) -> None:
    """A difference between runs that no stage shows on A's inputs is said to be one of repetition."""
    seen: list[int] = []

    def once(scores: np.ndarray) -> np.ndarray:
        """Doubts in the first run only: it is one batch."""
        seen.append(1)
        return doubt(scores) if len(seen) <= 1 else scores

    _, _, result, _ = compare("--teacher_forced", plant=("proposer", "ious", once))
    assert "no stage; on A's inputs all are equal up to proposer" in result["born_in"][0]["words"]


def test_proposals_are_measured(compare: Compare) -> None:
    """A doubted proposal is the same pixels and no longer kept; its score's error is the planted one."""
    _, _, result, lines = compare(plant=("proposer", "ious", doubt))
    found = stage(result, "proposer", "free")
    # The pipeline keeps a proposal where it moves too: in every frame here.
    assert (found["keep_changes"], found["kept_a"] - found["kept_b"]) == (FRAMES, FRAMES)
    assert (found["different_pixels"], found["motion_changes"]) == (0, 0)
    assert found["max_score_error"] == pytest.approx(0.3, abs=1e-6)
    assert (found["mean"], found["mean_iou_all"]) == (0.5, 1.0)
    line = next(line for line in lines if line.get("stage") == "proposer")
    assert line["proposals"][1]["kept"] == [True, False]
    assert line["proposals"][1]["iou"] == 1.0


def test_moved_pixels_are_measured(compare: Compare) -> None:
    """Shifted proposals are matched by overlap: as many proposals, less IoU, their pixels counted."""
    _, _, result, _ = compare(plant=("proposer", "mask_logits", shift_masks))
    found = stage(result, "proposer", "free")
    assert found["proposals_a"] == found["proposals_b"] == 2 * FRAMES
    assert 0.3 < found["mean_iou_all"] < 0.9
    assert found["different_pixels"] > 0
    assert found["keep_changes"] == 0


def test_probabilities(compare: Compare) -> None:
    """A changed probability of GMOS-S is measured, and born in its head; decisions follow where it crosses a half."""
    weaker = ("gmos_s", "foreground_logits", lambda logits: logits - 2.0)
    status, _, result, lines = compare("--teacher_forced", plant=weaker, variant="gmos-s")
    assert status == 0, "3 - 2 is still foreground"
    for mode in ("free", "teacher_forced"):
        found = stage(result, "gmos_s", mode)
        # Foreground logits of the fake are 3.
        assert found["max_probability_error"] == pytest.approx(1 / (1 + np.exp(-3)) - 1 / (1 + np.exp(-1)))
        assert found["different_share"] == 0
    assert "gmos_s" in result["born_in"][0]["words"]
    assert len([line for line in lines if line.get("stage") == "gmos_s"]) == 2 * FRAMES
    gone = ("gmos_s", "foreground_logits", lambda logits: logits - 4.0)
    status, _, result, _ = compare("--teacher_forced", plant=gone, variant="gmos-s")
    assert status == 1
    assert result["born_in"][0]["stages"] == ["gmos_s"]
    assert stage(result, "gmos_s", "free")["different_share"] > 0


def test_not_finite_logits(compare: Compare) -> None:
    """An infinity in the foreground logits is beyond the limits, though its decision is the same."""

    def poison(logits: np.ndarray) -> np.ndarray:
        changed = logits.copy()
        changed[:, 0, 0, 0] = -np.inf
        return changed

    status, _, result, _ = compare(
        "--teacher_forced",
        plant=("gmos_s", "foreground_logits", poison),
        variant="gmos-s",
    )
    assert status == 0, "the masks are the same"
    assert "logits of A and 8 of B are not finite" in stage(result, "gmos_s", "teacher_forced")["beyond"]
    assert result["born_in"][0]["stages"] == ["gmos_s"]


def test_masks_have_no_stages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Teacher forcing needs networks on both sides; what lacks them is named."""
    arguments = ["x.mp4", "--a", f"masks:{tmp_path}", "--b", "torch:tiny", "--teacher_forced"]
    assert guarded(video_command, "gmos-parity", arguments) == 2
    assert f"--teacher_forced: masks:{tmp_path} has no networks" in capsys.readouterr().err


def test_other_model(
    colour_video: Callable[..., Path],
    register: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Sides of different sizes cannot be teacher-forced; it is said before one is loaded."""
    clip = colour_video("clip", [[]] * 3)

    register("colours", lambda _: pytest.fail("a side was loaded"))
    sides = ["--a", "colours:tiny", "--b", "colours:preset=tiny,variant=gmos-s"]
    arguments = [str(clip), "--stride", "1", *sides, "--teacher_forced"]
    assert guarded(video_command, "gmos-parity", arguments) == 2
    assert (
        "colours:tiny has variant gmos and colours:preset=tiny,variant=gmos-s gmos-s; expected the same networks"
        in capsys.readouterr().err
    )
