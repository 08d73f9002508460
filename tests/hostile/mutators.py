"""Changes to files by kind, decided by a seeded generator: fields, bits, boxes, headers, fields of the wire format."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

DEEP = "\0deep\0"
"""Stands for a list in lists, which Python's writer does not write at this depth."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63,
    2**70,
    10**400,
    -(10**400),
    1e308,
    -1e308,
    5e-324,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "x" * 100_000,
    "\x1b[31mred\x1b]0;title\x07",
    "[bold]markup[/bold]",
    "=1+1",
    "../../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "C:\\windows",
    "\u202eright to left",
    [],
    {},
    [[]],
    [1, 2, 3],
    {"a": 1},
    DEEP,
)
"""What stands in the place of any field."""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a value of JSON."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


def json_field(content: bytes, random: Random) -> bytes:
    """One field replaced, removed, repeated or renamed; or the text itself changed."""
    if random.random() < 0.15:
        return bits(content, random)
    top = json.loads(content)
    *way, last = random.choice(places(top))
    around = top
    for key in way:
        around = around[key]
    act = random.randrange(8)
    if act == 0:
        del around[last]
    elif act == 1 and isinstance(around, dict):
        around[random.choice(("", "\x1b[2J", "x" * 1000, str(last) + " "))] = around.pop(last)
    elif act == 2 and isinstance(around, list):
        around += around * random.choice((1, 1000))
    else:
        around[last] = random.choice(VALUES)
    text = json.dumps(top)
    depth = random.choice((70, 900, 100_000))
    return text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode()


def bits(content: bytes, random: Random) -> bytes:
    """Bits turned, bytes replaced, removed, doubled or cut off."""
    made = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if not made:
            return b"\0"
        at = random.randrange(len(made))
        size = random.choice((1, 1, 2, 4, 8))
        match random.randrange(6):
            case 0 | 1:
                made[at] ^= 1 << random.randrange(8)
            case 2:
                made[at : at + size] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = made[at : at + size * 8]
            case 5:
                made[at : at + size] = random.randbytes(size)
    return bytes(made[: random.randrange(len(made) + 1)]) if random.random() < 0.1 else bytes(made)


def boxes_of(content: bytes, start: int = 0, end: int | None = None) -> list[tuple[int, int, bytes]]:
    """Place, length and kind of the boxes of an MP4 file, those inside others too."""
    found, end = [], len(content) if end is None else end
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, start)
        if length < 8 or start + length > end:
            break
        found.append((start, length, kind))
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"):
            found += boxes_of(content, start + 8, start + length)
        start += length
    return found


def mp4_box(content: bytes, random: Random) -> bytes:
    """A box with another length, kind or content; removed, doubled, or filled with many."""
    start, length, kind = random.choice(boxes_of(content))
    box, made = content[start : start + length], bytearray(content)
    match random.randrange(7):
        case 0:
            made[start : start + 4] = struct.pack(">I", random.choice((0, 1, 7, 8, 9, 2**31, 2**32 - 1)))
        case 1:
            made[start + 4 : start + 8] = random.choice(
                (b"free", b"moov", b"trak", b"dref", b"cmov", b"uuid", b"\0\0\0\0")
            )
        case 2:
            del made[start : start + length]
        case 3:
            made[start:start] = box * random.choice((1, 3, 50))
        case 4:
            made[start:start] = struct.pack(">I4s", 8, b"free") * random.choice((1, 1000, 50_000))
        case 5 if kind != b"mdat" and length > 16:
            at = start + 8 + 4 * random.randrange((length - 8) // 4)
            made[at : at + 4] = struct.pack(">I", random.choice((0, 1, 0xFFFF, 2**24, 2**31 - 1, 2**32 - 1)))
        case _:
            made[start + 8 : start + length] = bits(box[8:], random)
    return bytes(made)


def png_chunk(content: bytes, random: Random) -> bytes:
    """A chunk changed, with a checksum that fits: sizes, depths, palettes, compressed data."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    which = random.randrange(len(chunks))
    kind, data = chunks[which]
    match random.randrange(5):
        case 0 if kind == b"IHDR":
            fields = list(struct.unpack(">IIBBBBB", data))
            fields[random.randrange(7)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
            if random.random() < 0.4:
                fields[random.randrange(2)] = random.choice((1, 2**16, 2**31 - 1, 2**32 - 1))
            data = struct.pack(">IIBBBBB", *fields)
        case 1:
            chunks.insert(
                which, (random.choice((b"tRNS", b"PLTE", b"gAMA", b"IDAT", b"acTL")), random.randbytes(9))
            )
        case 2:
            bomb = zlib.compress(b"\0" * random.choice((1 << 10, 1 << 26)), 9)
            chunks.insert(1, (random.choice((b"zTXt", b"iCCP")), b"a\0\0" + bomb))
        case 3:
            del chunks[which]
            kind = b""
        case _:
            data = bits(data, random) if data else random.randbytes(4)
    if kind:
        chunks[min(which, len(chunks) - 1)] = (kind, data)
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return content[:8] + b"".join(packed)


def safetensors_header(content: bytes, random: Random) -> bytes:
    """A field of the header, its length, or bits of the file."""
    length = int.from_bytes(content[:8], "little")
    if random.random() < 0.2:
        return bits(content, random)
    header = json_field(content[8 : 8 + length], random)
    named = random.choice((len(header),) * 6 + (0, 1, len(header) + 8, 2**32, 2**63, 2**64 - 1))
    return named.to_bytes(8, "little") + header + content[8 + length :]


NPY_FIELDS: tuple[Sequence[str], ...] = (
    (
        "'<f4'",
        "'|O'",
        "'<f999'",
        "'<U9999999'",
        "[('a','<f4',(9,9))]",
        "'>i8'",
        "''",
        "None",
        "'|V0'",
        "'<M8[ns]'",
    ),
    ("False", "True", "0", "None"),
    (
        "(3, 20, 1)",
        "(3, 20)",
        "()",
        "(0,)",
        "(-1, 20, 1)",
        "(9999999999,)",
        "(2**40,)",
        "(1e9,)",
        "((3,),)",
        "(" * 400,
    ),
)


def npy_header(content: bytes, random: Random) -> bytes:
    """The text of the header, its version or its length, before the values."""
    values = content[10 + int.from_bytes(content[8:10], "little") :]
    descr, order, shape = (random.choice(tuple(field[:1]) * 12 + tuple(field)) for field in NPY_FIELDS)
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode() + b"\n"
    if random.random() < 0.3:
        text = bits(text, random)
    version = random.choice((b"\1\0",) * 5 + (b"\2\0", b"\3\0", b"\xff\xff"))
    width = 2 if version == b"\1\0" else 4
    length = random.choice((len(text),) * 6 + (0, 65_535, len(text) + 1))
    made = b"\x93NUMPY" + version + length.to_bytes(width, "little") + text + values
    return bits(made, random) if random.random() < 0.2 else made


def wire_fields(message: bytes, start: int = 0) -> list[tuple[int, int]]:
    """Begin and end of the length-delimited fields of a message, those inside them that read as messages too."""
    found, at = [], 0
    while at < len(message):
        begin = at
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            _, at = _varint(message, at)
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("truncated")
            found.append((start + begin, start + at + length))
            with suppress(ValueError, IndexError):
                found += wire_fields(message[at : at + length], start + at)
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("wire type")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        value |= (message[at + place] & 0x7F) << 7 * place
        if message[at + place] < 0x80:
            return value, at + place + 1
    raise ValueError("long")


def wire_format(content: bytes, random: Random) -> bytes:
    """A field of a graph moved, doubled, removed or with another number, which its lengths are not told of; or bits."""
    if random.random() < 0.4:
        return bits(content, random)
    fields = wire_fields(content)
    begin, end = random.choice(fields)
    other = random.choice(fields)[0]
    field, made = content[begin:end], bytearray(content)
    match random.randrange(5):
        case 0:
            made[other:other] = field
        case 1:
            del made[begin:end]
        case 2:
            made[begin] = random.randrange(256)
        case 3:
            # A tag with bits that are dropped.
            made[begin : begin + 1] = bytes((made[begin] | 0x80, 0x80, 0x80, 0x80, 0x10))
        case _:
            made += field
    return bytes(made)
