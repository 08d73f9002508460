"""The lengths that engines are built for, by axis: a shape profile for each Pi3 resolution."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import GmosError
from ...runtime.bundle.manifest import Ranges
from ...runtime.contract import ModelSpec
from ...runtime.pi3_frame import pi3_size_wh
from ...runtime.shapes import VIDEO_AXES, with_pi3

Resolution = tuple[int, int]
"""Width and height of a Pi3 frame in pixels."""

DEFAULT_ASPECT = "16:9"

ASPECT_UNIT_PX = 120
"""16:9 is taken as a video of 1920x1080; only the ratio matters."""

OBJECTS = (1, 4, 16)
LABELLED_OBJECTS = (1, 4, 128)
"""Of `tracked_labels`, the one network that must see all objects of a frame at once. At the greatest video
size 160 maps still have a place in TensorRT-RTX's activation memory; of 240 it takes memory on its own."""
CONDITIONING = (1, 18)
"""Conditioning memories of an object, usual and greatest: one of stage 1, and a tenth of a video of 180 frames."""
LONG_CONDITIONING = (40, 130)
"""Of memory attention's second profile: a tenth of 1300 frames. So many need so much memory for each object that few
objects fit a call, and calls are cut."""
LONG_OBJECTS = (1, 1, 4)
VIDEO_HEIGHTS, VIDEO_WIDTHS = (64, 720, 2160), (64, 1280, 4096)


def parse_resolution(text: str, model: ModelSpec) -> Resolution:
    """`672x378` as width and height.

    Raises:
        GmosError: it is no resolution that Pi3 can take.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if found is None:
        raise GmosError(f"--resolution {text}: expected WIDTHxHEIGHT in pixels, such as 672x378")
    width, height = int(found[1]), int(found[2])
    patch = model.patch_px
    near = tuple(max(patch, patch * round(side / patch)) for side in (width, height))
    if (width, height) != near:
        raise GmosError(
            f"--resolution {text}: Pi3 takes multiples of {patch} pixels; the nearest is {near[0]}x{near[1]}"
        )
    if width * height > model.pi3_area_px:
        raise GmosError(
            f"--resolution {text}: {width * height} pixels, expected at most {model.pi3_area_px} "
            f"({model.preset} preset); --aspect finds the resolution of a video's shape"
        )
    return width, height


def parse_aspect(text: str, model: ModelSpec) -> Resolution:
    """`16:9` as the resolution at which Pi3 sees videos of that shape.

    Raises:
        GmosError: it is no aspect ratio.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if found is None or not int(found[1]) or not int(found[2]):
        raise GmosError(f"--aspect {text}: expected WIDTH:HEIGHT, such as 16:9")
    width, height = (ASPECT_UNIT_PX * int(side) for side in found.groups())
    return pi3_size_wh(width, height, model.pi3_area_px, model.patch_px)


def choose_resolutions(
    given: Sequence[str], aspects: Sequence[str], model: ModelSpec
) -> tuple[Resolution, ...]:
    """The resolutions asked for, without repetitions; 16:9 if none was."""
    found = [parse_resolution(text, model) for text in given]
    found += [parse_aspect(text, model) for text in aspects or ([] if given else [DEFAULT_ASPECT])]
    return tuple(dict.fromkeys(found))


def shape_profiles(sizes: tuple[Resolution, ...], model: ModelSpec, *, max_batch: int) -> tuple[Ranges, ...]:
    """Least, usual and greatest length by axis letter for each resolution."""

    def fixed(length: int) -> tuple[int, int, int]:
        return (length, length, length)

    shared = {
        "B": (1, max_batch, max_batch),
        "O": OBJECTS,
        **_memories(model, *CONDITIONING),
    }
    video = dict(zip(VIDEO_AXES, (VIDEO_HEIGHTS, VIDEO_WIDTHS), strict=True))
    pi3 = (with_pi3({"Hp": height, "Wp": width}, model.patch_px) for width, height in sizes)
    return tuple({**shared, **video, **{axis: fixed(n) for axis, n in found.items()}} for found in pi3)


def _memories(model: ModelSpec, usual: int, greatest: int) -> Ranges:
    """Memories and pointers of an object with so many conditioning ones: the others are those of passed frames."""
    passed, pointers = model.memory_frames - 1, model.object_pointers - 1
    return {"R": (1, usual + passed, greatest + passed), "P": (0, usual + pointers, greatest + pointers)}


def profiles_of(name: str, profiles: Sequence[Ranges], model: ModelSpec) -> tuple[Ranges, ...]:
    """The shape profiles of one network: labels are chosen among all objects, and videos may be long."""
    if name == "tracked_labels":
        return tuple({**ranges, "O": LABELLED_OBJECTS} for ranges in profiles)
    if name == "memory_attention":
        usual = profiles[0]
        return (usual, {**usual, "O": LONG_OBJECTS, **_memories(model, *LONG_CONDITIONING)})
    return tuple(profiles)
