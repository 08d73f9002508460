"""Several processes share a list: who has a sequence in hand, and whether whoever had it is dead.

Everything is in `.gmos/claims` of the place of the results, on any file system that its hosts share:

- `TOKEN.run` is there for as long as a process works there: its host, its number, when it started. Its owner touches
  it every ten seconds.
- `HASH.N` is a claim on a sequence: a hard link to the owner's `.run`, made in one step that fails where there is one,
  and touched with it. Whoever takes a dead process's claim over makes `HASH.N+1`; the last one counts.
- `HASH.failed` says why a sequence failed, so that the others do not try it again.

A process of this host is dead when the system says so. One of another host, or of another container, is dead when it
has not touched its file for two minutes by the clock of the file system: what is assumed is that all hosts see a new
link and a new time of change within that time, and that no process sleeps longer and then goes on. If one does, the
sequence is computed twice, with the same results.

Processes that work on one place with the same settings are a gang: what one of them has finished since the first of
them began is finished for all.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import psutil

from ..errors import GmosError
from ..runtime.files.atomic_file import writing
from ..runtime.files.typed_json import parse_json, typed
from ..runtime.results.completion import PRIVATE_FOLDER

FOLDER = "claims"
HEARTBEAT_S = 10.0
STALE_S = 120.0
"""Twice as long as NFS clients keep what they know of a file, by default."""

MOST_DEATHS = 3
"""Processes that died with a sequence in hand before it counts as failed."""

FIRST_WAIT_S, LAST_WAIT_S = 0.05, 2.0
MOST_BYTES = 64 << 10
PROCESSES = Path("/proc")
"""Of Linux."""

RUN, FAILED = ".run", ".failed"
NO_LINKS = (OSError, NotImplementedError)
TRIES = 5

Taken = Literal["taken", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who works there. `started` tells a process from a later one of its number; `since_ns` is the gang's beginning."""

    host: str
    pid: int
    started: str
    token: str
    key: str
    gang: str
    since_ns: int


class Claims:
    """The claims of this process on sequences of one place of results. A context manager.

    Args:
        save_dir: the place, which is made.
        key: tells the settings of a run from others.
        stale_s: after which somebody of another host is dead, in seconds.

    Raises:
        GmosError: the place cannot be written.
    """

    def __init__(self, save_dir: Path, key: str, *, stale_s: float = STALE_S) -> None:
        self._private = save_dir / PRIVATE_FOLDER
        self._place = self._private / FOLDER
        self._key = key
        self._stale_ns = int(stale_s * 1e9)
        self._token = secrets.token_hex(8)
        self._run = self._place / f"{self._token}{RUN}"
        self._own: dict[str, Path] = {}
        self._copies: set[Path] = set()
        self._made: list[Path] = []
        self._ended = threading.Event()
        self._beats: threading.Thread | None = None
        self.gang, self.since_ns = "", 0

    def __enter__(self) -> Claims:
        try:
            with writing(self._private.parent):
                self._join()
        except BaseException:
            self.__exit__()
            raise
        self._beats = threading.Thread(target=self._beat, name="gmos-claims", daemon=True)
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._beats is not None:
            self._beats.join()
        for name in list(self._own):
            self.release(name)
        with suppress(OSError):
            # What is of a gang that ends with this process.
            self._clear({owner.gang for owner in self._others().values()})
        for path in (self._run, self._run.with_name(f".{self._run.name}")):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for path in (self._place, *self._made):
            with suppress(OSError):
                path.rmdir()

    @property
    def marker(self) -> Path:
        """A file that this process has there as long as it works there."""
        return self._run

    def take(self, name: str) -> Taken | str:
        """Claim a sequence.

        Returns:
            "taken", or "held" by a process that is alive, or in words why it failed in another one of this gang.
        """
        stem = _stem(name)
        with writing(self._place):
            claims = self._claims(stem)
            failure = self._failure(stem)
            if failure is not None:
                return failure
            if claims and self._is_alive(claims[max(claims)]):
                return "held"
            found = [_read(path) for path in claims.values()]
            deaths = sum(owner is not None and owner.gang == self.gang for owner in found)
            path = self._place / f"{stem}.{max(claims, default=0) + 1}"
            if not self._link(path):
                return "held"
            self._own[name] = path
            if deaths >= MOST_DEATHS:
                reason = f"{deaths} processes died with it in hand"
                self.release(name, failed=reason)
                return reason
        return "taken"

    def release(self, name: str, *, failed: str | None = None) -> None:
        """Let go of a sequence; `failed` is told to the others of this gang."""
        path = self._own.pop(name, None)
        if path is None:
            return
        self._copies.discard(path)
        stem = _stem(name)
        with suppress(OSError):
            if failed is not None:
                note = self._place / f".{stem}{FAILED}"
                note.write_text(json.dumps({"gang": self.gang, "error": failed}), encoding="utf-8")
                note.replace(self._place / f"{stem}{FAILED}")
            # The last one counts, and goes last.
            for _, claim in sorted(self._claims(stem).items()):
                if claim != path:
                    claim.unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _join(self) -> None:
        """Say that this process works here, and find out with whom."""
        for _ in range(TRIES):
            places = (self._private, *self._private.parents)
            self._made = self._made or [path for path in places if not path.exists()]
            with suppress(FileNotFoundError):
                self._place.mkdir(parents=True, exist_ok=True)
                self._write(gang=self._token, since_ns=0)
                break
        since_ns = self._run.stat().st_mtime_ns
        # Again: of two that begin at once each sees the other, and both take the first of them.
        self._write(gang=self._token, since_ns=since_ns)
        others = self._others()
        gangs = [
            (owner.since_ns or since_ns, owner.gang) for owner in others.values() if owner.key == self._key
        ]
        self.since_ns, self.gang = min([(since_ns, self._token), *gangs])
        self._write(gang=self.gang, since_ns=self.since_ns)
        self._clear({owner.gang for owner in others.values()} | {self.gang})

    def _write(self, *, gang: str, since_ns: int) -> None:
        own = Owner(
            host=host_identity(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            token=self._token,
            key=self._key,
            gang=gang,
            since_ns=since_ns,
        )
        new = self._place / f".{self._token}{RUN}"
        new.write_text(json.dumps(asdict(own)), encoding="utf-8")
        new.replace(self._run)

    def _others(self) -> dict[Path, Owner]:
        """Whoever else is alive here."""
        found = {path: _read(path) for path in self._place.glob(f"*{RUN}") if path != self._run}
        return {path: owner for path, owner in found.items() if owner is not None and self._is_alive(path)}

    def _clear(self, gangs: set[str]) -> None:
        """Remove what dead processes left, but for the claims of gangs that are still there: they count as deaths."""
        for path in list(self._place.iterdir()):
            with suppress(OSError):
                if path.suffix == FAILED:
                    note = _note(path)
                    if note.get("gang") not in gangs:
                        path.unlink(missing_ok=True)
                elif path != self._run and not self._is_alive(path):
                    owner = _read(path)
                    if path.suffix == RUN or owner is None or owner.gang not in gangs:
                        path.unlink(missing_ok=True)

    def _claims(self, stem: str) -> dict[int, Path]:
        found = {}
        for path in self._place.glob(f"{stem}.*"):
            number = path.suffix[1:]
            if number.isdecimal():
                found[int(number)] = path
        return found

    def _failure(self, stem: str) -> str | None:
        note = _note(self._place / f"{stem}{FAILED}")
        return str(note.get("error")) if note.get("gang") == self.gang else None

    def _link(self, path: Path) -> bool:
        """Make a claim in one step; whether it is this process's."""
        try:
            os.link(self._run, path)
        except FileExistsError:
            # What a server has done may be told twice.
            with suppress(OSError):
                return path.samefile(self._run)
            return False
        except NO_LINKS:
            return self._copy(path)
        return True

    def _copy(self, path: Path) -> bool:
        """The same where there are no hard links."""
        try:
            with path.open("xb") as file:
                file.write(self._run.read_bytes())
        except FileExistsError:
            return False
        self._copies.add(path)
        return True

    def _is_alive(self, path: Path) -> bool:
        """Whether the process that made a file is; one whose content is not there yet is taken for alive."""
        try:
            with path.open("rb") as file:
                data, changed_ns = file.read(MOST_BYTES), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return False
        owner = _owner(data, path)
        if owner is not None and owner.host == host_identity():
            return bool(owner.started) and _started(owner.pid) == owner.started
        return self._now_ns() - changed_ns < self._stale_ns

    def _now_ns(self) -> int:
        """By the clock of the file system."""
        os.utime(self._run)
        return self._run.stat().st_mtime_ns

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            for path in (self._run, *list(self._copies)):
                with suppress(OSError):
                    os.utime(path)


def settings_key(settings: Mapping[str, Any]) -> str:
    """A key for `Claims` of settings, JSON values."""
    return sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:32]


def host_identity() -> str:
    """This host as far as numbers of processes mean the same on it: a boot of a machine, and of it a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """When a process started, as text that no later process of this number has; None if it is dead."""
    if PROCESSES.is_dir():
        try:
            fields = (PROCESSES / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        # Of `man 5 proc`: field 3 is the state, field 22 the start in clock ticks since the boot.
        return None if fields[0] in {b"Z", b"X"} else fields[19].decode()
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.1f}"
    return None


def _read(path: Path) -> Owner | None:
    try:
        with path.open("rb") as file:
            return _owner(file.read(MOST_BYTES), path)
    except OSError:
        return None


def _owner(data: bytes, path: Path) -> Owner | None:
    try:
        return typed(parse_json(data, path, ""), Owner, where=str(path), advice="")
    except GmosError:
        return None


def _note(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = parse_json(file.read(MOST_BYTES), path, "")
    except (OSError, GmosError):
        return {}
    return found if isinstance(found, dict) else {}


def _stem(name: str) -> str:
    """Of the files of a sequence: names may be as long as a file's may."""
    return sha256(os.fsencode(name)).hexdigest()[:32]


def waits() -> Iterator[float]:
    """Seconds between looks at what others have in hand: often at first, then every two seconds."""
    wait_s = FIRST_WAIT_S
    while True:
        yield wait_s
        wait_s = min(LAST_WAIT_S, 1.5 * wait_s)
