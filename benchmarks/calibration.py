"""What calibration costs and gives: ways of finding ranges compared, and the two largest networks at published size.

    python benchmarks/calibration.py ranges VIDEO --bundle FP16-BUNDLE [--frames 24] [--networks dino,proposer]
    python benchmarks/calibration.py quantiser VIDEO --bundle FP16-BUNDLE [--network pi3_decoder] [--others FILE…]
    python benchmarks/calibration.py published VIDEO --folder DIR [--precision int8] [--targets sm86,sm89,sm120]

`ranges` prints the relative error of each network, everything quantised, for every way of finding ranges and rounding.
`quantiser` gives ONNX Runtime's own quantiser the same network, ranges and layers, and measures graphs of others.
`published` exports the published sizes of `dino` and `pi3_decoder` with stand-in weights into DIR/fp16 if they are not
there, calibrates them on five frames, and builds their engines; it needs TensorRT-RTX, 10 GB of disk and 12 GB of
memory.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from stand_in_export import stand_in_plan

from gmos_deploy.calibration.graph.quantised_graph import quantise
from gmos_deploy.calibration.network_forms import choose_all, split
from gmos_deploy.calibration.quantiser.activation_statistics import collect
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.layer_choice import LayerChooser, QuantiserOptions
from gmos_deploy.calibration.quantiser.linear_layers import all_layers, find_activations, weight_of
from gmos_deploy.calibration.sampling.record_calls import SampleLimits, sample_videos
from gmos_deploy.calibration.sampling.sample_store import Sample, SampleStore
from gmos_deploy.calibration.search.network_trial import NetworkTrial
from gmos_deploy.calibration.search.sensitivity import Quantiser
from gmos_deploy.export.engines.build import EngineBuild, build_engines
from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.export.onnx.bundle_export import table_source
from gmos_deploy.export.onnx.exported_network import NetworkExporter, Plan
from gmos_deploy.export.onnx.shape_profiles import profiles_of
from gmos_deploy.export.onnx.weight_files import WeightFiles
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import PUBLISHED
from gmos_deploy.runtime.bundle.files import BundleFiles, FileRecord
from gmos_deploy.runtime.bundle.manifest import (
    TABLES_FILE,
    Bundle,
    BundleGraph,
    BundleNetwork,
    Rotation,
    Target,
    open_bundle,
)
from gmos_deploy.runtime.comparison.parity import compare_outputs
from gmos_deploy.runtime.contract import WITHOUT_WEIGHTS, NetworkName
from gmos_deploy.runtime.files.checkpoint_identity import file_sha256
from gmos_deploy.runtime.onnx.backend import OnnxBackend, open_bundle_backend
from gmos_deploy.runtime.onnx.host_graph import HostGraph, bundle_tables
from gmos_deploy.runtime.onnx.sessions import SessionOptions, choose_device
from gmos_deploy.runtime.tensorrt.library import load_tensorrt
from gmos_deploy.runtime.video.inputs import resolve_inputs

PLAIN = QuantiserOptions(smoothquant=False, mean_shift=False, gptq=False)
WAYS = (
    ("max", replace(PLAIN, method="max")),
    ("99.99 %", replace(PLAIN, method="percentile")),
    ("entropy", replace(PLAIN, method="entropy")),
    ("best", PLAIN),
    ("smoothquant", replace(PLAIN, smoothquant=True)),
    ("mean shift", QuantiserOptions(gptq=False)),
    ("gptq", QuantiserOptions(mean_shift=False)),
    ("all", QuantiserOptions()),
)
"""Ranges, then what is done beside them: `smoothed` is `best` with balancing, and so on."""


def peak_gib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def recorded(
    bundle: Bundle, video: Path, names: Sequence[NetworkName], frames: int, folder: Path
) -> dict[NetworkName, list[Sample]]:
    """Samples of networks, as the command takes them."""
    model = bundle.model
    sequences = resolve_inputs(
        [video], fps=None, stride=None, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    store = SampleStore(folder)
    backend = open_bundle_backend(bundle.root, device="cpu")
    limits = SampleLimits(max_samples=16, max_bytes=4 << 30, frames=frames, seed=0)
    records = sample_videos(backend, bundle, sequences, store, networks=names, limits=limits)
    backend.close()
    return {name: store.samples(records, name) for name in names}


def ranges(options: argparse.Namespace) -> None:
    """Print a row per network and precision."""
    bundle = open_bundle(options.bundle)
    known = [name for name in bundle.networks if name not in WITHOUT_WEIGHTS]
    names = [name for name in known if not options.networks or name in options.networks.split(",")]
    print(f"ONNX Runtime {onnxruntime.__version__}, {options.bundle}, {options.frames} frames")
    print(f"{'':26s}" + "".join(f"{label:>16s}" for label, _ in WAYS))
    with tempfile.TemporaryDirectory() as folder:
        samples = recorded(bundle, options.video, names, options.frames, Path(folder) / "samples")
        for name in names:
            if not samples[name]:
                print(f"{name}: never called")
                continue
            seen, validation = split(samples[name])
            trial = NetworkTrial(bundle, name)
            graph = trial.model().graph
            nodes = {node.name or "": node for node in graph}
            activations = find_activations(graph)
            statistics = {activation.name: found for activation, found in collect(trial, activations, seen)}
            weights = {layer.node: weight_of(nodes[layer.node]) for layer in all_layers(activations)}
            for precision, form in FORMATS.items():
                row = f"{name:18s}{precision:8s}"
                for _, way in WAYS:
                    chooser = LayerChooser(form=form, options=way)
                    choices = [
                        chooser.choose(activation, statistics[activation.name], weights)
                        for activation in activations
                    ]
                    found = Quantiser(trial, choices, form).tried((), validation)
                    row += f"{found.error:16.4f}"
                print(row, flush=True)


def quantiser(options: argparse.Namespace) -> None:
    """Print errors, bytes and milliseconds of both quantisers."""
    bundle, name = open_bundle(options.bundle), options.network
    with tempfile.TemporaryDirectory() as folder:
        samples = recorded(bundle, options.video, [name], options.frames, Path(folder) / "samples")[name]
        seen, validation = split(samples)
        trial = NetworkTrial(bundle, name)
        graph = trial.model().graph
        nodes = {node.name or "": node for node in graph}
        activations = find_activations(graph)
        statistics = {activation.name: found for activation, found in collect(trial, activations, seen)}
        weights = {layer.node: weight_of(nodes[layer.node]) for layer in all_layers(activations)}
        chooser = LayerChooser(form=FORMATS["int8"], options=replace(PLAIN, method="max"))
        choices = [
            chooser.choose(activation, statistics[activation.name], weights) for activation in activations
        ]
        own = Quantiser(trial, choices, FORMATS["int8"])
        print(
            f"own, ONNX Runtime's form: error {own.tried((), validation).error:.4f}, "
            f"{_activations(own.graph(()))} tensors"
        )
        limits = {layer.node: choice.threshold for choice in choices for layer in choice.activation.layers}
        for target in ("standard", "onnxruntime"):
            model = onnx.load(bundle.graph_file(name, target))
            stored = {tensor.name for tensor in model.graph.initializer}
            # It takes stored weights only: a slice of one is a tensor without a range to it.
            layers = [node for node in model.graph.node if node.name in limits and node.input[1] in stored]
            # By reader: behind attention the tensors have other names in the two forms.
            data = {
                node.input[0]: TensorData(
                    lowest=np.array(-limits[node.name], np.float16),
                    highest=np.array(limits[node.name], np.float16),
                )
                for node in layers
            }
            theirs = QDQQuantizer(
                model,
                True,
                False,
                QuantType.QInt8,
                QuantType.QInt8,
                TensorsData(CalibrationMethod.MinMax, data),
                [node.name for node in layers],
                [],
                ["MatMul"],
                {
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],
                    "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
                },
            )
            theirs.quantize_model()
            quantised = theirs.model.model
            path = Path(folder) / f"theirs.{target}.onnx"
            onnx.save(quantised, path)
            worst = worst_error(path, trial, bundle, validation)
            print(
                f"QDQQuantizer, {target} form: error {worst:.4f}, {_activations(ir.load(path))} tensors, "
                f"{len(layers)} of {len(limits)} layers, {path.stat().st_size} bytes"
            )
        for precision, form in FORMATS.items():
            own = Quantiser(trial, choose_all(trial, seen, LayerChooser(form=form)), form)
            print(f"own, {precision}, all that is done: error {own.tried((), validation).error:.4f}")
        for path in options.others:
            error = worst_error(path, trial, bundle, validation)
            print(f"{path.name}: error {error:.4f}, {_activations(ir.load(path))} tensors")


def worst_error(path: Path, trial: NetworkTrial, bundle: Bundle, samples: Sequence[Sample]) -> float:
    """Greatest relative L2 error of an output of another graph of a network, against the trial's own."""
    # Another quantiser may leave its inputs float32: they are given as the file has them.
    graph = HostGraph(path, tables=bundle_tables(bundle, trial.name))
    return max(
        found.relative
        for sample in samples
        for found in compare_outputs(
            trial.name, graph.run(sample.load()), trial.expected(sample), target="other", lengths={}
        )
    )


def _activations(model: object) -> int:
    return sum(node.op_type == "QuantizeLinear" for node in model.graph)  # type: ignore[attr-defined]


def published(options: argparse.Namespace) -> None:
    """Export, calibrate, build; a line with seconds and peak memory after each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names: tuple[NetworkName, ...] = tuple(options.networks.split(","))
    # The decoder is sampled on what DINO gives it.
    bundle = _published_bundle(options.folder / "fp16", tuple(dict.fromkeys(("dino", *names))), "fp16")
    model = bundle.model
    sequences = resolve_inputs(
        [options.video], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    store, start = SampleStore(options.folder / "samples"), time.perf_counter()
    device = choose_device("cpu", onnxruntime)
    backend = OnnxBackend(bundle, device, SessionOptions(prepack=False), onnxruntime)
    limits = SampleLimits(max_samples=options.samples, max_bytes=4 << 30, frames=5, seed=0)
    records = sample_videos(backend, bundle, sequences, store, networks=names, limits=limits)
    backend.close()
    print(f"sampled in {time.perf_counter() - start:.0f} s, peak {peak_gib():.1f} GiB", flush=True)
    form, out = FORMATS[options.precision], options.folder / options.precision
    out.mkdir(exist_ok=True)
    (out / TABLES_FILE).write_bytes((bundle.root / TABLES_FILE).read_bytes())
    for name in names:
        start = time.perf_counter()
        seen, validation = split(store.samples(records, name))
        trial = NetworkTrial(bundle, name)
        quantiser = Quantiser(trial, choose_all(trial, seen, LayerChooser(form=form)), form)
        found = quantiser.tried((), validation)
        weights = WeightFiles(out)
        for target, suffix in (("standard", ""), ("onnxruntime", ".onnxruntime")):
            graph = ir.load(bundle.graph_file(name, target))
            quantise(graph, quantiser.choices, form, target=target)
            weights.move_out(graph, f"{name}{suffix}.weights")
            ir.save(graph, out / bundle.networks[name].graphs[target].file)
        sizes = [(root / f"{name}.weights").stat().st_size / 2**20 for root in (bundle.root, out)]
        print(
            f"{name}: error {found.error:.4f}, {len(quantiser.layers)} layers in {options.precision}, weights "
            f"{sizes[0]:.0f} MiB in fp16 and {sizes[1]:.0f} MiB, {time.perf_counter() - start:.0f} s, peak "
            f"{peak_gib():.1f} GiB",
            flush=True,
        )
        del trial, quantiser
    if options.targets:
        _build(_published_bundle(out, names, options.precision), names, options.targets.split(","))


def _published_bundle(root: Path, names: Sequence[NetworkName], precision: str) -> Bundle:
    """Some networks of the published sizes with stand-in weights; those that are not there yet are exported."""
    plan, resolutions = stand_in_plan(PUBLISHED, "fp16")
    missing = [name for name in names if not (root / f"{name}.weights").is_file()]
    if missing:
        root.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        networks = stand_in_networks(PUBLISHED, "gmos")
        tables = table_source(networks.pi3)
        np.save(root / TABLES_FILE, tables.position_embedding, allow_pickle=False)
        exporter = NetworkExporter(root, plan, networks, tables, validated=False)
        for name in missing:
            exporter.export(name)
        print(f"exported in {time.perf_counter() - start:.0f} s, peak {peak_gib():.1f} GiB", flush=True)
    files = {
        path.name: FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in root.iterdir()
        if path.is_file()
    }
    return Bundle(
        root=root,
        identity=f"published stand-ins, {precision}",
        model=plan.model,
        precision=precision,
        head_precision=precision,
        opset=plan.opset,
        networks={name: _entry(plan, name, precision) for name in names},
        files=BundleFiles(root, files),
        pi3=Rotation(head_dim=PUBLISHED.pi3.head_dim, rope_base=PUBLISHED.pi3.rope_base),
        versions={},
        checkpoints={},
        resolutions=resolutions,
    )


def _entry(plan: Plan, name: NetworkName, precision: str) -> BundleNetwork:
    """What `bundle.json` would say about a network with two forms and weights of its own."""
    sign = plan.signature(name)
    letters = {axis for tensor in sign.all_inputs for axis in tensor.axes if isinstance(axis, str)}
    lengths = profiles_of(name, plan.profiles, plan.model)[0]
    forms: dict[Target, str] = {"standard": f"{name}.onnx", "onnxruntime": f"{name}.ort.onnx"}
    return BundleNetwork(
        name=name,
        precision=precision,
        inputs=sign.inputs,
        outputs=sign.outputs,
        graphs={
            target: BundleGraph(file=file, weights=(f"{name}.weights",), tables=sign.tables)
            for target, file in forms.items()
        },
        profiles=({axis: lengths[axis] for axis in lengths if axis in letters},),
        parameters=0,
        flops=0.0,
        flops_at={},
        gate={},
    )


def _build(bundle: Bundle, names: Sequence[NetworkName], targets: Sequence[str]) -> None:
    build = EngineBuild(
        bundle=bundle,
        library=load_tensorrt("tensorrt-rtx"),
        device=None,
        options=BuildOptions(targets=tuple(targets)),
    )
    for outcome in build_engines(bundle.root, "tensorrt-rtx", networks=names, build=build, checked=False):
        record = outcome.record
        if record is not None:
            print(
                f"{record.network}: {','.join(record.targets)} built in {record.seconds:.0f} s, plan "
                f"{record.plan_bytes / 2**20:.0f} MiB, weights {record.weight_bytes / 2**20:.0f} MiB, attention "
                f"{record.attention['fused']} of {record.attention['expected']} fused, peak {peak_gib():.1f} GiB",
                flush=True,
            )


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("ranges", ranges), ("quantiser", quantiser), ("published", published)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("video", type=Path)
        if name == "published":
            command.add_argument("--folder", type=Path, required=True, help="for bundles and samples")
            command.add_argument("--precision", choices=FORMATS, default="int8", help="(int8)")
            command.add_argument("--networks", default="dino,pi3_decoder", help="(dino,pi3_decoder)")
            command.add_argument("--samples", type=int, default=1, help="calls of each network (1)")
            command.add_argument("--targets", default="sm86,sm89,sm120", help="an empty one builds nothing")
            continue
        command.add_argument("--bundle", type=Path, required=True, help="an fp16 bundle")
        command.add_argument("--frames", type=int, default=24, help="of the video (24)")
        if name == "ranges":
            command.add_argument("--networks", default="", help="joined by commas (all)")
        else:
            command.add_argument("--network", default="pi3_decoder", help="(pi3_decoder)")
            command.add_argument(
                "--others", type=Path, nargs="*", default=[], help="graphs of other quantisers"
            )
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    sys.exit(main())
