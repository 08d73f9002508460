"""The summary of a run, written as its sequences end: text or JSON on standard output, and a line a record in a file.

Nothing is kept of a sequence but its count, and the names of the first that failed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any

from ..errors import printable
from ..runtime.files.atomic_file import writing
from ..runtime.files.made_from import KEY, NOTHING, MadeFrom
from .statuses import FAILED_STATUS, SequenceSummary, Status, overlays_of

FAILURES_SHOWN = 20
"""Sequences that the text names at its end; all are named as they fail, and in JSON."""

INDENT = 2


@dataclass(slots=True, kw_only=True)
class RunFacts:
    """What a summary tells of the run as a whole."""

    variant: str | None = None
    preset: str | None = None
    backend: str | None = None
    load_s: float = 0.0
    made_from: MadeFrom = NOTHING


class Summary:
    """Takes the summaries of sequences as they come. A context manager, whose end ends the JSON.

    Args:
        as_json: one JSON document on standard output, of everything; else text.
        json_lines: a file that a line is added to for each sequence.
        out: where to; None: standard output, as it is now.

    Raises:
        GmosError: the file cannot be written.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        json_lines: Path | None = None,
        out: IO[str] | None = None,
    ) -> None:
        self.counts: Counter[Status] = Counter()
        self.frames = 0
        self.facts = RunFacts()
        self._as_json = as_json
        self.several = False
        """Whether this is a list, whose sequences are counted at the end."""
        self._out = out or sys.stdout
        self._lines_path = json_lines
        self._failed: list[str] = []
        self._seen: list[Path] = []
        self._begun = False
        self._clips_before = False
        self._open = ExitStack()
        self._lines: IO[bytes] | None = None
        self._clips: IO[str] | None = None
        if json_lines is not None:
            with writing(json_lines):
                # One write a line: several processes may share the file.
                self._lines = self._open.enter_context(json_lines.open("ab", buffering=0))
        if as_json:
            # Open until the document ends.
            self._clips = self._open.enter_context(TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115

    @property
    def status(self) -> int:
        """The exit status."""
        return FAILED_STATUS if self.counts["failed"] else 0

    def add(self, summary: SequenceSummary) -> None:
        """Tell of a sequence.

        Raises:
            GmosError: the file cannot be written.
        """
        self.counts[summary.status] += 1
        self.frames += summary.frames
        fields = {**asdict(summary), "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        if self._lines is not None and self._lines_path is not None:
            with writing(self._lines_path):
                self._lines.write(_json(fields, None).encode("utf-8", "backslashreplace") + b"\n")
        if self._as_json:
            clips = fields.pop(KEY)["clips"]
            self._begin()
            self._write(("," if sum(self.counts.values()) > 1 else "") + "\n" + _indented(fields, 2))
            self._keep(clips)
            return
        if summary.status == "failed" and not self.several:
            # The command's own error says it.
            return
        if not self._begun and self.facts.backend is not None:
            self._begun = True
            self._write(f"{self.facts.backend}, loaded in {self.facts.load_s:.1f} s\n")
        self._write(printable("\n".join(summary.lines())) + "\n")
        if summary.status == "failed" and len(self._failed) < FAILURES_SHOWN:
            self._failed.append(summary.name)
        # Of several the folder is told, so two will do.
        self._seen = (self._seen + overlays_of(summary))[:8] if len(self._seen) < 8 else self._seen

    def __enter__(self) -> Summary:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._open:
            if self._as_json:
                self._end_json(error)
            elif error is None or (self.several and self.counts):
                self._end_text()

    def _end_json(self, error: BaseException | None) -> None:
        self._begin()
        said = None
        if error is not None:
            said = " ".join(str(error).split()) if isinstance(error, Exception) else "interrupted"
        made_from = asdict(self.facts.made_from)
        del made_from["clips"]
        head = {**asdict(self.facts), "counts": dict(self.counts), "error": said}
        del head[KEY]
        text = "".join(f",\n  {json.dumps(name)}: {_indented(value, 1)[2:]}" for name, value in head.items())
        self._write(f'{"" if not self.counts else chr(10) + "  "}]{text},\n  "{KEY}": {{')
        for name, value in made_from.items():
            self._write(f'\n    "{name}": {_indented(value, 2)[4:]},')
        self._write('\n    "clips": [')
        if self._clips is not None:
            self._clips.seek(0)
            for line in self._clips:
                self._write(line)
        self._write(("\n    ]" if self._clips_before else "]") + "\n  }\n}\n")

    def _end_text(self) -> None:
        if self.several:
            told = [
                f"{self.counts[name]} {name}" for name in ("done", "skipped", "failed") if self.counts[name]
            ]
            self._write(", ".join(told) + "\n" if told else "")
            if self._failed:
                more = self.counts["failed"] - len(self._failed)
                names = ", ".join(self._failed) + (f" and {more} more" if more else "")
                self._write(printable(f"failed: {names}") + "\n")
        if self._seen:
            one = len({path.name for path in self._seen}) == 1
            self._write(printable(f"look at {self._seen[0] if one else self._seen[0].parent}") + "\n")

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._write('{\n  "sequences": [')

    def _keep(self, clips: list[dict[str, Any]]) -> None:
        """Clips are told after everything else, and there may be very many."""
        for clip in clips:
            if self._clips is not None:
                self._clips.write(("," if self._clips_before else "") + "\n" + _indented(clip, 3))
                self._clips_before = True

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _json(value: object, indent: int | None) -> str:
    return json.dumps(value, default=str, indent=indent, ensure_ascii=False)


def _indented(value: object, level: int) -> str:
    """A value as JSON, all of its lines behind so many levels."""
    before = " " * INDENT * level
    return before + _json(value, INDENT).replace("\n", "\n" + before)
