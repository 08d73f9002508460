"""Which files a model reads, wherever in it a tensor is."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.files import external_locations


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
