"""The report of a calibration: result.json, and report.html with what each choice costs and saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..evaluation.benchmarks.results import finite
from ..evaluation.report.environment import environment
from ..evaluation.report.files import PAGE_FILE, RESULT_FILE, write_json
from ..evaluation.report.html_page import environment_section, escaped, sortable_table, table_row, write_page
from ..runtime.bundle.manifest import Bundle, open_bundle
from ..runtime.parity import worst_severity
from .config import CalibrationConfig
from .network_forms import CalibratedNetwork

if TYPE_CHECKING:
    from .search.sensitivity import Choice

SCHEMA = "gmos-calibration/2"
"""Name and version of the JSON layout; the number rises when a reader of the old one would break."""

MIB = 1 << 20

WIDTH, HEIGHT, MARGIN = 640, 240, 48
"""Of a curve, in units of its own."""

BAR_PX = 200


def write_report(
    directory: Path, config: CalibrationConfig, bundle: Bundle, networks: Sequence[CalibratedNetwork]
) -> None:
    """Write both files, each whole or not at all.

    Raises:
        GmosError: they cannot be written.
    """
    parent = open_bundle(config.bundle)
    made_on = environment()
    sizes = {"before": weight_bytes(parent), "after": weight_bytes(bundle)}
    directory.mkdir(parents=True, exist_ok=True)
    write_json(
        directory / RESULT_FILE,
        {
            "schema": SCHEMA,
            "version": __version__,
            "calibration": dict(bundle.calibration or {}),
            "weight_bytes": sizes,
            "networks": [_network(network) for network in networks],
            "environment": made_on,
        },
    )
    title = f"gmos-export calibrate: {config.precision}"
    trials = (bundle.calibration or {}).get("mask_trials", [])
    write_page(directory / PAGE_FILE, title, _body(config, sizes, networks, trials, made_on))


def weight_bytes(bundle: Bundle) -> int:
    """Bytes of all weight files of a bundle."""
    return sum(bundle.files.size(name) for name in bundle.files if name.endswith(".weights"))


def _network(network: CalibratedNetwork) -> dict[str, Any]:
    return {
        "name": network.name,
        **network.record(),
        "error": finite(worst_severity(network.result.differences)),
        "differences": [asdict(found) for found in network.result.differences],
        "curve": [
            {"excluded": one.excluded, "weight_bytes": one.weight_bytes, "error": one.error}
            for one in network.curve
        ],
        "times": None if network.times is None else asdict(network.times),
    }


def _body(
    config: CalibrationConfig,
    sizes: dict[str, int],
    networks: Sequence[CalibratedNetwork],
    trials: Sequence[dict[str, Any]],
    made_on: dict[str, Any],
) -> str:
    layers = sum(len(network.layers) for network in networks)
    excluded = sum(len(network.result.excluded) for network in networks)
    cards = (
        f'<div class="card">Precision<b>{config.precision}</b></div>'
        f'<div class="card">Weights<b>{sizes["after"] / MIB:.1f} MiB</b>from {sizes["before"] / MIB:.1f} MiB</div>'
        f'<div class="card">Layers quantised<b>{layers - excluded} of {layers}</b></div>'
    )
    return (
        f"<h1>Calibration of <code>{escaped(config.bundle)}</code></h1>"
        f'<div class="cards">{cards}</div>'
        f"<h2>Networks</h2>{_notes(networks)}{_table(networks)}{_masks(config, trials)}"
        + "".join(_sections(network) for network in networks)
        + environment_section(made_on)
    )


def _notes(networks: Sequence[CalibratedNetwork]) -> str:
    times = next((network.times for network in networks if network.times is not None), None)
    measured = (
        "No times were measured."
        if times is None
        else f"Times are medians of one recorded call on {escaped(times.device)}, on the machine below. They say "
        "nothing about another device: on a GPU speed is unmeasured here."
    )
    return (
        '<p class="dim">Errors are relative to the fp16 graph that a network was made from, on recorded calls that '
        f"its ranges have not seen. {measured}</p>"
    )


def _table(networks: Sequence[CalibratedNetwork]) -> str:
    heads = (
        "Network",
        "Layers",
        "Excluded (fp16)",
        "Weight-only",
        "Samples",
        "Error",
        "Before, ms",
        "After, ms",
        "Speed-up",
    )
    rows = []
    for network in networks:
        error, times = worst_severity(network.result.differences), network.times
        timed = (
            [(0.0, "unmeasured")] * 3
            if times is None
            else [
                (times.before_ms, f"{times.before_ms:.1f}"),
                (times.after_ms, f"{times.after_ms:.1f}"),
                (times.speed_up, f"{times.speed_up:.2f}"),
            ]
        )
        rows.append(
            table_row(
                network.name,
                (len(network.layers), str(len(network.layers))),
                (len(network.result.excluded), str(len(network.result.excluded))),
                (network.weight_only, str(network.weight_only)),
                (len(network.calibrated_on), f"{len(network.calibrated_on)} + {len(network.validated_on)}"),
                (error, f"{error:.2e}"),
                *timed,
            )
        )
    return sortable_table(heads, rows)


def _masks(config: CalibrationConfig, trials: Sequence[dict[str, Any]]) -> str:
    """Trials of `--target_masks`: what computed in eight bits, and the result that agreed least."""
    if not trials:
        return ""
    rows = []
    for number, trial in enumerate(trials, start=1):
        worst = min(trial["scores"], key=lambda score: score["mean_iou"])
        names = ", ".join(trial["quantised"]) or "none"
        if number == 1 and trial["quantised"]:
            names = f"all {len(trial['quantised'])} that could"
        here = " (this bundle)" if number == len(trials) else ""
        rows.append(
            table_row(
                f"{names}{here}",
                (
                    worst["mean_iou"],
                    f"{worst['mean_iou']:.4f} in {worst['result']} of {escaped(worst['video'])}",
                ),
                (worst["worst_frame_iou"], f"{worst['worst_frame_iou']:.3f}"),
            )
        )
    return (
        f'<h2>Masks</h2><p class="dim">Mean IoU with the masks of the bundle that was quantised, on the calibration '
        f"videos; {config.target_masks:g} was asked for. Networks that are not named computed in half precision from "
        "weights in eight bits.</p>"
        + sortable_table(("Arithmetic in eight bits", "Least mean IoU", "Worst frame"), rows)
    )


def _sections(network: CalibratedNetwork) -> str:
    if not network.ranking:
        return ""
    return f"<h2>{escaped(network.name)}</h2>{_curves(network.curve)}{_ranking(network)}"


def _curves(curve: Sequence[Choice]) -> str:
    """Error against the weights' size and against the measured speed, drawn and as a table."""
    curve = [one for one in curve if math.isfinite(one.error)]
    if len(curve) < 2:
        return ""
    sizes = [(one.weight_bytes / MIB, one) for one in curve]
    speeds = [(one.speed_up, one) for one in curve]
    rows = [
        table_row(
            f"{one.excluded} groups excluded (fp16)",
            (one.weight_bytes, f"{one.weight_bytes / MIB:.2f}"),
            (one.error, f"{one.error:.2e}"),
            (one.call_ms, f"{one.call_ms:.1f}"),
            (one.speed_up, f"{one.speed_up:.2f}"),
        )
        for one in curve
    ]
    heads = ("Most sensitive groups", "Weights, MiB", "Error", "Call here, ms", "Speed-up here")
    return (
        '<div class="frames">'
        + _plot(sizes, "MiB of these layers' weights", line=True)
        + _plot(speeds, "times as fast as fp16, on this machine's CPU", line=False)
        + "</div>"
        + sortable_table(heads, rows)
    )


def _plot(points: Sequence[tuple[float, Choice]], unit: str, *, line: bool) -> str:
    """Error over something; `line` joins the points, for what is exact and not measured."""
    across = [x for x, _ in points]
    low, high, top = min(across), max(across), max(one.error for _, one in points) or 1.0
    width, floor = WIDTH - 2 * MARGIN, HEIGHT - MARGIN
    placed = [
        (
            MARGIN + (x - low) / ((high - low) or 1.0) * width,
            floor - one.error / top * (HEIGHT - 2 * MARGIN),
            f"{one.excluded} groups excluded (fp16): error {one.error:.2e}, {x:.2f} {unit}",
        )
        for x, one in points
    ]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
    marks = "".join(
        f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escaped(text)}</title></circle>'
        for x, y, text in placed
    )
    return (
        f'<figure><svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="error over {escaped(unit)}">'
        f'<line class="axis" x1="{MARGIN}" y1="{floor}" x2="{WIDTH - MARGIN}" y2="{floor}"/>'
        f'<line class="axis" x1="{MARGIN}" y1="{MARGIN}" x2="{MARGIN}" y2="{floor}"/>'
        f'<text x="{MARGIN}" y="{MARGIN - 8}">relative error, up to {top:.1e}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 16}">{low:.2f}</text>'
        f'<text x="{WIDTH // 2}" y="{HEIGHT - 16}" text-anchor="middle">{escaped(unit)}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 16}" text-anchor="end">{high:.2f}</text>'
        + (f'<polyline class="spark" points="{joined}"/>' if line else "")
        + f"{marks}</svg><figcaption>Each point excludes more of the most sensitive groups of layers."
        "</figcaption></figure>"
    )


def _ranking(network: CalibratedNetwork) -> str:
    worst = max((part.error for part in network.ranking if math.isfinite(part.error)), default=0.0) or 1.0
    excluded = set(network.excluded_groups)
    rows = [
        table_row(
            part.group,
            (part.error, f"{part.error:.2e}"),
            (part.weights, f"{part.weights:,}"),
            (float(part.group in excluded), "fp16" if part.group in excluded else "quantised"),
            (part.error, _bar(min(part.error / worst, 1.0), excluded=part.group in excluded)),
        )
        for part in network.ranking
    ]
    return sortable_table(("Group, quantised alone", "Error", "Weights", "Precision", ""), rows)


def _bar(share: float, *, excluded: bool) -> str:
    width = max(1.0, BAR_PX * share)
    return (
        f'<svg width="{BAR_PX}" height="10" aria-hidden="true"><rect class="track" width="{BAR_PX}" height="10"/>'
        f'<rect class="{"bad" if excluded else "fill"}" width="{width:.1f}" height="10"/></svg>'
    )
