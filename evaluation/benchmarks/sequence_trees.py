"""Folders of sequences of PNG frames: what is there, what is missing, and which frames belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...errors import GmosError
from ...runtime.files.regular_file import read_text

OUTPUT_FOLDERS: dict[str, tuple[str, ...]] = {
    "mos-i": ("mos-i_frame", "mos_frame"),
    "objects": ("mos_frame", "frame"),
    "boxes": ("mos_frame", "frame", "prob"),
}
"""Folders of a gmos-run output directory that an evaluator can read, best first."""

_LISTED_MISSING = 50


@dataclass(slots=True)
class Missing:
    """Everything an evaluation needs and does not find, gathered before it starts."""

    lines: list[str] = field(default_factory=list)
    sequences: set[str] = field(default_factory=set)

    def add(self, sequence: str, line: str) -> None:
        """Note one missing thing of a sequence."""
        self.lines.append(line)
        self.sequences.add(sequence)

    def listing(self) -> list[str]:
        """The missing things, one a line, cut after the first 50."""
        rest = len(self.lines) - _LISTED_MISSING
        return self.lines[:_LISTED_MISSING] + ([f"… and {rest} more"] if rest > 0 else [])

    def error(
        self, total: int, otherwise: str = "leave these sequences out with --skip-missing"
    ) -> GmosError:
        """The one line that ends the command; `otherwise` is the way that the command has."""
        names = sorted(self.sequences)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return GmosError(
            f"{len(self.lines)} missing in {len(names)} of {total} sequences ({shown}), first:"
            f" {self.lines[0]}; complete the folders, or {otherwise}"
        )


def require_directory(path: Path, what: str) -> Path:
    """The path, if it is a directory.

    Raises:
        GmosError: it is missing or a file.
    """
    if path.is_dir():
        return path
    state = "is a file" if path.exists() else "does not exist"
    raise GmosError(f"{path} {state}: expected the folder of {what}, with one folder per sequence")


def predictions_folder(res_dir: Path, kind: str) -> Path:
    """The tree of sequences in `res_dir`, which may be a gmos-run output directory itself.

    Raises:
        GmosError: `res_dir` is not a folder, or its trees leave a choice between two networks.
    """
    require_directory(res_dir, "predictions")
    found = [name for name in OUTPUT_FOLDERS[kind] if (res_dir / name).is_dir()]
    if not found:
        if kind != "boxes" and (res_dir / "prob").is_dir():
            raise GmosError(
                f"{res_dir}: only a prob tree, which holds probabilities:"
                " expected labels; run gmos-run with --save_mode mask and evaluate that"
            )
        return res_dir
    if any(name.startswith("mos") for name in found) and any(not name.startswith("mos") for name in found):
        raise GmosError(
            f"{res_dir}: results of GMOS and of GMOS-S ({', '.join(found)}): name one, as in"
            f" {res_dir / found[0]}"
        )
    return res_dir / found[0]


def list_frames(directory: Path, suffixes: tuple[str, ...] = (".png",)) -> list[Path]:
    """Image files of a folder, sorted by name as the published scripts sort them; hidden files left out."""
    if not directory.is_dir():
        return []
    images = (e for e in directory.iterdir() if e.suffix.lower() in suffixes and not e.name.startswith("."))
    return sorted(images, key=lambda image: image.name)


def missing_frames(directory: Path) -> str:
    """What a folder of predictions without frames lacks, and where they are if they lie one folder deeper."""
    deeper = sorted(entry for entry in directory.iterdir() if entry.is_dir()) if directory.is_dir() else []
    inner = next((entry for entry in deeper if list_frames(entry)), None)
    hint = (
        ""
        if inner is None
        else f" (they are in {inner.name}/, as motion-grouping writes them: move those of one such folder up)"
    )
    return f"{directory}/*.png{hint}"


def unpadded_names(frames: list[Path]) -> bool:
    """Whether sorting by name and by number differ, which pairs the wrong frames."""
    stems = [frame.stem for frame in frames]
    return all(stem.isdecimal() for stem in stems) and stems != sorted(stems, key=int)


def unlisted_sequences(tree: Path, names: set[str]) -> int:
    """Folders with PNG frames in a tree that are not sequences of the split."""
    others = (e for e in tree.iterdir() if e.is_dir() and e.name not in names)
    return sum(bool(list_frames(entry)) for entry in others)


class FramePair(NamedTuple):
    """An annotated frame with its prediction; datasets that keep one mask file per object have several annotations."""

    name: str
    annotation: tuple[Path, ...]
    prediction: Path


@dataclass(frozen=True, slots=True)
class FramePairs:
    """The paired frames of a sequence in their order, and what pairing them left out."""

    frames: tuple[FramePair, ...]
    notes: Counter[str]


def pair_by_position(annotations: list[Path], predictions: list[Path]) -> FramePairs:
    """Pair the frames of two folders by sorted position, as far as both go."""
    pairs = list(zip(annotations, predictions, strict=False))
    notes = Counter(
        unpaired_annotation_frames=len(annotations) - len(pairs),
        unpaired_prediction_frames=len(predictions) - len(pairs),
        frames_paired_by_position=sum(a.stem != p.stem for a, p in pairs),
        frame_names_unpadded=unpadded_names(annotations) + unpadded_names(predictions),
    )
    return FramePairs(tuple(FramePair(a.stem, (a,), p) for a, p in pairs), notes)


def pair_by_name(
    annotations: Sequence[tuple[str, tuple[Path, ...]]],
    predictions: list[Path],
    frame_names: list[str] | None = None,
) -> tuple[FramePairs, list[str]]:
    """Give each annotated frame the prediction of its name.

    gmos-run numbers its frames 00000, 00001, … whatever the video's frames are called. Where the
    video's own names (`frame_names`, sorted) are known and differ from that, and there is one
    prediction per video frame, a prediction stands for the video frame at its position.

    Returns:
        The pairs, and the names of annotated frames without a prediction.

    Raises:
        GmosError: a prediction is named like no frame of the video, so that names may be shifted.
    """
    by_name = {frame.stem: frame for frame in predictions}
    by_position = False
    if frame_names:
        if set(by_name) != set(frame_names) and len(predictions) == len(frame_names):
            by_position = [frame.stem for frame in predictions] == [
                f"{i:05d}" for i in range(len(predictions))
            ]
        if by_position:
            by_name = dict(zip(frame_names, predictions, strict=True))
        strangers = sorted(set(by_name) - set(frame_names))
        if strangers and set(frame_names) - set(by_name):
            raise GmosError(
                f"{by_name[strangers[0]]}: the video has no frame of that name ({frame_names[0]} to"
                f" {frame_names[-1]}, {len(frame_names)} frames, {len(predictions)} predictions): expected one"
                " prediction per frame numbered from 00000, or the frames' own names"
            )
    found = tuple(FramePair(name, files, by_name[name]) for name, files in annotations if name in by_name)
    notes = Counter(
        unpaired_prediction_frames=len(predictions) - len(found),
        frames_paired_by_position=len(found) if by_position else 0,
    )
    return FramePairs(found, notes), [name for name, _ in annotations if name not in by_name]


COMMENT = re.compile(r"(^|\s)#.*")
FIRST_FRAME = re.compile(r".*?/.+?\.(jpe?g|png)(?=\s|$)", re.IGNORECASE)


def read_sequence_list(path: Path) -> list[str]:
    """Sequence names of a list file: one a line, or DAVIS 2016's lines of image and mask paths.

    Empty lines and what follows a # at the start or after a space are left out; order is kept, repeats are not. Names
    may have spaces.

    Raises:
        GmosError: the file cannot be read or names nothing.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GmosError(f"{path}: cannot read the sequence list ({error}): check the path") from None
    names: dict[str, None] = {}
    for line in lines:
        text = COMMENT.sub("", line).strip()
        frame = FIRST_FRAME.match(text)
        if text:
            names[Path(frame[0]).parent.name if frame else text] = None
    if not names:
        raise GmosError(f"{path}: names no sequence: expected one sequence name per line")
    return list(names)
