"""NVIDIA's Model Optimizer on a network of a bundle, beside the project's own quantisation.

    python benchmarks/model_optimizer.py VIDEO --fp16 BUNDLE --fp32 BUNDLE [--network pi3_decoder] [--frames 132]

Runs in an environment of its own, since Model Optimizer pins ONNX and ONNX Runtime: `pip install --no-deps
nvidia-modelopt==0.47.0`, what it imports (its metadata without cupy and with onnxruntime for onnxruntime-gpu), onnx-ir,
and `pip install --no-deps -e .`. Both bundles are exports of the same weights: Model Optimizer starts from float32 and
makes the rest half itself. A line per precision and method: greatest relative error of an output on calls that neither
has seen, against the fp16 graph, and bytes of weights. Layers and samples are the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization.calibrate import CalibrationDataReader

from calibration import recorded, worst_error
from gmos_deploy.calibration.calibrate import choose_all, split
from gmos_deploy.calibration.formats import FORMATS
from gmos_deploy.calibration.layer_choice import LayerChooser
from gmos_deploy.calibration.linears import all_linears, find_sites
from gmos_deploy.calibration.network_trial import NetworkTrial
from gmos_deploy.calibration.sample_store import Sample
from gmos_deploy.calibration.sensitivity import Quantiser
from gmos_deploy.runtime.bundle import Bundle, open_bundle
from gmos_deploy.runtime.bundle_tables import TableMaker
from gmos_deploy.runtime.contract import NetworkName

METHODS = {"int8": ("max", "entropy"), "fp8": ("max",)}
"""Those that it has for a precision."""


class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped package
    """Samples as the float32 graph takes them, tables included."""

    def __init__(self, bundle: Bundle, name: NetworkName, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._dtypes = {tensor.name: tensor.dtype for tensor in bundle.networks[name].inputs}
        self._bundle, self._name = bundle, name
        self.rewind()

    def rewind(self) -> None:
        """Begin again, as it is read more than once."""
        self._left = self._fed()

    def get_first(self) -> dict[str, Any]:
        """The first sample, whatever was read."""
        return next(self._fed())

    def get_next(self) -> dict[str, Any] | None:
        """The next sample, None at the end."""
        return next(self._left, None)

    def _fed(self) -> Iterator[dict[str, Any]]:
        tables = TableMaker(self._bundle.table_source(), self._bundle.model)
        graph = self._bundle.networks[self._name].graphs["standard"]
        for sample in self._samples:
            inputs = sample.load()
            shapes = {key: tuple(array.shape) for key, array in inputs.items()}
            extra = tables.tables(self._name, shapes) if graph.tables else {}
            yield {
                **{key: np.asarray(array, self._dtypes[key]) for key, array in inputs.items()},
                **{key: np.asarray(array, np.float32) for key, array in extra.items()},
            }


def main() -> None:
    """Print a line of each."""
    from modelopt.onnx.quantization import quantize  # noqa: PLC0415 - the help needs none of it

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--fp16", type=Path, required=True, help="the bundle to be quantised")
    parser.add_argument("--fp32", type=Path, required=True, help="the same weights in float32")
    parser.add_argument("--network", default="pi3_decoder", help="(pi3_decoder)")
    parser.add_argument("--frames", type=int, default=132, help="of the video (132)")
    options = parser.parse_args()
    bundle, source, name = open_bundle(options.fp16), open_bundle(options.fp32), options.network
    print(f"ONNX Runtime {onnxruntime.__version__}, ONNX {onnx.__version__}, {name}, {options.frames} frames")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = recorded(bundle, options.video, [name], options.frames, folder / "samples")[name]
        seen, held = split(samples)
        trial = NetworkTrial(bundle, name, folder)
        trial.expect(held)
        layers = [linear.node for linear in all_linears(find_sites(trial.model().graph))]
        for precision, form in FORMATS.items():
            own = Quantiser(trial, choose_all(trial, seen, LayerChooser(form=form)), form)
            print(f"{precision}, own: error {own.choice((), 0, held).damage:.4f}", flush=True)
            for method in METHODS[precision]:
                path = folder / f"{precision}.{method}.onnx"
                quantize(
                    str(source.graph_file(name, "standard")),
                    quantize_mode=precision,
                    calibration_data_reader=Reader(source, name, seen),
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    nodes_to_quantize=layers,
                    high_precision_dtype="fp16",
                    output_path=str(path),
                    log_level="ERROR",
                )
                pairs = sum(
                    node.op_type == "QuantizeLinear"
                    for node in onnx.load(path, load_external_data=False).graph.node
                )
                error = worst_error(path, trial, bundle, "standard", held)
                print(
                    f"{precision}, Model Optimizer {method}: error {error:.4f}, {pairs} tensors", flush=True
                )


if __name__ == "__main__":
    sys.exit(main())
