"""The list of a run: what the inputs stand for, what their results are called, and which of them are a shard's."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import GmosError
from ..runtime.video.frame_directory import FRAME_SUFFIXES, VIDEO_SUFFIXES
from ..runtime.video.inputs import NAME_LIMIT_BYTES
from ..runtime.video.sources import SOURCES, source_of

logger = logging.getLogger(__name__)

STDIN = Path("-")
MAGIC = re.compile(r"[*?[]")
SHARD = re.compile(r"(\d{1,9})/(\d{1,9})")
HASH_LETTERS = 8
BUILT_IN = len(SOURCES)
"""Kinds of sources that are there from the start: directories and files."""

FRAME_ENDINGS, VIDEO_ENDINGS = FRAME_SUFFIXES, VIDEO_SUFFIXES
"""Of files in a directory that is given: these are its frames; without any, these are the videos in it."""


@dataclass(frozen=True, slots=True)
class Item:
    """An input of a run as it was given, and the name of its sequence."""

    given: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The sequences of a run.

    `alone`: one input was given and is one sequence. There is nothing to go on with, so what is wrong with it is wrong
    with the command. `dataset` is the benchmark that they are run for.
    """

    items: Sequence[Item]
    alone: bool = False
    dataset: str | None = None


def list_inputs(
    given: Iterable[str | os.PathLike[str]],
    *,
    inputs_from: Path | None = None,
    has_rate: bool = True,
    shard: str | None = None,
) -> Listing:
    """All sequences that inputs stand for, each once, in the order in which they were given.

    An input is a video file, a directory of frames, a directory of videos, or a pattern of them (`*`, `?`, `[…]`, and
    `**` for any depth) where no file has that name. None of them is opened but directories that are listed.

    Args:
        given: inputs.
        inputs_from: a file with an input a line; `-` is standard input.
        has_rate: whether --fps or --stride was given, which directories of frames need.
        shard: as `in_shard`.

    Raises:
        GmosError: there is none, the file cannot be read, a pattern fits nothing, or a directory of frames has no rate.
    """
    arguments = [os.fspath(one) for one in given]
    texts = arguments + ([] if inputs_from is None else read_inputs(inputs_from))
    if not texts:
        raise GmosError(
            "no input was given; expected video files or directories of frames after --input-rgb"
            if inputs_from is None
            else f"--inputs_from {inputs_from}: there is nothing in it; expected an input a line"
        )
    paths = list(dict.fromkeys(path for text in texts for path in _meant_by(text)))
    places: dict[str, str] = {}
    for path in paths:
        places.setdefault(path if "://" in path else _absolute(path), path)
    if len(places) < len(paths):
        logger.info("inputs that were given twice: %d; each is run once", len(paths) - len(places))
    paths = list(places.values())
    alone = paths == arguments
    bases = [_own_name(path, has_rate=has_rate or len(paths) == 1) for path in paths]
    names = distinct_names(paths, bases)
    items = [Item(path, name) for path, name in zip(paths, names, strict=True)]
    return Listing(items=in_shard(items, shard), alone=alone and len(items) == 1)


def read_inputs(path: Path) -> list[str]:
    """The lines of a file, blank ones left out; `-` is standard input.

    Raises:
        GmosError: it cannot be read, or a line has a byte that no path has.
    """
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise GmosError(f"--inputs_from {path} cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise GmosError(f"--inputs_from {path}: has a byte 0, which no path has; expected an input a line")
    return [os.fsdecode(line) for line in data.splitlines() if line.strip()]


def _meant_by(text: str) -> Iterator[str]:
    """What an input stands for: itself, the videos of a directory, or what fits a pattern."""
    if "://" in text:
        yield text
    elif MAGIC.search(text) and not os.path.lexists(text):
        # Pathlib's takes no absolute pattern.
        found = sorted(glob.iglob(text, recursive=True))  # noqa: PTH207
        if not found:
            raise GmosError(f"{text} fits no file; expected video files or directories of frames")
        for path in found:
            yield from (() if _names_a_video(path) else _videos_in(path)) or (path,)
    else:
        yield from (() if _names_a_video(text) else _videos_in(text)) or (text,)


def _names_a_video(path: str) -> bool:
    """Whether a path is that of a video file as far as its ending tells, and no kind of source was added."""
    ending = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a hundred thousand of them
    return ending in VIDEO_ENDINGS and len(SOURCES) == BUILT_IN


def _videos_in(path: str) -> list[str]:
    """The videos of a directory without frames, by name; nothing of what is none, which says so when it is read."""
    videos = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a hundred thousand of them
                if entry.name.startswith("."):
                    continue
                if ending in FRAME_ENDINGS and not entry.is_dir():
                    return []
                if ending in VIDEO_ENDINGS and not entry.is_dir():
                    videos.append(entry.path)
    except OSError:
        return []
    return sorted(videos)


def _own_name(path: str, *, has_rate: bool) -> str:
    """What a sequence would be called if it were alone.

    Raises:
        GmosError: it has frames without a rate: the command lacks an option, whatever else is on the list.
    """
    if _names_a_video(path):
        # The file system is not asked about a hundred thousand names that tell.
        return os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122
    try:
        source = source_of(path)
        name = source.sequence_name(path)
    except GmosError:
        # It says what is wrong when its turn comes.
        return Path(path).stem
    if source.needs_rate and not has_rate:
        raise GmosError(
            f"{path} is {source.article} of frames, which has no frame rate; expected --fps (of the original video) "
            "or --stride"
        )
    return name


def distinct_names(paths: Sequence[str], bases: Sequence[str]) -> list[str]:
    """A name for each sequence, the same whatever the order of the list.

    Those whose name another one has take their parents' names in front, as many as it needs: `cam1_clip`. Files that
    differ in their endings alone take those. What is still the same takes a part of its path's SHA-256.

    Args:
        paths: of the inputs, all different.
        bases: their own names.
    """
    names = list(bases)
    together = _sharing(range(len(names)), lambda i: names[i])
    if not together:
        return names
    full = {i: _absolute(paths[i]) for i in together}
    for i in _sharing(together, lambda i: (os.path.dirname(full[i]), names[i])):  # noqa: PTH120 - see above
        ending = os.path.splitext(full[i])[1]  # noqa: PTH122 - see above
        names[i] = f"{names[i]}_{ending[1:]}" if ending else names[i]
    starts = {i: names[i] for i in together}
    parents = {i: _parents(full[i]) for i in together}
    taken = dict.fromkeys(together, 0)
    while together := _sharing(range(len(names)), lambda i: names[i]):
        for i in together:
            # One that another's longer name has come to equal.
            if i not in taken:
                full[i] = _absolute(paths[i])
                starts[i], taken[i] = names[i], 0
                parents[i] = _parents(full[i])
            taken[i] += 1
            known = parents[i][len(parents[i]) - taken[i] :] if taken[i] <= len(parents[i]) else None
            names[i] = "_".join((*known, starts[i])) if known is not None else ""
            if known is None or len(os.fsencode(names[i])) > NAME_LIMIT_BYTES:
                names[i] = _hashed(starts[i], full[i])
    return names


def _absolute(path: str) -> str:
    # Links stay what they are called, and a hundred thousand of them are not looked up.
    return os.path.abspath(path)  # noqa: PTH100


def _parents(path: str) -> list[str]:
    """The names of the folders that an absolute path lies in, from the outermost on."""
    above = os.path.dirname(path)  # noqa: PTH120 - see above
    parts = above.replace(os.altsep or os.sep, os.sep).split(os.sep)  # noqa: PTH206 - see above
    return [name for part in parts if (name := part.rstrip(":"))]


def _sharing(indices: Iterable[int], key: Callable[[int], Hashable]) -> list[int]:
    """Those whose key another one has."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i in indices:
        groups[key(i)].append(i)
    return sorted(i for group in groups.values() if len(group) > 1 for i in group)


def _hashed(name: str, path: str) -> str:
    short = os.fsdecode(os.fsencode(name)[: NAME_LIMIT_BYTES - HASH_LETTERS - 1])
    return f"{short}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:HASH_LETTERS]}"


def in_shard(items: Sequence[Item], shard: str | None) -> Sequence[Item]:
    """Every N-th sequence by name, from the I-th on: each is in one of the N shards, whatever the order of the list.

    Args:
        items: of the whole list.
        shard: "I/N" with I from 1 to N; None is all.

    Raises:
        GmosError: `shard` is not that.
    """
    if shard is None:
        return items
    found = SHARD.fullmatch(shard.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise GmosError(f"--shard {shard}: expected I/N, the I-th of N parts from 1 on, such as 3/16")
    part, parts = int(found[1]), int(found[2])
    ranks = sorted(range(len(items)), key=lambda i: items[i].name)
    return [items[i] for i in sorted(ranks[part - 1 :: parts])]
