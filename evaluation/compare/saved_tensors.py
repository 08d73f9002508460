"""`gmos-parity networks --save_tensors`: what both sides' networks got and answered, for Polygraphy."""

from __future__ import annotations

from pathlib import Path

from ...runtime.bundle.manifest import open_bundle
from ...runtime.onnx.host_graph import bundle_tables, has_bfloat16
from ...runtime.parity import LIMITS, worst_severity
from ...runtime.run_results import run_line, save_call
from .limits import ProfileName
from .network_parity import ComparedCall


class SavedTensors:
    """A folder with a folder for each network: the inputs and both sides' outputs of its worst call.

    Args:
        directory: of all networks.
        bundle_a: of side A; None where it runs none.
        bundle_b: the same of B.
        profile: whose limits the commands compare with.
    """

    def __init__(
        self, directory: Path, bundle_a: Path | None, bundle_b: Path | None, profile: ProfileName
    ) -> None:
        self._directory = directory
        self._profile = profile
        # The graph that goes on from there is B's; its outputs are compared with A's.
        root, self._side = (bundle_a, "b") if bundle_b is None else (bundle_b, "a")
        self._bundle = None if root is None else open_bundle(root)
        self.lines: list[str] = []
        """Commands that go on from there, one for each network that ONNX Runtime's CPU provider runs."""

    def save(self, compared: list[ComparedCall]) -> None:
        """Write the worst call of a network, queries of B in A's order.

        Raises:
            GmosError: it cannot be written.
        """
        worst = max(compared, key=lambda one: worst_severity(one.differences))
        folder, name = self._directory / worst.network, worst.network
        outputs = {"a": worst.call.outputs, "b": worst.given}
        entry = None if self._bundle is None else self._bundle.networks[name]
        if self._bundle is None or entry is None or has_bfloat16(entry):
            save_call(folder, worst.call.inputs, outputs)
            return
        graph = entry.graphs["onnxruntime"]
        inputs = {tensor.name: worst.call.inputs[tensor.name].astype(tensor.dtype) for tensor in entry.inputs}
        tables = bundle_tables(self._bundle, name)({key: values.shape for key, values in inputs.items()})
        read = {tensor.name for tensor in graph.tables}
        inputs |= {key: values for key, values in tables.items() if key in read}
        save_call(folder, inputs, outputs)
        trusted, limits = outputs[self._side], LIMITS[self._profile]
        self.lines.append(run_line(self._bundle.root / graph.file, folder, self._side, trusted, limits))
