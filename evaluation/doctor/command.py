"""`gmos-doctor` behind its options: ask everything, show it, and say with the exit status whether it will do."""

from __future__ import annotations

import json
import logging
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ...errors import GmosError, printable
from ...runtime.bundle.manifest import MANIFEST, open_bundle
from ...runtime.bundle.signature import Trust
from ...runtime.files.made_from import KEY, NOTHING, MadeFrom
from ...runtime.tensorrt.library import FLAVOURS
from ...runtime.tensorrt.record import DeviceIdentity
from ..report.environment import environment
from .bundle_findings import bundle_findings
from .finding import NEEDS, Finding, backend_findings, exit_status, ready
from .gpu import devices_of, gpu_findings
from .libraries import Ask, library_findings
from .machine import machine_findings
from .probes import ask
from .selftest import selftest_findings
from .system import find_jetson

logger = logging.getLogger(__name__)

SCHEMA = "gmos-doctor/1"

WIDTH = 80
STYLES: dict[str, dict[str, Any]] = {
    "ok": {"fg": "green"},
    "optional": {"dim": True},
    "missing": {"fg": "yellow"},
    "wrong": {"fg": "red", "bold": True},
}


def diagnose_and_show(
    *, bundle: Path | None, selftest: bool, device: int, as_json: bool, trust: Trust | None = None
) -> int:
    """Find out, show it, and return the exit status.

    Raises:
        GmosError: `bundle` is none, or there is no CUDA device of that number.
    """
    found = diagnose(bundle=bundle, selftest=selftest, device=device, trust=trust)
    status = exit_status(found)
    if as_json:
        answer = {
            "schema": SCHEMA,
            "status": status,
            "findings": [asdict(finding) for finding in found],
            KEY: asdict(_made_from(bundle, trust)),
            "environment": environment(),
        }
        click.echo(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size((WIDTH, 24)).columns, 2 * WIDTH)
        for line in lines(found, max(width, WIDTH // 2)):
            click.echo(line)
    return status


def _made_from(bundle: Path | None, trust: Trust | None) -> MadeFrom:
    """The bundle that was looked at; of one that is damaged, or not as it was signed, findings tell."""
    try:
        return NOTHING if bundle is None else open_bundle(bundle, trust).made_from()
    except GmosError:
        return NOTHING


def diagnose(
    *,
    bundle: Path | None = None,
    selftest: bool = False,
    device: int = 0,
    trust: Trust | None = None,
    ask: Ask = ask,
) -> list[Finding]:
    """All findings, in the order in which they are shown.

    Args:
        bundle: whose files and engines are looked at as well.
        selftest: also run nano on every backend that is there.
        device: number of the GPU that libraries and engines are asked about.
        trust: whom the user trusts with what is in the bundle.
        ask: puts a question to a library, in a process of its own.

    Raises:
        GmosError: as `diagnose_and_show`.
    """
    if bundle is not None and not (bundle / MANIFEST).is_file():
        # Not a bundle that is damaged, but another directory: refused, in the words of all commands.
        open_bundle(bundle)
    jetson = find_jetson()
    # Each library is asked in its own process; two at a time, as imports are most of it.
    with ThreadPoolExecutor(2) as pool:
        cuda, cudnn = pool.map(ask, ("cuda", "cudnn"))
    devices = devices_of(cuda)
    if device and device >= len(devices):
        raise GmosError(
            f"--device {device}: CUDA shows {len(devices)} devices, counted from 0; expected one of them"
        )
    found = [*machine_findings(jetson), *gpu_findings(cuda, cudnn, jetson)]
    driver = cuda.value["driver"] if cuda.value else None
    found += library_findings(ask, devices, jetson, device=device, driver=driver)
    found += backend_findings(found)
    if bundle is not None:
        identity = None
        if device < len(devices):
            major, minor = devices[device]["compute_capability"]
            identity = DeviceIdentity(name=devices[device]["name"], compute_capability=(major, minor))
        loadable = {one.name for one in found if one.state == "ok"}
        flavours = tuple(flavour for flavour in FLAVOURS if flavour in loadable)
        found += bundle_findings(bundle, identity, index=device, loadable=flavours, trust=trust)
    if selftest:
        usable = [name for name in NEEDS if ready(found, name)]
        logger.info("self-test: nano on %s", ", ".join(usable) or "nothing, as no backend can run")
        found += selftest_findings(usable, index=device)
    return found


def lines(found: Sequence[Finding], width: int = WIDTH) -> Iterator[str]:
    """Findings on a terminal of some columns: a line each, what mends it below, commands whole."""
    names = max(len(finding.name) for finding in found)
    states = max(map(len, STYLES))
    group = ""
    for one in found:
        finding = replace(one, name=printable(one.name), found=printable(one.found), mend=printable(one.mend))
        if finding.group != group:
            yield from ([""] if group else [])
            yield click.style(finding.group, bold=True)
            group = finding.group
        head = f"{finding.state:<{states}}  {finding.name:<{names}}  "
        first, *rest = textwrap.wrap(
            finding.found, width - len(head), break_long_words=False, break_on_hyphens=False
        ) or [""]
        yield click.style(finding.state, **STYLES[finding.state]) + f"{head[len(finding.state) :]}{first}"
        yield from (" " * len(head) + line for line in rest)
        if finding.mend:
            yield f"{'':<{states}}  {click.style('$ ' + finding.mend, bold=True)}"
    yield ""
    yield summary(found)


def summary(found: Sequence[Finding]) -> str:
    """The last line: what can run, and how much is wrong."""
    usable = [name for name in NEEDS if ready(found, name)]
    wrong = sum(finding.state == "wrong" for finding in found)
    can = f"ready: {', '.join(usable)}" if usable else "no backend can run here"
    return f"{can}; {wrong} wrong" if wrong else f"{can}; nothing is wrong"
