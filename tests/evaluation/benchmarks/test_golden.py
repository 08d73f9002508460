"""The evaluators against the numbers of the published scripts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gmos_deploy.evaluation.benchmarks.benchmarks import BenchmarkRequest, load_benchmark
from gmos_deploy.evaluation.benchmarks.boundary import boundary_f
from gmos_deploy.evaluation.benchmarks.davis import (
    evaluate_davis_sequence,
    overall_davis,
    region_j,
    score_frame,
    score_statistics,
)
from gmos_deploy.evaluation.benchmarks.label_maps import VOID_LABEL, read_label_map
from gmos_deploy.evaluation.benchmarks.sequence_trees import FramePairs, list_frames, pair_by_name

TOLERANCE = 1e-5
"""The published values are float32 means."""

LEVELS = {"slhm": "", "flhm": "_frame_level"}


@pytest.mark.parametrize(
    ("case", "variant"),
    [("case1_basic", "pred"), ("case3_match", "pred"), ("case3_match", "pred_motion")],
)
def test_mos_i_equals_the_published_script(golden: Path, case: str, variant: str) -> None:
    """Overall and per-sequence values agree, for both ways of matching and with a motion file."""
    root = golden / "mos_i" / case
    expected = json.loads((root / "expected.json").read_text())["variants"][variant]
    request = BenchmarkRequest(
        dataset="davis17-im",
        res_dir=root / variant,
        anno_dir=root / "annotations",
        time_anno_csv=root / "time_annotation.csv",
        frame_level_match=True,
    )
    prepared = load_benchmark("mos-i", request)
    sequences = [job() for job in prepared.jobs.values()]
    overall = prepared.overall(sequences)
    assert [sequence.name for sequence in sequences] == expected["sequences"]
    for level, suffix in LEVELS.items():
        for metric, value in expected["overall"][level].items():
            assert overall[metric + suffix] == pytest.approx(value, abs=TOLERANCE)
        for sequence in sequences:
            values = expected["per_sequence"][sequence.name][level]
            assert [item.metrics["j_mov" + suffix] for item in sequence.objects] == pytest.approx(
                values["j_mov_per_obj"], abs=TOLERANCE
            )
            assert sequence.metrics["mtiou" + suffix] == pytest.approx(values["mtiou"], abs=TOLERANCE)
            assert sequence.metrics["fp_count" + suffix] == pytest.approx(values["fp_count"], abs=TOLERANCE)
    for sequence in sequences:
        published = expected["per_sequence"][sequence.name]["slhm"]["assignment_pred_to_gt"]
        assert sequence.matching == {int(label): match for label, match in published.items()}


def davis_pairs(root: Path, sequence: str) -> FramePairs:
    """Every frame of a golden DAVIS sequence."""
    annotated = list_frames(root / "Annotations_unsupervised" / "480p" / sequence)
    predicted = list_frames(root / "res_unsup" / sequence)
    pairs, absent = pair_by_name([(path.stem, (path,)) for path in annotated], predicted)
    assert not absent
    return pairs


def test_davis_unsupervised_equals_the_published_evaluator(golden: Path) -> None:
    """Global statistics and both means of every object agree."""
    root = golden / "davis_jf"
    expected = json.loads((root / "expected.json").read_text())["unsupervised"]
    sequences = [
        evaluate_davis_sequence(name, davis_pairs(root, name), merged=False) for name in ("one", "two")
    ]
    overall = overall_davis(sequences)
    names = {"J&F-Mean": "j_and_f"} | {
        f"{score}-{statistic}": f"{score}_{statistic}".lower()
        for score in "JF"
        for statistic in ("Mean", "Recall", "Decay")
    }
    for published, ours in names.items():
        assert overall[ours] == pytest.approx(expected["global_"][published], abs=TOLERANCE)
    for sequence in sequences:
        # The published table numbers a sequence's objects in the order of the proposals they matched.
        ordered = sorted(sequence.objects, key=lambda item: item.matched or 0)
        for score in "JF":
            published_means = [expected[f"{score}_per_object"][f"{sequence.name}_{k}"] for k in (1, 2)]
            found = [item.metrics[f"{score.lower()}_mean"] for item in ordered]
            assert found == pytest.approx(published_means, abs=TOLERANCE)


def test_frame_scores_give_the_published_semi_supervised_values(golden: Path) -> None:
    """With the proposals of each object known, the inner frames score as in the semi-supervised task."""
    root = golden / "davis_jf"
    expected = json.loads((root / "expected.json").read_text())["semi-supervised"]
    proposals = {"one": (2, 1), "two": (1, 2)}
    for sequence, labels in proposals.items():
        pairs = davis_pairs(root, sequence)
        j, f = np.array(
            [
                score_frame(read_label_map(pair.annotation[0]), read_label_map(pair.prediction), 2)
                for pair in pairs.frames
            ]
        )[1:-1].swapaxes(0, 1)
        for c, label in enumerate(labels):
            assert j[:, label - 1, c].mean() == pytest.approx(
                expected["J_per_object"][f"{sequence}_{c + 1}"], abs=TOLERANCE
            )
            assert f[:, label - 1, c].mean() == pytest.approx(
                expected["F_per_object"][f"{sequence}_{c + 1}"], abs=TOLERANCE
            )


@pytest.mark.parametrize("sequence", ["one", "two"])
@pytest.mark.parametrize("with_void", [False, True])
def test_binary_j_and_f_equal_the_published_functions(golden: Path, sequence: str, with_void: bool) -> None:
    """Per-frame J and F of merged objects agree, with void as background and with void left out."""
    root = golden / "davis_jf"
    expected = json.loads((root / "expected.json").read_text())["binary"][sequence]
    pairs = davis_pairs(root, sequence)
    j, f = [], []
    for pair in pairs.frames:
        annotation = read_label_map(pair.annotation[0]).labels
        void = annotation == VOID_LABEL
        masks = read_label_map(pair.prediction).labels > 0, (annotation > 0) & ~void
        j.append(region_j(*masks, void if with_void else None))
        f.append(boundary_f(*masks, void if with_void else None))
    kind = "void" if with_void else "per_frame"
    assert j == pytest.approx(expected[f"J_{kind}"], abs=TOLERANCE)
    assert f == pytest.approx(expected[f"F_{kind}"], abs=TOLERANCE)


@pytest.mark.parametrize("sequence", ["one", "two"])
@pytest.mark.parametrize("score", ["J", "F"])
def test_statistics_equal_the_published_ones(golden: Path, sequence: str, score: str) -> None:
    """Mean, recall and decay agree over all frames and over the inner ones."""
    expected = json.loads((golden / "davis_jf" / "expected.json").read_text())["binary"][sequence]
    scores = np.array(expected[f"{score}_per_frame"])
    assert score_statistics(scores) == pytest.approx(expected[f"{score}_MRD_all"], abs=TOLERANCE)
    assert score_statistics(scores[1:-1]) == pytest.approx(expected[f"{score}_MRD_inner"], abs=TOLERANCE)


def test_merged_davis_leaves_void_out(golden: Path) -> None:
    """Beside other labels 255 is void, so a merged sequence scores like the published function with void."""
    root = golden / "davis_jf"
    expected = json.loads((root / "expected.json").read_text())["binary"]["one"]
    scores = evaluate_davis_sequence("one", davis_pairs(root, "one"), merged=True)
    assert scores.metrics["j_mean"] == pytest.approx(np.mean(expected["J_void"]), abs=TOLERANCE)
    assert scores.metrics["f_mean"] == pytest.approx(np.mean(expected["F_void"]), abs=TOLERANCE)
    assert scores.notes["void_frames"] == 9
