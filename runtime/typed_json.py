"""JSON files as typed values: what is written is what is read, and what is not as expected is one clear line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ..errors import GmosError

Whole = Annotated[int, msgspec.Meta(ge=0)]
"""A length or a count."""

Value = TypeVar("Value")


def json_bytes(value: object) -> bytes:
    """A value as a JSON file, indented; NaN and infinity, which JSON does not have, become null.

    Raises:
        TypeError: there is something in it that JSON cannot hold.
    """
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def parse_json(text: bytes, path: Path, advice: str) -> Any:  # noqa: ANN401 - JSON
    """What is in a JSON file, not checked yet; nothing in it is executed.

    Raises:
        GmosError: it is no JSON; the message ends with the advice.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GmosError(f"{path} is not JSON ({error}); {advice}") from error


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
