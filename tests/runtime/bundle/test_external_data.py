"""Which files a model reads, wherever in it a tensor is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.onnx_cpp2py_export import inliner

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.external_data import CHILDREN, external_locations


def message(*fields: tuple[int, bytes]) -> bytes:
    """A Protocol Buffers message of length-delimited fields, with a long length where it needs one."""
    out = b""
    for number, content in fields:
        tag, length = number << 3 | 2, len(content)
        out += varint(tag) + varint(length) + content
    return out


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def tensor(location: str) -> bytes:
    entry = message((1, b"location"), (2, location.encode()))
    offset = message((1, b"offset"), (2, b"4096"))
    return message((8, b"name"), (13, offset), (13, entry))


GRAPH, FUNCTION, NODE, INITIALIZER, SPARSE = 7, 25, 1, 5, 15


@pytest.mark.parametrize(
    "model",
    [
        message((GRAPH, message((INITIALIZER, tensor("a.bin"))))),
        message((GRAPH, message((SPARSE, message((1, tensor("a.bin"))))))),
        message((GRAPH, message((NODE, message((5, message((5, tensor("a.bin"))))))))),
        message((GRAPH, message((NODE, message((5, message((10, tensor("a.bin"))))))))),
        message(
            (GRAPH, message((NODE, message((5, message((6, message((INITIALIZER, tensor("a.bin")))))))))),
        ),
        message((FUNCTION, message((7, message((5, message((5, tensor("a.bin"))))))))),
    ],
    ids=["initialiser", "sparse", "attribute", "attribute list", "subgraph", "function"],
)
def test_a_tensor_is_found_wherever_it_is(model: bytes, tmp_path: Path) -> None:
    """A reader of the file would follow it from any of these places."""
    (tmp_path / "m.onnx").write_bytes(model)
    assert external_locations(tmp_path / "m.onnx") == {"a.bin"}


def test_other_fields_are_passed_over(tmp_path: Path) -> None:
    """Varints, fixed-size numbers and long strings between the tensors."""
    numbers = bytes([1 << 3, 0xFF, 0x01, 2 << 3 | 5, 1, 2, 3, 4, 3 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8])
    model = numbers + message((2, b"x" * 1000), (GRAPH, message((INITIALIZER, tensor("a.bin")))))
    (tmp_path / "m.onnx").write_bytes(model)
    assert external_locations(tmp_path / "m.onnx") == {"a.bin"}


def test_a_model_without_external_tensors_reads_nothing(tmp_path: Path) -> None:
    """An inline tensor has no location."""
    inline = message((8, b"name"), (9, b"\0" * 16))
    (tmp_path / "m.onnx").write_bytes(message((GRAPH, message((INITIALIZER, inline)))))
    assert external_locations(tmp_path / "m.onnx") == set()


@pytest.mark.parametrize("content", [b"\x3a\x7f", b"\x3a", b"\x3f\x01", b"\x80" * 20])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    """Cut short, of a wire type that there is not, or a number without an end."""
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(GmosError, match=r"m\.onnx is not an ONNX model"):
        external_locations(tmp_path / "m.onnx")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(GmosError, match=r"m\.onnx cannot be read \(No such file"):
        external_locations(tmp_path / "m.onnx")


def test_a_memory_address_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime would read there."""
    location = "*/_ORT_MEM_ADDR_/*"
    with pytest.raises(GmosError, match=r"m\.onnx reads tensors from an address in memory; do not trust it"):
        external_locations(tmp_path / "m.onnx", message((GRAPH, message((INITIALIZER, tensor(location))))))


def nested(depth: int) -> bytes:
    """A tensor in so many graphs inside each other."""
    graph = message((INITIALIZER, tensor("a.bin")))
    for _ in range(depth):
        graph = message((NODE, message((5, message((6, graph))))))
    return message((GRAPH, graph))


def test_depth_is_bounded_as_parsers_bound_it(tmp_path: Path) -> None:
    """What they still read is read here, what is deeper is refused in a line."""
    deepest = 0
    for depth in range(25, 40):
        try:
            onnx.ModelProto.FromString(nested(depth))
        except DecodeError:
            break
        deepest = depth
        assert external_locations(tmp_path / "m.onnx", nested(depth)) == {"a.bin"}
    assert 25 < deepest < 39
    for depth in (40, 400, 3000):
        with pytest.raises(GmosError, match=r"m\.onnx is not an ONNX model"):
            external_locations(tmp_path / "m.onnx", nested(depth))


def long_varint(value: int, size: int, high: int = 0) -> bytes:
    """A number in more bytes than it needs, with bits beyond those that are read."""
    value |= high << 32
    return bytes((value >> 7 * place & 0x7F) | (0x80 if place < size - 1 else 0) for place in range(size))


def lengthy(number: int, content: bytes, *, size: int = 5, high: int = 0) -> bytes:
    return long_varint(number << 3 | 2, size, high) + varint(len(content)) + content


def test_tags_have_32_bits(tmp_path: Path) -> None:
    """ONNX Runtime reads a tag with bits beyond as the tag without them, and so does the scan."""
    entry = message((1, b"location"), (2, b"secret.bin"))
    hidden = lengthy(13, entry, high=1)
    assert hidden.startswith(bytes.fromhex("ea80808010"))
    values = bytes([1 << 3, 4, 2 << 3, 1, 14 << 3, 1]) + message((8, b"w"))
    made = values + hidden
    path = tmp_path / "m.onnx"
    path.write_bytes(identity_of(made))
    assert external_locations(path) == {"secret.bin"}
    np.arange(4, dtype=np.float32).tofile(tmp_path / "secret.bin")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(None, {})[0].tolist() == [0, 1, 2, 3]


def identity_of(initializer: bytes) -> bytes:
    """A model that gives a weight of four numbers out."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString() + message((GRAPH, message((INITIALIZER, initializer))))


def read_by_the_parser(found: Any) -> set[str]:
    """The locations of all tensors, wherever ONNX's own parser put them."""
    if isinstance(found, onnx.TensorProto):
        return {entry.value for entry in found.external_data if entry.key == "location"}
    locations = set()
    for field, value in found.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                locations |= read_by_the_parser(one)
    return locations


FIELDS = {kind: list(children.items()) for kind, children in CHILDREN.items()}
TEXTS = (b"location", b"a.bin", b"b/c.bin", b"offset", b"", b"../x", b"location\0")


def odd_message(random: Random, kind: str = "model", depth: int = 6) -> bytes:
    """A message of the format, written as no writer would: long numbers, bits beyond, repeated and unknown fields."""
    parts = []
    for _ in range(random.randint(1, 3)):
        child, number, content = None, random.randint(30, 60), random.randbytes(random.randint(0, 6))
        if random.random() < 0.95:
            if kind == "external":
                number, content = random.choice((1, 2)), random.choice(TEXTS)
            else:
                number, child = random.choice(FIELDS[kind])
                content = odd_message(random, child, depth - 1) if depth else b""
        if kind == "external" and random.random() < 0.6:
            parts.append(message((1, b"location"), (2, random.choice(TEXTS))))
        odd = random.random() < 0.03
        wire = random.choice((2, 2, 0, 1, 3, 5)) if odd else 2
        size = random.choice((0, 2, 3, 5, 6, 10)) if odd else 0
        high = random.choice((0, 1, 7)) if size >= 5 else 0
        tag = number << 3 | wire
        head = long_varint(tag, max(size, len(varint(tag))), high)
        if wire == 2:
            width = random.choice((0, 2, 5, 6, 10)) if odd else 0
            head += long_varint(len(content), max(width, len(varint(len(content)))))
        elif wire == 3:
            content += varint(number << 3 | 4)
        parts.append(head + content)
    made = b"".join(parts)
    if kind == "model" and random.random() < 0.2:
        at = random.randrange(len(made))
        made = made[:at] + random.randbytes(1) + made[at + 1 :]
    return made


def parsed(model: bytes) -> Iterator[onnx.ModelProto]:
    """What the two parsers that ONNX comes with make of it: Python's, and that of C++, which ONNX Runtime has too."""
    with suppress(DecodeError):
        yield onnx.ModelProto.FromString(model)
    with suppress(Exception):
        # It only reads and writes a model without functions that are called.
        yield onnx.ModelProto.FromString(inliner.inline_local_functions(model, False))


def judge(model: bytes) -> tuple[set[str], bool]:
    """The files that a parser reads, after holding the scan to them; and whether the scan refused the graph."""
    found: set[str] = set()
    for one in parsed(model):
        found |= read_by_the_parser(one)
    try:
        seen = external_locations(Path("m.onnx"), model)
    except GmosError:
        return found, True
    assert found <= seen, model.hex()
    return found, False


@settings(max_examples=int(os.environ.get("GMOS_FUZZ_EXAMPLES", "300")), deadline=None)
@given(random=st.randoms(use_true_random=True))
def test_what_a_parser_reads_the_scan_has_seen(random: Random) -> None:
    """Whatever file a graph makes one of ONNX's parsers read; or the scan refuses the graph."""
    judge(odd_message(random))


def test_what_is_tried_there_is_read_by_parsers() -> None:
    """Most graphs that name files are read by a parser and by the scan, and some the scan refuses."""
    random = Random(21)  # noqa: S311 - a seed
    judged = [judge(odd_message(random)) for _ in range(500)]
    assert sum(bool(found) and not refused for found, refused in judged) > 40
    assert sum(refused for _, refused in judged) > 50
