"""Options of gmos-run for lists of videos: where they come from, who runs them, and what becomes of failures."""

from __future__ import annotations

import click

from ..options import INPUT, RESULTS, SPEED, flag, named_path, option, together

OF_LISTS = ("inputs_from", "shard", "stop_on_error", "as_json", "json_lines", "workers")
OF_RAY = ("ray", "cpus_per_worker", "gpus_per_worker")

LIST_FILE = named_path("file")

list_inputs_options = together(
    option(
        "inputs_from",
        INPUT,
        "More inputs, one a line; - is standard input.",
        type=LIST_FILE,
        metavar="FILE",
    ),
    option(
        "shard",
        INPUT,
        "Run the I-th of N parts of the list, I from 1 to N: every sequence is in one of them, whatever the order "
        "of the list.  [default: all]",
        metavar="I/N",
    ),
)

list_results_options = together(
    flag("stop_on_error", RESULTS, "End with the first sequence that fails; without it the others are run."),
    option(
        "json_lines",
        RESULTS,
        "Add a line of JSON to this file as each sequence ends: done, skipped or failed, with its error.  "
        "[default: not written]",
        type=LIST_FILE,
        metavar="FILE",
    ),
)

workers_options = together(
    option(
        "workers",
        SPEED,
        "Processes of this machine that share a list, 1 or more, each with its part of the cores, the memory and the "
        "GPUs; with --ray, workers of the cluster. One that dies is started anew.  [default: none, this process runs "
        "it; with --ray, as many as there is room for]",
        type=click.IntRange(min=1),
        metavar="N",
    ),
    option(
        "threads",
        SPEED,
        "Threads of the CPU that networks compute with in each process, 1 or more.  [default: one per physical core; "
        "with --workers each worker's part of the cores]",
        type=click.IntRange(min=1),
        metavar="N",
    ),
    option(
        "ray",
        SPEED,
        "Run a list on a Ray cluster: HOST:PORT, auto for the one that this machine belongs to, or nothing for workers "
        "of this machine by Ray. --save_dir must be on a file system that all nodes share.  [default: no Ray]",
        metavar="ADDRESS",
        is_flag=False,
        flag_value="local",
    ),
    option(
        "cpus_per_worker",
        SPEED,
        "CPUs that a worker of --ray asks for, and threads that it computes with.",
        type=float,
        default=1.0,
        metavar="CPUS",
    ),
    option(
        "gpus_per_worker",
        SPEED,
        "GPUs that a worker of --ray asks for; a part of one, such as 0.5, bounds what engines take of its memory.  "
        "[default: 1 where the cluster has GPUs, else 0]",
        type=float,
        metavar="GPUS",
    ),
)
