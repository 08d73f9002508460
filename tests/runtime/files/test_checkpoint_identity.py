"""What results were made from: hashes worked out once, one shape in records, and read back from them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gmos_deploy.runtime.files import checkpoint_identity
from gmos_deploy.runtime.files.checkpoint_identity import kept_sha256
from gmos_deploy.runtime.files.made_from import NOTHING, ClipOrigin, MadeFrom, joined, of_checkpoint
from gmos_deploy.runtime.results.completion import CompletionRecord, ResultSet, recorded_origins


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read as a whole; every file counts as large, and the cache is empty."""
    found: list[Path] = []
    real = checkpoint_identity.file_sha256
    monkeypatch.setattr(checkpoint_identity, "file_sha256", lambda path: (found.append(path), real(path))[1])
    monkeypatch.setattr(checkpoint_identity, "KEPT_FROM_BYTES", 1)
    monkeypatch.setattr(checkpoint_identity, "user_cache", lambda: tmp_path / "cache")
    return found


def test_a_large_file_is_hashed_once(reads: list[Path], tmp_path: Path) -> None:
    """Until its bytes or its time change; a damaged note is worked out again."""
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    right = hashlib.sha256(b"one").hexdigest()
    assert [kept_sha256(path), kept_sha256(path)] == [right, right]
    assert reads == [path]
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text("damaged")
    assert kept_sha256(path) == right
    assert len(reads) == 2
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert kept_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_without_a_cache_it_is_hashed_again(reads: list[Path], tmp_path: Path) -> None:
    """Where the folder cannot be made nothing is said, and nothing is wrong."""
    (tmp_path / "cache").write_text("a file")
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    assert kept_sha256(path) == kept_sha256(path) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 2


def test_everything_once() -> None:
    """Joined in order, without repeats."""
    one, two = (MadeFrom(clips=(ClipOrigin(name=name, sha256=None),)) for name in ("a", "b"))
    assert joined([one, two, one]) == MadeFrom(clips=one.clips + two.clips)
    assert joined([]) == NOTHING


def record(save_dir: Path, sequence: str, made_from: MadeFrom) -> None:
    """What a run leaves."""
    results = ResultSet(
        save_dir=save_dir, sequence=sequence, variant="gmos", modes=frozenset({"mask"}), made_from=made_from
    )
    CompletionRecord(modes=results.modes, frames=1, settings={}, complete=True).write(
        results, save_dir / "temporary"
    )


def test_records_tell_what_results_were_made_from(tmp_path: Path) -> None:
    """From the place of results, a folder of them and that of a sequence; others' and damaged records tell nothing."""
    (tmp_path / "weights.pth").write_bytes(b"one")
    weights = of_checkpoint("gmos_ckpt", tmp_path / "weights.pth", licence="Apache-2.0", source="here")
    clip = MadeFrom(clips=(ClipOrigin(name="bear", sha256="1" * 64, stride=3, fps=24.0, dataset="davis16"),))
    record(tmp_path / "out", "bear", weights | clip)
    record(tmp_path / "out", "other", MadeFrom(clips=(ClipOrigin(name="other", sha256=None),)))
    (tmp_path / "out" / ".gmos" / "bad.json").write_text("{")
    (tmp_path / "out" / ".gmos" / "old.json").write_text('{"sequence": "bear"}')
    frames = tmp_path / "out" / "mos_frame" / "bear"
    frames.mkdir(parents=True)
    for place in (frames, frames.parent, tmp_path / "out"):
        assert recorded_origins(place, {"bear"}) == weights | clip
    assert recorded_origins(tmp_path / "out", {"boat"}) == NOTHING
