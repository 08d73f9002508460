"""Which files an ONNX model reads tensors from, found without the `onnx` package.

An ONNX model is a Protocol Buffers message, and the field numbers below are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import GmosError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of Protocol Buffers."""

# What lies in which field, by the kind of message around it.
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
EXTERNAL_KEY, EXTERNAL_VALUE = 1, 2


def external_locations(model: Path) -> set[str]:
    """The `location` of every external tensor of a model, as written in it.

    Raises:
        GmosError: the file cannot be read or is not an ONNX model.
    """
    try:
        data = memoryview(model.read_bytes())
        return set(_locations(data, "model"))
    except OSError as error:
        raise GmosError(f"{model} cannot be read ({error.strerror}); expected an ONNX model") from error
    except (ValueError, IndexError) as error:
        raise GmosError(f"{model} is not an ONNX model; copy the bundle again, or export it again") from error


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, content in _fields(message):
        child = CHILDREN[kind].get(number)
        if child == "external":
            entry = dict(_fields(content))
            if bytes(entry.get(EXTERNAL_KEY, b"")) == b"location":
                yield bytes(entry.get(EXTERNAL_VALUE, b"")).decode()
        elif child is not None:
            yield from _locations(content, child)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the length-delimited fields of a message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("truncated message")
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire == VARINT:
            _, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
