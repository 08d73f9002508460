"""The shape profiles of an engine: the bundle's, changed by --min-shapes and its like."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import GmosError
from ...runtime.bundle.manifest import Bundle, BundleNetwork, BundleTensor, Ranges
from ...runtime.contract import NetworkName
from ...runtime.shapes import GRID_AXES, letters_of, size_axes, size_of, with_pi3
from ...runtime.tensorrt.record import PLACES, AskedShape, Place, Profile, ProfileRange

MOST_ELEMENTS = 2**31 - 1
"""Of a tensor. TensorRT-RTX 1.7.1 says nothing of longer ones and counts their memory wrong: with 16 objects of 136
memories at the published size it wants 3362 MiB, less than the keys of a single layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeOverride:
    """Lengths of some axes of a network at one place of its shape profiles; `option` is the text it came from."""

    network: NetworkName
    place: Place
    lengths: Mapping[str, int]
    option: str

    def asked(self) -> AskedShape:
        """As a record keeps it."""
        return AskedShape(place=self.place, lengths=dict(self.lengths))


def kept_shapes(
    network: BundleNetwork, earlier: Sequence[AskedShape], new: Sequence[ShapeOverride]
) -> tuple[ShapeOverride, ...]:
    """What an earlier build was given and a new one leaves as it was: no shape changes back unasked."""
    own = letters_of(network.standard_inputs)
    found = []
    for asked in earlier:
        now = {axis for shape in new if shape.place == asked.place for axis in shape.lengths}
        lengths = {axis: n for axis, n in asked.lengths.items() if axis in own and axis not in now}
        if lengths:
            words = ",".join(f"{axis}={length}" for axis, length in lengths.items())
            option = f"--{asked.place}-shapes {network.name} {words} of an earlier build (--default_shapes drops it)"
            found.append(
                ShapeOverride(network=network.name, place=asked.place, lengths=lengths, option=option)
            )
    return tuple(found)


def parse_overrides(bundle: Bundle, given: Mapping[Place, Iterable[str]]) -> tuple[ShapeOverride, ...]:
    """Shapes as on the command line: `NETWORK=1x3x378x672`, `NETWORK.INPUT=…`, several joined by commas.

    A shape of one input sets the axes that it shares with the others. Without INPUT it is that of the
    network's first input that varies. The shape of `video_hw` is the size itself: `1080x1920`.

    Raises:
        GmosError: no such network or input, or not a shape of it.
    """
    found = []
    for place in PLACES:
        for text in given.get(place, ()):
            found += [_parse(bundle, place, part.strip()) for part in text.split(",") if part.strip()]
    return tuple(found)


def _parse(bundle: Bundle, place: Place, text: str) -> ShapeOverride:
    option = f"--{place}-shapes {text}"
    found = re.fullmatch(r"(\w+)(?:\.(\w+))?[=:](\d+(?:x\d+)*)", text)
    if found is None:
        raise GmosError(f"{option}: expected NETWORK=DIMS or NETWORK.INPUT=DIMS, such as dino=1x3x378x672")
    name, given, dims = found[1], found[2], tuple(int(part) for part in found[3].split("x"))
    if name not in bundle.networks:
        raise GmosError(f"{option}: no network {name}; the bundle has {', '.join(bundle.networks)}")
    network = bundle.networks[name]  # type: ignore[index]  # checked to be one of its keys
    varying = {tensor.name: tensor for tensor in network.standard_inputs if letters_of((tensor,))}
    tensor = varying.get(given or next(iter(varying), ""))
    if tensor is None:
        raise GmosError(f"{option}: {name} has no such input; expected one of {', '.join(varying) or 'none'}")
    try:
        lengths = with_pi3(_lengths(tensor, dims, option), bundle.model.patch_px)
    except ValueError as error:
        raise GmosError(f"{option}: {error}") from error
    own = letters_of(network.standard_inputs)
    lengths = {axis: length for axis, length in lengths.items() if axis in own}
    return ShapeOverride(network=network.name, place=place, lengths=lengths, option=option)


def _lengths(tensor: BundleTensor, dims: tuple[int, ...], option: str) -> dict[str, int]:
    axes = size_axes(tensor)
    shape = "x".join(map(str, axes))
    if len(axes) != len(dims):
        raise GmosError(f"{option}: {len(dims)} lengths, expected {len(axes)}: {tensor.name} is {shape}")
    for axis, length in zip(axes, dims, strict=True):
        if isinstance(axis, int) and axis != length:
            raise GmosError(f"{option}: {length} where {tensor.name} always has {axis}; it is {shape}")
    found = {axis: length for axis, length in zip(axes, dims, strict=True) if isinstance(axis, str)}
    empty = [axis for axis, length in found.items() if length == 0 and axis != "P"]
    if empty:
        raise GmosError(f"{option}: length 0 of {empty[0]}, expected 1 or more; {tensor.name} is {shape}")
    return found


def engine_ranges(network: BundleNetwork, overrides: Sequence[ShapeOverride]) -> tuple[Ranges, ...]:
    """The ranges of each shape profile of a network's engine.

    A shape whose resolution is that of one shape profile changes that. Shapes of other resolutions
    must come as min, opt and max together, and then replace all of them by one.

    Memories come with pointers: of memory attention the greatest number of the one that was not given rises with the
    other's, so that as many conditioning memories fit both.

    Raises:
        GmosError: the shapes contradict each other or the bundle's shape profiles.
    """
    own = [found for found in overrides if found.network == network.name]
    profiles = [dict(ranges) for ranges in network.profiles]
    if len(profiles) > 1 and any(not _matching(profiles, found) for found in own):
        if {found.place for found in own} != set(PLACES):
            sizes = ", ".join("x".join(str(ranges[a][1]) for a in GRID_AXES) for ranges in profiles)
            raise GmosError(
                f"{own[0].option}: {network.name} has a profile for each of the patch grids {sizes}; give one of "
                "them, or --min-shapes, --opt-shapes and --max-shapes together for one profile over a range"
            )
        profiles = profiles[:1]
        matching = dict.fromkeys(range(len(own)), profiles)
    else:
        matching = {i: _matching(profiles, found) or profiles for i, found in enumerate(own)}
    matching = {i: _widest(found, own[i]) for i, found in matching.items()}
    for i, found in enumerate(own):
        for ranges in matching[i]:
            _change(ranges, found)
    for i, found in enumerate(own):
        for ranges in matching[i]:
            _check_kept(ranges, found)
    given = {axis for found in own if found.place == "max" for axis in found.lengths}
    for ranges, before in zip(profiles, network.profiles, strict=False):
        _raise_with(ranges, before, given)
    for ranges in profiles if own else ():
        _check_elements(network, ranges, own)
    return tuple(profiles)


def _check_elements(network: BundleNetwork, ranges: Ranges, own: Sequence[ShapeOverride]) -> None:
    """Refuse shapes with a tensor that the library cannot count; of memory attention also keys, all memories wide."""
    greatest = {axis: lengths[2] for axis, lengths in ranges.items()}
    sizes = {
        one.name: size_of(one, greatest)
        for one in (*network.standard_inputs, *network.outputs)
        if not one.host
    }
    if "R" in greatest:
        sizes["keys"] = (greatest["R"], *sizes["conditioned"])
    for name, size in sizes.items():
        if math.prod(size) > MOST_ELEMENTS:
            raise GmosError(
                f"{own[-1].option}: {network.name}'s {name} would have {'x'.join(map(str, size))} elements, expected "
                f"{MOST_ELEMENTS} in all at most; lower one of its lengths"
            )


def _raise_with(ranges: dict[str, tuple[int, int, int]], before: Ranges, given: Collection[str]) -> None:
    for axis, other in (("R", "P"), ("P", "R")):
        further = ranges[axis][2] - before[axis][2] if axis in given and other not in given else 0
        if further > 0:
            least, usual, greatest = ranges[other]
            ranges[other] = (least, usual, greatest + further)


def _matching(
    profiles: list[dict[str, tuple[int, int, int]]], override: ShapeOverride
) -> list[dict[str, tuple[int, int, int]]]:
    return [
        ranges
        for ranges in profiles
        if all(ranges[axis][1] == override.lengths[axis] for axis in GRID_AXES if axis in override.lengths)
    ]


def _widest(
    profiles: list[dict[str, tuple[int, int, int]]], override: ShapeOverride
) -> list[dict[str, tuple[int, int, int]]]:
    """Of profiles for few and for many of something those that a greater length belongs to: the last one."""
    raises = override.place == "max" and all(
        length >= ranges[axis][2]
        for ranges in profiles
        for axis, length in override.lengths.items()
        if axis in "RP"
    )
    return profiles[-1:] if raises and "R" in profiles[0] else profiles


def _change(ranges: dict[str, tuple[int, int, int]], override: ShapeOverride) -> None:
    for axis, length in override.lengths.items():
        least, usual, greatest = ranges[axis]
        # A shape that was not given follows the one that was: a lower max shape lowers the opt shape.
        ranges[axis] = {
            "min": (length, max(usual, length), max(greatest, length)),
            "opt": (min(least, length), length, max(greatest, length)),
            "max": (min(least, length), min(usual, length), length),
        }[override.place]


def _check_kept(ranges: Ranges, override: ShapeOverride) -> None:
    """Refuse an override that a later one has pushed aside."""
    at = PLACES.index(override.place)
    for axis, length in override.lengths.items():
        if ranges[axis][at] != length:
            raise GmosError(
                f"{override.option}: the other shapes of {override.network} make {axis} {ranges[axis]}; expected "
                "min <= opt <= max"
            )


def engine_profile(network: BundleNetwork, ranges: Ranges) -> Profile:
    """The shapes of every input at the ranges of a shape profile; of a host input its values."""
    places = [{axis: lengths[i] for axis, lengths in ranges.items()} for i in range(len(PLACES))]
    return {
        tensor.name: ProfileRange(
            **{place: size_of(tensor, at) for place, at in zip(PLACES, places, strict=True)}
        )
        for tensor in network.standard_inputs
    }
