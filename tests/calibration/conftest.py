"""A video of moving boxes, and the tiny half-precision bundle calibrated on it, made once per run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.calibration.calibrate import calibrate
from gmos_deploy.calibration.config import CalibrationConfig
from gmos_deploy.calibration.network_forms import CalibratedNetwork
from gmos_deploy.calibration.quantiser.activation_statistics import ActivationStatistics
from gmos_deploy.calibration.quantiser.layer_choice import LayerChooser, QuantiserOptions
from gmos_deploy.calibration.sampling.record_calls import SampleLimits
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle

MadeOnce = Callable[[str, Callable[[Path], Any]], Any]

FRAMES = 9

Array = NDArray[Any]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they give at these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def frames_directory(made_once: MadeOnce) -> Path:
    """Nine frames 96x64 in which a box moves over noise."""

    def make(root: Path) -> Path:
        directory = root / "boxes"
        directory.mkdir()
        background = np.random.default_rng(5).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        for index in range(FRAMES):
            rgb = background.copy()
            rgb[20:44, 4 + 8 * index : 28 + 8 * index] = (220, 30, 30)
            Image.fromarray(rgb).save(directory / f"{index:05d}.png")
        return directory

    return made_once("videos", make)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def config(half_bundle: Bundle, frames_directory: Path) -> Callable[..., CalibrationConfig]:
    """A calibration of the tiny bundle on the boxes into a directory; keywords replace its fields."""

    def make(out: Path, **fields: Any) -> CalibrationConfig:
        given: dict[str, Any] = {
            "bundle": half_bundle.root,
            "inputs": (frames_directory,),
            "precision": "int8",
            "out": out,
            "limits": SampleLimits(max_samples=4, max_bytes=64 << 20, frames=None, seed=0),
            "stride": 1,
        }
        return CalibrationConfig(**(given | fields))

    return make


@pytest.fixture(scope="session")
def int8_run(made_once: MadeOnce, config: Callable[..., CalibrationConfig]) -> tuple[Path, Any]:
    """Where the tiny bundle was calibrated in int8, and the networks."""

    def make(root: Path) -> tuple[Path, Any]:
        return root, calibrate(config(root / "int8", samples=root / "samples"))[1]

    return made_once("int8", make)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def samples(int8_run: tuple[Path, Any]) -> Path:
    """The samples that the bundles in eight bits were calibrated on."""
    return int8_run[0] / "samples"


@pytest.fixture(scope="session")
def int8_bundle(int8_run: tuple[Path, Any]) -> tuple[Bundle, Mapping[str, CalibratedNetwork]]:
    """The tiny bundle in int8, with how each network came to be."""
    root, networks = int8_run
    return open_bundle(root / "int8"), {network.name: network for network in networks}


@pytest.fixture(scope="session")
def fp8_bundle(made_once: MadeOnce, config: Callable[..., CalibrationConfig], samples: Path) -> Bundle:
    """The same in fp8."""

    def make(root: Path) -> Path:
        return calibrate(config(root / "fp8", samples=samples, precision="fp8"))[0].root

    return open_bundle(made_once("fp8", make))


@pytest.fixture
def small_model() -> Callable[..., ir.Model]:
    """A LayerNormalization and layers that read it, half precision: `(weights, gamma, beta=…, biases=…)`."""

    def make(
        weights: Sequence[Array],
        gamma: Array,
        beta: Array | None = None,
        biases: Sequence[Array] | None = None,
    ) -> ir.Model:
        channels = len(gamma)
        half = ir.DataType.FLOAT16

        def value(name: str, array: Array) -> ir.Value:
            tensor = ir.Tensor(np.asarray(array, np.float16), name=name)
            made = ir.Value(name=name, type=ir.TensorType(half), shape=ir.Shape(tensor.shape.numpy()))
            made.const_value = tensor
            return made

        x = ir.Value(name="x", type=ir.TensorType(half), shape=ir.Shape(["L", channels]))
        scale, shift = value("gamma", gamma), value("beta", np.zeros(channels) if beta is None else beta)
        norm = ir.node("LayerNormalization", [x, scale, shift], name="norm/LayerNormalization_0")
        norm.outputs[0].name, norm.outputs[0].type = "normed", ir.TensorType(half)
        initializers, nodes, outputs = [scale, shift], [norm], []
        for number, weight in enumerate(weights):
            stored = value(f"weight_{number}", weight)
            product = ir.node(
                "MatMul", [norm.outputs[0], stored], name=f"blocks.{number}.mlp.fc1/MatMul_{number}"
            )
            product.outputs[0].name = f"y{number}"
            product.outputs[0].type = ir.TensorType(half)
            product.outputs[0].shape = ir.Shape(["L", weight.shape[1]])
            initializers.append(stored)
            nodes.append(product)
            outputs.append(product.outputs[0])
            if biases is not None:
                initializers.append(value(f"bias_{number}", biases[number]))
                added = ir.node("Add", [product.outputs[0], initializers[-1]], name=f"Add_{number}")
                product.outputs[0].name, added.outputs[0].name = f"product{number}", f"y{number}"
                added.outputs[0].type, added.outputs[0].shape = (
                    product.outputs[0].type,
                    product.outputs[0].shape,
                )
                nodes.append(added)
                outputs[-1] = added.outputs[0]
        graph = ir.Graph(
            [x], outputs, nodes=nodes, initializers=initializers, opset_imports={"": 20}, name="small"
        )
        return ir.Model(graph, ir_version=10)

    return make


@pytest.fixture
def chosen() -> Callable[..., Any]:
    """Chooses from rows (n, K) of an activation: `(activation, rows, weights, format, **QuantiserOptions)`."""

    def make(
        activation: Any,
        rows: Array,
        weights: Mapping[str, Array],
        form: Any,
        weight_only: bool = False,
        **options: Any,
    ) -> Any:
        statistics = ActivationStatistics(1)
        statistics.add(rows)
        chooser = LayerChooser(form=form, options=QuantiserOptions(**options))
        return chooser.choose(activation, statistics, weights, weight_only=weight_only)

    return make
