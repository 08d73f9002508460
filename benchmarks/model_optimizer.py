"""A network of a bundle quantised by NVIDIA's Model Optimizer, for `calibration.py quantiser --others`.

    python benchmarks/model_optimizer.py VIDEO --fp16 BUNDLE --fp32 BUNDLE --out DIR [--network pi3_decoder]
                                         [--frames 24]

Runs in an environment of its own, since Model Optimizer pins ONNX and ONNX Runtime: `pip install --no-deps
nvidia-modelopt==0.47.0`, what its metadata asks for `[onnx]` (onnxruntime will do for onnxruntime-gpu, and cupy is not
needed), rf-sam-2, onnx-ir, av, and `pip install --no-deps -e .`. It starts from float32 and makes the rest half itself.
Layers and samples are those of the project's own quantiser on the fp16 bundle. A file per precision and method is
written.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization.calibrate import CalibrationDataReader

from calibration import recorded
from gmos_deploy.calibration.network_forms import split
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.linear_layers import all_layers, find_activations
from gmos_deploy.calibration.sampling.sample_store import Sample
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.bundle.tables import TableMaker
from gmos_deploy.runtime.contract import NetworkName

METHODS = {name: ("max",) if form.floating else ("max", "entropy") for name, form in FORMATS.items()}
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
    """Write the files."""
    from modelopt.onnx.quantization import quantize  # noqa: PLC0415 - the help needs none of it

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--fp16", type=Path, required=True, help="the bundle that our own quantiser takes")
    parser.add_argument("--fp32", type=Path, required=True, help="the same weights in float32")
    parser.add_argument("--out", type=Path, required=True, help="directory of the files")
    parser.add_argument("--network", default="pi3_decoder", help="(pi3_decoder)")
    parser.add_argument("--frames", type=int, default=24, help="of the video (24)")
    options = parser.parse_args()
    bundle, source, name = open_bundle(options.fp16), open_bundle(options.fp32), options.network
    layers = all_layers(find_activations(ir.load(bundle.graph_file(name, "standard")).graph))
    # Numbers of nodes differ between the two precisions; products with a part of a weight are not named after it.
    layers = [f"{re.escape(layer.module)}/MatMul_[0-9]+" for layer in layers if "/" in layer.node]
    print(f"{len(layers)} of {len(layers)} layers", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        samples = recorded(bundle, options.video, [name], options.frames, folder / "samples")[name]
        seen, _ = split(samples)
        for precision, methods in METHODS.items():
            for method in methods:
                # Copies: it changes the file that it is given.
                graph = source.networks[name].graphs["standard"]
                for file in (graph.file, *graph.weights):
                    shutil.copyfile(source.root / file, folder / file)
                path = options.out / f"{name}.{precision}.{method}.onnx"
                quantize(
                    str(folder / graph.file),
                    quantize_mode=precision,
                    calibration_data_reader=Reader(source, name, seen),
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    nodes_to_quantize=layers,
                    high_precision_dtype="fp16",
                    output_path=str(path),
                    log_level="ERROR",
                )
                print(path, flush=True)


if __name__ == "__main__":
    sys.exit(main())
