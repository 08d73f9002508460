"""The gmos-doctor command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import (
    CONTEXT,
    MEASUREMENT,
    NETWORKS,
    PATH,
    GroupedCommand,
    flag,
    given_trust,
    json_flag,
    option,
    trust_options,
)


@click.command("gmos-doctor", cls=GroupedCommand, context_settings=CONTEXT)
@option(
    "bundle",
    group=NETWORKS,
    type=PATH,
    metavar="DIR",
    help="Also look at a bundle: are its files whole, do its engines fit this machine, were they checked here.  "
    "[default: none]",
)
@trust_options
@option(
    "device",
    group=NETWORKS,
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of the GPU that libraries and engines are asked about.",
)
@flag(
    "selftest",
    group=MEASUREMENT,
    help="Also run nano on every backend that is there, and hold its masks against stored ones of the reference: a "
    "minute, and a few more where engines are built first.",
)
@json_flag("the findings")
def doctor_command(bundle: Path | None, device: int, selftest: bool, as_json: bool, **trusted: Any) -> int:
    """What this machine can do, what is missing, and the command that mends it.

    Exit status: 0 some backend can run and nothing is wrong, 1 something is wrong (there, but not working) or no
    backend can run, 2 bad input. What is missing alone does not count.
    """
    from ..evaluation.doctor.command import diagnose_and_show  # noqa: PLC0415 - the work

    return diagnose_and_show(
        bundle=bundle, selftest=selftest, device=device, as_json=as_json, trust=given_trust(trusted)
    )
