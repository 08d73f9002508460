"""Weights beside the graphs: each tensor is written once, however many graphs read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

INLINE_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference can read them."""

ALIGNMENT_BYTES = 4096
"""A tensor starts on a page, so that a runtime can map it instead of reading it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    file: str
    offset: int


class WeightFiles:
    """Writes tensors into one file per network and finds those that another network has written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._places: dict[bytes, _Place] = {}

    def move_out(self, model: ir.Model, file: str) -> tuple[str, ...]:
        """Move the large tensors of a model into `file`, or to where an equal one is.

        Returns:
            The names of the files that the model now reads, its own first.
        """
        path, used = self._root / file, dict[str, None]()
        with path.open("wb") as stream:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < INLINE_BYTES:
                    continue
                content = tensor.tobytes()
                digest = hashlib.sha256(content).digest()
                place = self._places.get(digest)
                if place is None:
                    stream.write(b"\0" * (-stream.tell() % ALIGNMENT_BYTES))
                    place = self._places[digest] = _Place(file=file, offset=stream.tell())
                    stream.write(content)
                used[place.file] = None
                value.const_value = ir.ExternalTensor(
                    place.file,
                    place.offset,
                    len(content),
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=value.name or "",
                    base_dir=self._root,
                )
        if not path.stat().st_size:
            path.unlink()
        return tuple(sorted(used, key=lambda name: name != file))
