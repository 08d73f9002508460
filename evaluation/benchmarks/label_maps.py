"""Reads PNG label maps and refuses what is none, as colour images and probability maps; resizes their masks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ...errors import GmosError
from ...runtime.files.regular_file import open_regular
from ...runtime.video.frame_directory import FORMATS, UNREADABLE
from .sequence_trees import FramePair

BENCHMARK_FORMATS = (*FORMATS, "BMP", "PPM")
"""All that Pillow may take a benchmark's file for: SegTrackv2 has BMP masks, FBMS-59 PGM and PPM."""

LABEL_LIMIT = 20
"""The largest label that is an object: 20 channels in every evaluator of the benchmark."""

VOID_LABEL = 255
"""DAVIS's label for pixels that are not to be judged."""

_BACKGROUND_COLOUR = (0, 0, 0)
_LABEL_MODES = ("P", "L", "1")
_BYTE_CODES = 256
"""Label pairs that one byte can name."""

_MOST_LABELS = 64
"""More distinct palette indices than this is a quantised colour image, not a label map."""

Colour = tuple[int, int, int]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_Index = npt.NDArray[np.intp]
_Weight = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """One decoded label map.

    `labels` is uint8 (H, W). `present` holds the values that occur, ascending, with their pixel
    counts. `colours` maps a present value to its palette colour; empty for a grey file.
    """

    path: Path
    labels: Labels
    present: dict[int, int]
    colours: dict[int, Colour]

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.labels.shape
        return height, width

    @property
    def above_limit(self) -> tuple[int, ...]:
        """Values that no evaluator has a channel for, void included."""
        return tuple(value for value in self.present if value > LABEL_LIMIT)


def open_image(path: Path, *, header_only: bool = False) -> Image.Image:
    """Decode an image file of a benchmark completely, or only what it says of itself.

    Raises:
        GmosError: the file is missing, truncated or not an image of `BENCHMARK_FORMATS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_regular(path) as file, Image.open(file, formats=BENCHMARK_FORMATS) as image:
                if not header_only:
                    image.load()
                return image
    except UnidentifiedImageError:
        reason = f"it is none of {', '.join(BENCHMARK_FORMATS)}"
    except (*UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise GmosError(f"{path}: unreadable image ({reason}): expected a PNG; write or copy it again")


def read_label_map(path: Path) -> LabelMap:
    """Read a palette or grey PNG as labels, one uint8 per pixel.

    Raises:
        GmosError: unreadable file, colour image, probability map, or a palette whose background is
            not black.
    """
    image = open_image(path)
    if image.mode not in _LABEL_MODES:
        raise GmosError(
            f"{path}: a {image.mode} image: expected a palette or 8-bit grey label map;"
            " save labels, not colours (gmos-run --save_mode mask does)"
        )
    if image.mode == "1":
        image = image.convert("L")
        image = image.point([0] + [1] * 255)
    counts = image.histogram()
    present = {value: count for value, count in enumerate(counts) if count}
    colours = _palette_colours(image, present)
    _refuse_probabilities(path, image.mode, present)
    if colours.get(0, _BACKGROUND_COLOUR) != _BACKGROUND_COLOUR:
        raise GmosError(
            f"{path}: wrong palette, label 0 is drawn as {colours[0]}: expected black for the background;"
            " an image editor has probably renumbered the labels, write the file again"
        )
    return LabelMap(path=path, labels=np.asarray(image), present=present, colours=colours)


def _palette_colours(image: Image.Image, present: dict[int, int]) -> dict[int, Colour]:
    """Palette colours of the values that occur; a file may carry fewer entries than values."""
    palette = image.getpalette() if image.mode == "P" else None
    if palette is None:
        return {}
    return {
        value: (palette[3 * value], palette[3 * value + 1], palette[3 * value + 2])
        for value in present
        if 3 * value + 2 < len(palette)
    }


def _refuse_probabilities(path: Path, mode: str, present: dict[int, int]) -> None:
    if mode == "L":
        grey = [value for value in present if LABEL_LIMIT < value < VOID_LABEL]
        if grey and len(present) > 2:
            raise GmosError(
                f"{path}: 8-bit grey with {len(present)} values up to {max(grey)}, a probability map and not"
                " labels: give the `frame` tree (gmos-run --save_mode mask) instead of the `prob` tree"
            )
    elif len(present) > _MOST_LABELS:
        raise GmosError(
            f"{path}: {len(present)} palette indices in one frame: expected at most {LABEL_LIMIT} labels;"
            " this is a colour image reduced to a palette, save the labels themselves"
        )


@dataclass(slots=True)
class PaletteWatch:
    """Notices a sequence whose frames draw one label in two colours: its labels were renumbered."""

    _seen: dict[int, tuple[Colour, Path]] = field(default_factory=dict)

    def check(self, label_map: LabelMap) -> None:
        """Compare with the frames seen before.

        Raises:
            GmosError: a label has another colour than in an earlier frame.
        """
        conflict = self._conflict(label_map)
        if conflict is not None:
            first_colour, first_path = self._seen[conflict]
            raise GmosError(
                f"{label_map.path}: wrong palette, label {conflict} is drawn as"
                f" {label_map.colours[conflict]} here and as {first_colour} in {first_path.name}: expected"
                " one palette per sequence; labels were renumbered frame by frame, write the sequence again"
            )

    def agrees(self, label_map: LabelMap) -> bool:
        """Whether the frame uses the colours of the frames seen before."""
        return self._conflict(label_map) is None

    def _conflict(self, label_map: LabelMap) -> int | None:
        for label, colour in label_map.colours.items():
            first_colour, _ = self._seen.setdefault(label, (colour, label_map.path))
            if colour != first_colour:
                return label
        return None


def read_label_pairs(frames: Iterable[FramePair], notes: Counter[str]) -> Iterator[tuple[LabelMap, LabelMap]]:
    """Annotation and prediction of each frame, one pair in memory at a time; each label keeps its colour.

    Raises:
        GmosError: a file is no label map, or a predicted label has another colour than before.
    """
    watch, annotation_watch, mixed = PaletteWatch(), PaletteWatch(), False
    for frame in frames:
        annotation, prediction = read_label_map(frame.annotation[0]), read_label_map(frame.prediction)
        watch.check(prediction)
        mixed = mixed or not annotation_watch.agrees(annotation)
        yield annotation, prediction
    notes["mixed_palettes"] += mixed


def foreground(label_map: LabelMap) -> Mask:
    """Every labelled pixel, bool (H, W)."""
    return np.asarray(label_map.labels != 0)


def read_binary_mask(path: Path) -> Mask:
    """Read an annotation of merged objects: label map, or a colour or grey 0/255 mask.

    Foreground of a colour image is any channel above 127 (SegTrackv2 ships such masks).

    Returns:
        bool (H, W).
    """
    image = open_image(path)
    if image.mode in ("RGB", "RGBA", "LA"):
        bands = np.asarray(image.convert("RGB"))
        return np.asarray((bands > 127).any(axis=2))
    if image.mode in _LABEL_MODES:
        return np.asarray(np.asarray(image) != 0)
    raise GmosError(f"{path}: a {image.mode} image: expected a palette, grey or colour mask of 8 bits")


def joint_histogram(rows: Labels, columns: Labels, side: int = 256) -> npt.NDArray[np.int64]:
    """How often each pair of labels meets, int64 (side, side).

    Args:
        rows: uint8 (H, W), values below `side`.
        columns: the same.
        side: at most 256.
    """
    highest = int(columns.max()) + 1
    if (int(rows.max()) + 1) * highest >= _BYTE_CODES:
        codes = np.multiply(rows, side, dtype=np.uint16)
        codes += columns
        return np.bincount(codes.ravel(), minlength=side * side).reshape(side, side)
    # The usual few objects fit one byte, and counting bytes is several times faster than bincount.
    counts = np.array(Image.fromarray(rows * np.uint8(highest) + columns).histogram(), dtype=np.int64)
    joint = np.zeros((side, side), dtype=np.int64)
    used = min(_BYTE_CODES // highest, side)
    joint[:used, :highest] = counts[: used * highest].reshape(used, highest)
    return joint


def resize_label(labels: Labels, label: int, hw: tuple[int, int]) -> Mask:
    """The mask of one label at another size: bilinear, align_corners false, above 0.5.

    Float32 throughout, in the order of `torch.nn.functional.interpolate`, because ties at 0.5
    decide pixels.

    Args:
        labels: uint8 (H, W).
        label: the label whose mask is wanted.
        hw: target height and width in pixels.

    Returns:
        bool of size `hw`.
    """
    mask = (labels == label).astype(np.float32)
    top, bottom, top_weight, bottom_weight = _taps(labels.shape[0], hw[0])
    left, right, left_weight, right_weight = _taps(labels.shape[1], hw[1])
    across = left_weight * mask[:, left] + right_weight * mask[:, right]
    resized = top_weight[:, None] * across[top] + bottom_weight[:, None] * across[bottom]
    return np.asarray(resized > np.float32(0.5))


def _taps(source: int, target: int) -> tuple[_Index, _Index, _Weight, _Weight]:
    """Two source positions and their weights for every target position along one axis."""
    scale = np.float32(source) / np.float32(target)
    centre = np.arange(target) + 0.5
    # One rounding at the end, not two: PyTorch's builds fuse this multiplication and subtraction.
    position = np.maximum((scale.astype(np.float64) * centre - 0.5).astype(np.float32), np.float32(0.0))
    first = np.minimum(position.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    weight = np.clip(position - first.astype(np.float32), np.float32(0.0), np.float32(1.0))
    return first, second, np.float32(1.0) - weight, weight
