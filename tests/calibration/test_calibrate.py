"""From a half-precision bundle and a video to a bundle that runs."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from gmos_deploy.calibration import calibrate as calibrate_module
from gmos_deploy.calibration.calibrate import calibrate
from gmos_deploy.calibration.config import CalibrationConfig, TargetParity, parse_target_parity
from gmos_deploy.calibration.network_forms import CalibratedNetwork
from gmos_deploy.calibration.report import report_calibration, weight_bytes
from gmos_deploy.calibration.sampling.record_calls import SampleLimits, sample_videos
from gmos_deploy.calibration.sampling.sample_store import SampleStore
from gmos_deploy.calibration.search.target_masks import MaskScore, hold_masks
from gmos_deploy.cli import guarded
from gmos_deploy.commands.calibrate import calibrate_command, parse_size
from gmos_deploy.commands.export import export_command
from gmos_deploy.commands.parity import networks_command
from gmos_deploy.commands.profile import profile_command
from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.compare.mask_agreement import sequence_agreement
from gmos_deploy.evaluation.summary.saved import SavedCalibration, read_saved
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.bundle.manifest import MANIFEST, Bundle, open_bundle
from gmos_deploy.runtime.comparison.parity import LIMITS
from gmos_deploy.runtime.onnx.backend import open_bundle_backend
from gmos_deploy.runtime.pipeline.clip import ClipRun, label_maps
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.precision import Limits
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.sequence import SequenceInput

MakeConfig = Callable[..., CalibrationConfig]
Calibrated = tuple[Bundle, Mapping[str, CalibratedNetwork]]

ENCODERS = ("dino", "pi3_decoder", "sam2_encoder", "proposer")


def limits(**fields: Any) -> SampleLimits:
    return SampleLimits(**({"max_samples": 4, "max_bytes": 64 << 20, "frames": None, "seed": 0} | fields))


def boxes(bundle: Bundle, directory: Path) -> SequenceInput:
    """The frames as an input of a bundle's networks."""
    model = bundle.model
    (sequence,) = resolve_inputs(
        [directory], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    return sequence


class Heard:
    """Implements `Progress`: frames of each stage, planned and done."""

    def __init__(self) -> None:
        self.planned: dict[str, int | None] = {}
        self.done: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Callable[[int], None]]:
        """See `Progress`."""
        self.planned[name] = frames
        yield lambda done: self.done.update({name: done})


def test_the_bundle_is_one_like_any_other(int8_bundle: Calibrated, half_bundle: Bundle) -> None:
    """Precision, hashes, and a comparison that passed for every network that was called."""
    bundle, networks = int8_bundle
    assert open_bundle(bundle.root).precision == bundle.precision == bundle.head_precision == "int8"
    assert (
        set(ENCODERS)
        <= set(networks)
        <= {name for name, entry in bundle.networks.items() if entry.parameters}
    )
    for name, entry in bundle.networks.items():
        if name in networks:
            assert entry.precision == "int8"
            assert entry.gate["passed"] is True
            assert entry.gate["limits"]["relative"] == 0.3
            assert {found["output"] for found in entry.gate["differences"]} == {
                tensor.name for tensor in entry.outputs
            }
        else:
            assert entry.precision == half_bundle.networks[name].precision
    for name in bundle.files:
        bundle.files.verified(name)


def test_weights_shrink_to_a_half(int8_bundle: Calibrated, half_bundle: Bundle) -> None:
    """The layers' bytes; what stays in half, and pages between tensors, are much of a tiny network."""
    bundle, networks = int8_bundle
    layers = sum(layer.weights for network in networks.values() for layer in network.layers)
    saved = weight_bytes(half_bundle) - weight_bytes(bundle)
    # Layers that two networks share are stored once; a scale per channel and alignment take some back.
    assert saved > 0.5 * layers


def test_it_runs_a_video_on_onnx_runtime(int8_bundle: Calibrated, frames_directory: Path) -> None:
    """The whole pipeline, and the features are those of the half-precision bundle to a few percent."""
    bundle, _ = int8_bundle
    backend = open_bundle_backend(bundle.root, device="cpu")
    assert backend.description.endswith("int8")
    progress = Heard()
    run = ClipRun(
        backend, boxes(bundle, frames_directory), RunOptions(batch_size=4), progress=progress, frames=6
    )
    labels = label_maps(run)
    backend.close()
    assert {result: len(maps) for result, maps in labels.items()} == {"mos-i": 6, "mos": 6}
    assert progress.planned == {
        f"boxes: {stage}": 6 for stage in ("propose", "track MOS-I", "track MOS", "write")
    }
    assert progress.done["boxes: propose"] == progress.done["boxes: track MOS-I"] == 6


def test_gmos_run_takes_it_by_its_precision(int8_bundle: Calibrated) -> None:
    """And no other; without a bundle it says how to make one."""
    root = int8_bundle[0].root
    assert (
        NetworkChoice(bundle=root, precision="int8", backend="onnxruntime").resolve().model.preset == "tiny"
    )
    with pytest.raises(GmosError, match=r"exported in int8.*gmos-export calibrate --precision fp8"):
        NetworkChoice(bundle=root, precision="fp8", backend="onnxruntime").resolve()
    with pytest.raises(GmosError, match=r"--precision int8 is that of a calibrated bundle; make one with"):
        NetworkChoice(precision="int8").resolve()


def test_the_bundle_says_what_it_was_calibrated_on(int8_bundle: Calibrated, half_bundle: Bundle) -> None:
    """Videos with hashes, calls seen and kept, the seed, and the choice of every network."""
    record = int8_bundle[0].calibration
    assert record is not None
    assert record["parent"] == {"identity": half_bundle.identity, "precision": "fp16"}
    (video,) = record["videos"]
    assert (video["name"], len(video["sha256"]), video["stride"]) == ("boxes", 64, 1)
    assert video["frames"] == video["calls"]["pi3_decoder"] == 9
    assert 1 <= video["samples"]["pi3_decoder"] <= 4
    assert record["networks"]["pi3_decoder"]["layers"] == 17
    assert record["networks"]["pi3_decoder"]["excluded"] == []
    assert sum(record["networks"]["dino"]["ranges"].values()) == 8
    assert record["seed"] == 0
    assert record["versions"]["onnxruntime"]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_it_is_profiled_and_compared_like_any_other(
    precision: str,
    int8_bundle: Calibrated,
    fp8_bundle: Bundle,
    half_bundle: Bundle,
    frames_directory: Path,
    tmp_path: Path,
) -> None:
    """By gmos-profile and gmos-parity, beside the bundle that it was made from."""
    root = (int8_bundle[0] if precision == "int8" else fp8_bundle).root
    sides = [f"onnxruntime:{folder}" for folder in (half_bundle.root, root)]
    options = "--only networks --networks dino,mask_decoder --iterations 1 --warm_up 0 --objects 1"
    profiled = CliRunner().invoke(
        profile_command,
        [
            *(str(frames_directory), "--side", sides[0], "--side", sides[1], "--report", str(tmp_path)),
            *options.split(),
        ],
        catch_exceptions=False,
    )
    assert profiled.exit_code == 0, profiled.output
    result = json.loads((tmp_path / "result.json").read_text())
    found = {(one["side"], one["network"]): one for one in result["networks"]}
    assert {side for side, _ in found} == set(sides)
    assert found[sides[1], "dino"]["limit_ms"] is None
    assert found[sides[1], "dino"]["bytes"] < found[sides[0], "dino"]["bytes"]
    compared = CliRunner().invoke(
        networks_command,
        [
            str(frames_directory),
            "--a",
            sides[0],
            "--b",
            sides[1],
            "--networks",
            "dino",
            "--profile",
            precision,
        ],
        catch_exceptions=False,
    )
    assert compared.exit_code == 0, compared.output


def test_inspect_shows_it(int8_bundle: Calibrated) -> None:
    """As any bundle, and what it was calibrated on."""
    shown = (
        CliRunner()
        .invoke(export_command, ["inspect", str(int8_bundle[0].root)], catch_exceptions=False)
        .output
    )
    assert "gmos, tiny size, int8 (heads int8), opset 20" in shown
    assert "calibrated on boxes, ranges best" in shown
    assert re.search(r"pi3_decoder +int8", shown)


def test_fp8_bundles_run_too(fp8_bundle: Bundle, frames_directory: Path) -> None:
    """ONNX Runtime's CPU provider rounds to float8 itself."""
    assert fp8_bundle.precision == "fp8"
    assert all(fp8_bundle.networks[name].gate["passed"] for name in ENCODERS)
    backend = open_bundle_backend(fp8_bundle.root, device="cpu")
    tokens = backend.runner("dino")({"frames": np.full((1, 3, 56, 84), 90, np.uint8)})["tokens"]
    assert np.isfinite(backend.arrays.download(tokens)).all()
    backend.close()


def test_samples_are_the_same_for_the_same_seed(config: MakeConfig, tmp_path: Path) -> None:
    """Names and contents; another seed keeps other calls."""
    found = []
    for number, seed in enumerate((0, 0, 3)):
        samples = tmp_path / f"samples{number}"
        calibrate(
            config(
                tmp_path / f"out{number}",
                samples=samples,
                networks=("dino",),
                limits=limits(max_samples=4, seed=seed),
            )
        )
        found.append({path.name: path.read_bytes() for path in samples.rglob("*.npz")})
    assert found[0] == found[1]
    assert len(found[0]) == 4
    assert found[0].keys() != found[2].keys()


def test_finished_videos_are_not_run_again(
    half_bundle: Bundle, samples: Path, int8_bundle: Calibrated, frames_directory: Path, tmp_path: Path
) -> None:
    """The record decides; without one of its files, or with other settings, the video is run."""
    store = SampleStore(Path(shutil.copytree(samples, tmp_path / "samples")))
    names = tuple(name for name, entry in half_bundle.networks.items() if entry.parameters)
    sequences = [boxes(half_bundle, frames_directory)]
    no_backend: Any = None
    records = sample_videos(
        no_backend, half_bundle, sequences, store, networks=names, limits=limits(max_samples=4)
    )
    assert store.samples(records, "dino")
    with pytest.raises(AttributeError):
        sample_videos(no_backend, half_bundle, sequences, store, networks=names, limits=limits(seed=1))
    again = SampleStore(Path(shutil.copytree(samples, tmp_path / "again")))
    assert again.finished("boxes", records["boxes"]["settings"]) is not None
    again.path("boxes", "dino", store.samples(records, "dino")[0].index).unlink()
    assert again.finished("boxes", records["boxes"]["settings"]) is None


def test_samples_go_when_the_bundle_is_complete(config: MakeConfig, tmp_path: Path) -> None:
    """Unless a place was given for them; nothing else is left beside the bundle."""
    calibrate(config(tmp_path / "out", networks=("dino",), limits=limits(max_samples=2, frames=5)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bytes_are_a_limit(config: MakeConfig, tmp_path: Path) -> None:
    """Of all networks together; too few for a single call is said."""
    samples = tmp_path / "samples"
    calibrate(
        config(
            tmp_path / "out",
            samples=samples,
            networks=("dino", "sam2_encoder"),
            limits=limits(max_bytes=1 << 20),
        )
    )
    # An archive adds some bytes to the arrays of a call.
    assert sum(path.stat().st_size for path in samples.rglob("*.npz")) < (1 << 20) + 16 * 1024
    with pytest.raises(GmosError, match=r"--max_bytes leaves 1000 bytes for dino of each video"):
        calibrate(config(tmp_path / "b", networks=("dino",), limits=limits(max_bytes=1000)))
    assert not (tmp_path / "b").exists()


def test_target_parity_keeps_the_most_sensitive_layers_in_half(config: MakeConfig, tmp_path: Path) -> None:
    """Until the limits hold: those of fp16 are too narrow for fp8 in some layers of this network."""
    options = {"networks": ("pi3_decoder",), "limits": limits(max_samples=4), "precision": "fp8"}
    bundle, (network,) = calibrate(
        config(tmp_path / "out", target_parity=TargetParity(target="fp16"), **options)
    )
    assert 0 < len(network.excluded) < len(network.layers)
    assert bundle.networks["pi3_decoder"].gate["passed"] is True
    assert bundle.networks["pi3_decoder"].gate["limits"]["relative"] == 0.02
    assert bundle.calibration is not None
    record = bundle.calibration["networks"]["pi3_decoder"]
    ranked = [part["group"] for part in record["sensitivity"]]
    assert set(record["excluded"]) == set(ranked[: len(record["excluded"])])
    sizes = {name: sum(layer.weights for layer in layers) for name, layers in network.groups.items()}
    worth = [part["error"] ** 2 / sizes[part["group"]] for part in record["sensitivity"]]
    assert worth == sorted(worth, reverse=True)


def test_target_parity_may_differ_by_network(config: MakeConfig, tmp_path: Path) -> None:
    """One is held to a profile of its own, another to none; the bundle says so."""
    target = parse_target_parity(["pi3_decoder=fp16"])
    options = {"networks": ("dino", "pi3_decoder"), "precision": "fp8", "target_parity": target}
    bundle, (dino, decoder) = calibrate(config(tmp_path / "out", **options))
    assert not dino.excluded
    assert not dino.ranking
    assert decoder.excluded
    assert bundle.networks["dino"].gate["limits"]["relative"] == 0.3
    assert bundle.networks["pi3_decoder"].gate["limits"]["relative"] == 0.02
    assert bundle.calibration is not None
    assert bundle.calibration["target_parity"] == "pi3_decoder=fp16"


def test_a_network_may_have_only_its_weights_in_eight_bits(
    config: MakeConfig, half_bundle: Bundle, tmp_path: Path
) -> None:
    """No layer is quantised, as much is saved, and it is nearer to what it was; so are excluded layers of others."""
    options = {"networks": ("pi3_decoder",), "precision": "fp8"}
    eight, (network,) = calibrate(config(tmp_path / "eight", **options))
    bundle, (only,) = calibrate(config(tmp_path / "only", weight_only=("pi3_decoder",), **options))
    assert only.weight_only == len(only.layers)
    assert network.weight_only == 0
    errors = [max(found.relative for found in made.differences if found.finite) for made in (network, only)]
    assert errors[1] < 0.5 * errors[0]
    assert bundle.calibration is not None
    assert bundle.calibration["weight_only"] == ["pi3_decoder"]
    record = bundle.calibration["networks"]["pi3_decoder"]
    assert (record["layers"], record["weight_only"]) == (0, len(only.layers))
    sizes = [bundle.files.size("pi3_decoder.weights") for bundle in (half_bundle, eight, bundle)]
    # A scale per channel instead of one per tensor.
    assert sizes[1] <= sizes[2] < 0.75 * sizes[0]
    target = parse_target_parity(["fp16"])
    excluded, (part,) = calibrate(
        config(tmp_path / "excluded", weight_only=("excluded",), target_parity=target, **options)
    )
    assert 0 < part.weight_only == len(part.excluded) < len(part.layers)
    assert excluded.files.size("pi3_decoder.weights") <= sizes[2]


def test_target_masks_are_looked_at_once_where_they_hold(
    config: MakeConfig, samples: Path, frames_directory: Path, tmp_path: Path
) -> None:
    """Everything computes in eight bits, and the bundle says how its masks agree, as gmos-run writes them."""
    bundle, networks = calibrate(config(tmp_path / "out", samples=samples, target_masks=1e-6))
    assert not any(network.weight_only for network in networks)
    assert bundle.calibration is not None
    assert bundle.calibration["target_masks"] == 1e-6
    (trial,) = bundle.calibration["mask_trials"]
    assert set(trial["quantised"]) == {network.name for network in networks}
    assert {score["result"] for score in trial["scores"]} == {"mos-i", "mos"}
    sequence = boxes(bundle, frames_directory)
    labels = []
    for root in (config(tmp_path).bundle, bundle.root):
        with closing(open_bundle_backend(root)) as backend:
            labels.append(label_maps(ClipRun(backend, sequence))["mos"])
    agreement = sequence_agreement("boxes", "mos", list("012345678"), lambda i: (labels[0][i], labels[1][i]))
    (mos,) = (score for score in trial["scores"] if score["result"] == "mos")
    assert mos["mean_iou"] == pytest.approx(agreement.mean_iou)
    assert mos["worst_frame_iou"] == pytest.approx(agreement.worst_frame.iou)


class MasksThatHangOnTheProposer:
    """Stands for `MaskReference`: masks hold unless the proposer computes in eight bits, or at most `best`."""

    best = 1.0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def scores(self, bundle: Path) -> tuple[MaskScore, ...]:
        """Look at the graph: a quantised layer reads what was quantised."""
        graph = ir.load(open_bundle(bundle).graph_file("proposer", "standard")).graph
        eight = any(node.op_type == "QuantizeLinear" for node in graph)
        iou = 0.4 if eight else self.best
        return (MaskScore(video="v", result="mos", mean_iou=iou, worst_frame_iou=0.0),)


def test_networks_that_masks_hang_on_keep_their_weights_only(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others compute in eight bits; the report shows what was tried."""
    monkeypatch.setattr(calibrate_module, "MaskReference", MasksThatHangOnTheProposer)
    given = {"networks": ("dino", "memory_encoder", "proposer"), "target_masks": 0.97}
    options = config(tmp_path / "out", **given)
    bundle, networks = calibrate(options)
    found = {network.name: network for network in networks}
    assert found["proposer"].weight_only == len(found["proposer"].layers)
    assert not any(network.weight_only for name, network in found.items() if name != "proposer")
    assert bundle.calibration is not None
    trials = bundle.calibration["mask_trials"]
    assert len(trials) == len(found) + 1
    assert set(trials[0]["quantised"]) == set(found)
    assert set(trials[-1]["quantised"]) == set(found) - {"proposer"}
    report_calibration(options, bundle, networks, directory=tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "(this bundle)" in page
    assert re.search(r"all 3 that could.*0\.4000.*mos of v", page)
    monkeypatch.setattr(MasksThatHangOnTheProposer, "best", 0.8)
    with pytest.raises(
        GmosError, match=r"half precision everywhere mos of v has a mean IoU of 0.8000; nothing"
    ):
        calibrate(config(tmp_path / "none", **given))
    assert not (tmp_path / "none").exists()
    _, networks = calibrate(config(tmp_path / "none", validated=False, **given))
    assert all(network.weight_only == len(network.layers) for network in networks)


def test_a_network_beyond_its_limits_is_not_tried_on_masks(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its weights only, whose error is smaller; what --sensitivity found about it stays in the report."""
    monkeypatch.setattr(calibrate_module, "MaskReference", MasksThatHangOnTheProposer)
    options = {"networks": ("pi3_decoder",), "precision": "fp8", "target_masks": 0.97, "sensitivity": True}
    _, (network,) = calibrate(config(tmp_path / "within", **options))
    assert network.weight_only == 0
    error = max(found.relative for found in network.differences)
    monkeypatch.setitem(cast(dict[str, Limits], LIMITS), "fp8", replace(LIMITS["fp8"], relative=0.9 * error))
    bundle, (beyond,) = calibrate(config(tmp_path / "beyond", **options))
    assert beyond.weight_only == len(beyond.layers)
    assert [part.group for part in beyond.ranking] == [part.group for part in network.ranking]
    assert bundle.calibration is not None
    assert [trial["quantised"] for trial in bundle.calibration["mask_trials"]] == [[]]


def test_the_search_for_masks_that_hold_ends_with_a_set_that_was_tried() -> None:
    """All, or what holds one after the other; where weights alone are too much nothing else is tried."""

    def answer(*holding: str) -> tuple[list[str], str]:
        tried = []

        def run(quantised: Collection[str]) -> list[MaskScore]:
            tried.append("".join(quantised))
            iou = 0.98 if tried[-1] in holding else 0.5
            scores = [("mos-i", 1.0), ("mos", iou)]
            return [MaskScore(video="v", result=r, mean_iou=i, worst_frame_iou=0.0) for r, i in scores]

        trials = hold_masks(("a", "b", "c"), run, 0.98)  # type: ignore[arg-type]
        assert sorted("".join(trial.quantised) for trial in trials) == sorted(tried)
        return tried, "".join(trials[-1].quantised)

    assert answer("abc", "a") == (["abc"], "abc")
    assert answer("", "a", "ac") == (["abc", "", "a", "ab", "ac"], "ac")
    assert answer("", "a", "ab") == (["abc", "", "a", "ab"], "ab")
    assert answer("", "b", "bc") == (["abc", "", "a", "b", "bc"], "bc")
    assert answer("", "ab") == (["abc", "", "a", "b", "c"], "")
    assert answer("a") == (["abc", ""], "")


def test_target_parity_as_it_is_given() -> None:
    """A profile for all, others for some; what cannot be meant is refused."""
    assert parse_target_parity([]) == TargetParity()
    assert str(TargetParity()) == ""
    found = parse_target_parity(["proposer=bf16, fp16", "dino=int8"])
    assert str(found) == "fp16,proposer=bf16,dino=int8"
    assert [found.of(name) for name in ("proposer", "dino", "pi3_decoder")] == ["bf16", "int8", "fp16"]
    assert found.limits("proposer", "fp8") == LIMITS["bf16"]
    assert TargetParity().limits("dino", "fp8") == LIMITS["fp8"]
    assert parse_target_parity(["dino=0.01"]).limits("dino", "int8") == replace(LIMITS["int8"], relative=0.01)
    for text, message in (
        (
            "fp32",
            r"--target_parity fp32: expected TARGET or NETWORK=TARGET, the target one of bf16, fp16, int8, fp8",
        ),
        ("1.5", r"--target_parity 1.5: expected .* or a relative error between 0 and 1"),
        ("nan", r"--target_parity nan: expected"),
        ("=fp16", r"--target_parity =fp16: expected"),
        ("dino=", r"--target_parity dino=: expected"),
        ("fp16,,int8", r"--target_parity : expected"),
        ("fp16,int8", r"two targets for every network"),
        ("dino=fp16,dino=fp16", r"two targets for dino"),
    ):
        with pytest.raises(GmosError, match=message):
            parse_target_parity([text])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": ()}, r"no input was given"),
        ({"networks": ("dinosaur",)}, r"--networks dinosaur: expected one of dino, pi3_decoder"),
        (
            {"target_parity": TargetParity(networks={"gmos_s": "fp16"})},
            r"--target_parity gmos_s=…: expected one of dino, pi3_decoder",
        ),
        (
            {"weight_only": ("exclude",)},
            r"--weight_only exclude: expected excluded or one of dino, pi3_decoder",
        ),
        ({"networks": ("sam2_resize",)}, r"--networks sam2_resize: expected one of dino"),
        ({"stride": 3}, r"boxes: 9 frames, expected at least 13 \(5 of a window, 3 apart\)"),
        ({"limits": limits(frames=4)}, r"boxes: 4 frames, expected at least 5"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_anything_runs(
    fields: dict[str, Any], message: str, config: MakeConfig, tmp_path: Path
) -> None:
    """With what was given and what was expected; nothing is written."""
    with pytest.raises(GmosError, match=message):
        calibrate(config(tmp_path / "out", **fields))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_samples": 0}, r"--max_samples 0: expected 1 or more"),
        ({"max_bytes": 0}, r"--max_bytes 0: expected 1 or more"),
        ({"frames": 0}, r"--frames 0: expected 1 or more"),
    ],
)
def test_limits_are_positive(fields: dict[str, Any], message: str) -> None:
    """Each by its option's name."""
    with pytest.raises(GmosError, match=message):
        limits(**fields)


def test_a_quantised_bundle_is_not_quantised_again(
    config: MakeConfig, int8_bundle: Calibrated, tmp_path: Path
) -> None:
    """It has lost what ranges are found on."""
    with pytest.raises(GmosError, match=r"is int8 already; give the fp16 bundle that it was made from"):
        calibrate(config(tmp_path / "out", bundle=int8_bundle[0].root))


def test_a_float32_bundle_is_refused_with_the_way_out(
    config: MakeConfig, half_bundle: Bundle, tmp_path: Path
) -> None:
    """What is not quantised stays in half precision; half is the export's business."""
    copy = Path(shutil.copytree(half_bundle.root, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["precision"] = "fp32"
    for entry in manifest["networks"].values():
        entry["precision"] = "fp32"
    (copy / MANIFEST).write_text(json.dumps(manifest))
    message = (
        r"dino of bundle .* is fp32, .* export with gmos-export onnx --precision fp16 --head_precision fp16"
    )
    with pytest.raises(GmosError, match=message):
        calibrate(config(tmp_path / "out", bundle=copy))


def test_places_that_hold_something_are_not_touched(
    config: MakeConfig, half_bundle: Bundle, tmp_path: Path
) -> None:
    """A bundle without --force, another directory, samples that are none."""
    with pytest.raises(GmosError, match=r"--out .* holds a bundle; give --force to replace it"):
        calibrate(config(half_bundle.root))
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(GmosError, match=r"holds files and no bundle\.json"):
        calibrate(config(tmp_path, force=True))
    with pytest.raises(GmosError, match=r"--samples .* holds thesis\.tex, which is no sample"):
        calibrate(config(tmp_path / "out", samples=tmp_path))
    with pytest.raises(GmosError, match=r"--samples .* is a file; expected a directory"):
        calibrate(config(tmp_path / "out", samples=tmp_path / "thesis.tex"))


@pytest.mark.parametrize("kept_bytes", [2, 5000])
def test_a_damaged_sample_is_said(
    config: MakeConfig, samples: Path, int8_bundle: Calibrated, tmp_path: Path, kept_bytes: int
) -> None:
    """By its path, with the way out."""
    copy = Path(shutil.copytree(samples, tmp_path / "samples"))
    damaged = next(iter(sorted(copy.rglob("dino-*.npz"))))
    damaged.write_bytes(damaged.read_bytes()[:kept_bytes])
    with pytest.raises(GmosError, match=r"sample .*dino-.* cannot be read .*; remove its directory"):
        calibrate(config(tmp_path / "out", samples=copy))
    assert not (tmp_path / "out").exists()


def test_samples_of_a_video_are_complete_or_not_there(tmp_path: Path) -> None:
    """Without its record a video counts as not sampled."""
    store = SampleStore(tmp_path / "samples")
    store.start("clip")
    store.write("clip", "dino", 3, {"frames": np.zeros((1, 3, 2, 2), np.uint8)})
    assert store.finished("clip", {}) is None
    sample = {"file": "dino-000003.npz", "index": 3, "kind": [0, 1], "bytes": 12}
    record = {"settings": {"seed": 1}, "networks": {"dino": {"seen": 4, "samples": [sample]}}}
    store.finish("clip", record)
    assert store.finished("clip", {"seed": 2}) is None
    found = store.finished("clip", {"seed": 1})
    assert found is not None
    (loaded,) = store.samples({"clip": found}, "dino")
    assert (loaded.index, loaded.kind, loaded.load()["frames"].shape) == (3, (0, 1), (1, 3, 2, 2))
    assert store.samples({"clip": found}, "proposer") == []


def test_the_command_writes_a_report(half_bundle: Bundle, frames_directory: Path, tmp_path: Path) -> None:
    """result.json and one page without a network, with the ranking and measured times."""
    out, report = tmp_path / "out", tmp_path / "report"
    arguments = [str(frames_directory), "--bundle", str(half_bundle.root), "--out", str(out)]
    arguments += ["--precision", "int8", "--networks", "dino", "--stride", "1", "--max-samples", "4"]
    arguments += ["--sensitivity", "--report", str(report), "--ranges", "percentile", "--no_smoothquant"]
    shown = CliRunner().invoke(calibrate_command, arguments, catch_exceptions=False, standalone_mode=False)
    assert f"report: {report / 'report.html'}" in shown.output
    result = json.loads((report / "result.json").read_text())
    assert result["schema"] == "gmos-calibration/2"
    (network,) = result["networks"]
    assert network["name"] == "dino"
    assert network["times"]["before_ms"] > 0
    assert [point["excluded"] for point in network["curve"]] == [0, 1, 2, 3]
    sizes = [point["weight_bytes"] for point in network["curve"]]
    assert sizes == sorted(sizes)
    assert network["ranges"] == {"99.99 %": 8}
    assert network["smoothquant"] == 0
    assert isinstance(read_saved(report / "result.json"), SavedCalibration)
    assert [one["name"] for one in result["made_from"]["bundles"]] == [half_bundle.root.name, "out"]
    assert [one["stride"] for one in result["made_from"]["clips"]] == [1]
    assert open_bundle(out).networks["dino"].licence == half_bundle.networks["dino"].licence == "Apache-2.0"
    page = (report / "report.html").read_text().replace("<wbr>", "")
    assert "on a GPU speed is unmeasured here" in page
    assert "dino.blocks.1.mlp" in page
    assert "<polyline" in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "gmos-export: Missing option '--bundle'."),
        (["--bundle", "x", "--out", "y", "--precision", "int4"], "'int4' is not one of 'int8', 'fp8'"),
        (["--bundle", "x", "--out", "y", "--precision", "int8"], "no INPUT was given; expected videos like"),
        (
            ["v.mp4", "--bundle", "x", "--out", "y", "--precision", "int8", "--max_bytes", "lots"],
            "--max_bytes lots: expected a number of bytes, such as 500M or 4G",
        ),
        (
            ["v.mp4", "--bundle", "x", "--out", "y", "--precision", "int8", "--target_masks", "nan"],
            "--target_masks nan: expected a mean IoU above 0, up to 1",
        ),
        (["v.mp4", "--bundle", "nowhere", "--out", "y", "--precision", "int8"], "nowhere is no bundle"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """As for every command."""
    monkeypatch.chdir(tmp_path)
    assert guarded(calibrate_command, "gmos-export", arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_old_option_names_work_and_say_what_they_are_called_now(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """For one release; `kept` among the names of networks, too."""
    given: list[CalibrationConfig] = []

    def stop(config: CalibrationConfig, _several: object) -> None:
        given.append(config)
        raise GmosError("enough")

    monkeypatch.setattr(calibrate_module, "calibrate", stop)
    old = ["--no_balance", "--no-centre", "--no_compensation", "--weights_only", "kept,dino", "--no_gate"]
    arguments = ["v.mp4", "--bundle", "x", "--out", str(tmp_path / "y"), "--precision", "int8", *old]
    with pytest.raises(GmosError, match="enough"):
        CliRunner().invoke(calibrate_command, arguments, catch_exceptions=False, standalone_mode=False)
    (config,) = given
    quantiser = config.quantiser
    assert (quantiser.smoothquant, quantiser.mean_shift, quantiser.gptq) == (False, False, False)
    assert config.weight_only == ("excluded", "dino")
    assert not config.validated
    for name in ("no_smoothquant", "no_mean_shift", "no_gptq", "weight_only", "no_validation"):
        assert f"is now --{name};" in caplog.text
    assert "kept is called excluded now" in caplog.text


@pytest.mark.parametrize(
    ("text", "size"), [("12", 12), ("500M", 500 << 20), ("4GiB", 4 << 30), ("3kb", 3072)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    """Powers of 1024."""
    assert parse_size(text) == size
