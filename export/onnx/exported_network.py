"""One network: capture, count, write its graphs, compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ...gmos_ref.networks import ReferenceNetworks
from ...gmos_ref.presets import Preset
from ...runtime.bundle.manifest import TARGETS, BundleGraph, BundleNetwork, Ranges, Target
from ...runtime.bundle.tables import Pi3TableSource, TableMaker
from ...runtime.contract import HEADS, WITHOUT_WEIGHTS, ModelSpec, NetworkName
from ...runtime.precision import PRECISIONS, PrecisionName
from ...runtime.shapes import letters_of
from .bundle_directory import save_graph
from .capture import capture, declare_shapes
from .flops import count_flops, count_parameters
from .lowering import lower_attention
from .lowering_norms import lower_channel_norms
from .lowering_upsampling import lower_upsampling
from .network_modules import MODULES
from .shape_profiles import profiles_of
from .signature import Signature, signature, torch_dtype
from .small_graphs import small_graph
from .validation import NOT_COMPARED, Validation
from .weight_files import WeightFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every network of a bundle is exported with.

    `profiles` are the shape profiles of `shape_profiles`.
    """

    sizes: Preset
    model: ModelSpec
    precision: PrecisionName
    head_precision: PrecisionName
    opset: int
    profiles: tuple[Ranges, ...]

    def signature(self, name: NetworkName) -> Signature:
        """The tensors of a network."""
        return signature(name, self.model, head_dim=self.sizes.pi3.head_dim, precision=self.precision)

    def precision_of(self, name: NetworkName) -> PrecisionName:
        """Precision of a network's weights."""
        return self.head_precision if name in HEADS else "fp32" if name in WITHOUT_WEIGHTS else self.precision


class NetworkExporter:
    """Exports networks into a directory one after the other; equal weights are written once.

    `validated` says whether each is held against the reference, and `left` where the files of one that fails are left.
    """

    def __init__(
        self,
        root: Path,
        plan: Plan,
        networks: ReferenceNetworks,
        tables: Pi3TableSource,
        *,
        validated: bool,
        left: Path | None = None,
    ) -> None:
        self._root = root
        self._plan = plan
        self._networks = networks
        self._validation = (
            Validation(root, plan.model, networks, TableMaker(tables, plan.model), left)
            if validated
            else None
        )
        self._weights = WeightFiles(root)

    def export(self, name: NetworkName) -> BundleNetwork:
        """Write the graphs and weights of a network, and hold them against the reference.

        Raises:
            GmosError: the exported network does not compute what the reference does.
        """
        plan, sign = self._plan, self._plan.signature(name)
        letters = letters_of((*sign.all_inputs, *sign.outputs))
        profiles = _distinct(
            {letter: lengths for letter, lengths in ranges.items() if letter in letters}
            for ranges in profiles_of(name, plan.profiles, plan.model)
        )
        usual = {letter: ranges[1] for letter, ranges in profiles[0].items()} if profiles else {}
        if name in WITHOUT_WEIGHTS:
            flops, parameters = 0.0, 0
            graphs = self._without_copies({target: self._write_small(name, target) for target in TARGETS})
        else:
            dtype = torch_dtype(PRECISIONS[plan.precision_of(name)].dtype)
            module = MODULES[name](self._networks, plan.model, dtype).eval()
            flops = count_flops(module, sign, usual)
            model = capture(module, sign, patch_px=plan.model.patch_px, opset=plan.opset)
            parameters = count_parameters(model.graph)
            graphs = self._write(model, sign)
        return BundleNetwork(
            name=name,
            inputs=sign.inputs,
            outputs=sign.outputs,
            precision=plan.precision_of(name),
            graphs=graphs,
            profiles=profiles,
            parameters=parameters,
            flops=flops,
            flops_at=usual,
            gate=NOT_COMPARED
            if self._validation is None
            else self._validation.validate(sign, plan.precision_of(name), graphs),
        )

    def _write(self, model: ir.Model, sign: Signature) -> dict[Target, BundleGraph]:
        weights = self._weights.move_out(model, f"{sign.name}.weights")
        graphs: dict[Target, BundleGraph] = {}
        for target in TARGETS:
            # Weights are outside by now: a copy is a matter of kilobytes.
            form = ir.from_proto(ir.to_proto(model))
            for lower in (lower_attention, lower_upsampling, lower_channel_norms):
                lower(form, target)
            declare_shapes(form, sign)
            graphs[target] = self._save(form, sign, target, weights)
        return self._without_copies(graphs)

    def _write_small(self, name: NetworkName, target: Target) -> BundleGraph:
        form = small_graph(name, self._plan.model, target, opset=self._plan.opset)
        return self._save(form, self._plan.signature(name), target, ())

    def _save(
        self, model: ir.Model, sign: Signature, target: Target, weights: tuple[str, ...]
    ) -> BundleGraph:
        file = save_graph(self._root, sign.name, target, model)
        given = {value.name for value in model.graph.inputs}
        return BundleGraph(
            file=file,
            weights=weights,
            tables=tuple(table for table in sign.tables if table.name in given),
        )

    def _without_copies(self, graphs: dict[Target, BundleGraph]) -> dict[Target, BundleGraph]:
        """One file for both targets where they need no forms of their own."""
        standard, own = graphs["standard"], graphs["onnxruntime"]
        path = self._root / own.file
        if path.read_bytes() != (self._root / standard.file).read_bytes():
            return graphs
        path.unlink()
        return {"standard": standard, "onnxruntime": standard}


def _distinct(profiles: Iterable[Ranges]) -> tuple[Ranges, ...]:
    """Without repetitions: most networks do not see the Pi3 resolution."""
    found: list[Ranges] = []
    for ranges in profiles:
        if ranges and ranges not in found:
            found.append(ranges)
    return tuple(found)
