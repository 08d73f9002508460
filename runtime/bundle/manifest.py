"""A bundle: the networks as ONNX files with `bundle.json`, which says what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np

from ...errors import GmosError
from ..contract import ModelSpec, NetworkName, NetworkSpec, TensorSpec, network_specs
from ..files.array_files import read_array
from ..files.made_from import UNKNOWN, BundleOrigin, CheckpointOrigin, MadeFrom
from ..files.regular_file import read_bounded
from ..files.typed_json import MOST_BYTES, Whole, as_text, parse_json, typed
from ..precision import TENSOR_DTYPES, PrecisionName
from .external_data import defines_functions, external_locations
from .files import BundleFiles, FileRecord
from .private_read import private_folder
from .signature import AGAIN, Trust, verified_files
from .tables import Pi3TableSource

MANIFEST = "bundle.json"
FORMAT = 2
"""Raised when a reader of the old one would misunderstand the new; added fields do not raise it.

2: the pixels of a Pi3 frame have axes of their own, Hp and Wp; profiles are three lengths by axis.
"""

TABLES_FILE = "position_embedding.npy"

Target = Literal["standard", "onnxruntime"]
TARGETS: tuple[Target, ...] = ("standard", "onnxruntime")
"""`standard` holds ONNX operators only; `onnxruntime` also its own fused attention. They share weights."""

TensorDtype = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(TENSOR_DTYPES)})$")]

ADVICE = "export the bundle again"

Range = tuple[Whole, Whole, Whole]
"""Least, usual and greatest length."""

Ranges = Mapping[str, Range]
"""Lengths by axis letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleTensor:
    """A tensor of a graph; as `contract.TensorSpec`, with its dtype in memory."""

    name: str
    axes: tuple[str | int, ...]
    dtype: TensorDtype
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
    as two, at the lengths `flops_at`; `gate` is the comparison's report. `licence` (an SPDX id) and `source` are
    those of its weights, "" where it has none.
    """

    name: NetworkName
    precision: PrecisionName
    inputs: tuple[BundleTensor, ...]
    outputs: tuple[BundleTensor, ...]
    graphs: Mapping[Target, BundleGraph]
    profiles: tuple[Ranges, ...]
    parameters: Whole
    flops: float
    flops_at: Mapping[str, Whole]
    gate: Mapping[str, Any]
    licence: str = UNKNOWN
    source: str = UNKNOWN

    @property
    def standard_inputs(self) -> tuple[BundleTensor, ...]:
        """What the standard graph takes: the contract's inputs, then the tables of a video's size."""
        return (*self.inputs, *self.graphs["standard"].tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Of the Pi3 decoder's attention: channels of a head, and the base of the wavelengths."""

    head_dim: Annotated[int, msgspec.Meta(ge=4, le=4096, multiple_of=4)]
    rope_base: Annotated[float, msgspec.Meta(gt=0, le=1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """What `bundle.json` says of all networks together.

    `resolutions` are widths and heights in pixels of the Pi3 frames that the profiles are for. `calibration`
    says how networks were quantised, None where they were not.
    """

    model: ModelSpec
    precision: PrecisionName
    head_precision: PrecisionName
    opset: Whole
    pi3: Rotation
    resolutions: tuple[tuple[Whole, Whole], ...]
    checkpoints: Mapping[str, Any]
    versions: Mapping[str, Any]
    calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(BundleFacts):
    """The content of `bundle.json`; a reader checks each of `networks` and `files`, by name, on its own."""

    format: Whole = FORMAT
    tool: str = ""
    networks: Mapping[str, Any]
    files: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    format: Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    relative: float | None
    changed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gate:
    """What is read of a network's `gate`."""

    passed: bool | None = None
    differences: tuple[_Difference, ...] = ()
    own_errors: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """What is read of `calibration`; a bundle that is tried on the way has less of it."""

    videos: tuple[_Named, ...] = ()
    ranges: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphContent:
    """A graph in memory of this process, as it was exported, and all files that it reads tensors from.

    `path` is where it was read; it may have changed since.
    """

    path: Path
    graph: bytes
    weights: Mapping[str, bytearray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle(BundleFacts):
    """An opened bundle. `identity` is the SHA-256 of its `bundle.json`, which holds all other hashes.

    `signed` are the files that a key of `trust` vouches for, None if no signature was asked for.
    """

    root: Path
    identity: str
    networks: Mapping[NetworkName, BundleNetwork]
    files: BundleFiles
    trust: Trust = field(default_factory=Trust)
    signed: Mapping[str, FileRecord] | None = None

    def vouches_for(self, path: Path, content: bytes) -> bool:
        """Whether what was read from a file of the bundle may be run: it was signed, or everything may."""
        if self.trust.engines:
            return True
        record = (self.signed or {}).get(path.relative_to(self.root).as_posix())
        return record is not None and hashlib.sha256(content).hexdigest() == record.sha256

    def graph_content(self, network: NetworkName, target: Target) -> GraphContent:
        """A network's graph with its weights, read once: what was checked is what is returned.

        Raises:
            GmosError: a file has changed, or the graph reads files that the bundle does not list for it.
        """
        graph = self.networks[network].graphs[target]
        path, content = self._read_graph(graph)
        return GraphContent(
            path=path, graph=content, weights={name: self.files.read(name) for name in graph.weights}
        )

    def graph_file(self, network: NetworkName, target: Target) -> Path:
        """A network's ONNX file, for whoever looks at it; what runs it takes `graph_content` or `private_graph`.

        Its weights are hashed once in a process, and not held.

        Raises:
            GmosError: as `graph_content`.
        """
        graph = self.networks[network].graphs[target]
        path, _ = self._read_graph(graph)
        for name in graph.weights:
            self.files.verified(name)
        return path

    def _read_graph(self, graph: BundleGraph) -> tuple[Path, bytes]:
        """Where a graph is and what is in it, once it reads no files but listed ones, and brings no operators."""
        path, content = self.root / graph.file, bytes(self.files.read(graph.file))
        foreign = external_locations(path, content) - set(graph.weights)
        if foreign:
            raise GmosError(
                f"{path} reads tensors from {sorted(foreign)[0]!r}, which the bundle does not list for it; "
                "do not trust it, export it again"
            )
        if defines_functions(content):
            raise GmosError(
                f"{path} defines operators of its own, as no export does; do not trust it, export it again"
            )
        return path, content

    @contextmanager
    def private_graph(self, network: NetworkName, target: Target) -> Iterator[Path]:
        """A copy of a network's graph and weights in a folder of this user's, for programs that read paths.

        Raises:
            GmosError: as `graph_content`, or the copy cannot be written.
        """
        found = self.graph_content(network, target)
        name = self.networks[network].graphs[target].file
        with private_folder({name: found.graph, **found.weights}) as folder:
            # They are on disk now.
            del found
            yield folder / name

    def made_from(self) -> MadeFrom:
        """This bundle, and the checkpoints that it names.

        Raises:
            GmosError: what it says of them is of another shape.
        """
        given = [
            {**entry, "flag": flag} if isinstance(entry, dict) else entry
            for flag, entry in self.checkpoints.items()
        ]
        return MadeFrom(
            bundles=(BundleOrigin(name=as_text(self.root.resolve().name), sha256=self.identity),),
            checkpoints=typed(
                given,
                tuple[CheckpointOrigin, ...],
                where=f"{self.root / MANIFEST}: checkpoints",
                advice=ADVICE,
            ),
        )

    def table_source(self) -> Pi3TableSource:
        """What the Pi3 tables are computed from.

        Raises:
            GmosError: the file has changed or is no such array.
        """
        path, content = self.root / TABLES_FILE, self.files.read(TABLES_FILE)
        try:
            stored = read_array(BytesIO(content))
        except (OSError, ValueError) as error:
            raise GmosError(f"{path} is not a NumPy array ({error}); export the bundle again") from error
        if stored.dtype != np.float32 or stored.ndim != 3 or stored.shape[2] != self.model.pi3_channels:
            raise GmosError(
                f"{path} is {stored.dtype} {stored.shape}, expected float32 (G, G, "
                f"{self.model.pi3_channels}); export the bundle again"
            )
        return Pi3TableSource(
            position_embedding=stored,
            head_dim=self.pi3.head_dim,
            rope_base=self.pi3.rope_base,
        )


def open_bundle(root: Path, trust: Trust | None = None) -> Bundle:
    """Read `bundle.json` and check everything that can be checked without reading the large files.

    Args:
        root: its directory.
        trust: whom the user trusts. With keys, the bundle must be signed with one of them, and be whole: all of it is
            read for that.

    Raises:
        GmosError: there is no bundle, it is not signed as it should be or of another format, its networks are not
            those of this version's contract, or a file is missing, of another length or outside the directory.
    """
    manifest = root / MANIFEST
    try:
        text = read_bounded(manifest, MOST_BYTES)
    except OSError as error:
        raise GmosError(
            f"{root} is no bundle: {MANIFEST} cannot be read ({error.strerror}); make a bundle with "
            "gmos-export onnx --out DIR"
        ) from error
    trust = trust or Trust()
    signed = verified_files(root, trust.keys) if trust.keys else None
    identity = hashlib.sha256(text).hexdigest()
    if signed is not None and (MANIFEST not in signed or signed[MANIFEST].sha256 != identity):
        raise GmosError(f"{manifest} is not as it was signed; do not trust it: {AGAIN}")
    found = parse_json(text, manifest, "copy the bundle again")
    version = typed(found, _Format, where=MANIFEST, advice=ADVICE).format
    if version > FORMAT:
        raise GmosError(
            f"{manifest} has format {version}, written by a newer gmos-deploy; this one reads format {FORMAT}: "
            "upgrade it, or export the bundle with this version"
        )
    if version < FORMAT:
        raise GmosError(f"{manifest} has format {version}, expected {FORMAT}; {ADVICE}")
    top = typed(found, Manifest, where=MANIFEST, advice=ADVICE)
    if top.calibration is not None:
        typed(top.calibration, _Calibration, where=f"{MANIFEST}.calibration", advice=ADVICE)
    networks = _networks(top, manifest)
    records = {
        name: typed(entry, FileRecord, where=f"{MANIFEST}.files.{name}", advice=ADVICE)
        for name, entry in top.files.items()
    }
    files = BundleFiles(root, records)
    graphs = [graph for network in networks.values() for graph in network.graphs.values()]
    needed = {TABLES_FILE} | {name for graph in graphs for name in (graph.file, *graph.weights)}
    for name in sorted(needed):
        if name not in files:
            raise GmosError(f"bundle {root} does not list the file {name} that it uses; export it again")
    return Bundle(
        root=root,
        identity=identity,
        networks=cast(Mapping[NetworkName, BundleNetwork], networks),
        files=files,
        trust=trust,
        signed=signed,
        **{field.name: getattr(top, field.name) for field in fields(BundleFacts)},
    )


def _networks(top: Manifest, manifest: Path) -> dict[str, BundleNetwork]:
    """The networks, which must be called with the tensors that this version gives them."""
    specs, found = network_specs(top.model), dict[str, BundleNetwork]()
    missing, unknown = specs.keys() - top.networks.keys(), top.networks.keys() - specs.keys()
    if missing or unknown:
        difference = f"lacks {', '.join(sorted(missing))}" if missing else f"has {', '.join(sorted(unknown))}"
        raise GmosError(f"{manifest} {difference}: another version of gmos-deploy wrote it; export it again")
    for name, entry in top.networks.items():
        where = f"{MANIFEST}.networks.{name}"
        given = {**entry, "name": name} if isinstance(entry, dict) else entry
        found[name] = typed(given, BundleNetwork, where=where, advice=ADVICE)
        typed(found[name].gate, _Gate, where=f"{where}.gate", advice=ADVICE)
        for target in TARGETS:
            if target not in found[name].graphs:
                raise GmosError(f"{where}.graphs.{target} is missing; {ADVICE}")
    for name, spec in specs.items():
        signature, wanted = _signature(found[name]), _signature(spec)
        if signature != wanted:
            raise GmosError(
                f"{manifest}: {name} is {signature}, expected {wanted}: another version of gmos-deploy wrote it; "
                "export it again"
            )
    return found


def _signature(network: BundleNetwork | NetworkSpec) -> str:
    def side(tensors: tuple[BundleTensor, ...] | tuple[TensorSpec, ...]) -> str:
        return " ".join(f"{tensor.name}({','.join(map(str, tensor.axes))})" for tensor in tensors)

    return f"{side(network.inputs)} -> {side(network.outputs)}"
