"""What a finished sequence leaves behind, and whether it is there already."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ... import __version__
from ...errors import GmosError
from ..contract import Variant
from ..files.atomic_file import writing
from ..files.made_from import KEY, NOTHING, MadeFrom, joined
from ..files.typed_json import Whole, read_json, typed
from ..frame_result import MOS_I_ONLY, ResultName, results_of
from .formats import FORMATS, ResultFormat, modes_of

PRIVATE_FOLDER = ".gmos"
"""Folder of completion records and unfinished work inside the output place."""
RECORD_FORMAT = 1

ADVICE = "remove it or use --overwrite"

Existing = Literal["error", "overwrite", "resume"]
"""What to do about results that are there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSet:
    """The results of one sequence: where, of what, in which modes, and made how.

    `settings` is everything that changes the results, as JSON values: the input and checkpoints by hash, backend,
    precision, stride. It decides whether an existing result is the same one. `made_from` is written down beside it.
    `not_finite` counts frames with values that are not finite, by network; a run fills it as it goes.
    """

    save_dir: Path
    sequence: str
    variant: Variant
    modes: frozenset[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    not_finite: Mapping[str, int] = field(default_factory=dict)
    made_from: MadeFrom = NOTHING

    def __post_init__(self) -> None:
        known = modes_of(self.variant)
        if not self.modes or not self.modes <= set(known):
            raise GmosError(
                f"modes {sorted(self.modes)}: expected some of {', '.join(known)} for {self.variant}"
            )

    @property
    def record_path(self) -> Path:
        """The completion record, written last."""
        return self.save_dir / PRIVATE_FOLDER / f"{self.sequence}.{self.variant}.json"

    @property
    def first_pass_path(self) -> Path:
        """What was found before stage 2 by a run that did not end."""
        return self.save_dir / PRIVATE_FOLDER / f"{self.sequence}.{self.variant}.first-pass.npz"

    def paths(self) -> list[Path]:
        """Where the results lie, or will."""
        return [self.save_dir / place for place in self.targets()]

    def targets(self) -> dict[PurePosixPath, tuple[ResultFormat, ResultName]]:
        """What belongs where, relative to `save_dir`; MOS is not among it where the settings leave it out."""
        wanted = results_of(self.variant, self.settings)
        whole = targets(self.variant, self.modes, self.sequence)
        return {place: (known, result) for place, (known, result) in whole.items() if result in wanted}


def targets(
    variant: Variant, modes: frozenset[str], sequence: str
) -> dict[PurePosixPath, tuple[ResultFormat, ResultName]]:
    """All results of a sequence by their places, relative to the output place."""
    return {
        PurePosixPath(folder, sequence + known.ending): (known, result)
        for known in FORMATS
        if known.mode in modes
        for result, folder in known.folders[variant].items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    format: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRecord:
    """What a record says. Not `complete` means that a run was stopped while moving results into place."""

    modes: frozenset[str]
    frames: Whole
    settings: dict[str, Any]
    complete: bool
    not_finite: Mapping[str, int] = field(default_factory=dict)

    def write(self, results: ResultSet, temporary: Path) -> None:
        """Write it by way of a temporary file on the same disk.

        Raises:
            GmosError: it cannot be written.
        """
        fields: dict[str, Any] = {
            "format": RECORD_FORMAT,
            "software": f"gmos-deploy {__version__}",
            "sequence": results.sequence,
            "variant": results.variant,
            "modes": sorted(self.modes),
            "frames": self.frames,
            "complete": self.complete,
            "settings": self.settings,
            KEY: asdict(results.made_from),
        }
        if self.not_finite:
            fields["not_finite"] = dict(self.not_finite)
        text = json.dumps(fields, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        with writing(results.record_path):
            results.record_path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(results.record_path)


def read_record(results: ResultSet) -> CompletionRecord | None:
    """The record of an earlier run, None where there is none.

    Raises:
        GmosError: it cannot be read, or a newer version wrote it.
    """
    path = results.record_path
    try:
        found = read_json(path, ADVICE)
    except (FileNotFoundError, NotADirectoryError):
        # Where a part of the path is a file, making the directory says so.
        return None
    where = f"{path} is no completion record: {path.name}"
    version = typed(found, _Format, where=where, advice=ADVICE).format
    if version != RECORD_FORMAT:
        raise GmosError(
            f"{path} has record format {version}, expected {RECORD_FORMAT}; use the version that wrote it, or "
            f"--overwrite"
        )
    record = typed(found, CompletionRecord, where=where, advice=ADVICE)
    return replace(record, modes=record.modes & frozenset(modes_of(results.variant)))


def recorded_origins(folder: Path, sequences: Container[str]) -> MadeFrom:
    """What results of some sequences were made from, as the records of gmos-run tell; nothing where there are none.

    Args:
        folder: a place of results, one of the folders in it, or that of one sequence.
        sequences: whose records are read.
    """
    places = (folder, *folder.resolve().parents[:2])
    private = next((place / PRIVATE_FOLDER for place in places if (place / PRIVATE_FOLDER).is_dir()), None)
    found = []
    for path in [] if private is None else sorted(private.glob("*.json")):
        # A record that cannot be read, or an old one, tells nothing of what its results were made from.
        with suppress(OSError, GmosError):
            record = read_json(path, "")
            if isinstance(record, dict) and record.get("sequence") in sequences and KEY in record:
                found.append(typed(record[KEY], MadeFrom, where=str(path), advice=""))
    return joined(found)


def finished(results: ResultSet) -> bool:
    """Whether all results are there, in at least these modes, made with the same settings.

    MOS-I is the same with MOS and without: results with both are those without MOS, too, and where only MOS is
    missing they are not finished.

    Raises:
        GmosError: they were made from another input or with other settings, or the record cannot be read.
    """
    record = read_record(results)
    if record is None:
        return False
    wanted = as_json(results.settings)
    if record.settings.get("input") != wanted.get("input"):
        known = "another input" if record.settings.get("input") else "an input that was not noted"
        raise GmosError(
            f"{results.save_dir} has results of {results.sequence} made from {known}; expected the same video or "
            f"frames to resume; rename one of the two, use another --save-dir, or replace them with --overwrite"
        )
    both = record.settings, wanted
    differences = _differences(*({key: one[key] for key in one if key != MOS_I_ONLY} for one in both))
    if differences:
        raise GmosError(
            f"{results.save_dir} has results of {results.sequence} made with other settings: {differences}; "
            f"expected the same to resume; use --overwrite, or another --save-dir"
        )
    has, asked = (set(results_of(results.variant, one)) for one in both)
    if record.complete and has > asked and not record.modes >= results.modes:
        raise GmosError(
            f"{results.save_dir} has results of {results.sequence} with MOS, and --{MOS_I_ONLY} in other modes would "
            f"replace them; leave --{MOS_I_ONLY} out, or use another --save-dir"
        )
    return (
        record.complete
        and has >= asked
        and record.modes >= results.modes
        and all(
            known.is_whole(results.save_dir / place, record.frames)
            for place, (known, _) in results.targets().items()
        )
    )


def should_skip(results: ResultSet, existing: Existing) -> bool:
    """Apply the policy for existing results before any work: True where there is nothing left to do.

    Raises:
        GmosError: there are results that the policy does not allow to replace, or a file is in the way.
    """
    for path in results.paths():
        folder = path.parent
        if folder.exists() and not folder.is_dir():
            raise GmosError(
                f"{folder} is a file; expected a directory for results; move it or choose another place"
            )
    if existing == "overwrite":
        return False
    present = [path for path in results.paths() if path.exists()]
    if existing == "error":
        if results.record_path.exists():
            present.append(results.record_path)
        if present:
            raise GmosError(
                f"{present[0]} exists already; expected no results of {results.sequence}; use --resume to keep "
                f"finished sequences, --overwrite to replace them, or another --save-dir"
            )
        return False
    if finished(results):
        return True
    if present and read_record(results) is None:
        raise GmosError(
            f"{present[0]} has no completion record, so it is unknown what made it; "
            f"expected results of an earlier run; use --overwrite to replace it, or another --save-dir"
        )
    return False


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a record: tuples are lists there."""
    result: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return result


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed)
