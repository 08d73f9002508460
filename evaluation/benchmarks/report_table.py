"""An evaluation as tables on a terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .motion_summary import SplitSummary
from .results import METRICS, Evaluation, note_lines


def format_metric(value: float | None) -> str:
    """Four decimals, as the published scripts print, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def evaluation_tables(evaluation: Evaluation, *, verbose: bool) -> RenderableType:
    """The benchmark's numbers, per sequence and object too if `verbose`, and everything counted."""
    frames = sum(len(sequence.frames) for sequence in evaluation.sequences)
    size = f"sequences: {len(evaluation.sequences)}, frames: {frames}"
    title = f"{evaluation.evaluator} on {evaluation.dataset} ({size})"
    overall = Table()
    overall.add_column("metric", no_wrap=True)
    overall.add_column("value", justify="right")
    for name, value in evaluation.overall.items():
        overall.add_row(_heading(name), format_metric(value))
    parts: list[RenderableType] = [Text(title, style="bold"), overall]
    if verbose:
        parts.append(_sequence_table(evaluation))
    parts += [Text(f"{flag}: {source}") for flag, source in evaluation.sources.items()]
    # Text, not markup: names may hold square brackets.
    parts += [Text(f"note: {line}", style="yellow") for line in note_lines(evaluation.notes)]
    return Group(*parts)


def _heading(name: str) -> str:
    metric = METRICS[name]
    return metric.title if metric.higher_is_better else f"{metric.title} (lower is better)"


def _sequence_table(evaluation: Evaluation) -> Table:
    names = [name for name in METRICS if any(name in sequence.metrics for sequence in evaluation.sequences)]
    table = Table()
    table.add_column("sequence", no_wrap=True)
    table.add_column("frames", justify="right")
    for name in names:
        table.add_column(METRICS[name].title, justify="right")
    for sequence in evaluation.sequences:
        cells = [format_metric(sequence.metrics.get(name)) for name in names]
        table.add_row(Text(sequence.name), str(len(sequence.frames)), *cells)
        if len(sequence.objects) > 1:
            for item in sequence.objects:
                cells = [format_metric(item.metrics[name]) if name in item.metrics else "" for name in names]
                table.add_row(Text(f"  object {item.label}"), "", *cells, style="dim")
    return table


def summary_tables(splits: dict[str, SplitSummary], notes: dict[str, int]) -> RenderableType:
    """The counts of a motion-annotation CSV, one row per split."""
    table = Table()
    table.add_column("split", no_wrap=True)
    columns = (
        "rows",
        "moving",
        "annotated frames",
        "objects",
        "intervals",
        "moving %",
        "moving %, published",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, split in splits.items():
        shares = (split.motion_pct_object_mean, split.motion_pct_object_mean_no_union)
        table.add_row(
            Text(name),
            f"{split.rows}",
            f"{split.rows_with_motion}",
            "–" if split.ann_frames is None else f"{split.ann_frames}",
            f"{split.objects}",
            f"{split.intervals}",
            *("–" if share is None else f"{share:.1f}" for share in shares),
        )
    return Group(table, *(Text(f"note: {line}", style="yellow") for line in note_lines(notes)))
