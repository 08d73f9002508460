"""First divergence: the first layer in which one network of two bundles differs, found in their inner tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.bundle.manifest import Bundle
from ...runtime.comparison.parity import difference
from ...runtime.contract import NetworkName
from ...runtime.onnx.host_graph import HostGraph, bundle_tables
from ...runtime.onnx.sessions import OnnxDevice
from .recording import Call

AT_ONCE = 32
"""Inner tensors that one run gives: at published size they have up to 80 MB each."""

ALL_FLOPS = 1e11
"""Below this size of a call every tensor is looked at, above it those that a search passes."""

SHOWN_JUMPS = 10

SILENT_OPS = frozenset(
    {
        "Cast",
        "CastLike",
        "Constant",
        "ConstantOfShape",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Identity",
        "QuantizeLinear",
        "Range",
        "Shape",
        "Size",
    }
)
"""Operators that a precision adds or leaves out, and those that make no activations."""

Values = Mapping[str, NDArray[Any]]
Key = tuple[str, str, int, int]
"""A tensor by what is the same in every precision: module path, operator, which of these, which of its outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """One tensor. `relative` is its relative L2 error, infinite where only one side is finite.

    `added` is what it has beyond the largest error among what it is computed from. `module` is the path of its
    module in the reference; `after PATH` where the graph names none, empty at the network's beginning. `node` and
    `value` are names in A's graph.
    """

    module: str
    operator: str
    node: str
    value: str
    shape: tuple[int, ...]
    relative: float
    added: float

    def __str__(self) -> str:
        where = self.module or "the network itself"
        return f"{where}, {self.operator} ({self.node}): relative error {self.relative:.2e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDivergence:
    """Where a network's error passes the limit.

    `looked_at` of `tensors` that both graphs have were compared; `first` is None if none passes the limit. `jumps` are
    the tensors that add most.
    """

    network: str
    output: str | None
    call: int
    limit: float
    looked_at: int
    tensors: int
    first: LayerError | None
    jumps: tuple[LayerError, ...]

    def __str__(self) -> str:
        what = self.network + ("" if self.output is None else f".{self.output}")
        if self.first is None:
            return (
                f"{what}: no layer's relative error passes {self.limit:g} ({self.looked_at} tensors compared)"
            )
        return (
            f"{what} first differs in {self.first} (limit {self.limit:g}, {self.looked_at} tensors compared)"
        )


def first_divergence(
    network: NetworkName,
    call: Call,
    a: Bundle,
    b: Bundle,
    devices: tuple[OnnxDevice, OnnxDevice],
    *,
    limit: float,
    output: str | None = None,
    at_once: int = AT_ONCE,
) -> FirstDivergence:
    """Compare the inner tensors of a network in two bundles on the same inputs, in the order they are computed.

    Small networks are looked at whole. In large ones evenly spaced tensors are, then those before the first that
    passes the limit, until it is found: an error that passes the limit and falls below it again between two of them
    is not seen.

    Args:
        network: which one.
        call: its inputs.
        a: the trusted bundle.
        b: the bundle in question.
        devices: what runs them.
        limit: relative error above which tensors differ.
        output: look only at what this output is computed from.
        at_once: tensors that one run gives, which bounds memory.

    Raises:
        GmosError: `onnx` is missing, a bundle's file has changed, or the graphs have no tensor in common.
    """
    graphs = [
        InnerGraph(bundle, network, device, call) for bundle, device in zip((a, b), devices, strict=True)
    ]
    ours, theirs = graphs
    wanted = ours.needed_for(output)
    keys = [
        key
        for key, value in ours.values.items()
        # Another number of them: which is which is not known.
        if value in wanted and key in theirs.values and ours.counts[key[:2]] == theirs.counts[key[:2]]
    ]
    if not keys:
        raise GmosError(
            f"--first_divergence {network}: the graphs of {a.root} and {b.root} have no layer names in common; export "
            "both with this version"
        )
    errors: dict[Key, tuple[float, tuple[int, ...]]] = {}

    def look(chosen: Sequence[Key]) -> None:
        for start in range(0, len(chosen), at_once):
            part = chosen[start : start + at_once]
            for key, *pair in zip(part, ours.run(part), theirs.run(part), strict=True):
                if pair[0].shape == pair[1].shape:
                    errors[key] = (_relative(*pair), pair[0].shape)

    if a.networks[network].flops < ALL_FLOPS:
        look(keys)
    else:
        _search(keys, look, lambda key: key in errors and errors[key][0] > limit, at_once)
    layers = ours.layers(errors)
    return FirstDivergence(
        network=network,
        output=output,
        call=call.index,
        limit=limit,
        looked_at=len(layers),
        tensors=len(keys),
        first=next((layer for layer in layers if layer.relative > limit), None),
        jumps=tuple(sorted(layers, key=lambda layer: -layer.added)[:SHOWN_JUMPS]),
    )


def _search(
    keys: Sequence[Key], look: Callable[[Sequence[Key]], None], differs: Callable[[Key], bool], at_once: int
) -> None:
    """Look at ever closer tensors before the first that differs, `at_once` each time."""
    low, high = 0, len(keys)
    while low < high:
        count = min(at_once, high - low)
        places = [low + (high - low) * (i + 1) // count - 1 for i in range(count)]
        look([keys[place] for place in places])
        found = next((place for place in places if differs(keys[place])), None)
        if found is None:
            return
        low, high = max((place + 1 for place in places if place < found), default=low), found


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    # Masks hold infinities on purpose: only those of one side are errors.
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return math.inf
    return difference(b, a, output="").relative


class InnerGraph:
    """A network's graph of a bundle for ONNX Runtime, of which any inner tensor can be asked for."""

    def __init__(self, bundle: Bundle, network: NetworkName, device: OnnxDevice, call: Call) -> None:
        self._onnx = onnx = load_onnx()
        self._device = device
        self._precision = bundle.networks[network].precision
        self._content = bundle.graph_content(network, "onnxruntime")
        self._model = onnx.load_from_string(self._content.graph)
        shapes = {name: values.shape for name, values in call.inputs.items()}
        self._inputs = {**call.inputs, **bundle_tables(bundle, network)(shapes)}
        self._take_float32()
        self._nodes = dict(_keyed(self._model.graph.node))
        self.counts = Counter(key[:2] for key in self._nodes)
        self.values: dict[Key, str] = {
            key: node.output[key[3]] for key, node in self._nodes.items() if node.op_type not in SILENT_OPS
        }

    def needed_for(self, output: str | None) -> set[str]:
        """The names of all tensors, or of those that an output is computed from, itself included."""
        nodes = list(self._model.graph.node)
        if output is None:
            return {name for node in nodes for name in node.output}
        needed = {output}
        for node in reversed(nodes):
            if needed & set(node.output):
                needed |= set(node.input)
        return needed

    def run(self, keys: Sequence[Key]) -> list[NDArray[Any]]:
        """These tensors as float32."""
        onnx, model = self._onnx, self._onnx.ModelProto()
        model.CopyFrom(self._model)
        names = []
        for position, key in enumerate(keys):
            name = f"inner_{position}"
            # As float32: NumPy has no bfloat16, and ONNX Runtime asks for no type of the tensor then.
            model.graph.node.append(
                onnx.helper.make_node("Cast", [self.values[key]], [name], to=onnx.TensorProto.FLOAT)
            )
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
            names.append(name)
        graph = HostGraph(
            replace(self._content, graph=model.SerializeToString()),
            precision=self._precision,
            device=self._device,
        )
        return list(graph.run(self._inputs, names).values())

    def layers(self, errors: Mapping[Key, tuple[float, tuple[int, ...]]]) -> list[LayerError]:
        """The tensors looked at, in the order they are computed, with what each adds to its inputs' error."""
        found: list[LayerError] = []
        reached: dict[str, float] = {}
        made_by: dict[str, str] = {}
        for key, node in self._nodes.items():
            source = next((made_by[name] for name in node.input if made_by.get(name)), "")
            before = max((reached.get(name, 0.0) for name in node.input), default=0.0)
            value = node.output[key[3]]
            relative, shape = errors.get(key, (before, ()))
            reached[value] = relative
            made_by[value] = key[0] or source
            if key in errors:
                added = relative if math.isinf(relative) and not math.isinf(before) else relative - before
                found.append(
                    LayerError(
                        module=key[0] or (f"after {source}" if source else ""),
                        operator=node.op_type,
                        node=node.name,
                        value=value,
                        shape=shape,
                        relative=relative,
                        added=0.0 if math.isnan(added) else added,
                    )
                )
        return found

    def _take_float32(self) -> None:
        """Let inputs in bfloat16 be given as float32, which is what recorded calls have: NumPy has no such type."""
        onnx, graph = self._onnx, self._model.graph
        casts = []
        for given in graph.input:
            kind = given.type.tensor_type
            if kind.elem_type == onnx.TensorProto.BFLOAT16:
                casts.append(
                    onnx.helper.make_node("Cast", [f"{given.name}_float32"], [given.name], to=kind.elem_type)
                )
                self._inputs[f"{given.name}_float32"] = self._inputs[given.name]
                kind.elem_type = onnx.TensorProto.FLOAT
                given.name = f"{given.name}_float32"
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def _keyed(nodes: Any) -> Iterator[tuple[Key, Any]]:  # noqa: ANN401 - untyped
    """Every output of every node with its key. The exporter names nodes `module.path/…/Operator_number`."""
    seen: Counter[tuple[str, str]] = Counter()
    for node in nodes:
        path, slash, _ = node.name.partition("/")
        module = path if slash and not path.startswith("_") else ""
        number = seen[module, node.op_type]
        seen[module, node.op_type] += 1
        for position, output in enumerate(node.output):
            if output:
                yield (module, node.op_type, number, position), node


def load_onnx() -> Any:  # noqa: ANN401 - heavy, and an extra
    """The `onnx` module.

    Raises:
        GmosError: it is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - only this needs it
    except ImportError as error:
        raise GmosError(
            f"--first_divergence needs the onnx package ({error}); install it with pip install 'gmos-deploy[export]'"
        ) from error
    return onnx
