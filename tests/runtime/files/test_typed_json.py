"""JSON files as typed values."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.files import typed_json
from gmos_deploy.runtime.files.typed_json import Whole, json_bytes, parse_json, read_json, typed


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1" * 400, "has a number of 400 digits"),
        (b"1" * 5000, "is not JSON"),
        (b'{"a": [1, 9223372036854775808]}', "has a number of 19 digits"),
        (b"1e400", "is not JSON"),
        (b"[" * 65 + b"]" * 65, "has more than 64 objects and lists inside each other"),
        (b'"\\ud800"', "is not JSON"),
    ],
)
def test_numbers_and_depth_are_bounded(text: bytes, message: str) -> None:
    """A count of more digits than any has, or a list that is there to exhaust its reader."""
    with pytest.raises(GmosError, match=rf"thing.json {message}.*; make it again"):
        parse_json(text, Path("thing.json"), "make it again")
    assert parse_json(b"[-9223372036854775808, 1e308]", "x", "") == [-(2**63), 1e308]


def test_only_regular_files_of_a_sane_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a writer is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GmosError, match=r"pipe cannot be read \(it is a named pipe .*\); make it again"):
        read_json(tmp_path / "pipe", "make it again")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing", "make it again")
    (tmp_path / "large").write_bytes(b"[1,2]")
    assert read_json(tmp_path / "large", "make it again") == [1, 2]
    monkeypatch.setattr(typed_json, "MOST_BYTES", 4)
    with pytest.raises(GmosError, match=r"large cannot be read \(it has more than"):
        read_json(tmp_path / "large", "make it again")
