"""A bundle: the networks as ONNX files with `bundle.json`, which says what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ...errors import GmosError
from ..contract import ModelSpec, NetworkName, NetworkSpec, TensorSpec, network_specs
from ..precision import TENSOR_DTYPES
from .external_data import external_locations
from .fields import Fields
from .files import BundleFiles, FileRecord
from .tables import Pi3TableSource

MANIFEST = "bundle.json"
FORMAT = 1
"""Raised when a reader of the old one would misunderstand the new; added fields do not raise it."""

TABLES_FILE = "position_embedding.npy"

Target = Literal["standard", "onnxruntime"]
TARGETS: tuple[Target, ...] = ("standard", "onnxruntime")
"""`standard` holds ONNX operators only; `onnxruntime` also its own fused attention. They share weights."""

Ranges = Mapping[str, tuple[int, int, int]]
"""Least, usual and greatest length by axis letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleTensor:
    """A tensor of a graph; as `contract.TensorSpec`, with its dtype in memory."""

    name: str
    axes: tuple[str | int, ...]
    dtype: str
    values: str
    host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleGraph:
    """One ONNX file.

    `weights` are the files it reads tensors from, `tables` its inputs beyond the contract's, which the
    host computes once per video size.
    """

    file: str
    weights: tuple[str, ...]
    tables: tuple[BundleTensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleNetwork:
    """A network with its graphs.

    `profiles` has one entry per Pi3 resolution that engines are built for; `flops` counts a multiply-add
    as two, at the lengths `flops_at`; `gate` is the comparison's report.
    """

    name: NetworkName
    precision: str
    inputs: tuple[BundleTensor, ...]
    outputs: tuple[BundleTensor, ...]
    graphs: Mapping[Target, BundleGraph]
    profiles: tuple[Ranges, ...]
    parameters: int
    flops: float
    flops_at: Mapping[str, int]
    gate: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened bundle.

    `identity` is the SHA-256 of its `bundle.json`, which holds all other hashes. `calibration` says how its
    networks were quantised, None where they were not.
    """

    root: Path
    identity: str
    model: ModelSpec
    precision: str
    head_precision: str
    opset: int
    networks: Mapping[NetworkName, BundleNetwork]
    files: BundleFiles
    pi3: Mapping[str, float]
    versions: Mapping[str, Any]
    checkpoints: Mapping[str, Any]
    resolutions: tuple[tuple[int, int], ...]
    calibration: Mapping[str, Any] | None = None

    def graph_file(self, network: NetworkName, target: Target) -> Path:
        """The ONNX file of a network, after a check that it and all it reads are as exported.

        Raises:
            GmosError: a file has changed, or the graph reads files that the bundle does not list for it.
        """
        graph = self.networks[network].graphs[target]
        path = self.files.verified(graph.file)
        foreign = external_locations(path) - set(graph.weights)
        if foreign:
            raise GmosError(
                f"{path} reads tensors from {sorted(foreign)[0]!r}, which the bundle does not list for it; "
                "do not trust it, export it again"
            )
        for name in graph.weights:
            self.files.verified(name)
        return path

    def table_source(self) -> Pi3TableSource:
        """What the Pi3 tables are computed from.

        Raises:
            GmosError: the file has changed or is no such array.
        """
        path = self.files.verified(TABLES_FILE)
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise GmosError(f"{path} is not a NumPy array ({error}); export the bundle again") from error
        if stored.dtype != np.float32 or stored.ndim != 3 or stored.shape[2] != self.model.pi3_channels:
            raise GmosError(
                f"{path} is {stored.dtype} {stored.shape}, expected float32 (G, G, "
                f"{self.model.pi3_channels}); export the bundle again"
            )
        return Pi3TableSource(
            position_embedding=stored,
            head_dim=int(self.pi3["head_dim"]),
            rope_base=float(self.pi3["rope_base"]),
        )


def open_bundle(root: Path) -> Bundle:
    """Read `bundle.json` and check everything that can be checked without reading the large files.

    Raises:
        GmosError: there is no bundle, it is of another format, its networks are not those of this
            version's contract, or a file is missing, of another length or outside the directory.
    """
    manifest = root / MANIFEST
    try:
        text = manifest.read_bytes()
    except OSError as error:
        raise GmosError(
            f"{root} is no bundle: {MANIFEST} cannot be read ({error.strerror}); make a bundle with "
            "gmos-export onnx --out DIR"
        ) from error
    try:
        top = Fields(json.loads(text), MANIFEST)
    except (ValueError, RecursionError) as error:
        raise GmosError(f"{manifest} is not JSON ({error}); copy the bundle again") from error
    _check_format(top.whole("format"), manifest)
    model = _model(top.inner("model"))
    networks = {name: _network(name, entry) for name, entry in top.entries("networks")}
    _check_contract(networks, model, manifest)
    records = {
        name: FileRecord(size=entry.whole("bytes"), sha256=entry.text("sha256"))
        for name, entry in top.entries("files")
    }
    files = BundleFiles(root, records)
    _check_listed(networks.values(), files, root)
    pi3 = top.inner("pi3")
    return Bundle(
        root=root,
        identity=hashlib.sha256(text).hexdigest(),
        model=model,
        precision=top.text("precision"),
        head_precision=top.text("head_precision"),
        opset=top.whole("opset"),
        networks=cast(Mapping[NetworkName, BundleNetwork], networks),
        files=files,
        pi3={"head_dim": pi3.whole("head_dim"), "rope_base": pi3.number("rope_base")},
        versions=top.plain("versions"),
        checkpoints=top.plain("checkpoints"),
        resolutions=tuple(
            (entry.whole("width_px"), entry.whole("height_px")) for entry in top.each("resolutions")
        ),
        calibration=None if top.is_null("calibration") else top.plain("calibration"),
    )


def _check_format(found: int, manifest: Path) -> None:
    if found > FORMAT:
        raise GmosError(
            f"{manifest} has format {found}, written by a newer gmos-deploy; this one reads format {FORMAT}: "
            "upgrade it, or export the bundle with this version"
        )
    if found < FORMAT:
        raise GmosError(f"{manifest} has format {found}, expected {FORMAT}; export the bundle again")


def _model(entry: Fields) -> ModelSpec:
    sizes: dict[str, Any] = {
        field.name: entry.whole(field.name) for field in fields(ModelSpec) if field.type == "int"
    }
    variant = cast(Literal["gmos", "gmos-s"], entry.text("variant"))
    return ModelSpec(variant=variant, preset=entry.text("preset"), **sizes)


def _tensor(entry: Fields) -> BundleTensor:
    dtype = entry.text("dtype")
    if dtype not in TENSOR_DTYPES:
        raise GmosError(
            f"{MANIFEST}: tensor {entry.text('name')} has dtype {dtype!r}, expected one of "
            f"{', '.join(TENSOR_DTYPES)}; export the bundle again"
        )
    return BundleTensor(
        name=entry.text("name"),
        axes=entry.axes("axes"),
        dtype=dtype,
        values=entry.text("values"),
        host=entry.flag("host"),
    )


def _graph(entry: Fields) -> BundleGraph:
    return BundleGraph(
        file=entry.text("file"),
        weights=entry.names("weights"),
        tables=tuple(_tensor(table) for table in entry.each("tables")),
    )


def _network(name: str, entry: Fields) -> BundleNetwork:
    graphs = entry.inner("graphs")
    flops = entry.inner("flops")
    return BundleNetwork(
        name=cast(NetworkName, name),
        precision=entry.text("precision"),
        inputs=tuple(_tensor(tensor) for tensor in entry.each("inputs")),
        outputs=tuple(_tensor(tensor) for tensor in entry.each("outputs")),
        graphs={target: _graph(graphs.inner(target)) for target in TARGETS},
        profiles=tuple(_ranges(profile) for profile in entry.each("profiles")),
        parameters=entry.whole("parameters"),
        flops=flops.number("count"),
        flops_at={axis: int(length) for axis, length in flops.plain("at").items()},
        gate=entry.plain("gate"),
    )


def _ranges(profile: Fields) -> Ranges:
    return {
        axis: (entry.whole("min"), entry.whole("opt"), entry.whole("max"))
        for axis, entry in profile.entries("axes")
    }


def _check_contract(networks: Mapping[str, BundleNetwork], model: ModelSpec, manifest: Path) -> None:
    """Refuse a bundle whose networks would be called with tensors that they do not have."""
    expected = network_specs(model)
    missing, unknown = expected.keys() - networks.keys(), networks.keys() - expected.keys()
    if missing or unknown:
        difference = f"lacks {', '.join(sorted(missing))}" if missing else f"has {', '.join(sorted(unknown))}"
        raise GmosError(f"{manifest} {difference}: another version of gmos-deploy wrote it; export it again")
    for name, spec in expected.items():
        given, wanted = _signature(networks[name]), _signature(spec)
        if given != wanted:
            raise GmosError(
                f"{manifest}: {name} is {given}, expected {wanted}: another version of gmos-deploy wrote it; "
                "export it again"
            )


def _signature(network: BundleNetwork | NetworkSpec) -> str:
    def side(tensors: tuple[BundleTensor, ...] | tuple[TensorSpec, ...]) -> str:
        return " ".join(f"{tensor.name}({','.join(map(str, tensor.axes))})" for tensor in tensors)

    return f"{side(network.inputs)} -> {side(network.outputs)}"


def _check_listed(networks: Iterable[BundleNetwork], files: BundleFiles, root: Path) -> None:
    needed = {TABLES_FILE}
    for network in networks:
        for graph in network.graphs.values():
            needed |= {graph.file, *graph.weights}
    for name in sorted(needed):
        if name not in files:
            raise GmosError(f"bundle {root} does not list the file {name} that it uses; export it again")
