"""Options of gmos-run for lists of videos: where they come from, which part is run, and what becomes of failures."""

from __future__ import annotations

from ..options import INPUT, RESULTS, flag, named_path, option, together

OF_LISTS = ("inputs_from", "shard", "stop_on_error", "as_json", "json_lines")

list_options = together(
    option(
        "inputs_from",
        INPUT,
        "More inputs, one a line; - is standard input.",
        type=named_path("file"),
        metavar="FILE",
    ),
    option(
        "shard",
        INPUT,
        "Run the I-th of N parts of the list, I from 1 to N: every sequence is in one of them, whatever the order "
        "of the list.  [default: all]",
        metavar="I/N",
    ),
    flag("stop_on_error", RESULTS, "End with the first sequence that fails; without it the others are run."),
    option(
        "json_lines",
        RESULTS,
        "Add a line of JSON to this file as each sequence ends: done, skipped or failed, with its error.  "
        "[default: not written]",
        type=named_path("file"),
        metavar="FILE",
    ),
)
