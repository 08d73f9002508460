"""What a calibration has worked out so far, on disk: one that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.files.atomic_file import replaced_at_end, writing
from ...runtime.files.regular_file import read_bounded
from ..sampling.sample_store import OwnDirectory, as_json, read_json, write_json

logger = logging.getLogger(__name__)

SCHEMA = "gmos-calibration-work/3"
SETTINGS = "settings.json"

MOST_BYTES = 2 << 30
"""Of a value that is kept; the largest are label maps of a video."""

Value = TypeVar("Value")


class FinishedWork(OwnDirectory):
    """The directory of what is finished: choices, comparisons, label maps. Files are whole or not there.

    Nothing is read or written before `begin`.
    """

    own = re.compile(r"settings\.json|[0-9a-f]{32}\.msgpack|\..*[.-]tmp|trial-\w+")
    file_advice = ", and unfinished work goes there; choose another --out"
    foreign_advice = ", and unfinished work goes there; move it or choose another --out"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep what is there if it was made with the same settings, all that work depends on; else remove it.

        Raises:
            GmosError: the directory cannot be written.
        """
        wanted = as_json({"schema": SCHEMA, **settings})
        if read_json(self.root / SETTINGS) == wanted:
            logger.info("goes on with what an earlier run left in %s", self.root)
            for killed in self.root.glob("trial-*"):
                shutil.rmtree(killed, ignore_errors=True)
            return
        if self.root.exists():
            logger.info("%s is of other settings; it is begun anew", self.root)
            self.remove()
        write_json(self.root / SETTINGS, wanted)

    def remove(self) -> None:
        """Remove everything: the bundle is complete."""
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def trial_folder(self) -> Iterator[Path]:
        """A directory for what is needed for a while; one that a kill leaves goes with the next `begin` or `remove`."""
        with (
            writing(self.root),
            tempfile.TemporaryDirectory(dir=self.root, prefix="trial-", ignore_cleanup_errors=True) as folder,
        ):
            yield Path(folder)

    def known(self, kind: type[Value], *key: object) -> Value | None:
        """What was kept under a key of values that JSON has; None if there is nothing, or it is damaged."""
        try:
            content = read_bounded(self._file(key), MOST_BYTES)
            return msgspec.msgpack.decode(content, type=kind, dec_hook=_array)
        except (OSError, ValueError, TypeError, msgspec.MsgspecError):
            return None

    def keep(self, value: object, *key: object) -> None:
        """Keep a value of dataclasses, plain values and arrays.

        Raises:
            GmosError: it cannot be written.
        """
        with replaced_at_end(self._file(key)) as temporary:
            temporary.write_bytes(msgspec.msgpack.encode(value, enc_hook=_plain))

    def once(self, kind: type[Value], make: Callable[[], Value], *key: object) -> Value:
        """What was kept under a key, or what `make` gives now, which is kept.

        Raises:
            GmosError: it cannot be written.
        """
        found = self.known(kind, *key)
        if found is None:
            found = make()
            self.keep(found, *key)
        return found

    def _file(self, key: object) -> Path:
        return self.root / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.msgpack"


def _plain(array: Any) -> object:  # noqa: ANN401 - what msgspec does not know
    if not isinstance(array, np.ndarray | np.generic):
        raise NotImplementedError(f"{type(array)} cannot be kept")
    return array.dtype.name, array.shape, array.tobytes()


def _array(_: type, plain: tuple[str, tuple[int, ...], bytes]) -> NDArray[Any]:
    dtype, shape, data = plain
    return np.frombuffer(data, dtype).reshape(shape)
