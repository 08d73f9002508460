"""Options of gmos-run that concern streams, as one decorator, and how they become a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..errors import GmosError
from ..options import flag, option, together

LIVE = "Live"

SECONDS: dict[str, Any] = {"type": float, "metavar": "SECONDS"}

live_options = together(
    flag("live", LIVE, "Play a file, a directory of frames or a finite address as a stream."),
    option(
        "drop",
        LIVE,
        "Where the device is slower than the source: none has the source wait, oldest leaves out the oldest of two "
        "frames that wait; a file is then played in its own time.  [default: oldest; none for files and pipes]",
        type=click.Choice(["none", "oldest"]),
    ),
    option(
        "reset_after",
        LIVE,
        "A stall, or a jump of the time stamps, of so many seconds begins a new sequence; 0: none does.  [default: 2]",
        **SECONDS,
    ),
    option(
        "retire_after",
        LIVE,
        "An object that has had no pixel for so many seconds is gone; 0: never.  [default: 10]",
        **SECONDS,
    ),
    option(
        "timeout",
        LIVE,
        "Seconds to connect, and to wait for a picture before the source counts as lost.  [default: 10]",
        **SECONDS,
    ),
    option(
        "reconnect",
        LIVE,
        "For how many seconds a source that was lost is tried again; 0: not at all; inf: for ever.  [default: 60]",
        **SECONDS,
    ),
    option(
        "segment",
        LIVE,
        "Seconds of a stream in one segment of its files.  [default: 60]",
        **SECONDS,
    ),
    option(
        "keep_segments",
        LIVE,
        "How many segments stay; older ones are removed.  [default: all]",
        type=click.IntRange(min=1),
        metavar="N",
    ),
    option(
        "tracks",
        LIVE,
        "Write every answer as a line of JSON to standard output, with -.  [default: not written]",
        type=click.Choice(["-"]),
    ),
    option(
        "preview",
        LIVE,
        "Show answers on a page at this port while they come; another host than 127.0.0.1 needs --preview_token.  "
        "[default: no page]",
        metavar="[HOST:]PORT",
    ),
    option(
        "preview_token",
        LIVE,
        "What viewers must give to see the page.  [default: that of the environment variable GMOS_PREVIEW_TOKEN; none "
        "is asked for]",
        envvar="GMOS_PREVIEW_TOKEN",
        metavar="TOKEN",
    ),
)
"""What streams add to the options of a run."""

OF_STREAMS = (
    *("drop", "reset_after", "retire_after", "timeout", "reconnect", "segment", "keep_segments", "tracks"),
    "preview",
)
"""Their names, but for --live itself and for what an environment variable may give."""


def refuse_live_options(options: Mapping[str, Any]) -> None:
    """Of a run over files.

    Raises:
        GmosError: one of them was given.
    """
    for name in OF_STREAMS:
        if options[name] is not None:
            raise GmosError(
                f"--{name} {options[name]}: goes with a stream, and the inputs are files; give --live to play one as a "
                "stream"
            )


def refuse_file_options(options: Mapping[str, Any]) -> None:
    """Of a run on a stream.

    Raises:
        GmosError: one of them was given, or two outputs are to go to the same place.
    """
    for name in (
        "recipe",
        "dataset",
        "resume",
        "overwrite",
        "inputs_from",
        "shard",
        "stop_on_error",
        "json_lines",
        "workers",
        "ray",
    ):
        if options[name]:
            raise GmosError(
                f"--{name} goes with files, and the input is a stream; each run on one writes into a folder of its own"
            )
    if options["tracks"] is not None and options["as_json"]:
        raise GmosError("--tracks - and --json both write to standard output; give one")
