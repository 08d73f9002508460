"""A parity report as one self-contained HTML page: verdict, table, IoU by frame, the worst frames."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..report.html_page import environment_section, escaped, sortable_table, table_row, write_page
from .limits import weakest
from .mask_agreement import FrameAgreement, Labels, SequenceAgreement
from .pictures import Rgb, strip_png
from .report import ParityReport
from .stage_tables import born_card, stages_section

PLOT_WIDTH_PX, PLOT_HEIGHT_PX = 640, 140
PLOT_MARGIN_PX = 44

ReadMaps = Callable[[SequenceAgreement, int], tuple[Labels, Labels]]
ReadFrames = Callable[[str, Sequence[int]], Mapping[int, Rgb]]
"""The video's frames at positions of a sequence, those that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSources:
    """Where the pictures come from, and how many of the worst frames are shown."""

    maps: ReadMaps
    frames: ReadFrames
    worst: int = 8


def write_parity_page(path: Path, report: ParityReport, sources: PageSources) -> None:
    """Write the page.

    Raises:
        GmosError: it cannot be written, or a pictured frame is gone.
    """
    title = f"gmos-parity {report.kind}: {report.verdict}"
    body = "".join(
        (
            f"<h1>{escaped(title)}</h1>",
            f'<p class="dim">{escaped(report.environment.get("date", ""))}, {report.seconds:.1f} s</p>',
            f"<p>A: <code>{escaped(report.a)}</code><br>B: <code>{escaped(report.b)}</code></p>",
            _cards(report),
            _failures(report),
            _table(report.found),
            stages_section(report.stages, report.births),
            "<h2>IoU by frame</h2>",
            *(_plot(found, report.limits.frame_iou) for found in report.found),
            _worst(report, sources),
            environment_section(report.environment),
        )
    )
    write_page(path, title, body)


def worst_frames(
    found: Sequence[SequenceAgreement], count: int
) -> list[tuple[SequenceAgreement, int, FrameAgreement]]:
    """The frames that agree least, worst first; those that agree in every pixel are left out."""
    differing = [
        (agreement, index, frame)
        for agreement in found
        for index, frame in enumerate(agreement.frames)
        if frame.different
    ]
    return sorted(differing, key=lambda entry: entry[2].iou)[:count]


def _cards(report: ParityReport) -> str:
    state = "pass" if report.passed else "fail"
    cards = [f'<div class="card {state}">Verdict<b>{"PASS" if report.passed else "FAIL"}</b></div>']
    cards += [born_card(birth) for birth in report.births]
    cards += [
        f'<div class="card">{escaped(found.result)} of {escaped(found.sequence)}<b>{found.mean_iou:.5f}</b>'
        '<span class="dim">mean IoU</span></div>'
        for found in report.found
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _failures(report: ParityReport) -> str:
    limits = f"frame IoU at least {report.limits.frame_iou:g}, mean at least {report.limits.mean_iou:g}"
    if report.passed:
        return f"<h2>Limits</h2><p>All within {escaped(report.profile)}: {limits}.</p>"
    items = "".join(f"<li>{escaped(line)}</li>" for line in report.failures)
    intro = f'<p class="dim">{escaped(report.profile)}: {limits}.</p>'
    return f'<h2>Beyond the limits</h2>{intro}<ul class="notes">{items}</ul>'


def _table(found: Sequence[SequenceAgreement]) -> str:
    heads = (
        "Result",
        "Frames",
        "Mean IoU",
        "Least IoU",
        "Mean F",
        "Pixels that differ",
        "Objects",
        "In A only",
        "In B only",
    )
    rows = []
    for one in found:
        different = sum(frame.different for frame in one.frames)
        numbers = (
            (len(one.frames), str(len(one.frames))),
            (one.mean_iou, f"{one.mean_iou:.5f}"),
            (one.worst_frame.iou, f"{one.worst_frame.iou:.5f} ({escaped(one.worst_frame.name)})"),
            (one.mean_boundary_f, f"{one.mean_boundary_f:.5f}"),
            (different, f"{different} ({one.different_share:.1e})"),
            (len(one.matching), str(len(one.matching))),
            (len(one.only_a), ", ".join(map(str, one.only_a)) or "–"),
            (len(one.only_b), ", ".join(map(str, one.only_b)) or "–"),
        )
        rows.append(table_row(f"{one.result} of {one.sequence}", *numbers))
    return "<h2>Results</h2>" + sortable_table(heads, rows)


def _plot(found: SequenceAgreement, limit: float) -> str:
    """IoU over the frames, with the limit as a dashed line; the axis begins just below what is least."""
    values = [frame.iou for frame in found.frames]
    bottom = _axis_start(min([*values, limit]))
    step = (PLOT_WIDTH_PX - PLOT_MARGIN_PX - 4) / max(1, len(values) - 1)

    def y(value: float) -> float:
        return 8 + (PLOT_HEIGHT_PX - 16) * (1 - (value - bottom) / (1 - bottom))

    points = " ".join(
        f"{PLOT_MARGIN_PX + index * step:.1f},{y(value):.1f}" for index, value in enumerate(values)
    )
    label = f"IoU of {found.result} of {found.sequence} by frame"
    return (
        f'<figure><svg class="plot" viewBox="0 0 {PLOT_WIDTH_PX} {PLOT_HEIGHT_PX}" role="img" '
        f'aria-label="{escaped(label)}">'
        f'<text x="0" y="14">1</text><text x="0" y="{PLOT_HEIGHT_PX - 6}">{bottom:g}</text>'
        f'<line class="axis" x1="{PLOT_MARGIN_PX}" x2="{PLOT_WIDTH_PX}" y1="{y(bottom):.1f}" y2="{y(bottom):.1f}"/>'
        f'<line class="limit" x1="{PLOT_MARGIN_PX}" x2="{PLOT_WIDTH_PX}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>'
        f'<polyline class="spark" points="{points}"/></svg>'
        f"<figcaption>{escaped(found.result)} of {escaped(found.sequence)}: {len(values)} frames, least "
        f"{min(values):.5f} on {escaped(found.worst_frame.name)}; dashed: limit {limit:g}</figcaption></figure>"
    )


def _axis_start(least: float) -> float:
    """The largest of 0.9999, 0.999, 0.99, 0.9 and 0 that leaves what is least above the axis."""
    return next((start for start in (0.9999, 0.999, 0.99, 0.9) if least > start), 0.0)


def _worst(report: ParityReport, sources: PageSources) -> str:
    figures = []
    worst = worst_frames(report.found, sources.worst)
    rgb = {
        sequence: sources.frames(
            sequence, sorted({index for found, index, _ in worst if found.sequence == sequence})
        )
        for sequence in {found.sequence for found, _, _ in worst}
    }
    for found, index, frame in worst:
        a, b = sources.maps(found, index)
        png = strip_png(a, with_labels_of_a(b, found), rgb[found.sequence].get(index))
        caption = (
            f"{found.result} of {found.sequence}, frame {frame.name}: IoU {frame.iou:.5f}, {weakest(frame)}"
        )
        data = base64.b64encode(png).decode("ascii")
        figures.append(
            f'<figure><img alt="{escaped(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escaped(caption)}; {frame.different} px differ</figcaption></figure>"
        )
    if not figures:
        return "<h2>Worst frames</h2><p>No pixel differs.</p>"
    legend = (
        "From left to right: the frame if its video was given, A, B, the difference. Red: in A only. Blue: in B only. "
        "Magenta: another object. B's objects have the colours of A's that they were matched to."
    )
    return (
        f'<h2>Worst frames</h2><p class="dim">{legend}</p><div class="frames wide">{"".join(figures)}</div>'
    )


def with_labels_of_a(b: Labels, found: SequenceAgreement) -> Labels:
    """B's label map with matched objects under A's labels; others get labels that A does not use."""
    table = np.zeros(256, np.uint8)
    for a_label, b_label in found.matching.items():
        table[b_label] = a_label
    taken = {0, *found.matching, *found.only_a}
    free = (label for label in range(1, 256) if label not in taken)
    for label in found.only_b:
        table[label] = next(free, 255)
    return np.asarray(table[b])
