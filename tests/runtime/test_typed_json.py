"""JSON files as typed values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.typed_json import Whole, json_bytes, parse_json, typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part."""

    name: str
    count: Whole = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A thing of parts."""

    parts: tuple[Part, ...]
    by_name: Mapping[str, Part]


THING = Thing(parts=(Part(name="a", count=2),), by_name={"b": Part(name="b")})
CONTENT = {"parts": [{"name": "a", "count": 2}], "by_name": {"b": {"name": "b", "count": 0}}}


def read(value: object) -> Thing:
    return typed(value, Thing, where="thing.json", advice="make it again")


def test_what_is_written_is_read() -> None:
    """Indented, in UTF-8, with what a later version added ignored."""
    text = json_bytes(THING)
    assert text.startswith(b'{\n "parts": [\n')
    found = parse_json(text, Path("thing.json"), "make it again")
    assert found == CONTENT
    assert read({**found, "colour": "blue"}) == THING
    assert "ü".encode() in json_bytes({"name": "ü"})


def test_what_is_no_number_in_json_is_null() -> None:
    """And not a word that other readers refuse."""
    assert msgspec.json.decode(json_bytes([math.nan, math.inf, 1.5])) == [None, None, 1.5]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "thing.json: expected object, got array; make it again"),
        ({"parts": []}, "thing.json: object missing required field by_name; make it again"),
        ({**CONTENT, "parts": [{"name": 3}]}, r"thing.json.parts\[0\].name: expected str, got int; make it"),
        ({**CONTENT, "parts": [{"name": "a", "count": -1}]}, r"parts\[0\].count: expected int >= 0; make it"),
        ({**CONTENT, "parts": [{"name": "a", "count": True}]}, r"parts\[0\].count: expected int, got bool"),
        ({**CONTENT, "by_name": {"b": 1}}, r"thing.json.by_name\[...\]: expected object, got int"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(value: Any, message: str) -> None:
    """Types are strict and bounds hold."""
    with pytest.raises(GmosError, match=message) as found:
        read(value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    """However deep it goes."""
    with pytest.raises(GmosError, match=r"thing.json is not JSON \(.*\); make it again"):
        parse_json(text, Path("thing.json"), "make it again")
