"""What the pipeline answers on one frame: label maps that stay compact until asked for, and the objects in them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import GmosError
from .contract import Variant
from .label_lookup import look_up

if TYPE_CHECKING:
    from supervision import Detections

ResultName = Literal["mos-i", "mos", "foreground"]
"""Label maps that results are filed by; GMOS has the first two, GMOS-S the last."""

MapName = Literal["mos-i", "mos", "tracked", "foreground", "probability"]
"""Label maps of an answer; `tracked` comes live in place of `mos`."""

RESULTS: Mapping[Variant, tuple[ResultName, ...]] = {"gmos": ("mos-i", "mos"), "gmos-s": ("foreground",)}
"""The results of each variant."""

MOS_I_ONLY = "mos_i_only"
"""The setting of a run without GMOS's second pass: there is no MOS then."""


def results_of(variant: Variant, settings: Mapping[str, object]) -> tuple[ResultName, ...]:
    """The results that a run with these settings has."""
    return tuple(name for name in RESULTS[variant] if not (settings.get(MOS_I_ONLY) and name == "mos"))


COMPRESSION_LEVEL = 1
"""zlib's fastest: label maps are flat, and higher levels cost more time than they save bytes."""


@dataclass(frozen=True, slots=True)
class CompactMap:
    """An (H, W) uint8 map in a few kilobytes. `packed` is None for a map of zeros.

    `table` (256,) uint8, where given, is applied to the values as they are unpacked.
    """

    packed: bytes | None = field(repr=False)
    hw: tuple[int, int]
    table: NDArray[np.uint8] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, values: NDArray[np.uint8]) -> CompactMap:
        """Pack an (H, W) uint8 map."""
        packed = zlib.compress(values.tobytes(), COMPRESSION_LEVEL) if values.any() else None
        return cls(packed, (values.shape[0], values.shape[1]))

    def unpack(self) -> NDArray[np.uint8]:
        """The map, (H, W) uint8; it may be read-only."""
        if self.packed is None:
            return np.zeros(self.hw, np.uint8)
        values = np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.hw)
        return values if self.table is None else look_up(values, self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectResult:
    """One object on one frame.

    `id` counts from 1. `slot` is the object's label in the maps; of a file's result they are one, live a slot is
    used again and an id never is. `moving` says whether the object is in MOS-I on this frame. `iou` is the mask
    decoder's own estimate of its mask. `box` (x0, y0, x1, y1) in pixels holds the mask, x1 and y1 excluded;
    `area` in pixels. The mask is that of MOS, live of `tracked`, or of MOS-I where that lacks the object.
    """

    id: int
    slot: int
    moving: bool
    iou: float
    box: tuple[int, int, int, int]
    area: int
    _labels: CompactMap | NDArray[np.uint8] = field(repr=False)

    def mask(self) -> NDArray[np.bool_]:
        """Where the object is, (H, W) bool."""
        return np.equal(_values(self._labels), self.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What a live answer says beyond that of a file.

    `arrival_s` and `answer_s` are seconds of the monotonic clock: when the frame came, and when it was answered.
    `dropped_before` counts the frames that were left out between the kept frame before and this one; `reset_before`
    says that a new sequence begins with this frame.
    """

    arrival_s: float
    answer_s: float
    dropped_before: int = 0
    reset_before: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameResult:
    """The answer on one frame.

    `index` counts from 0; `time_s` from the first frame, in seconds. GMOS has `mos_i`, `mos` (not with `mos_i_only`)
    and `objects`, live `mos_i`, `tracked` and `objects`; GMOS-S `mask` and `probability`. `rgb` (H, W, 3) uint8 is
    there only where the run was asked for it, `live` only of a stream.

    Args:
        maps: by name, (H, W) uint8 or compact.
        ious: of GMOS, the IoU that the tracker gives each label in MOS-I and in MOS, live in `tracked`, (O,) float32
            each.
        ids: live, the id of the object in each slot that is taken.
    """

    index: int
    time_s: float
    maps: Mapping[MapName, CompactMap | NDArray[np.uint8]] = field(repr=False)
    ious: Mapping[MapName, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    rgb: NDArray[np.uint8] | None = field(default=None, repr=False)
    ids: Mapping[int, int] = field(default_factory=dict)
    live: LiveFacts | None = None

    @property
    def mos_i(self) -> NDArray[np.uint8]:
        """MOS-I: objects where and while they move, (H, W) uint8, 0 or the object's id. GMOS."""
        return self.values("mos-i")

    @property
    def mos(self) -> NDArray[np.uint8]:
        """MOS: moving objects through the whole video, (H, W) uint8, 0 or the object's id. GMOS."""
        return self.values("mos")

    @property
    def tracked(self) -> NDArray[np.uint8]:
        """All live objects, whether they move or not, (H, W) uint8, 0 or the object's slot. GMOS, live."""
        return self.values("tracked")

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The foreground, (H, W) uint8, 1 where the probability is above one half. GMOS-S."""
        return self.values("foreground")

    @property
    def probability(self) -> NDArray[np.uint8]:
        """The foreground's probability, (H, W) uint8, floor(255 p). GMOS-S."""
        return self.values("probability")

    @property
    def objects(self) -> tuple[ObjectResult, ...]:
        """The objects that are visible on this frame, by id: without MOS those that move. GMOS-S has none."""
        names: tuple[MapName, ...] = ("mos-i", "tracked" if "tracked" in self.maps else "mos")
        # The later map wins: an object of both is shown as MOS has it.
        moving: set[int] = set()
        found: dict[int, ObjectResult] = {}
        for name in (one for one in names if one in self.maps):
            source = self.maps[name]
            labels = _values(source)
            counts = np.bincount(labels.ravel(), minlength=256)
            visible = [int(label) for label in np.flatnonzero(counts[1:]) + 1]
            if name == "mos-i":
                moving.update(visible)
            for label in visible:
                found[label] = ObjectResult(
                    id=self.ids.get(label, label),
                    slot=label,
                    moving=label in moving,
                    iou=float(self.ious[name][label - 1]),
                    box=bounding_box(labels == label),
                    area=int(counts[label]),
                    _labels=source,
                )
        return tuple(sorted(found.values(), key=lambda one: one.id))

    def to_supervision(self) -> Detections:
        """The objects of this frame as `supervision.Detections` (extra `supervision`).

        Of O objects: `xyxy` (O, 4) float32, `mask` (O, H, W) bool, `tracker_id` (O,) their ids, `class_id` (O,) zeros,
        `confidence` (O,) float32 their IoUs, and `data["moving"]` (O,) bool. They are those of `objects`; of GMOS-S the
        foreground, where there is any, is object 1, moving, and there is no `confidence`.

        Raises:
            GmosError: supervision is not installed.
        """
        try:
            from supervision import Detections  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise GmosError(
                f"to_supervision() needs supervision ({error}); install it with pip install 'gmos-deploy[supervision]'"
            ) from error
        tracks = "mos-i" in self.maps
        found = self.objects if tracks else self._foreground()
        hw = self.values("mos-i" if tracks else "foreground").shape
        return Detections(
            xyxy=np.array([one.box for one in found], np.float32).reshape(-1, 4),
            mask=np.array([one.mask() for one in found], np.bool_).reshape(-1, *hw),
            confidence=np.array([one.iou for one in found], np.float32) if tracks else None,
            class_id=np.zeros(len(found), np.int64),
            tracker_id=np.array([one.id for one in found], np.int64),
            data={"moving": np.array([one.moving for one in found], np.bool_)},
        )

    def _foreground(self) -> tuple[ObjectResult, ...]:
        """The foreground as an object, if there is any."""
        mask = self.mask != 0
        area = int(np.count_nonzero(mask))
        box, labels = bounding_box(mask), self.maps["foreground"]
        one = ObjectResult(id=1, slot=1, moving=True, iou=np.nan, box=box, area=area, _labels=labels)
        return (one,) if area else ()

    def values(self, name: MapName) -> NDArray[np.uint8]:
        """A map by its name, (H, W) uint8.

        Raises:
            GmosError: this variant has no such map.
        """
        if name not in self.maps:
            raise GmosError(f"this result has no {name}; expected one of {', '.join(self.maps)}")
        return _values(self.maps[name])

    def compact(self) -> FrameResult:
        """The same answer with all maps packed and without the frame."""
        maps = {
            name: source if isinstance(source, CompactMap) else CompactMap.of(source)
            for name, source in self.maps.items()
        }
        return replace(self, maps=maps, rgb=None)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) of an (H, W) bool mask in pixels, x1 and y1 excluded; all 0 if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return (0, 0, 0, 0)
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _values(source: CompactMap | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return source.unpack() if isinstance(source, CompactMap) else source
