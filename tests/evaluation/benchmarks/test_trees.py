"""Folders, pairing of frames, and dataset layouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.datasets import DATASET_NAMES, dataset_split
from gmos_deploy.evaluation.benchmarks.sequence_trees import (
    list_frames,
    pair_by_name,
    pair_by_position,
    predictions_folder,
    read_sequence_list,
)


def touch(path: Path, *names: str) -> list[Path]:
    """Empty files in a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return list_frames(path)


def test_only_png_frames_are_listed(tmp_path: Path) -> None:
    """Hidden files and other kinds are no frames, and a missing folder has none."""
    frames = touch(tmp_path, "b.png", "a.PNG", "._a.png", "notes.txt")
    assert [frame.name for frame in frames] == ["a.PNG", "b.png"]
    assert list_frames(tmp_path / "gone") == []


def test_pairs_by_position_say_what_is_left_over(tmp_path: Path) -> None:
    """Names may differ; numbers without zeros would be paired wrongly and are noticed."""
    annotated = touch(tmp_path / "a", "00000.png", "00005.png", "00010.png")
    predicted = touch(tmp_path / "p", "1.png", "2.png", "10.png", "11.png")
    pairs = pair_by_position(annotated, predicted)
    assert [(pair.name, pair.prediction.stem) for pair in pairs.frames] == [
        ("00000", "1"),
        ("00005", "10"),
        ("00010", "11"),
    ]
    assert pairs.notes == Counter(
        unpaired_prediction_frames=1, frames_paired_by_position=3, frame_names_unpadded=1
    )


def test_pairs_by_name_report_absent_frames(tmp_path: Path) -> None:
    """Every annotated frame needs its namesake."""
    predicted = touch(tmp_path, "00000.png", "00002.png")
    files = [(name, (tmp_path / f"{name}.png",)) for name in ("00000", "00001")]
    pairs, absent = pair_by_name(files, predicted)
    assert ([pair.name for pair in pairs.frames], absent) == (["00000"], ["00001"])
    assert pairs.notes == Counter(unpaired_prediction_frames=1)


def test_numbered_predictions_stand_for_the_video_frames(tmp_path: Path) -> None:
    """A video whose frames start at 00001 is matched by position, not off by one."""
    predicted = touch(tmp_path, "00000.png", "00001.png", "00002.png")
    files = [("00001", (tmp_path / "a",)), ("00003", (tmp_path / "b",))]
    pairs, absent = pair_by_name(files, predicted, ["00001", "00002", "00003"])
    assert ([pair.prediction.stem for pair in pairs.frames], absent) == (["00000", "00002"], [])
    assert pairs.notes == Counter(unpaired_prediction_frames=1, frames_paired_by_position=2)


def test_shifted_predictions_are_refused(tmp_path: Path) -> None:
    """With a frame too few, names would pair neighbours silently."""
    predicted = touch(tmp_path, "00000.png", "00001.png")
    with pytest.raises(GmosError, match=r"00000\.png: the video has no frame of that name \(00001 to 00003"):
        pair_by_name([("00001", ())], predicted, ["00001", "00002", "00003"])


@pytest.mark.parametrize(
    ("kind", "folders", "expected"),
    [
        ("mos-i", ["mos-i_frame", "mos_frame", "mos-i_mp4"], "mos-i_frame"),
        ("mos-i", ["mos_frame"], "mos_frame"),
        ("objects", ["mos-i_frame", "mos_frame"], "mos_frame"),
        ("objects", ["frame", "prob"], "frame"),
        ("boxes", ["prob"], "prob"),
        ("boxes", ["frame", "prob"], "frame"),
        ("objects", ["bear", "boat"], ""),
    ],
)
def test_output_folders_of_a_run_are_found(
    tmp_path: Path, kind: str, folders: list[str], expected: str
) -> None:
    """gmos-run's output directory can be given as it is."""
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert predictions_folder(tmp_path, kind) == tmp_path / expected


def test_two_networks_in_one_output_folder_need_a_choice(tmp_path: Path) -> None:
    """Nothing is chosen silently."""
    for folder in ("mos_frame", "frame"):
        (tmp_path / folder).mkdir()
    with pytest.raises(GmosError, match=r"results of GMOS and of GMOS-S \(mos_frame, frame\): name one"):
        predictions_folder(tmp_path, "objects")


def test_a_run_with_probabilities_only_is_refused(tmp_path: Path) -> None:
    """Labels are needed, and the message says how to get them."""
    (tmp_path / "prob").mkdir()
    with pytest.raises(GmosError, match=r"only a prob tree.*--save_mode mask"):
        predictions_folder(tmp_path, "objects")


def test_missing_prediction_folder_is_named(tmp_path: Path) -> None:
    """A path that is no folder is told apart from an empty one."""
    with pytest.raises(GmosError, match=r"gone does not exist: expected the folder of predictions"):
        predictions_folder(tmp_path / "gone", "mos-i")
    (tmp_path / "file").touch()
    with pytest.raises(GmosError, match=r"file is a file: expected the folder of predictions"):
        predictions_folder(tmp_path / "file", "mos-i")


def test_sequence_lists_of_all_kinds(tmp_path: Path) -> None:
    """Names, comments, repeats, and DAVIS 2016's lines of paths."""
    path = tmp_path / "list.txt"
    path.write_text(
        "bear\n\n# a comment\nboat # moored\nbear\n"
        "/JPEGImages/480p/cows/00000.jpg /Annotations/480p/cows/00000.png\n"
    )
    assert read_sequence_list(path) == ["bear", "boat", "cows"]
    path.write_text("\ufeffa [x1]\r\na [x2]\r\nclip#2\n/JPEGImages/a b/0.jpg /Annotations/a b/0.png\n")
    assert read_sequence_list(path) == ["a [x1]", "a [x2]", "clip#2", "a b"]
    path.write_text("# nothing\n")
    with pytest.raises(GmosError, match="names no sequence: expected one sequence name per line"):
        read_sequence_list(path)
    with pytest.raises(GmosError, match=r"gone\.txt: cannot read the sequence list"):
        read_sequence_list(tmp_path / "gone.txt")


def names_of(split: object) -> list[str]:
    """The sequences of a split."""
    return [sequence.name for sequence in split.sequences]  # type: ignore[attr-defined]


def test_davis_layouts(tmp_path: Path) -> None:
    """Both years' lists and annotation folders, at 24 frames per second."""
    for year, name in (("2016", "cows"), ("2017", "bear")):
        touch(tmp_path / "ImageSets" / year)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(name + "\n")
    split = dataset_split("davis16", tmp_path)
    assert (names_of(split), split.fps) == (["cows"], 24)
    assert split.sequences[0].frame_dir == tmp_path / "JPEGImages" / "480p" / "cows"
    assert split.sequences[0].annotation_dir == tmp_path / "Annotations" / "480p" / "cows"
    split = dataset_split("davis17", tmp_path)
    assert split.sequences[0].annotation_dir == tmp_path / "Annotations_unsupervised" / "480p" / "bear"


def test_motion_subsets_need_their_list(tmp_path: Path) -> None:
    """DAVIS16-M and DAVIS17-M are a list over the same folders."""
    with pytest.raises(GmosError, match="davis17-m: needs the list of its sequences"):
        dataset_split("davis17-m", tmp_path)
    (tmp_path / "m.txt").write_text("boat\n")
    assert names_of(dataset_split("davis17-m", tmp_path, sequence_list=tmp_path / "m.txt")) == ["boat"]


def test_a_root_without_its_list_is_refused(tmp_path: Path) -> None:
    """The message names the file that is missing."""
    with pytest.raises(GmosError, match=r"missing ImageSets/2016/val\.txt or ImageSets/480p/val\.txt"):
        dataset_split("davis16", tmp_path)


def test_mos_i_splits_follow_the_csv(tmp_path: Path) -> None:
    """Moving sequences of the split only; YouTube-VOS frames are found in whichever part has them."""
    (tmp_path / "time_annotation.csv").write_text(
        "seq_name,time_anno,dataset,split\n"
        'bear,"{1: [[0, 1]]}",davis,test\nboat,{},davis,test\n'
        '00ff,"{1: [[0, 1]]}",ytvos,test\n0a0a,"{1: [[0, 1]]}",ytvos,test\n'
    )
    touch(tmp_path / "train" / "JPEGImages" / "0a0a", "00000.jpg")
    split = dataset_split("davis17-im", tmp_path)
    assert names_of(split) == ["bear"]
    assert split.sequences[0].annotation_dir == tmp_path / "annotations" / "davis" / "test" / "bear"
    split = dataset_split("ytvos19-im", tmp_path)
    assert split.fps == 6
    assert [sequence.frame_dir for sequence in split.sequences] == [
        tmp_path / "valid" / "JPEGImages" / "00ff",
        tmp_path / "train" / "JPEGImages" / "0a0a",
    ]
    (tmp_path / "list.txt").write_text("boat\n")
    with pytest.raises(GmosError, match="no moving sequence boat of davis17-im"):
        dataset_split("davis17-im", tmp_path, sequence_list=tmp_path / "list.txt")
    (tmp_path / "time_annotation.csv").unlink()
    with pytest.raises(GmosError, match=r"no time_annotation\.csv.*name it with --time_anno_csv"):
        dataset_split("davis17-im", tmp_path)


def test_folder_datasets(tmp_path: Path) -> None:
    """SegTrackv2 and FBMS-59 in the DAVIS-like layout and in their own."""
    touch(tmp_path / "JPEGImages" / "frog", "a.png")
    touch(tmp_path / "GroundTruth" / "frog", "a.png")
    assert (
        dataset_split("segtrackv2", tmp_path).sequences[0].annotation_dir == tmp_path / "GroundTruth" / "frog"
    )
    assert dataset_split("fbms59", tmp_path).sequences[0].annotation_dir == tmp_path / "Annotations" / "frog"
    touch(tmp_path / "Testset" / "cars1" / "GroundTruth")
    sequence = dataset_split("fbms59", tmp_path).sequences[0]
    assert sequence.frame_dir == tmp_path / "Testset" / "cars1"
    assert sequence.annotation_dir == tmp_path / "Testset" / "cars1" / "GroundTruth"
    assert dataset_split("moca", tmp_path).sequences[0].annotation_dir is None


def test_missing_parts_are_listed_file_by_file(tmp_path: Path, write_tree: Callable[..., list[Path]]) -> None:
    """Folders without frames and frames without an annotation, by path."""
    (tmp_path / "list.txt").write_text("bear\nboat\ncows\n")
    touch(tmp_path / "JPEGImages" / "480p" / "bear", "00000.jpg", "00001.jpg")
    touch(tmp_path / "JPEGImages" / "480p" / "boat", "00000.bmp")
    empty: NDArray[np.uint8] = np.zeros((2, 2), np.uint8)
    write_tree(tmp_path / "Annotations" / "480p" / "bear", [empty])
    write_tree(tmp_path / "Annotations" / "480p" / "cows", [empty])
    split = dataset_split("davis16", tmp_path, sequence_list=tmp_path / "list.txt")
    missing = split.missing(frames=True, annotations=True)
    relative = [line.replace(f"{tmp_path}/", "") for line in missing.listing()]
    assert relative == [
        "Annotations/480p/bear/00001.png",
        "JPEGImages/480p/boat/*.jpg (no .jpg, .jpeg, .png files, found .bmp)",
        "Annotations/480p/boat",
        "JPEGImages/480p/cows",
    ]
    assert str(missing.error(3)).startswith("4 missing in 3 of 3 sequences (bear, boat, cows), first: ")


@pytest.mark.parametrize("dataset", DATASET_NAMES)
def test_a_wrong_root_is_named(tmp_path: Path, dataset: str) -> None:
    """Every dataset says which folder it looked for."""
    with pytest.raises(GmosError, match=rf"gone is not a folder: expected the root of {dataset}"):
        dataset_split(dataset, tmp_path / "gone")


def test_unknown_datasets_are_refused(tmp_path: Path) -> None:
    """The known ones are listed."""
    with pytest.raises(GmosError, match="dataset 'coco': expected one of davis16, davis17"):
        dataset_split("coco", tmp_path)


def test_empty_dataset_folders_are_refused(tmp_path: Path) -> None:
    """A root with an empty JPEGImages has no sequences."""
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(GmosError, match="JPEGImages: no sequence folders"):
        dataset_split("moca", tmp_path)
