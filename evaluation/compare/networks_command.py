"""`gmos-parity networks`: every network of two sides on what one of them sees in a real video."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...errors import GmosError
from ...networks import Side, parse_side
from ...runtime.bundle.manifest import open_bundle
from ...runtime.parity import LIMITS
from ...runtime.video.inputs import resolve_inputs
from ..benchmarks.run import show
from ..report.environment import environment
from ..report.files import (
    OBSERVATIONS_FILE,
    PAGE_FILE,
    RESULT_FILE,
    report_directory,
    write_json,
    write_json_lines,
)
from ..report.html_page import environment_section, escaped, sortable_table, table_row, write_page
from .first_divergence import FirstDivergence
from .first_divergence_option import layer_section, layer_table, sought_layer
from .limits import ProfileName
from .network_parity import OutputParity, SaveCalls, SavedTensors, compare_networks
from .recording import Recording, record
from .report import SCHEMA
from .sides import chosen_networks, input_dtypes, require_same_model

BATCH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworksReport:
    """The comparison of two sides' networks."""

    a: str
    b: str
    video: Path
    frames: int
    profile: ProfileName
    found: tuple[OutputParity, ...]
    environment: dict[str, Any]
    seconds: float
    first_layer: FirstDivergence | None = None

    @property
    def failures(self) -> list[str]:
        """What is beyond the limits, in words."""
        return [line for parity in self.found if (line := parity.excess(self.profile)) is not None]

    @property
    def verdict(self) -> str:
        """PASS or FAIL with the profile."""
        return f"{'FAIL' if self.failures else 'PASS'} ({self.profile})"


def compare_sides(
    *,
    video: Path,
    a: str | None,
    side_b: Side,
    networks: str | None,
    frames: int,
    calls: int,
    limits: ProfileName,
    first_divergence: str | None,
    save_tensors: Path | None,
    report: Path | None,
) -> int:
    """Compare every network of two sides, show and report it; the exit status. Options as gmos-parity's.

    Raises:
        GmosError: a side has no networks or cannot be loaded, or there is no such network.
    """
    started = time.monotonic()
    if report is not None:
        report_directory(report)
    side_a = parse_side("--a", a if a is not None else default_reference(side_b))
    for option, side in (("--a", side_a), ("--b", side_b)):
        if side.masks is not None:
            raise GmosError(f"{option} {side.text}: masks have no networks; name a backend")
    sought = None if first_divergence is None else sought_layer(first_divergence, side_a, side_b)
    saved = None if save_tensors is None else SavedTensors(save_tensors, side_a.bundle, side_b.bundle, limits)
    save = (lambda _: None) if saved is None else saved.save
    found, recorded = _compare(video, side_a, side_b, networks, frames=frames, calls=calls, save=save)
    limit = LIMITS[limits].relative
    result = NetworksReport(
        a=side_a.text,
        b=side_b.text,
        video=video,
        frames=frames,
        profile=limits,
        found=tuple(found),
        first_layer=None if sought is None else sought.find(found, recorded, limit),
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    show(networks_table(result))
    if report is not None:
        write_networks_report(report, result)
        click.echo(f"report: {report / PAGE_FILE}")
    for line in () if saved is None else saved.lines:
        click.echo(line)
    return 1 if result.failures else 0


def default_reference(side: Side) -> str:
    """The reference at the size of a side's bundle.

    Raises:
        GmosError: it needs checkpoints.
    """
    if side.bundle is None:
        raise GmosError(f"--a is missing: {side.text} has no bundle to tell the preset from")
    model = open_bundle(side.bundle).model
    if model.preset == "published":
        raise GmosError(
            "--a is missing: the published preset needs the checkpoints that the bundle was exported from; give --a "
            "torch:preset=published,pi3_ckpt=FILE,sam2_ckpt=FILE,gmos_ckpt=FILE"
        )
    return f"torch:preset={model.preset},variant={model.variant}"


def _compare(
    video: Path, side_a: Side, side_b: Side, names: str | None, *, frames: int, calls: int, save: SaveCalls
) -> tuple[list[OutputParity], Recording]:
    (sequence,) = resolve_inputs([video], fps=None, stride=None if video.is_file() else 1)
    with closing(side_a.load()) as backend:
        chosen = chosen_networks(names, backend.model)
        recorded = record(backend, sequence, frames=frames, limit=calls, batch_size=BATCH_SIZE)
        model = backend.model
    with closing(side_b.load()) as backend:
        require_same_model(side_a, model, side_b, backend.model)
        return compare_networks(recorded, chosen, backend, input_dtypes(side_b, model), save), recorded


def networks_table(report: NetworksReport) -> RenderableType:
    """The report for the terminal."""
    table = Table(title=f"A: {report.a}\nB: {report.b}", title_justify="left")
    for head in ("network", "output"):
        table.add_column(head)
    for head in ("calls", "max", "99 %", "mean", "relative L2", "cosine", "changed", "not finite"):
        table.add_column(head, justify="right")
    for parity in report.found:
        table.add_row(parity.network, parity.output, *_numbers(parity))
    verdict = Text(report.verdict, style="bold red" if report.failures else "bold green")
    layers = [] if report.first_layer is None else [layer_table(report.first_layer)]
    return Group(table, *layers, *(Text(line, style="red") for line in report.failures), verdict)


def _numbers(parity: OutputParity) -> tuple[str, ...]:
    worst = parity.worst
    return (
        str(parity.calls),
        f"{worst.max_abs:.2e}",
        f"{parity.p99_abs:.2e}",
        f"{worst.mean_abs:.2e}",
        f"{worst.relative:.2e}",
        f"{worst.cosine:.7f}",
        f"{worst.changed:.1e}",
        str(parity.not_finite_a + parity.not_finite_b),
    )


def write_networks_report(directory: Path, report: NetworksReport) -> None:
    """Write result.json, observations.jsonl and report.html, each whole or not at all.

    Raises:
        GmosError: they cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    result = {
        "schema": SCHEMA,
        "kind": "networks",
        "passed": not report.failures,
        "profile": report.profile,
        "failures": report.failures,
        "a": report.a,
        "b": report.b,
        "video": str(report.video),
        "frames": report.frames,
        "seconds": round(report.seconds, 3),
        "outputs": [parity.as_json() for parity in report.found],
        "first_layer": None if report.first_layer is None else report.first_layer.as_json(),
        "environment": report.environment,
    }
    write_json(directory / RESULT_FILE, result)
    write_json_lines(directory / OBSERVATIONS_FILE, (parity.as_json() for parity in report.found))
    write_page(directory / PAGE_FILE, f"gmos-parity networks: {report.verdict}", _body(report))


def _body(report: NetworksReport) -> str:
    heads = ("Output", "Calls", "Max", "99 %", "Mean", "Relative L2", "Cosine", "Changed", "Not finite")
    rows = [
        table_row(f"{parity.network}.{parity.output}", *((float(cell), cell) for cell in _numbers(parity)))
        for parity in report.found
    ]
    state = "fail" if report.failures else "pass"
    items = "".join(f"<li>{escaped(line)}</li>" for line in report.failures)
    failures = f'<h2>Beyond the limits</h2><ul class="notes">{items}</ul>' if items else ""
    return (
        f"<h1>gmos-parity networks</h1><p>A: <code>{escaped(report.a)}</code><br>B: "
        f"<code>{escaped(report.b)}</code><br>on {report.frames} frames of <code>{escaped(report.video)}</code></p>"
        f'<div class="cards"><div class="card {state}">Verdict<b>{report.verdict}</b></div></div>{failures}'
        '<h2>Outputs</h2><p class="dim">Each row is the worst of its calls; both sides got A\'s inputs.</p>'
        + sortable_table(heads, rows)
        + ("" if report.first_layer is None else layer_section(report.first_layer))
        + environment_section(report.environment)
    )
