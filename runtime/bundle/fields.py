"""Reading a bundle's JSON field by field, with one clear line for what is not as expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import GmosError


class Fields:
    """A JSON object of `bundle.json` or of an engine's record, with the place it came from and advice, for messages.

    Fields that nobody asks for are ignored: a later version may add some without a new format.
    """

    def __init__(self, value: object, where: str, advice: str = "export the bundle again") -> None:
        if not isinstance(value, dict):
            raise GmosError(f"{where} is {_kind(value)}, expected an object; {advice}")
        self._value: dict[str, Any] = value
        self._where = where
        self._advice = advice

    def text(self, name: str) -> str:
        """A string."""
        value: str = self._get(name, str, "a string")
        return value

    def whole(self, name: str) -> int:
        """A whole number, 0 or more."""
        value: int = self._get(name, int, "a whole number")
        if value < 0:
            raise self._error(name, value, "0 or more")
        return value

    def number(self, name: str) -> float:
        """A number."""
        return float(self._get(name, (int, float), "a number"))

    def flag(self, name: str) -> bool:
        """True or false; a missing one is false."""
        value = self._value.get(name, False)
        if not isinstance(value, bool):
            raise self._error(name, value, "true or false")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._get(name, list, "a list of strings")
        if not all(isinstance(value, str) for value in values):
            raise self._error(name, values, "a list of strings")
        return tuple(values)

    def axes(self, name: str) -> tuple[str | int, ...]:
        """A list of axis letters and lengths."""
        values = self._get(name, list, "a list of axis letters and lengths")
        if not all(isinstance(value, str) or type(value) is int for value in values):
            raise self._error(name, values, "a list of axis letters and lengths")
        return tuple(values)

    def is_null(self, name: str) -> bool:
        """Whether it is missing or null, which a field may be that is read only where it is not."""
        return self._value.get(name) is None

    def inner(self, name: str) -> Fields:
        """An object."""
        return Fields(self._get(name, dict, "an object"), f"{self._where}.{name}", self._advice)

    def each(self, name: str) -> Iterator[Fields]:
        """A list of objects."""
        for i, value in enumerate(self._get(name, list, "a list of objects")):
            yield Fields(value, f"{self._where}.{name}[{i}]", self._advice)

    def entries(self, name: str) -> Iterator[tuple[str, Fields]]:
        """An object of objects."""
        return self.inner(name).items()

    def items(self) -> Iterator[tuple[str, Fields]]:
        """The fields of an object of objects."""
        for key, value in self._value.items():
            yield key, Fields(value, f"{self._where}.{key}", self._advice)

    def plain(self, name: str) -> Mapping[str, Any]:
        """An object whose content is only shown or passed on."""
        value: dict[str, Any] = self._get(name, dict, "an object")
        return value

    def _get(self, name: str, kind: type | tuple[type, ...], expected: str) -> Any:  # noqa: ANN401 - JSON
        value = self._value.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._error(name, value, expected)
        return value

    def _error(self, name: str, value: object, expected: str) -> GmosError:
        given = "missing" if value is None else f"{value!r:.60}"
        return GmosError(f"{self._where}.{name} is {given}, expected {expected}; {self._advice}")


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", type(None): "null"}.get(type(value), type(value).__name__)
