"""Two directories of label maps side by side: which results, videos and frames they have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import GmosError
from ...runtime.results.completion import PRIVATE_FOLDER
from ...runtime.results.png_writer import MASKS as MASK_FORMAT
from ..benchmarks.label_maps import read_label_map
from ..benchmarks.sequence_trees import list_frames
from .mask_agreement import Labels

MASKS = "masks"
"""The result of a directory that is not laid out as gmos-run's."""

RESULTS: dict[str, str] = {
    folder: result for folders in MASK_FORMAT.folders.values() for result, folder in folders.items()
}
"""Results by the folder of gmos-run that their label maps are in."""

Tree = Mapping[str, Mapping[str, list[Path]]]
"""Frames by result and sequence."""


@dataclass(frozen=True, slots=True)
class LabelPair:
    """One result of one video on both sides, frames in their order."""

    result: str
    sequence: str
    a: tuple[Path, ...]
    b: tuple[Path, ...]

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of the frames."""
        return tuple(path.stem for path in self.a)

    def read(self, index: int) -> tuple[Labels, Labels]:
        """Both label maps of a frame.

        Raises:
            GmosError: one of them is no label map.
        """
        return read_label_map(self.a[index]).labels, read_label_map(self.b[index]).labels


def read_tree(root: Path) -> Tree:
    """What a directory holds: a gmos-run output, a folder per video, or the frames of one video.

    Raises:
        GmosError: it is no directory, or holds no PNG where they are looked for.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise GmosError(f"{root} {state}; expected a directory of label-map PNGs, as gmos-run writes them")
    found: dict[str, dict[str, list[Path]]] = {
        # Those of .clip.mp4 are there too.
        result: _folders_of_frames(root / folder)
        for folder, result in RESULTS.items()
        if (root / folder).is_dir()
    }
    if not found:
        frames = list_frames(root)
        others = _folders_of_frames(root)
        if root.name not in RESULTS:
            # Not ours: what is hidden there is no video.
            others = {name: of for name, of in others.items() if not name.startswith(".")}
        found = {MASKS: {root.name: frames} if frames else others}
    tree = {result: sequences for result, sequences in found.items() if sequences}
    if not tree:
        hint = " (prob/ holds probabilities)" if (root / "prob").is_dir() else ""
        raise GmosError(
            f"{root} has no label maps{hint}; expected {', '.join(RESULTS)}, a folder of PNGs per video, or PNGs"
        )
    return tree


def _folders_of_frames(folder: Path) -> dict[str, list[Path]]:
    found = {path.name: list_frames(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    # A video may be called .clip.mp4: its results are hidden, and compared like all others.
    return {name: frames for name, frames in found.items() if frames and name != PRIVATE_FOLDER}


def label_pairs(a: Path, b: Path, *, without: Collection[str] = ()) -> list[LabelPair]:
    """Everything that two directories have in common, which must be all that they have.

    Two directories of one video's frames are the same video whatever they are called. Videos in `without` are left out.

    Raises:
        GmosError: a result, a video or a frame is on one side only.
    """
    tree_a, tree_b = (
        {
            result: {name: frames for name, frames in videos.items() if name not in without}
            for result, videos in read_tree(place).items()
        }
        for place in (a, b)
    )
    names_a, names_b = ([name for videos in tree.values() for name in videos] for tree in (tree_a, tree_b))
    if len(names_a) == len(names_b) == 1 and tree_a.keys() == tree_b.keys() == {MASKS}:
        tree_b = {MASKS: {names_a[0]: tree_b[MASKS][names_b[0]]}}
    _require_same(tree_a, tree_b, a, b, "result")
    pairs = []
    for result, sequences in tree_a.items():
        _require_same(sequences, tree_b[result], a, b, f"{result} of video")
        for sequence, frames in sequences.items():
            others = {path.stem: path for path in tree_b[result][sequence]}
            names = dict.fromkeys(path.stem for path in frames)
            _require_same(names, others, a, b, f"{result} of {sequence}, frame")
            pairs.append(LabelPair(result, sequence, tuple(frames), tuple(others[name] for name in names)))
    return pairs


def _require_same(
    in_a: Mapping[str, object], in_b: Mapping[str, object], a: Path, b: Path, what: str
) -> None:
    for ours, theirs, has, lacks in ((in_a, in_b, a, b), (in_b, in_a, b, a)):
        missing = sorted(ours.keys() - theirs.keys())
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise GmosError(
                f"{what} {missing[0]}{more}: in {has}, not in {lacks}; expected the same videos, all of their frames"
            )
