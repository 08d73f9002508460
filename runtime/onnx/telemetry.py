"""Keeps ONNX Runtime's telemetry off: called before every import of it."""

from __future__ import annotations

import logging
import os
import re
import sys

logger = logging.getLogger(__name__)

VARIABLE, OFF = "ORT_DISABLE_TELEMETRY", "1"
"""Read when ONNX Runtime is imported; `disable_telemetry_events()` comes too late."""

SINCE = (1, 29)
"""The first version that looks names up and writes into the user's cache, on Linux too."""


def turn_telemetry_off() -> None:
    """Tell ONNX Runtime, unless the user has set the variable; warn once if it was imported before."""
    loaded = sys.modules.get("onnxruntime")
    if loaded is not None and VARIABLE not in os.environ and _has_telemetry(str(loaded.__version__)):
        logger.warning(
            "ONNX Runtime was imported before gmos-deploy, with its telemetry on; set %s=%s before that",
            VARIABLE,
            OFF,
        )
    os.environ.setdefault(VARIABLE, OFF)


def _has_telemetry(version: str) -> bool:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2]) >= SINCE
