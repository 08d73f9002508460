"""JSON files as typed values: what is written is what is read, and what is not as expected is one clear line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ...errors import GmosError
from .regular_file import read_bounded

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A length or a count; up to here JSON's numbers are exact everywhere."""

MOST_BYTES = 64 << 20
"""Of a JSON file of ours; the largest, a report on a long video, has a few."""

MOST_DEPTH = 64
"""Objects and lists around a value; ours have less than ten."""

LARGEST = 2**63
"""From here on a whole number is refused; more digits than that are nobody's count."""

Value = TypeVar("Value")


def as_text(name: str) -> str:
    """A name for files in UTF-8: the name of a file need not be text, and what is not becomes Python's escape of it.

    No two names become one, so that an index can be matched.
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def json_bytes(value: object) -> bytes:
    """A value as a JSON file, indented; NaN and infinity, which JSON does not have, become null.

    Raises:
        TypeError: there is something in it that JSON cannot hold.
    """
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def read_json(path: Path, advice: str) -> Any:  # noqa: ANN401 - JSON
    """What is in a JSON file, as `parse_json`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        GmosError: it cannot be read or is no JSON; the message ends with the advice.
    """
    try:
        text = read_bounded(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    return parse_json(text, path, advice)


def parse_json(text: bytes, path: Path | str, advice: str) -> Any:  # noqa: ANN401 - JSON
    """What is in a JSON file, not checked yet but for its depth and its numbers; nothing in it is executed.

    Raises:
        GmosError: it is no JSON, deeper than `MOST_DEPTH`, or has a whole number beyond `LARGEST`; the message
            ends with the advice.
    """
    try:
        found = msgspec.json.decode(text)
    # A ValueError is one of a number with more digits than Python converts.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise GmosError(f"{path} is not JSON ({error}); {advice}") from error
    fault = _beyond_bounds(found)
    if fault:
        raise GmosError(f"{path} has {fault}; {advice}")
    return found


def _beyond_bounds(value: object) -> str | None:
    """What of a value of JSON is beyond the bounds, in words."""
    level = [value]
    for _ in range(MOST_DEPTH):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif type(each) is int and not -LARGEST <= each < LARGEST:
                return f"a number of {len(str(abs(each)))} digits"
        if not inner:
            return None
        level = inner
    return f"more than {MOST_DEPTH} objects and lists inside each other"


def typed(value: object, kind: type[Value], *, where: str, advice: str) -> Value:
    """A value of JSON as the type it is meant to be; fields that the type does not have are ignored.

    Args:
        value: of `parse_json`.
        kind: a dataclass, say; types are strict, so that a string is no number.
        where: what the value is, for the message: a file, and the field in it.
        advice: what to do, for the message.

    Raises:
        GmosError: it is not of this type; the message has the path of the field and what was expected.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        reason = re.sub("`(.*?)`", r"\1", reason)
        raise GmosError(
            f"{where}{path.removesuffix('`')}: {reason[0].lower()}{reason[1:]}; {advice}"
        ) from error
