"""What a run over a video has found before stage 2, in a file that a resumed run goes on from."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..files.array_files import read_arrays
from ..files.atomic_file import replaced_at_end
from ..files.typed_json import Whole, parse_json, typed
from ..frame_result import CompactMap
from .label_store import LabelStore
from .proposals import Proposals
from .stage_on import TrackedVideo

logger = logging.getLogger(__name__)

FORMAT = 1

REMOVE = "remove it, or use --overwrite"

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, zlib.error)
"""What is raised on a file that is not what `FirstPassFile.save` wrote."""


DTYPES = {
    "times_s": "f8",
    "motions": "f4",
    "ious": "f4",
    "known": "?",
    "moving": "?",
    "mos_i_ious": "f4",
    "prompts": "i8",
}
"""Of the file's arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """Proposals and MOS-I of a video, the times of its frames in seconds, and a checksum of what Pi3 saw of them."""

    proposals: Proposals
    mos_i: TrackedVideo
    times_s: Sequence[float]
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """What is in the file beside arrays."""

    format: Whole
    settings: Mapping[str, Any]
    video_hw: tuple[Whole, Whole]
    objects: Whole
    checksum: Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPassFile:
    """Where the first pass of a video is kept until its results are filed.

    `settings` are JSON values that decide the first pass: a file made with others is not read. `resume`: whether it
    is read at all.
    """

    path: Path
    settings: Mapping[str, Any]
    resume: bool

    def save(self, first: FirstPass) -> None:
        """Write it; a reader sees a whole file or none.

        Raises:
            GmosError: it cannot be written.
        """
        maps, mos_i = first.proposals.maps, first.mos_i
        about = {
            "format": FORMAT,
            "settings": dict(self.settings),
            "video_hw": maps.video_hw,
            "objects": mos_i.objects,
            "checksum": first.checksum,
        }
        arrays: dict[str, Any] = {
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "times_s": np.array(first.times_s, np.float64),
            "motions": first.proposals.motions,
            "ious": first.proposals.ious,
            "moving": mos_i.moving,
            "mos_i_ious": mos_i.ious,
            "prompts": np.array(mos_i.prompts, np.int64).reshape(-1, 2),
            **({} if first.proposals.known is None else {"known": first.proposals.known}),
            **_packed("proposals", maps),
            **_packed("mos_i", mos_i.labels),
        }
        with replaced_at_end(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def load(self, video_hw: tuple[int, int]) -> FirstPass | None:
        """What was kept of a video of that size, None where nothing was or where it was made in another way.

        Raises:
            GmosError: the file cannot be read.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            found = read_arrays(self.path)
            given = parse_json(found["about"].tobytes(), self.path, REMOVE)
            about = typed(given, _About, where=f"{self.path}: about", advice=REMOVE)
            changed = _differences(about.settings, json.loads(json.dumps(dict(self.settings))))
            if about.format != FORMAT or changed:
                why = f"with another {', '.join(changed)}" if changed else "by another version"
                logger.warning(
                    "%s: a first pass is there that was made %s; beginning anew", self.path.name, why
                )
                return None
            if about.video_hw != video_hw:
                raise ValueError(f"a video of {about.video_hw}")
            _check_arrays(found, about.objects)
            return FirstPass(
                proposals=Proposals(
                    maps=_unpacked("proposals", found, video_hw, found["motions"].shape[1]),
                    motions=found["motions"],
                    ious=found["ious"],
                    known=found.get("known"),
                ),
                mos_i=TrackedVideo(
                    labels=_unpacked("mos_i", found, video_hw, about.objects),
                    moving=found["moving"],
                    ious=found["mos_i_ious"],
                    objects=about.objects,
                    prompts=tuple((int(t), int(o)) for t, o in found["prompts"]),
                ),
                times_s=found["times_s"].tolist(),
                checksum=about.checksum,
            )
        except UNREADABLE as error:
            raise GmosError(
                f"{self.path}, the first pass of an earlier run, cannot be read ({type(error).__name__}); {REMOVE}"
            ) from error

    def remove(self) -> None:
        """Once the results are filed nobody needs it."""
        self.path.unlink(missing_ok=True)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The settings that are not the same."""
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def _packed(name: str, store: LabelStore) -> dict[str, NDArray[Any]]:
    """The maps one after the other as they are kept, and the bytes of each; 0 for a map of zeros."""
    parts = [store.compact(frame).packed or b"" for frame in range(len(store))]
    return {
        f"{name}_maps": np.frombuffer(b"".join(parts), np.uint8),
        f"{name}_bytes": np.array([len(part) for part in parts], np.int64),
    }


def _check_arrays(found: Mapping[str, NDArray[Any]], objects: int) -> None:
    """Hold what is read later against what `save` writes.

    Raises:
        ValueError: an array is of another type or shape, or a prompt is of no frame or object.
    """
    frames = len(found["times_s"])
    slots, most = found["motions"].shape[1], found["moving"].shape[1]
    shapes = {"times_s": (frames,), "motions": (frames, slots), "ious": (frames, slots), "known": (frames,)}
    shapes |= {"moving": (frames, most), "mos_i_ious": (frames, most), "prompts": (len(found["prompts"]), 2)}
    for name, shape in shapes.items():
        if name in found and (found[name].dtype != np.dtype(DTYPES[name]) or found[name].shape != shape):
            raise ValueError(f"{name} is {found[name].dtype} {found[name].shape}")
    if objects > most or not ((found["prompts"] >= 0) & (found["prompts"] < (frames, objects))).all():
        raise ValueError(f"{objects} objects of {most}, or prompts of others")
    if not np.isfinite(found["times_s"]).all():
        raise ValueError("times that are none")


def _unpacked(
    name: str, found: Mapping[str, NDArray[Any]], video_hw: tuple[int, int], most: int
) -> LabelStore:
    """The maps, whose labels are `most` or less."""
    frames = len(found["times_s"])
    maps, ends = found[f"{name}_maps"].tobytes(), np.cumsum(found[f"{name}_bytes"]).tolist()
    if len(ends) != frames:
        raise ValueError(f"{len(ends)} maps of {frames} frames")
    parts = [maps[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    for part in filter(None, parts):
        # A few bytes can stand for any number.
        unpacker = zlib.decompressobj()
        labels = np.frombuffer(unpacker.decompress(part, video_hw[0] * video_hw[1] + 1), np.uint8)
        if len(labels) != video_hw[0] * video_hw[1] or not unpacker.eof or labels.max() > most:
            raise ValueError(f"{name}: a map of {len(labels)} pixels")
    return LabelStore.of([CompactMap(part or None, video_hw) for part in parts], video_hw)
