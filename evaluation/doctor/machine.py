"""Findings on the machine: Python, platform, cores, memory, codecs, places to write to."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from ...runtime.files.user_folders import user_cache
from ...runtime.host_memory import free_host_bytes, usable_cores
from ..report.software import software
from .finding import MACHINE, Finding, State
from .system import Jetson, existing_folder, group_limits

GIB = 1 << 30

LEAST_MEMORY_BYTES = 2 * GIB
"""Nano's networks and a short video take 1 GB."""

LEAST_SPACE_BYTES = GIB
"""For nano's bundle and its engines, or the features of 100 frames at published size."""

DECODERS, ENCODER = ("h264", "hevc", "vp9", "av1"), "libx264"
"""Of video files, the first needed for .mp4 files of most cameras; and that of overlays."""


def machine_findings(jetson: Jetson | None) -> Iterator[Finding]:
    """All of them; only what is asked here runs in this process."""
    yield _finding("gmos-deploy", "ok", software())
    supported = sys.version_info >= (3, 10)
    yield _finding(
        "python",
        "ok" if supported else "wrong",
        f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}",
        "" if supported else "python3.12 -m venv .venv",
    )
    yield _platform(jetson)
    limits, cores = group_limits(), usable_cores()
    allowed = "" if limits.cores is None else f", of which the control group allows {limits.cores:g}"
    yield _finding("cores", "ok", f"{cores}{allowed}")
    yield _memory(limits.memory_bytes)
    yield _codecs()
    yield from _places()


def _finding(name: str, state: State, found: str, mend: str = "") -> Finding:
    return Finding(group=MACHINE, name=name, state=state, found=found, mend=mend)


def _platform(jetson: Jetson | None) -> Finding:
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if jetson is None:
        return _finding("platform", "ok", system)
    if jetson.jetpack is not None and jetson.jetpack < 6:
        return _finding(
            "platform", "wrong", f"{jetson}; its TensorRT is older than 10.3: install JetPack 6 or later"
        )
    return _finding("platform", "ok", f"{jetson}; {system}")


def _memory(limit: int | None) -> Finding:
    total, free = int(psutil.virtual_memory().total), free_host_bytes()
    bounded = f", {limit / GIB:.1f} allowed by the control group" if limit and limit < total else ""
    words = f"{total / GIB:.1f} GiB{bounded}, {free / GIB:.1f} free"
    if free < LEAST_MEMORY_BYTES:
        return _finding("memory", "missing", f"{words}; expected {LEAST_MEMORY_BYTES / GIB:.0f} or more")
    return _finding("memory", "ok", words)


def _codecs() -> Finding:
    import av  # noqa: PLC0415 - only a diagnosis needs it

    known = av.codecs_available
    decoders = [name for name in DECODERS if name in known]
    lost = [name for name in (DECODERS[0], ENCODER) if name not in known]
    words = f"PyAV {av.__version__} reads {', '.join(decoders) or 'none'}"
    if lost:
        again = "pip install --force-reinstall --only-binary av av"
        return _finding("codecs", "wrong", f"{words}, and has no {' and no '.join(lost)}", again)
    return _finding("codecs", "ok", f"{words}, writes H.264 ({ENCODER})")


def cache_error() -> str | None:
    """Why nothing can be written into the cache folder, in words, if so."""
    cache = user_cache()
    if cache is None:
        return "none: this user has no home directory"
    around = existing_folder(cache)
    try:
        # What is to be a folder on the way there may be a file, or a link to nowhere.
        if around != cache and os.path.lexists(around / cache.relative_to(around).parts[0]):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=around):
            return None
    except OSError as error:
        return f"{cache} cannot be written ({error.strerror})"


def _places() -> Iterator[Finding]:
    """The cache folder, and the space there and for temporary files."""
    cache, error = user_cache(), cache_error()
    if error is None:
        yield _finding("cache folder", "ok", str(cache))
    else:
        mend = "" if sys.platform == "win32" else "export XDG_CACHE_HOME=DIR  # a folder of yours"
        yield _finding("cache folder", "wrong", error, mend)
    places = {} if cache is None else {"space for caches": existing_folder(cache)}
    places["space for videos"] = Path(tempfile.gettempdir())
    for name, place in places.items():
        free = shutil.disk_usage(place).free
        words = f"{free / GIB:.1f} GiB in {place}"
        if free < LEAST_SPACE_BYTES:
            yield _finding(name, "missing", f"{words}; expected {LEAST_SPACE_BYTES / GIB:.0f} or more")
        else:
            yield _finding(name, "ok", words)
