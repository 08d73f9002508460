"""Signed bundles: what was signed runs, and nothing that was added, changed or removed since."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.calibrate import calibrate_command
from gmos_deploy.commands.export import export_command
from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.bundle.signature import (
    PURPOSE,
    SIGNATURE,
    Trust,
    sign_bundle,
    verified_files,
    write_key_pair,
)

from .test_manifest import write_bundle

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys `mine` and `other`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        write_key_pair(folder / name)
    return folder


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    """A bundle that `mine` has signed, with an engine and a folder in it."""
    root = tmp_path / "bundle"
    write_bundle(root)
    (root / "engines" / "tensorrt").mkdir(parents=True)
    (root / "engines" / "tensorrt" / "dino.engine").write_bytes(b"plan")
    sign_bundle(root, keys / "mine")
    return root


def test_a_signed_bundle_is_as_it_was_signed(signed: Path, keys: Path) -> None:
    """All of its files are vouched for, by their content; copies too."""
    bundle = open_bundle(signed, Trust(keys=(keys / "other.pub", keys / "mine.pub")))
    assert bundle.signed is not None
    assert {"bundle.json", "dino.onnx", "dino.weights", "engines/tensorrt/dino.engine"} <= set(bundle.signed)
    plan = signed / "engines" / "tensorrt" / "dino.engine"
    assert bundle.vouches_for(plan, b"plan")
    assert not bundle.vouches_for(plan, b"Plan")
    assert not bundle.vouches_for(signed / "other", b"plan")
    copy = shutil.copytree(signed, signed.parent / "copy")
    assert open_bundle(copy, Trust(keys=(keys / "mine.pub",))).identity == bundle.identity
    assert not open_bundle(signed).vouches_for(plan, b"plan"), "nobody was named"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda root: (root / "extra.onnx").touch(), r"extra\.onnx was added"),
        (lambda root: (root / ".hidden").touch(), r"\.hidden was added"),
        (
            lambda root: (root / "engines" / "tensorrt" / "dino.engine.json").write_text("{}"),
            r"json was added",
        ),
        (lambda root: (root / "folder").symlink_to("/etc"), r"folder was added"),
        (lambda root: (root / "dino.weights").unlink(), r"dino\.weights is missing"),
        (lambda root: (root / "dino.weights").write_bytes(bytes(40)), r"dino\.weights was changed"),
        (
            lambda root: (root / "engines" / "tensorrt" / "dino.engine").write_bytes(b"Plan"),
            r"dino\.engine was changed",
        ),
        (lambda root: (root / "bundle.json").write_text("{}"), r"bundle\.json was changed"),
        (
            lambda root: ((root / "dino.onnx").unlink(), os.mkfifo(root / "dino.onnx")),
            r"dino\.onnx was changed",
        ),
    ],
)
def test_a_bundle_that_is_not_as_it_was_signed_is_refused(
    signed: Path, keys: Path, change: Change, what: str
) -> None:
    """Before anything of it is used."""
    change(signed)
    with pytest.raises(GmosError, match=rf"is not as it was signed: .*{what}; do not trust it"):
        open_bundle(signed, Trust(keys=(keys / "mine.pub",)))


def test_more_than_one_difference_is_counted(signed: Path, keys: Path) -> None:
    """One is named."""
    (signed / "a").touch()
    (signed / "b").touch()
    with pytest.raises(GmosError, match=r"a was added, and 1 more; do not trust it"):
        open_bundle(signed, Trust(keys=(keys / "mine.pub",)))


def test_a_signature_of_somebody_else_is_refused(signed: Path, keys: Path) -> None:
    """With the key that it is of; without any signature likewise."""
    with pytest.raises(
        GmosError, match=r"is signed with the key [0-9a-f]{16}…, which is not that of --trust .*other"
    ):
        open_bundle(signed, Trust(keys=(keys / "other.pub",)))
    (signed / SIGNATURE).unlink()
    with pytest.raises(
        GmosError, match=r"is not signed .*have it signed with gmos-export sign, or leave --trust out"
    ):
        open_bundle(signed, Trust(keys=(keys / "mine.pub",)))


@pytest.mark.parametrize("field", ["signed", "signature", "key"])
def test_a_signature_that_was_changed_is_refused(signed: Path, keys: Path, field: str) -> None:
    """Whatever of it."""
    content = json.loads((signed / SIGNATURE).read_text())
    last = "}" if field == "signed" else "0"
    content[field] = content[field][:-1] + ("1" if content[field][-1] == last else last)
    (signed / SIGNATURE).write_text(json.dumps(content))
    with pytest.raises(GmosError, match=r"do not trust it"):
        open_bundle(signed, Trust(keys=(keys / "mine.pub",)))


def test_a_name_that_leads_outside_is_no_file_of_a_bundle(signed: Path, keys: Path) -> None:
    """Even if it was signed."""
    content = json.loads((signed / SIGNATURE).read_text())
    assert "../" not in content["signed"]
    (signed.parent / "outside").touch()
    (signed / "link").symlink_to("../outside")
    with pytest.raises(GmosError, match=r"link is not a file; copy the bundle with cp -rL"):
        sign_bundle(signed, keys / "mine")


@pytest.mark.parametrize("name", [".gmos-samples/0.npz", ".gmos-new-1234/old/dino.onnx", ".gmos-unfinished"])
def test_what_a_mount_point_holds_beside_a_bundle_is_not_signed(signed: Path, keys: Path, name: str) -> None:
    """Where a bundle is signed it is named; where it came later it was added."""
    (signed / name).parent.mkdir(parents=True, exist_ok=True)
    (signed / name).touch()
    with pytest.raises(GmosError, match=rf"{name} was added"):
        open_bundle(signed, Trust(keys=(keys / "mine.pub",)))
    first = name.partition("/")[0]
    with pytest.raises(
        GmosError, match=rf"/{first} is what .* works with.* move that elsewhere, and sign again"
    ):
        sign_bundle(signed, keys / "mine")


def test_what_a_signing_that_was_killed_left_is_nothing(signed: Path, keys: Path) -> None:
    """The signature before is whole; the next one removes it."""
    left = signed / f".{SIGNATURE}.0123456789abcdef.gmos-tmp"
    left.touch()
    assert open_bundle(signed, Trust(keys=(keys / "mine.pub",))).signed
    sign_bundle(signed, keys / "other")
    assert not left.exists()
    assert open_bundle(signed, Trust(keys=(keys / "other.pub",))).signed


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("openssl") is None, reason="openssl is not here")
def test_openssl_agrees(signed: Path, keys: Path, tmp_path: Path) -> None:
    """With the keys and the signature, which are of the usual kinds."""
    content = json.loads((signed / SIGNATURE).read_text())
    (tmp_path / "text").write_bytes(PURPOSE + content["signed"].encode())
    (tmp_path / "sig").write_bytes(bytes.fromhex(content["signature"]))
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "mine.pub"), "-rawin"]
    verify += ["-in", str(tmp_path / "text"), "-sigfile", str(tmp_path / "sig")]
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    (tmp_path / "text").write_bytes(PURPOSE + b"{}")
    assert subprocess.run(verify, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (export_command, ("inspect", "{root}")),
        (
            calibrate_command,
            ("{root}", "--bundle", "{root}", "--precision", "int8", "--out", "{root}-int8"),
        ),
    ],
    ids=["inspect", "calibrate"],
)
def test_commands_that_read_a_bundle_take_a_key(
    signed: Path, keys: Path, command: Any, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of somebody else it is refused, and with a file that was added."""
    pytest.importorskip("onnx")
    given = [word.format(root=signed) for word in words]
    assert guarded(command, "gmos-export", [*given, "--trust", str(keys / "other.pub")]) == 2
    assert "is signed with the key" in capsys.readouterr().err
    (signed / "extra.onnx").touch()
    assert guarded(command, "gmos-export", [*given, "--trust", str(keys / "mine.pub")]) == 2
    assert "extra.onnx was added" in capsys.readouterr().err


@pytest.mark.parametrize("write", [1, 2])
def test_a_key_that_could_not_be_written_is_made_by_the_next_call(
    write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half of one is left, which nobody could use and nothing would replace; nor is a whole one lost."""
    key, left = tmp_path / "mine", write

    def fsync(number: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), number)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises(GmosError, match="the disk is full"):
            write_key_pair(key)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"][: write - 1]
    before = [path.read_bytes() for path in tmp_path.iterdir()]
    public = write_key_pair(key)
    assert before in ([], [key.read_bytes()])
    root = tmp_path / "bundle"
    write_bundle(root)
    sign_bundle(root, key)
    assert verified_files(root, (public,))
    public.unlink()
    key.write_text("no key")
    with pytest.raises(GmosError, match="exists and is no key of gmos-export keygen"):
        write_key_pair(key)


def test_keys_are_made_and_used_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The private one is for this user's eyes, and none is replaced; what is no key is refused in one line."""
    root = tmp_path / "bundle"
    write_bundle(root)
    key = tmp_path / "keys" / "mine"
    assert guarded(export_command, "gmos-export", ["keygen", str(key)]) == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert guarded(export_command, "gmos-export", ["sign", str(root), "--key", str(key)]) == 0
    assert "files signed" in capsys.readouterr().out
    assert open_bundle(root, Trust(keys=(key.with_name("mine.pub"),))).signed
    refused = {
        ("keygen", str(key)): "exists; a key that was used must not be lost",
        ("sign", str(root), "--key", str(key.with_name("mine.pub"))): "is no private key",
        (
            "sign",
            str(root),
            "--key",
            str(tmp_path / "none"),
        ): "cannot be read (No such file or directory); expected a key of gmos-export keygen",
        ("sign", str(tmp_path), "--key", str(key)): "is no bundle",
        (
            "build-engines",
            "--bundle",
            str(root),
            "--backend",
            "tensorrt-rtx",
            "--trust",
            str(key),
        ): "no public key",
    }
    for arguments, message in refused.items():
        assert guarded(export_command, "gmos-export", list(arguments)) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
