"""The files of an engine in a bundle: their names, and which of them this user's machine has made."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import msgspec

from ...errors import GmosError
from ..files.regular_file import read_bounded
from ..files.typed_json import MOST_BYTES, parse_json
from .user_key import SEAL, Seal, json_doubt, seal_doubt, sealed

PLAN_SUFFIX, RECORD_SUFFIX = ".engine", ".engine.json"
CHECK_SUFFIX, CACHE_SUFFIX = ".engine.check.json", ".runtime_cache"
"""Endings of the files of a network's engine: plan, record, comparison, kernels that were compiled for it."""

WAITING_SUFFIX = ".next"
"""Of a plan that is not in its place yet, after the start of its hash."""

PURPOSES = {CHECK_SUFFIX: "comparison of an engine", RECORD_SUFFIX: "record of an engine"}
"""What the seals of JSON files are for, by ending."""

MOST_CACHE_BYTES = 1 << 30

CACHE_PURPOSE = "runtime cache of an engine"


def sealed_cache(content: bytes, plan_sha256: str) -> bytes:
    """Compiled kernels as they are kept: a line of JSON with their seal, and what the library gave.

    Raises:
        GmosError: this user's key cannot be used.
    """
    seal = sealed(CACHE_PURPOSE, plan_sha256.encode() + content)
    return msgspec.json.encode({"plan": plan_sha256, SEAL: asdict(seal)}) + b"\n" + content


def opened_cache(
    kept: bytes, plan_sha256: str | None = None, *, vouched: bool = False
) -> tuple[bytes, str | None]:
    """The kernels in what `sealed_cache` gave, and why nobody vouches for them, None if somebody does.

    Without `plan_sha256` they may be of any plan. Their seal is not asked where they are `vouched` for anyway.

    Raises:
        GmosError: this user's key cannot be used.
    """
    head, _, content = kept.partition(b"\n")
    try:
        top = parse_json(head, "a cache of kernels", "")
        plan, seal = str(top["plan"]), msgspec.convert(top[SEAL], Seal)
    except (GmosError, msgspec.ValidationError, KeyError, TypeError):
        return b"", "it has no seal of this user's"
    if plan != (plan_sha256 or plan):
        return b"", "it is of another engine"
    return content, None if vouched else seal_doubt(seal, CACHE_PURPOSE, plan.encode() + content)


def made_here(path: Path) -> bool:
    """Whether a file beside an engine has a seal of this user's, or is the plan of a record that has one."""
    try:
        if path.name.endswith(CACHE_SUFFIX):
            return opened_cache(read_bounded(path, MOST_CACHE_BYTES))[1] is None
        if path.name.endswith(PLAN_SUFFIX):
            return made_here(path.with_name(path.name.removesuffix(PLAN_SUFFIX) + RECORD_SUFFIX))
        if path.name.endswith(WAITING_SUFFIX):
            # A plan that waits for its record, or has just got it.
            name = path.name.removesuffix(WAITING_SUFFIX).rpartition(".")[0].removesuffix(PLAN_SUFFIX)
            return made_here(path.with_name(name + RECORD_SUFFIX))
        for ending, purpose in PURPOSES.items():
            if path.name.endswith(ending):
                top = parse_json(read_bounded(path, MOST_BYTES), path, "")
                return isinstance(top, dict) and json_doubt(top, purpose) is None
    except (GmosError, OSError, ValueError, RecursionError):
        return False
    return False
