"""Which files an ONNX model reads tensors from, found without ONNX: the wire format as its parsers follow it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import GmosError
from ..files.regular_file import read_bounded

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of Protocol Buffers; groups, which ONNX has none of, are refused. Field numbers are `onnx.proto`'s."""

TAG_BYTES, LENGTH_BYTES, NUMBER_BYTES = 5, 5, 10
"""Of a varint at most; parsers refuse longer ones, or stop within them."""

TAG_MASK = 0xFFFFFFFF
"""A tag has 32 bits: parsers drop what is beyond."""

MOST_BYTES = 2**31 - 1
"""Of a message; Protocol Buffers' own limit."""

DEPTH = 100
"""Messages inside each other; Protocol Buffers' own limit."""

MEMORY_ADDRESS = "_ORT_MEM_ADDR_"
"""In the place of a file, by which ONNX Runtime reads an address of its process."""

# What lies in which field, by the kind of message around it.
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
EXTERNAL_KEY, EXTERNAL_VALUE = 1, 2


def external_locations(model: Path, content: bytes | bytearray | None = None) -> set[str]:
    """The `location` of every external tensor of a model, as written in it; its content is read if it is not given.

    Raises:
        GmosError: the file cannot be read, is not an ONNX model, or names an address in the place of a file.
    """
    try:
        data = read_bounded(model, MOST_BYTES) if content is None else content
        found = set(_locations(memoryview(data), "model", DEPTH))
    except OSError as error:
        raise GmosError(f"{model} cannot be read ({error.strerror}); expected an ONNX model") from error
    except (ValueError, IndexError) as error:
        raise GmosError(f"{model} is not an ONNX model; copy the bundle again, or export it again") from error
    if any(MEMORY_ADDRESS in location for location in found):
        raise GmosError(f"{model} reads tensors from an address in memory; do not trust it, export it again")
    return found


def defines_functions(content: bytes | bytearray) -> bool:
    """Whether a model that `external_locations` has read brings operators of its own.

    Each may call others twice, and so on: a kilobyte becomes a billion nodes while it is loaded.
    """
    return any(CHILDREN["model"].get(number) == "function" for number, _ in _fields(memoryview(content)))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if not depth:
        raise ValueError("nested too deep")
    for number, content in _fields(message):
        child = CHILDREN[kind].get(number)
        if child == "external":
            # Of a field that is there twice the last one counts.
            entry = dict(_fields(content))
            if bytes(entry.get(EXTERNAL_KEY, b"")) == b"location":
                yield bytes(entry.get(EXTERNAL_VALUE, b"")).decode()
        elif child is not None:
            yield from _locations(content, child, depth - 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the length-delimited fields of a message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at, TAG_BYTES)
        number, wire = (tag & TAG_MASK) >> 3, tag & 7
        if not number:
            raise ValueError("field 0")
        if wire == BYTES:
            length, at = _varint(message, at, LENGTH_BYTES)
            if at + length > len(message):
                raise ValueError("truncated message")
            yield number, message[at : at + length]
            at += length
        elif wire == VARINT:
            _, at = _varint(message, at, NUMBER_BYTES)
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
            if at > len(message):
                raise ValueError("truncated message")
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int, most: int) -> tuple[int, int]:
    value = 0
    for place in range(most):
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"a number of more than {most} bytes")
