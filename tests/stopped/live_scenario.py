"""Results of a stream, stopped at every step: segments that are in place are whole, and the disk is bounded."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from scenarios import Scenario, load

KEEP = 3


class Live(Scenario):
    """Segments of ten answers: a run of 15, then, stopped, one of 35, of which the first segments go again."""

    modules = ("runtime.live.results",)
    begins = True

    def once(self) -> None:
        self.scene = load("runtime/live/test_results.py")

    def _sink(self) -> Any:
        return self.scene.files(self.folder / "out", "tracks", "mask", "mp4", keep_segments=KEEP)

    def act(self, new: bool) -> int | None:
        with self._sink() as sink:
            for index in range(35 if new else 15):
                sink.write(self.scene.answer(index))
        return 0

    def next_call(self) -> None:
        with self._sink():
            pass

    def version(self) -> Any:
        stream = self.folder / "out/live/door"
        runs = [json.loads((run / "session.json").read_text()) | {"run": run} for run in stream.iterdir()]
        segments = [one for run in runs for one in run["run"].iterdir() if one.is_dir()]
        for one in segments:
            check_segment(one)
        assert len(segments) <= KEEP
        latest = max(runs, key=lambda run: run["started"])
        # Ended on its own; what was interrupted is somewhere between.
        return latest["answers"] if latest["ended"] and latest["answers"] in {15, 35} else "both"


def check_segment(segment: Path) -> None:
    """All its files tell of the same answers."""
    record = json.loads((segment / "segment.json").read_text())
    shown = f"{record}: {sorted(str(path.relative_to(segment)) for path in segment.rglob('*'))}"
    lines = [json.loads(line)["index"] for line in (segment / "tracks.jsonl").read_bytes().splitlines()]
    for folder in ("mos-i_frame", "tracked_frame"):
        with (segment / folder / "index.csv").open(newline="") as table:
            names = [row["output"] for row in csv.DictReader(table)]
        assert sorted(path.name for path in (segment / folder).glob("*.png")) == names, shown
        assert len(names) == len(lines), shown
    assert lines == list(range(record["first_frame"], record["first_frame"] + len(lines))), shown
    assert (segment / "overlay.mp4").exists() == record["whole"], shown
    assert record["answers"] == len(lines)
