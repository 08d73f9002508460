"""The gmos-export tune command: its options, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import GmosError
from ..networks import AUTO, CHECKPOINTS, NetworkChoice
from ..options import (
    CONTEXT,
    DIR,
    FILE,
    FRAME_BLOCKS,
    INPUT,
    NETWORKS,
    RESULTS,
    SPEED,
    TRUST,
    GroupedCommand,
    checkpoint_options,
    count_option,
    frame_block_options,
    given_input,
    listed,
    option,
    rate_options,
    report_option,
    trust_options,
    wide_option,
)

SEARCH = "Search"


@click.command(name="tune", cls=GroupedCommand, context_settings=CONTEXT)
@click.argument("inputs", nargs=-1, type=given_input, metavar="VIDEO...")
@rate_options
@option(
    "held_out",
    INPUT,
    "A video that is not tuned on and tells what the recipe keeps elsewhere; may be repeated.  [default: none]",
    type=Path,
    multiple=True,
    metavar="VIDEO",
)
@option("frames", INPUT, "Frames of each video, 1 or more.  [default: all]", type=int, metavar="N")
@option(
    "target_masks",
    SEARCH,
    "Mean IoU with the exact run that every result of every video must keep, above 0 to 1, such as 0.95.",
    type=float,
    required=True,
    metavar="IOU",
)
@option(
    "levers",
    SEARCH,
    "What is tried, joined by commas or repeated: geometry (--geometry_every, --geometry_change), propose "
    "(--propose_every), conditioning (--max_conditioning), area (--pi3_area); of checkpoints also local "
    "(--local_layers) and precision (--precision), which tries other bundles as well.  [default: all]",
    multiple=True,
    metavar="NAMES",
)
@option(
    "budget_minutes",
    SEARCH,
    "When the search ends, in minutes, above 0. One that was interrupted goes on, and has what is left.",
    type=float,
    default=60.0,
    metavar="MIN",
)
@count_option(
    "rounds", SEARCH, 3, "Runs of the fastest ones and of the exact run, in turns, for their times."
)
@option("seed", SEARCH, "Decides between settings that promise the same.", type=int, default=0, metavar="N")
@option("name", RESULTS, "What the recipe is called.", default="tuned", metavar="NAME")
@option(
    "out",
    RESULTS,
    "The recipe's file.  [default: recipes/NAME.json in the bundle, beside it where that is signed or cannot be "
    "written; NAME.json without --bundle]",
    type=FILE,
)
@report_option("Write result.json, observations.jsonl (every trial) and report.html there.")
@wide_option
@option("bundle", NETWORKS, "The bundle to tune (gmos-export onnx).", type=DIR)
@option(
    "other_bundle",
    NETWORKS,
    "A bundle of the same networks made otherwise (another precision, local layers), tried as a lever; may be "
    "repeated. If it is the fastest that keeps the masks, the recipe goes into it.  [default: none]",
    type=DIR,
    to="other_bundles",
    multiple=True,
)
@trust_options
@checkpoint_options
@frame_block_options
@option("preset", NETWORKS, "Network sizes.  [default: as gmos-run]", metavar="NAME")
@option("backend", SPEED, "What runs the networks, as for gmos-run.", default=AUTO, metavar="NAME")
@option("device", SPEED, "cpu, cuda, cuda:N, or auto: CUDA where there is one.", default=AUTO, metavar="NAME")
def tune_command(**options: Any) -> None:
    """Find the fastest settings that keep the masks of VIDEO, on this device.

    VIDEO is one or more video files or directories of frames, like those that it will run on. Levers that trade masks
    for time are tried alone, then together; masks are held against those of the exact run. The recipe that comes out is
    for gmos-run --recipe.
    """
    if not options["inputs"]:
        raise GmosError("no VIDEO was given; expected videos like those that the networks will run on")
    # Imported here so that --help does not pay for NumPy.
    from ..evaluation.report.files import report_directory  # noqa: PLC0415
    from ..tuning.config import SEARCHED, TuneConfig  # noqa: PLC0415
    from ..tuning.report import report_tuned  # noqa: PLC0415
    from ..tuning.tune import tune  # noqa: PLC0415

    report = report_directory(options["report"])
    as_given = (
        "target_masks",
        "held_out",
        "other_bundles",
        "budget_minutes",
        "frames",
        "fps",
        "stride",
        "seed",
        "rounds",
        "name",
        "out",
    )
    config = TuneConfig(
        inputs=options["inputs"],
        networks=NetworkChoice(
            **{name: options[name] for name in ("variant", "preset", "bundle", *CHECKPOINTS, *FRAME_BLOCKS)},
            **{name: options[name] for name in ("backend", "device", *TRUST)},
        ),
        levers=listed(options["levers"]) or SEARCHED,
        **{name: options[name] for name in as_given},
    )
    tuned = tune(config)
    report_tuned(config, tuned, directory=report, wide=options["wide"])
    # Only now: a report that fails is made from what was measured.
    tuned.work.remove()
