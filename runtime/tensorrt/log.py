"""What a TensorRT library says: kept for error messages and memory figures, passed on at debug level."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

KEPT_ERRORS = 8
"""The first error names the cause; those after it repeat it layer by layer."""

ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+)")
WEIGHTS = re.compile(r"Total Weights Memory: (\d+)")
"""The builder's own figures in bytes; the same words in TensorRT 10.3 to 11 and TensorRT-RTX 1.7."""


@dataclass(slots=True)
class LibraryLog:
    """Collects messages from whatever thread they come from; `start` forgets those before it.

    `activation_bytes` has one entry per optimisation profile in the order of their compilation.
    """

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_ERRORS))
    activation_bytes: list[int] = field(default_factory=list)
    weight_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Begin a build or a load."""
        with self._lock:
            self.errors.clear()
            self.activation_bytes.clear()
            self.weight_bytes = 0

    def add(self, severity: str, message: str) -> None:
        """Take one message; `severity` is the library's name for it."""
        logger.debug("%s: %s", severity.lower(), message)
        with self._lock:
            if severity in ("ERROR", "INTERNAL_ERROR"):
                if len(self.errors) < KEPT_ERRORS:
                    self.errors.append(message)
            elif found := ACTIVATIONS.search(message):
                self.activation_bytes.append(int(found[1]))
            elif found := WEIGHTS.search(message):
                self.weight_bytes = int(found[1])

    @property
    def out_of_memory(self) -> bool:
        """Whether an error is about memory: `out of memory` in some places, `OutOfMemory` in others."""
        with self._lock:
            return any("outofmemory" in error.lower().replace(" ", "") for error in self.errors)

    def reason(self) -> str:
        """The first error in one line, for a message that names what failed."""
        with self._lock:
            first = self.errors[0] if self.errors else "it gave no reason"
        return " ".join(first.split()).rstrip(".")


def library_logger(module: Any, log: LibraryLog) -> Any:  # noqa: ANN401 - the library is untyped
    """An `ILogger` of the library that writes to `log`.

    A process should make one per library: later ones are ignored by it.
    """

    class Logger(module.ILogger):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            # The bindings refuse a subclass whose base was not initialised this way.
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity != module.ILogger.VERBOSE:
                log.add(severity.name, message)

    return Logger()
