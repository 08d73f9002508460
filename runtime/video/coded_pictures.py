"""Which coded samples owe a picture, and which are damaged: some only carry settings, or are never shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

START_CODE = b"\0\0\1"

JOINED = ("h264", "hevc")
"""Codecs whose decoder takes a sample without a picture for damage, and can have it with the next one."""

FROM_KEY_FRAME = ("vp8", "vp9")
"""Codecs whose decoder takes pictures before the first key frame for damage."""

VOP, VIDEO_OBJECT_LAYERS = 0xB6, range(0x20, 0x30)
"""MPEG-4 Part 2, ISO/IEC 14496-2, 6.2: start codes of a picture and of the layer that it is of."""


def picture_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool]:
    """What tells of a sample whether it owes a picture; of codecs without such samples it always says yes.

    Args:
        codec: FFmpeg's name.
        extradata: of the codec: avcC, hvcC, or headers.
    """
    make = TESTS.get(codec)
    return (lambda _: True) if make is None else make(extradata or b"")


def damage_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool]:
    """What suspects a sample without decoding it: a hole in the file, or units that reach beyond it.

    Args:
        codec: FFmpeg's name.
        extradata: of the codec.
    """
    if codec == "rawvideo":
        return lambda _: False
    length = _length_bytes(extradata or b"", LENGTH_AT.get(codec))
    return lambda sample: not sample.lstrip(b"\0") or bool(length and not all(_units(sample, length)))


LENGTH_AT = {"h264": 4, "hevc": 21}
"""Where avcC and hvcC have the bytes of a unit's length, less one, in their lowest two bits."""


def _length_bytes(extradata: bytes, at: int | None) -> int:
    """Bytes of the length before each unit, 0 where start codes separate them."""
    return (extradata[at] & 3) + 1 if at and extradata[:1] == b"\1" and len(extradata) > at else 0


def _h264(extradata: bytes) -> Callable[[bytes], bool]:
    """ITU-T H.264, 7.4.1: types of SEI, parameter sets, delimiters, ends and filler."""
    length = _length_bytes(extradata, LENGTH_AT["h264"])
    return lambda sample: (
        not _only(unit[:1] and unit[0] & 31 in range(6, 14) for unit in _units(sample, length))
    )


def _hevc(extradata: bytes) -> Callable[[bytes], bool]:
    """ITU-T H.265, 7.4.2.2: types of parameter sets, delimiters, ends, filler and SEI."""
    length = _length_bytes(extradata, LENGTH_AT["hevc"])
    return lambda sample: (
        not _only(unit[:1] and unit[0] >> 1 & 63 in range(32, 41) for unit in _units(sample, length))
    )


def _only(found: Iterable[object]) -> bool:
    """Whether there is something and all of it is true: what is not well-formed owes a picture."""
    kinds = list(found)
    return bool(kinds) and all(kinds)


def _units(sample: bytes, length: int) -> Iterator[bytes]:
    """The NAL units of a sample, after lengths of so many bytes, or after start codes if 0; empty ones are damage."""
    if not length:
        before, *units = sample.split(START_CODE)
        yield from units if not before.strip(b"\0") else [b""]
        return
    start = 0
    while start < len(sample):
        end = start + length + int.from_bytes(sample[start : start + length], "big")
        yield sample[start + length : end] if end <= len(sample) else b""
        start = end


def _mpeg4(extradata: bytes) -> Callable[[bytes], bool]:
    """A VOP whose bit vop_coded is 0 repeats the last picture."""
    bits = _increment_bits(extradata)

    def owes(sample: bytes) -> bool:
        nonlocal bits
        bits = _increment_bits(sample) or bits
        pictures = [unit[1:] for unit in sample.split(START_CODE)[1:] if unit[:1] == bytes((VOP,))]
        return not pictures or bits is None or any(_coded(vop, bits) for vop in pictures)

    return owes


def _increment_bits(headers: bytes) -> int | None:
    """Bits of vop_time_increment by the video object layer among headers, None without one."""
    for unit in headers.split(START_CODE)[1:]:
        if unit[:1] and unit[0] in VIDEO_OBJECT_LAYERS:
            read = _Bits(unit[1:])
            read.take(9)
            if read.take(1):
                read.take(7)
            if read.take(4) == 15:
                read.take(16)
            if read.take(1):
                read.take(3)
                if read.take(1):
                    read.take(79)
            read.take(3)
            return max(1, (read.take(16) - 1).bit_length())
    return None


def _coded(vop: bytes, increment_bits: int) -> bool:
    read = _Bits(vop)
    read.take(2)
    while read.take(1):
        pass
    read.take(2 + increment_bits)
    return bool(read.take(1))


class _Bits:
    """Bits from the first on; zeros after the last."""

    def __init__(self, data: bytes) -> None:
        self._data = data[:64]
        self._at = 0

    def take(self, count: int) -> int:
        size = 8 * len(self._data)
        end = self._at + count
        value = int.from_bytes(self._data, "big") << max(0, end - size) >> max(0, size - end)
        self._at = end
        return value & ((1 << count) - 1)


TESTS: Mapping[str, Callable[[bytes], Callable[[bytes], bool]]] = {
    "h264": _h264,
    "hevc": _hevc,
    "mpeg4": _mpeg4,
    # RFC 6386, 9.1: the bit show_frame of the frame tag; alternate references are never shown.
    "vp8": lambda _: lambda sample: bool(sample[0] >> 4 & 1),
}
