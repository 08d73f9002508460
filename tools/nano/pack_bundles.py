"""Packs nano's bundles, as `gmos-export onnx` writes them, into the file that comes with the package.

    python tools/nano/pack_bundles.py [--gmos DIR] [--gmos_s DIR]

Exports those that are not given, which takes minutes. Run it after nano's weights or the export have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import onnx

from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
from gmos_deploy.gmos_ref.reference_config import FOLDER, NANO, PACKED_BUNDLES, ReferenceConfig
from gmos_deploy.networks import VARIANTS
from gmos_deploy.runtime.bundle.manifest import MANIFEST, Bundle, open_bundle
from gmos_deploy.runtime.bundle.packed_bundle import RECIPES, REST, REST_STRIDE, split
from gmos_deploy.runtime.files.atomic_file import replaced_at_end

Places = Mapping[bytes, tuple[str, int, int | list[int]]]
"""Checkpoint, offset in bytes and number of values by the SHA-256 of the values as float32; transposed: its shape."""

OLDEST = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: the same bundles give the same file."""


def half_values(folder: Path) -> Places:
    """Where each tensor of the checkpoints lies; safetensors: a length, a header as JSON, the values."""
    found: dict[bytes, tuple[str, int, int | list[int]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        for name, tensor in json.loads(data[8:begin]).items():
            if name == "__metadata__" or tensor["dtype"] != "F16":
                continue
            start, end = (begin + offset for offset in tensor["data_offsets"])
            values = np.frombuffer(data[start:end], np.float16).astype(np.float32)
            if len(shape := tensor["shape"]) == 2:
                turned = values.reshape(shape).T.tobytes()
                found.setdefault(hashlib.sha256(turned).digest(), (path.name, start, shape))
            found[hashlib.sha256(values.tobytes()).digest()] = (path.name, start, values.size)
    return found


def tensors_of(bundle: Bundle, file: str) -> Iterator[tuple[int, int]]:
    """Offset and length in bytes of every tensor that graphs of a bundle read from a file, each once."""
    places = set()
    for network in bundle.networks.values():
        for graph in network.graphs.values():
            if file not in graph.weights:
                continue
            model = onnx.load(str(bundle.root / graph.file), load_external_data=False)
            for tensor in model.graph.initializer:
                entry = {item.key: item.value for item in tensor.external_data}
                if entry.get("location") == file:
                    places.add((int(entry["offset"]), int(entry["length"])))
    yield from sorted(places)


def pack(bundles: Mapping[str, Bundle], checkpoints: Path, out: Path) -> None:
    """Write bundles, by the names that they are asked for with, into one file."""
    places, rest = half_values(checkpoints), bytearray()
    recipes: dict[str, list[Any]] = {}
    entries: dict[str, bytes] = {}
    for name, bundle in bundles.items():
        entries[f"{name}.json"] = (bundle.root / MANIFEST).read_bytes()
        weights = {
            file
            for network in bundle.networks.values()
            for g in network.graphs.values()
            for file in g.weights
        }
        for file in bundle.files:
            digest, data = bundle.files.sha256(file), bundle.files.verified(file).read_bytes()
            if file not in weights:
                entries[digest] = data
            elif digest not in recipes:
                recipes[digest] = list(recipe(bundle, file, data, places, rest))
    rest += b"\0" * (-len(rest) % REST_STRIDE)
    entries |= {RECIPES: json.dumps(recipes, separators=(",", ":")).encode(), REST: split(bytes(rest))}
    with replaced_at_end(out) as temporary, ZipFile(temporary, "w") as archive:
        for name, data in entries.items():
            archive.writestr(ZipInfo(name, OLDEST), data, ZIP_DEFLATED, 9)


def recipe(bundle: Bundle, file: str, data: bytes, places: Places, rest: bytearray) -> Iterator[list[Any]]:
    """The parts of a file of weights; what no checkpoint has goes into `rest`."""
    for offset, length in tensors_of(bundle, file):
        content = data[offset : offset + length]
        known = places.get(hashlib.sha256(content).digest())
        if known is not None:
            yield [offset, *known]
            continue
        start = rest.find(content)
        if start < 0:
            start = len(rest)
            rest += content
        yield [offset, REST, start, length]


def main() -> None:
    """Export what is not given, and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for variant in VARIANTS:
        parser.add_argument(
            f"--{variant.replace('-', '_')}", type=Path, metavar="DIR", help=f"bundle of {variant}"
        )
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        bundles = {}
        for variant in VARIANTS:
            given = options[variant.replace("-", "_")]
            reference = ReferenceConfig(variant=variant, preset=NANO, device="cpu", precision="fp32")
            bundles[variant] = (
                open_bundle(given)
                if given is not None
                else export_bundle(ExportConfig(out=Path(folder) / variant, reference=reference))
            )
        pack(bundles, FOLDER, PACKED_BUNDLES)
    print(f"{PACKED_BUNDLES}: {PACKED_BUNDLES.stat().st_size} bytes")


if __name__ == "__main__":
    main()
