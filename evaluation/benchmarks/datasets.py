"""Where each benchmark dataset keeps its frames and annotations, and what is missing there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import GmosError
from ...runtime.video.frame_directory import FRAME_SUFFIXES
from .sequence_trees import Missing, list_frames, read_sequence_list, require_directory
from .time_annotation import SPLIT_OF_DATASET, read_time_annotation, select_rows

DATASET_NAMES = (
    *("davis16", "davis17", "davis16-m", "davis17-m"),
    *("davis17-im", "ytvos19-im", "segtrackv2", "fbms59", "moca"),
)

MASK_SUFFIXES = (".png", ".bmp")
"""Annotation files of the foreground datasets."""

FRAME_RATES: dict[str, float] = {
    "davis": 24.0,  # frames per second of the released 480p frames
    "ytvos19-im": 6.0,  # every fifth frame of 30
    "moca": 8.0,  # the filtered release keeps every third frame of 24
    "segtrackv2": 24.0,  # not recorded by the dataset; assumed
    "fbms59": 24.0,  # not recorded by the dataset; assumed
}
"""Frames per second of each dataset's frame folders; the DAVIS ones share an entry."""

_YTVOS_PARTS = ("valid", "test", "train", "")


@dataclass(frozen=True, slots=True)
class DatasetSequence:
    """One sequence: the folder of its frames, and that of its annotations (None for box datasets)."""

    name: str
    frame_dir: Path
    annotation_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSplit:
    """The sequences of a split in evaluation order."""

    dataset: str
    root: Path
    sequences: tuple[DatasetSequence, ...]

    @property
    def fps(self) -> float:
        """Frames per second of their frame folders."""
        return FRAME_RATES.get(self.dataset, FRAME_RATES["davis"])

    def missing(self, *, frames: bool, annotations: bool) -> Missing:
        """What the split lacks on disk: folders without images, and frames without an annotation file.

        The datasets that annotate every frame (DAVIS, SegTrackv2 and the MOS-I ones) are compared
        file by file.
        """
        missing = Missing()
        for sequence in self.sequences:
            images = list_frames(sequence.frame_dir, FRAME_SUFFIXES)
            if frames and not images:
                missing.add(sequence.name, _describe_empty(sequence.frame_dir, FRAME_SUFFIXES))
            if annotations and sequence.annotation_dir is not None:
                masks = _mask_names(sequence.annotation_dir)
                if not masks:
                    missing.add(sequence.name, _describe_empty(sequence.annotation_dir, MASK_SUFFIXES))
                elif self.dataset.startswith("davis") and not self.dataset.endswith("im"):
                    for image in images:
                        if image.stem not in masks:
                            missing.add(sequence.name, str(sequence.annotation_dir / f"{image.stem}.png"))
        return missing


def dataset_split(
    dataset: str, root: Path, *, time_annotation: Path | None = None, sequence_list: Path | None = None
) -> DatasetSplit:
    """The sequences of a benchmark split under a dataset's root folder.

    Nothing is checked but the root and the list of sequences: ask `DatasetSplit.missing` for the rest.

    Args:
        dataset: one of `DATASET_NAMES`.
        root: the dataset's own folder, as it is unpacked.
        time_annotation: the motion-annotation CSV of the MOS-I splits; looked for in `root` if None.
        sequence_list: a file of sequence names, which replaces the dataset's own list.

    Raises:
        GmosError: unknown dataset, no root folder, no list of sequences.
    """
    if dataset not in DATASET_NAMES:
        raise GmosError(f"dataset {dataset!r}: expected one of {', '.join(DATASET_NAMES)}")
    if not root.is_dir():
        raise GmosError(f"{root} is not a folder: expected the root of {dataset}, as it is unpacked")
    listed = read_sequence_list(sequence_list) if sequence_list is not None else None
    if dataset in SPLIT_OF_DATASET:
        sequences = _mos_i_sequences(dataset, root, time_annotation, listed)
    elif dataset.startswith("davis"):
        sequences = _davis_sequences(dataset, root, listed)
    elif dataset == "segtrackv2":
        annotations = _first_folder((root / "Annotations", root / "GroundTruth"))
        sequences = _folder_sequences(root / "JPEGImages", annotations, listed)
    elif dataset == "fbms59":
        sequences = _fbms_sequences(root, listed)
    else:
        sequences = _folder_sequences(root / "JPEGImages", None, listed)
    return DatasetSplit(dataset=dataset, root=root, sequences=tuple(sequences))


def find_time_annotation(root: Path) -> Path:
    """The motion-annotation CSV in a GMOS-2K or dataset folder.

    Raises:
        GmosError: there is none.
    """
    hint = "GMOS-2K's motion-annotation CSV there; put it there or name it with --time_anno_csv"
    return _find(root, "time_annotation.csv", "gmos_2k", hint)


def gmos_2k_annotations(dataset: str, root: Path) -> Path:
    """The annotation folder of a MOS-I split in a GMOS-2K folder."""
    folder = Path("annotations", *SPLIT_OF_DATASET[dataset])
    return _first_folder((root / folder, root / "gmos_2k" / folder))


def find_boxes(root: Path) -> Path:
    """MoCA's box CSV in its folder.

    Raises:
        GmosError: there is none.
    """
    return _find(root, "annotations.csv", "Annotations", "MoCA's box CSV there; name it with --anno_csv")


def _find(root: Path, name: str, folder: str, expected: str) -> Path:
    """A file of a root folder, or of one folder in it."""
    for candidate in (root / name, root / folder / name):
        if candidate.is_file():
            return candidate
    raise GmosError(f"{root}: no {name}: expected {expected}")


def _mos_i_sequences(
    dataset: str, root: Path, time_annotation: Path | None, listed: list[str] | None
) -> list[DatasetSequence]:
    path = time_annotation or find_time_annotation(root)
    rows, _ = select_rows(read_time_annotation(path), dataset, path)
    names = [row.name for row in rows if listed is None or row.name in listed]
    if listed is not None and len(names) < len(listed):
        absent = [name for name in listed if name not in names]
        raise GmosError(f"{path}: no moving sequence {absent[0]} of {dataset}: check the sequence list")
    annotations = gmos_2k_annotations(dataset, root)
    if dataset == "ytvos19-im":
        parts = [root / part / "JPEGImages" for part in _YTVOS_PARTS]
    else:
        parts = [root / "JPEGImages" / "480p", root / "JPEGImages"]
    return [
        DatasetSequence(name, _first_folder(part / name for part in parts), annotations / name)
        for name in names
    ]


def _davis_sequences(dataset: str, root: Path, listed: list[str] | None) -> list[DatasetSequence]:
    year = "2016" if dataset.startswith("davis16") else "2017"
    if listed is None and dataset.endswith("-m"):
        raise GmosError(f"{dataset}: needs the list of its sequences: give the file with --sequences")
    if listed is None:
        lists = [root / "ImageSets" / year / "val.txt"]
        if year == "2016":
            lists.append(root / "ImageSets" / "480p" / "val.txt")
        path = next((path for path in lists if path.is_file()), None)
        if path is None:
            raise GmosError(
                f"{root}: missing {' or '.join(str(path.relative_to(root)) for path in lists)}, the list of"
                f" {dataset}'s sequences: unpack the whole dataset, or give a list with --sequences"
            )
        listed = read_sequence_list(path)
    annotations = root / ("Annotations" if year == "2016" else "Annotations_unsupervised") / "480p"
    frames = root / "JPEGImages" / "480p"
    return [DatasetSequence(name, frames / name, annotations / name) for name in listed]


def _fbms_sequences(root: Path, listed: list[str] | None) -> list[DatasetSequence]:
    test_set = root / "Testset"
    if not test_set.is_dir():
        return _folder_sequences(root / "JPEGImages", root / "Annotations", listed)
    names = listed if listed is not None else _folder_names(test_set)
    return [DatasetSequence(name, test_set / name, test_set / name / "GroundTruth") for name in names]


def _folder_sequences(
    frames: Path, annotations: Path | None, listed: list[str] | None
) -> list[DatasetSequence]:
    require_directory(frames, "frames")
    names = listed if listed is not None else _folder_names(frames)
    return [
        DatasetSequence(name, frames / name, None if annotations is None else annotations / name)
        for name in names
    ]


def _folder_names(directory: Path) -> list[str]:
    names = sorted(
        entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise GmosError(f"{directory}: no sequence folders: expected one folder per sequence")
    return names


def _first_folder(candidates: Iterable[Path]) -> Path:
    """The first candidate that exists, else the first of all, so that it can be reported missing."""
    paths = list(candidates)
    return next((path for path in paths if path.is_dir()), paths[0])


def object_folders(annotation_dir: Path) -> list[Path]:
    """The per-object folders `1`, `2`, … of a SegTrackv2 annotation, or the folder itself."""
    numbered = sorted(
        (entry for entry in annotation_dir.iterdir() if entry.is_dir() and entry.name.isdecimal()),
        key=lambda entry: int(entry.name),
    )
    return numbered or [annotation_dir]


def _mask_names(annotation_dir: Path) -> set[str]:
    if not annotation_dir.is_dir():
        return set()
    suffixes = (*MASK_SUFFIXES, ".pgm", ".ppm")
    return {mask.stem for folder in object_folders(annotation_dir) for mask in list_frames(folder, suffixes)}


def _describe_empty(directory: Path, suffixes: tuple[str, ...]) -> str:
    if not directory.is_dir():
        return str(directory)
    others = sorted({entry.suffix for entry in directory.iterdir() if entry.is_file() and entry.suffix})
    found = f", found {', '.join(others[:4])}" if others else ""
    return f"{directory}/*{suffixes[0]} (no {', '.join(suffixes)} files{found})"
