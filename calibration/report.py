"""The report of a calibration: result.json, and a document with what each choice costs and saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..evaluation.report import document as doc
from ..evaluation.report.document import Card, Cell, Column, Section, Table
from ..evaluation.report.environment import environment
from ..evaluation.report.files import write_report
from ..evaluation.report.origins import origins_section
from ..evaluation.report.terminal import show
from ..runtime.bundle.manifest import Bundle
from ..runtime.comparison.parity import worst_severity
from ..runtime.files.made_from import KEY, ClipOrigin, MadeFrom
from .config import CalibrationConfig
from .network_forms import CalibratedNetwork

if TYPE_CHECKING:
    from .search.network_trial import Comparison
    from .search.sensitivity import GroupSensitivity

SCHEMA = "gmos-calibration/2"
"""Name and version of the JSON layout; the number rises when a reader of the old one would break."""

MIB = 1 << 20

Trial = Mapping[str, Any]
"""As the bundle keeps it: `quantised` and `scores`."""


def report_calibration(
    config: CalibrationConfig,
    bundle: Bundle,
    networks: Sequence[CalibratedNetwork],
    *,
    directory: Path | None = None,
    wide: bool = False,
) -> None:
    """Show what was chosen, and write the report if a directory is given.

    Raises:
        GmosError: it cannot be written.
    """
    parent = config.parent()
    sizes = {"before": weight_bytes(parent), "after": weight_bytes(bundle)}
    made_on, made_from = environment(), _made_from(parent, bundle)
    document = _document(config, bundle, sizes, networks, made_on=made_on, made_from=made_from)
    show(document, wide=wide)
    if directory is not None:
        write_report(
            directory,
            document,
            {
                "schema": SCHEMA,
                "version": __version__,
                "calibration": bundle.calibration or {},
                "weight_bytes": sizes,
                "networks": [_network(network) for network in networks],
                KEY: made_from,
                "environment": made_on,
            },
        )


def _made_from(parent: Bundle, bundle: Bundle) -> MadeFrom:
    """Both bundles, and the videos as the new one keeps them."""
    clips = tuple(
        ClipOrigin(name=video["name"], sha256=video["sha256"], stride=video["stride"])
        for video in (bundle.calibration or {}).get("videos", [])
    )
    return parent.made_from() | bundle.made_from() | MadeFrom(clips=clips)


def weight_bytes(bundle: Bundle) -> int:
    """Bytes of all weight files of a bundle."""
    return sum(bundle.files.size(name) for name in bundle.files if name.endswith(".weights"))


def _network(network: CalibratedNetwork) -> dict[str, Any]:
    return {
        "name": network.name,
        **network.record(),
        "error": worst_severity(network.differences),
        "differences": network.differences,
        "curve": [
            {"excluded": one.excluded, "weight_bytes": one.weight_bytes, "error": one.error}
            for one in network.curve
        ],
        "times": network.times,
    }


def _document(
    config: CalibrationConfig,
    bundle: Bundle,
    sizes: Mapping[str, int],
    networks: Sequence[CalibratedNetwork],
    *,
    made_on: Mapping[str, Any],
    made_from: MadeFrom,
) -> doc.Document:
    layers, quantised = sum(len(one.layers) for one in networks), sum(one.quantised for one in networks)
    cards = [
        Card("Precision", config.precision),
        Card("Weights", f"{sizes['after'] / MIB:.1f} MiB", f"from {sizes['before'] / MIB:.1f} MiB"),
        Card("Layers quantised", f"{quantised} of {layers}"),
    ]
    return doc.Document(
        title=f"Calibration of {config.bundle}",
        lead=f"{made_on['date']}, gmos-deploy {__version__}",
        cards=cards,
        remarks=Section(
            "Before you believe it",
            [doc.Remarks((bundle.calibration or {}).get("warnings", []), word="warning")],
        ),
        sections=[
            Section(
                "",
                [doc.Facts([(card.title, f"{card.value} {card.words}".strip()) for card in cards])],
                "terminal",
            ),
            _networks(networks),
            _masks(config, (bundle.calibration or {}).get("mask_trials", [])),
            *(Section(network.name, list(_sensitivity(network)), "page") for network in networks),
            origins_section(made_from),
        ],
        environment=made_on,
    )


def _networks(networks: Sequence[CalibratedNetwork]) -> Section:
    times = next((network.times for network in networks if network.times is not None), None)
    measured = (
        "No times were measured."
        if times is None
        else f"Times are medians of one recorded call on {times.device}, on the machine below. They say "
        "nothing about another device: on a GPU speed is unmeasured here."
    )
    note = (
        "Errors are relative to the fp16 graph that a network was made from, on recorded calls that "
        f"its ranges have not seen. {measured}"
    )

    def samples(one: CalibratedNetwork) -> Cell:
        found = len(one.calibrated_on)
        return Cell(f"{found} + {len(one.validated_on)}", found)

    columns: list[Column[CalibratedNetwork]] = [
        Column("network", lambda one: one.name),
        Column(
            "layers quantised", lambda one: Cell(f"{one.quantised} of {len(one.layers)}", one.quantised), "d"
        ),
        Column("weight-only", lambda one: one.weight_only, "d", "layers", "room"),
        Column("samples", samples, "d", "ranges + error", "wide"),
        Column("error", lambda one: worst_severity(one.differences), ".2e", "greatest relative"),
        Column("before ms", lambda one: one.times.before_ms if one.times else None, ".1f", "median", "wide"),
        Column("after ms", lambda one: one.times.after_ms if one.times else None, ".1f", "median", "room"),
        Column("before / after", lambda one: one.times.speed_up if one.times else None, ".2f", "of medians"),
    ]
    return Section("Networks", [doc.Text(note), Table(columns=columns, entries=networks)])


def _masks(config: CalibrationConfig, trials: Sequence[Trial]) -> Section:
    """Trials of `--target_masks`: what computed in eight bits, and the result that agreed least."""
    if not trials:
        return Section("", [])

    def named(entry: tuple[int, Trial]) -> str:
        number, trial = entry
        names = ", ".join(trial["quantised"]) or "none"
        if number == 1 and trial["quantised"]:
            names = f"all {len(trial['quantised'])} that could"
        return names + (" (this bundle)" if number == len(trials) else "")

    def least(entry: tuple[int, Trial]) -> dict[str, Any]:
        found: dict[str, Any] = min(entry[1]["scores"], key=lambda score: score["mean_iou"])
        return found

    columns: list[Column[tuple[int, Trial]]] = [
        Column("arithmetic in eight bits", named),
        Column("mean IoU", lambda entry: least(entry)["mean_iou"], ".4f", "of the least result"),
        Column("worst frame", lambda entry: least(entry)["worst_frame_iou"], ".3f", "its IoU"),
        Column("in", lambda entry: f"{least(entry)['result']} of {least(entry)['video']}", shown="room"),
    ]
    note = (
        "Mean IoU with the masks of the bundle that was quantised, on the calibration videos; "
        f"{config.target_masks:g} was asked for. Networks that are not named computed in half precision from weights "
        "in eight bits."
    )
    return Section(
        "Masks", [doc.Text(note), Table(columns=columns, entries=list(enumerate(trials, start=1)))]
    )


def _sensitivity(network: CalibratedNetwork) -> Iterator[doc.Block]:
    """Error against the weights' size and against the measured speed, and the ranking of the groups."""
    if not network.ranking:
        return
    curve = [one for one in network.curve if math.isfinite(one.error)]
    if len(curve) > 1:
        yield from _curves(curve)
    yield _ranking(network)


def _curves(curve: Sequence[Comparison]) -> Iterator[doc.Block]:
    sizes = [one.weight_bytes / MIB for one in curve]
    yield _curve(curve, sizes, "MiB of these layers' weights", joined=True)
    speeds = [one.speed_up for one in curve]
    yield _curve(curve, speeds, "times as fast as fp16, on this machine's CPU", joined=False)
    columns: list[Column[Comparison]] = [
        Column("most sensitive groups", lambda one: f"{one.excluded} groups excluded (fp16)"),
        Column("weights, MiB", lambda one: one.weight_bytes / MIB, ".2f"),
        Column("error", lambda one: one.error, ".2e", "greatest relative"),
        Column("call here, ms", lambda one: one.call_ms, ".1f", "median", "wide"),
        Column("fp16 / this", lambda one: one.speed_up, ".2f", "of medians", "wide"),
    ]
    yield Table(columns=columns, entries=curve)


def _curve(curve: Sequence[Comparison], places: Sequence[float], across: str, *, joined: bool) -> doc.Block:
    points = [
        (x, one.error, f"{one.excluded} groups excluded (fp16): error {one.error:.2e}, {x:.2f} {across}")
        for x, one in zip(places, curve, strict=True)
    ]
    caption = "Each point excludes more of the most sensitive groups."
    return doc.Plot(points=points, across=across, up="relative error", joined=joined, caption=caption)


def _ranking(network: CalibratedNetwork) -> doc.Block:
    worst = max((part.error for part in network.ranking if math.isfinite(part.error)), default=0.0) or 1.0
    excluded = set(network.excluded_groups)

    def bar(part: GroupSensitivity) -> Cell:
        drawing = doc.Bar(part.error / worst, f"error {part.error:.2e}", good=part.group not in excluded)
        return Cell("", part.error, drawing=drawing)

    columns: list[Column[GroupSensitivity]] = [
        Column("group, quantised alone", lambda part: part.group),
        Column("error", lambda part: part.error, ".2e", "greatest relative"),
        Column("weights", lambda part: part.weights, ","),
        Column("precision", lambda part: "excluded (fp16)" if part.group in excluded else "quantised"),
        Column("", bar, "g", shown="page"),
    ]
    return Table(columns=columns, entries=network.ranking)
