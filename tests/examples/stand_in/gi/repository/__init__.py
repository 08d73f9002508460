"""GStreamer, of which one source is known: red pictures of 31x24 pixels, ten a second."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np

WIDTH, HEIGHT, STEP = 31, 24, 96


class _Sample:
    def __init__(self, index: int) -> None:
        rows = np.zeros((HEIGHT, STEP), np.uint8)
        rows[:, : 3 * WIDTH : 3] = 255
        self._data, self._index = rows.tobytes(), index

    def get_caps(self) -> Any:
        facts = {"height": HEIGHT, "width": WIDTH}
        found = SimpleNamespace(get_value=facts.get, get_fraction=lambda _: (True, 10, 1))
        return SimpleNamespace(get_structure=lambda _: found)

    def get_buffer(self) -> Any:
        return SimpleNamespace(
            pts=self._index * 10**8,
            get_size=lambda: len(self._data),
            extract_dup=lambda a, b: self._data[a:b],
        )


class _Frames:
    def __init__(self, count: int) -> None:
        self._left = [_Sample(index) for index in range(count)]

    def try_pull_sample(self, _limit_ns: int) -> _Sample | None:
        return self._left.pop(0) if self._left else None

    def is_eos(self) -> bool:
        return not self._left


class _Pipeline:
    def __init__(self, text: str) -> None:
        found = re.search(r"num-buffers=(\d+)", text)
        self._failed = "no-such-file" in text
        self._frames = _Frames(int(found[1]) if found else 0)

    def get_by_name(self, _name: str) -> _Frames:
        return self._frames

    def get_bus(self) -> Any:
        error = SimpleNamespace(parse_error=lambda: (SimpleNamespace(message="Resource not found."), ""))
        return SimpleNamespace(pop_filtered=lambda _: error if self._failed else None)

    def set_state(self, _state: str) -> None:
        pass


Gst = SimpleNamespace(
    init=lambda _: None,
    parse_launch=_Pipeline,
    MessageType=SimpleNamespace(ERROR="error"),
    State=SimpleNamespace(PLAYING="playing", NULL="null"),
    SECOND=10**9,
)
GstApp = None
