"""The key of this user: made once, kept from others, and what its seals tell."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.engine_files import opened_cache, sealed_cache
from gmos_deploy.runtime.bundle.user_key import (
    KEY_BYTES,
    json_doubt,
    key_path,
    require_key,
    seal_doubt,
    sealed,
    sealed_json,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes and owners of this kind")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder without a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@posix
def test_the_key_is_made_once_for_this_user_alone(home: Path) -> None:
    """In the configuration folder; what is there already stays."""
    key = require_key()
    assert key == require_key() == (home / "gmos-deploy" / "engine.key").read_bytes()
    assert len(key) == KEY_BYTES
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(key_path().parent.stat().st_mode) == 0o700
    assert [path.name for path in key_path().parent.iterdir()] == ["engine.key"], "nothing temporary stays"


def test_two_at_once_make_one_key() -> None:
    """Whoever is second takes that of the first."""
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: require_key(), range(32)))) == 1


@posix
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: path.chmod(0o640),
            r"has mode 640, expected 600: others may know it; remove it, and build",
        ),
        (lambda path: path.write_bytes(b"short"), r"this user's key, is damaged; remove it"),
        (lambda path: path.write_bytes(bytes(33)), r"this user's key, is damaged; remove it"),
        (lambda path: (path.unlink(), path.mkdir()), r"this user's key, is not a file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"this user's key, is not a file"),
        (
            lambda path: (path.rename(path.with_name("a")), path.symlink_to("a")),
            r"this user's key, cannot be read",
        ),
    ],
)
def test_a_key_that_others_may_know_is_refused(spoil: Callable[[Path], object], message: str) -> None:
    """For sealing and for reading seals alike, in one line that says what to do."""
    seal = sealed("test", b"content")
    spoil(key_path())
    for use in (require_key, lambda: seal_doubt(seal, "test", b"content")):
        with pytest.raises(GmosError, match=message):
            use()


@posix
def test_a_key_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a command with sudo."""
    require_key()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(
        GmosError, match=r"belongs to user \d+, expected 12345, who runs this; .*XDG_CONFIG_HOME"
    ):
        require_key()


@posix
def test_without_a_home_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No traceback, and no key in the directory at hand."""
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        GmosError, match=r"there is no home directory for the key .*set XDG_CONFIG_HOME to a folder"
    ):
        require_key()
    assert not list(tmp_path.iterdir())


def test_a_home_that_cannot_be_written_is_named(home: Path) -> None:
    """With the way out."""
    home.write_text("a file")  # root writes everywhere else
    with pytest.raises(
        GmosError,
        match=r"engine\.key, this user's key, cannot be read .*, or set XDG_CONFIG_HOME to a folder of yours",
    ):
        require_key()


def test_a_seal_is_of_one_content_for_one_purpose(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one key: without it, or with another, it says nothing."""
    seal = sealed("purpose", b"content")
    assert seal_doubt(seal, "purpose", b"content") is None
    assert seal_doubt(seal, "purpose", b"Content") == "it was changed after it was sealed"
    assert seal_doubt(seal, "other purpose", b"content") == "it was changed after it was sealed"
    assert seal_doubt(None, "purpose", b"content") == "it has no seal of this user's"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "another"))
    assert seal_doubt(seal, "purpose", b"content") == "it was sealed elsewhere, and this user has no key yet"
    assert not (home / "another").exists(), "reading makes no key"
    require_key()
    assert seal_doubt(seal, "purpose", b"content") == "it was sealed by another user or on another machine"


def test_the_seal_of_a_json_file_covers_its_values() -> None:
    """Every one of them, those too that a reader does not know; not how they are written."""
    text = sealed_json({"a": [1, 2.5, None, float("nan")], "b": {"c": "x"}}, "test")
    top = msgspec.json.decode(text)
    assert json_doubt(dict(reversed(top.items())), "test") is None
    for changed in (
        {**top, "a": []},
        {**top, "b": {"c": "y"}},
        {**top, "d": 1},
        {**top, "a": [1.0, 2.5, None, None]},
    ):
        assert json_doubt(changed, "test") == "it was changed after it was sealed"
    assert json_doubt({key: top[key] for key in ("a", "b")}, "test") == "it has no seal of this user's"
    assert json_doubt({**top, "seal": "none"}, "test") == "its seal cannot be read"


def test_the_seal_of_a_runtime_cache_is_of_one_engine() -> None:
    """And of all bytes."""
    kept = sealed_cache(b"kernels\nof a card", "ab")
    assert opened_cache(kept, "ab") == opened_cache(kept) == (b"kernels\nof a card", None)
    assert opened_cache(kept, "cd")[1] == "it is of another engine"
    assert opened_cache(kept, "cd", vouched=True)[1] == "it is of another engine"
    assert opened_cache(kept + b".", "ab")[1] == "it was changed after it was sealed"
    for raw in (b"", b"kernels", b"[]\n", b"{}\n", b'{"plan": 1, "seal": {}}\nx'):
        assert opened_cache(raw, "ab") == (b"", "it has no seal of this user's")
