"""What inputs stand for, and what sequences are called: the same whatever the order of the list."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmos_deploy.errors import GmosError
from gmos_deploy.fleet.listing import Item, distinct_names, in_shard, list_inputs


def made(folder: Path, *names: str) -> list[Path]:
    """Empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def names_of(*paths: str | Path) -> list[str]:
    return [item.name for item in list_inputs(list(map(str, paths))).items]


def test_directories_of_videos_and_patterns_stand_for_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the arguments, each part by name; other files and hidden ones are passed over."""
    made(tmp_path, "cams/b.mp4", "cams/a.mkv", "cams/notes.txt", "cams/.hidden.mp4", "cams/deep/z.mp4")
    made(tmp_path, "frames/0.png", "frames/preview.mp4", "odd[1].mp4")
    monkeypatch.chdir(tmp_path)
    listing = list_inputs(["frames", "cams", "c*/*/*.mp4", "odd[1].mp4"])
    assert [item.given for item in listing.items] == [
        "frames",
        "cams/a.mkv",
        "cams/b.mp4",
        "cams/deep/z.mp4",
        "odd[1].mp4",
    ]
    assert names_of("**/z.mp4") == ["z"]
    assert names_of("cam*") == ["a", "b"]
    assert not listing.alone
    with pytest.raises(GmosError, match=r"x\*\.mp4 fits no file"):
        list_inputs(["x*.mp4"])


@pytest.mark.parametrize(
    ("given", "alone"), [(["a.mp4"], True), (["a.mp4", "./a.mp4"], False), (["a*"], False), (["."], False)]
)
def test_one_input_that_is_one_sequence_is_alone(
    given: list[str], alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that happens to be of one is still a list."""
    made(tmp_path, "a.mp4")
    monkeypatch.chdir(tmp_path)
    listing = list_inputs(given)
    assert (len(listing.items), listing.alone) == (1, alone)


def test_lines_of_a_file_and_of_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines are nothing; bytes that are no UTF-8 are a path like any other."""
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"b.mp4\n\n  \r\ncaf\xe9 1.mp4\r\n#c.mp4")
    listing = list_inputs(["a.mp4"], inputs_from=listed)
    assert [item.given for item in listing.items] == ["a.mp4", "b.mp4", "caf\udce9 1.mp4", "#c.mp4"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x.mp4\n")))
    assert list_inputs([], inputs_from=Path("-")).items == [Item("x.mp4", "x")]
    for content, message in ((b"\n", "there is nothing in it"), (b"a\0b", "a byte 0")):
        listed.write_bytes(content)
        with pytest.raises(GmosError, match=message):
            list_inputs([], inputs_from=listed)
    with pytest.raises(GmosError, match="cannot be read"):
        list_inputs([], inputs_from=tmp_path / "none")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/a.mp4", "/d/b.mp4"], ["a", "b"]),
        (["/d/cam1/clip.mp4", "/d/cam2/clip.mp4", "/d/x.mp4"], ["cam1_clip", "cam2_clip", "x"]),
        (["/d/1/cam/clip.mp4", "/d/2/cam/clip.mp4"], ["1_cam_clip", "2_cam_clip"]),
        (["/d/clip.mp4", "/d/clip.mov"], ["clip_mp4", "clip_mov"]),
        (["/1/clip.mp4", "/1/clip.mov", "/2/clip.mp4"], ["clip_mp4", "clip_mov", "clip"]),
        # Two of them would be d_cam1_clip.
        (["/d/cam1/clip.mp4", "/d/cam2/clip.mp4", "/d/cam1_clip.mp4"], ["clip-", "cam2_clip", "cam1_clip-"]),
    ],
)
def test_names_that_collide_take_their_parents(paths: list[str], names: list[str]) -> None:
    """As many as they need, then a hash; in any order of the list."""
    draw = random.Random(0)  # noqa: S311 - orders
    bases = [Path(path).stem for path in paths]
    expected = distinct_names(paths, bases)
    for found, name in zip(expected, names, strict=True):
        assert found == name or (name.endswith("-") and found[:-8] == name)
    for _ in range(5):
        order = draw.sample(range(len(paths)), len(paths))
        found_so = distinct_names([paths[i] for i in order], [bases[i] for i in order])
        assert found_so == [expected[i] for i in order]


part = st.sampled_from(["a", "b", "a_b", "b_a", "a_a"])


@given(
    st.sets(
        st.lists(part, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts) + ".mp4"), min_size=1
    )
)
def test_names_are_distinct_and_do_not_depend_on_the_order(paths: set[str]) -> None:
    """Whatever the folders are called."""
    ordered = sorted(paths)
    names = distinct_names(ordered, [Path(path).stem for path in ordered])
    assert len(set(names)) == len(names)
    back = distinct_names(ordered[::-1], [Path(path).stem for path in ordered[::-1]])
    assert back == names[::-1]


def test_long_names_take_a_hash() -> None:
    """Of at most 240 bytes."""
    paths = [f"/{'p' * 100}/{k}{'q' * 100}/{'n' * 200}.mp4" for k in range(2)]
    names = distinct_names(paths, ["n" * 200] * 2)
    assert len(set(names)) == 2
    assert all(len(name) <= 240 and name.startswith("n" * 200 + "-") for name in names)


def test_shards_are_the_whole_list_once() -> None:
    """Whatever its order; nearly equal."""
    items = [Item(f"/{name}", name) for name in "hgfedcba"]
    parts = [in_shard(items, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(item.name for part in parts for item in part) == sorted("abcdefgh")
    assert [len(part) for part in parts] == [3, 3, 2]
    assert {item.name for item in in_shard(items[::-1], "2/3")} == {item.name for item in parts[1]}
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0", "-1/3"):
        with pytest.raises(GmosError, match=f"--shard {wrong}: expected I/N"):
            in_shard(items, wrong)


def test_names_are_those_of_the_whole_list_in_a_shard(tmp_path: Path) -> None:
    """What a shard calls a sequence does not depend on which others are in it."""
    paths = list(map(str, made(tmp_path, *(f"cam{k}/clip.mp4" for k in range(4)))))
    whole = {item.given: item.name for item in list_inputs(paths).items}
    for k in (1, 2):
        assert all(whole[item.given] == item.name for item in list_inputs(paths, shard=f"{k}/2").items)


def test_frames_without_a_rate_are_refused_at_once(clips: Callable[..., list[Path]]) -> None:
    """Before anything runs, as all of them would be."""
    paths = list(map(str, clips("a", "b")))
    with pytest.raises(GmosError, match="no frame rate; expected --fps"):
        list_inputs(paths, has_rate=False)


def test_very_many_paths_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is there; each says so when its turn comes."""

    def asked(*_: object) -> bool:
        raise AssertionError("the file system was asked")

    monkeypatch.setattr(Path, "is_file", asked)
    monkeypatch.setattr(Path, "is_dir", asked)
    listing = list_inputs([f"/nowhere/cam{k % 100}/clip{k // 100}.mp4" for k in range(10_000)])
    assert len({item.name for item in listing.items}) == 10_000
    assert listing.items[1].name == "cam1_clip0"
