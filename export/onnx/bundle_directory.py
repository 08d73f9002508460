"""A bundle's directory: whole or not there, and never one that holds something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir

from ...errors import GmosError
from ...runtime.bundle.files import FileRecord
from ...runtime.bundle.manifest import MANIFEST, Manifest, Target, open_bundle
from ...runtime.bundle.new_bundle import check_new_bundle, entries
from ...runtime.contract import NetworkName
from ...runtime.files.checkpoint_identity import file_sha256
from ...runtime.files.typed_json import json_bytes

GRAPH_SUFFIX: dict[Target, str] = {"standard": ".onnx", "onnxruntime": ".ort.onnx"}
"""How the file of a network's graph ends."""


def check_place(directory: Path, *, force: bool) -> None:
    """Refuse a place where a bundle cannot be put, before hours of work.

    Raises:
        GmosError: there is something that must not be replaced, or nothing can be written there.
    """
    if (directory.exists() or directory.is_symlink()) and not directory.is_dir():
        raise GmosError(f"--out {directory} is a file; expected a directory that is new, empty or a bundle")
    check_new_bundle(directory)
    if (directory / MANIFEST).is_file():
        if not force:
            raise GmosError(f"--out {directory} holds a bundle; give --force to replace it")
    elif directory.is_dir() and entries(directory):
        raise GmosError(
            f"--out {directory} holds files and no {MANIFEST}; expected a directory that is new, empty or a "
            "bundle"
        )


def save_graph(root: Path, name: NetworkName, target: Target, model: ir.Model) -> str:
    """Write a graph of a network, whose weights are in their files already; returns the file's name."""
    path = root / f"{name}{GRAPH_SUFFIX[target]}"
    ir.save(model, path)
    if target == "standard":
        onnx.checker.check_model(str(path))
    return path.name


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write `bundle.json`, the last of a bundle's files, with the lengths and hashes of all others.

    Raises:
        GmosError: what is written is not what this version reads: nothing may be replaced by it.
    """
    files = {
        path.name: FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(root.iterdir())
    }
    (root / MANIFEST).write_bytes(json_bytes(replace(manifest, files=files)))
    open_bundle(root)
