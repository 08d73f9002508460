"""Shapes on the command line: what they change, and what is said when they cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.export.engines.shapes import engine_profile, engine_ranges, parse_overrides
from gmos_deploy.runtime.bundle.manifest import Bundle, Ranges
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.tensorrt.record import ProfileRange


def ranges(
    bundle: Bundle,
    name: NetworkName,
    *,
    least: Sequence[str] = (),
    usual: Sequence[str] = (),
    most: Sequence[str] = (),
) -> tuple[Ranges, ...]:
    overrides = parse_overrides(bundle, {"min": least, "opt": usual, "max": most})
    return engine_ranges(bundle.networks[name], overrides)


def test_profiles_are_the_bundle_s(tiny_bundle: Bundle) -> None:
    """One per resolution for networks that see it, tables and all; few and many memories; one for the others."""
    for network in tiny_bundle.networks.values():
        assert engine_ranges(network, ()) == network.profiles
    dino = tiny_bundle.networks["dino"]
    first, second = (engine_profile(dino, found) for found in engine_ranges(dino, ()))
    assert first == {
        "frames": ProfileRange(min=(1, 3, 112, 168), opt=(8, 3, 112, 168), max=(8, 3, 112, 168)),
        "position": ProfileRange(min=(8, 12, 64), opt=(8, 12, 64), max=(8, 12, 64)),
    }
    assert second["position"].opt == (7, 13, 64)
    assert len(engine_ranges(tiny_bundle.networks["sam2_encoder"], ())) == 1


def test_a_host_input_has_values(tiny_bundle: Bundle) -> None:
    """The size of the video, not the shape of the tensor that holds it."""
    network = tiny_bundle.networks["proposal_labels"]
    profile = engine_profile(network, engine_ranges(network, ())[0])
    assert profile["video_hw"] == ProfileRange(min=(64, 64), opt=(720, 1280), max=(2160, 4096))


def test_memories_may_come_without_pointers(tiny_bundle: Bundle) -> None:
    """The first frame after a prompt has none."""
    network = tiny_bundle.networks["memory_attention"]
    profile = engine_profile(network, engine_ranges(network, ())[0])
    assert profile["pointers"].min == (1, 0, 64)
    assert profile["pointers"].max == (16, 33, 64)


def test_a_shape_sets_its_axes_for_all_inputs(tiny_bundle: Bundle) -> None:
    """Objects and memories are named once; a lower maximum lowers what is usual."""
    found, long = ranges(tiny_bundle, "memory_attention", most=["memory_attention=2x5x32x8x8"])
    assert (found["O"], found["R"], found["P"]) == ((1, 2, 2), (1, 5, 5), (0, 16, 33))
    assert (long["O"], long["R"]) == ((1, 1, 2), (1, 5, 5))
    profile = engine_profile(tiny_bundle.networks["memory_attention"], found)
    assert profile["pointers"].max == (2, 33, 64)
    assert profile["memories"].opt == (2, 5, 32, 8, 8)


def test_more_memories_go_to_the_profile_that_has_many(tiny_bundle: Bundle) -> None:
    """The usual one stays as it is, for as many objects as before."""
    given = ["memory_attention.memories=2x200x32x8x8,memory_attention.pointers=2x209x64"]
    usual, long = ranges(tiny_bundle, "memory_attention", most=given)
    assert usual == tiny_bundle.networks["memory_attention"].profiles[0]
    assert (long["O"], long["R"], long["P"]) == ((1, 1, 2), (1, 46, 200), (0, 55, 209))


@pytest.mark.parametrize(
    ("given", "memories", "pointers"),
    [
        ("memories=2x200x32x8x8", 200, 209),
        ("pointers=2x209x64", 200, 209),
        ("memories=2x200x32x8x8,memory_attention.pointers=2x150x64", 200, 150),
        ("memories=2x20x32x8x8", 20, 145),
    ],
)
def test_more_memories_take_as_many_more_pointers(
    tiny_bundle: Bundle, given: str, memories: int, pointers: int
) -> None:
    """An object has one of each for every conditioning memory: a profile with more of one kind alone is of no use."""
    *_, long = ranges(tiny_bundle, "memory_attention", most=[f"memory_attention.{given}"])
    assert (long["R"][2], long["P"][2]) == (memories, pointers)


def test_an_input_can_be_named_and_trtexec_s_colon_is_taken(tiny_bundle: Bundle) -> None:
    """Several shapes joined by a comma; of the video its size."""
    given = ["memory_attention.pointers:4x8x64,proposal_labels.video_hw=1080x1920", "mask_prompt=3x128x128"]
    for found in ranges(tiny_bundle, "memory_attention", most=given):
        assert found["P"] == (0, 8, 8)
    (found,) = ranges(tiny_bundle, "proposal_labels", most=given)
    assert (found["H"], found["W"]) == ((64, 720, 1080), (64, 1280, 1920))
    (found,) = ranges(tiny_bundle, "mask_prompt", most=given)
    assert found["O"] == (1, 3, 3)


def test_a_resolution_of_the_bundle_changes_its_own_profile(tiny_bundle: Bundle) -> None:
    """The other one stays; a shape without a resolution changes both."""
    first, second = ranges(tiny_bundle, "dino", most=["dino=2x3x98x182"])
    assert (first["B"], second["B"]) == ((1, 8, 8), (1, 2, 2))
    first, second = ranges(tiny_bundle, "proposer", most=["proposer.f=3x64x8x8"])
    assert first["B"] == second["B"] == (1, 3, 3)


def test_three_shapes_of_other_resolutions_make_one_profile(tiny_bundle: Bundle) -> None:
    """The grid follows the pixels."""
    (found,) = ranges(
        tiny_bundle, "dino", least=["dino=1x3x56x56"], usual=["dino=2x3x112x168"], most=["dino=4x3x168x182"]
    )
    assert found == {
        "B": (1, 2, 4),
        "Hp": (56, 112, 168),
        "Wp": (56, 168, 182),
        "h": (4, 8, 12),
        "w": (4, 12, 13),
    }
    (found,) = ranges(
        tiny_bundle,
        "dino",
        least=["dino.position=4x4x64"],
        usual=["dino.position=8x12x64"],
        most=["dino.position=9x13x64"],
    )
    assert (found["Hp"], found["w"], found["B"]) == ((56, 112, 126), (4, 12, 13), (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "given", "tensor"),
    [
        ("memory_attention", "memory_attention.memories=1000x600x32x8x8", "keys would have 600x1000x64x8x8"),
        (
            "memory_attention",
            f"memory_attention.memories=1x{10**20}x32x8x8",
            f"memories would have 1x{10**20}x32x8x8",
        ),
        (
            "tracked_labels",
            "tracked_labels.masks=128x32x32,tracked_labels.video_hw=4096x4097",
            "positive would have",
        ),
    ],
)
def test_more_elements_than_the_library_counts_are_refused(
    tiny_bundle: Bundle, name: NetworkName, given: str, tensor: str
) -> None:
    """The builder says nothing, and plans too little memory for them."""
    message = rf"^--max-shapes {name}\..*: {name}'s {tensor}.* elements, expected 2147483647 in all at most"
    with pytest.raises(GmosError, match=message):
        ranges(tiny_bundle, name, most=[given])


BAD = [
    ("dino", r"--max-shapes dino: expected NETWORK=DIMS or NETWORK.INPUT=DIMS, such as dino=1x3x378x672"),
    ("dino=1x3xHxW", r"expected NETWORK=DIMS"),
    ("resnet=1x3", r"--max-shapes resnet=1x3: no network resnet; the bundle has sam2_resize, dino"),
    ("dino.tokens=1x3", r"dino has no such input; expected one of frames, position"),
    ("dino=1x3x112", r"3 lengths, expected 4: frames is Bx3xHpxWp"),
    ("dino=1x4x112x168", r"4 where frames always has 3; it is Bx3xHpxWp"),
    ("dino=0x3x112x168", r"length 0 of B, expected 1 or more"),
    ("dino=1x3x113x168", r"113 pixels, expected a multiple of 14"),
    (
        "dino=1x3x140x140",
        r"dino has a profile for each of the patch grids 8x12, 7x13; give one of them, or --min",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_shape_that_cannot_be_meant_is_refused(text: str, message: str, tiny_bundle: Bundle) -> None:
    """With the option as it was given and what was expected."""
    with pytest.raises(GmosError, match=message):
        ranges(tiny_bundle, "dino", most=[text])


def test_shapes_that_contradict_each_other_are_refused(tiny_bundle: Bundle) -> None:
    """A minimum above the maximum."""
    with pytest.raises(
        GmosError, match=r"the other shapes of mask_prompt make O \(2, 2, 2\); expected min <= opt"
    ):
        ranges(tiny_bundle, "mask_prompt", least=["mask_prompt=5x128x128"], most=["mask_prompt=2x128x128"])
