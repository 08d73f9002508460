"""Whole videos on engines: the files are those of the same networks called directly, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.contract import Variant, network_specs
from gmos_deploy.runtime.levers import Levers
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.session import LiveSession
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.memory_tracker import MemoryTracker
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.pipeline.thresholds import Thresholds
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.tensorrt.memory import settle_run
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.streams import played

FRAMES, VIDEO_HW = 11, (64, 96)
BATCH = 4
TINY = preset("tiny")


class Direct(TorchBackend):
    """The reference networks with the tracker that engines have, on contiguous tensors as engines are.

    Strides choose PyTorch's algorithms, and those round differently.
    """

    def runner(self, network: Any) -> Any:
        run = super().runner(network)

        def call(inputs: Any) -> dict[str, torch.Tensor]:
            packed = {k: v.contiguous() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            return {key: value.contiguous() for key, value in run(packed).items()}

        return call

    def tracker(self, features: Any, **sizes: Any) -> Any:
        return MemoryTracker(self, features, **sizes)


@pytest.fixture(scope="module")
def direct() -> Callable[[Variant], Direct]:
    """Backends by variant, made once."""
    made: dict[Variant, Direct] = {}

    def get(variant: Variant) -> Direct:
        if variant not in made:
            networks = stand_in_networks(TINY, variant)
            made[variant] = Direct(
                model_spec(TINY, variant), networks, device=torch.device("cpu"), precision="fp32"
            )
        return made[variant]

    return get


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth texture with a patch that moves."""
    directory = tmp_path_factory.mktemp("engines") / "clip"
    directory.mkdir()
    rng = np.random.default_rng(4)
    ground, patch = (ndimage.gaussian_filter(rng.random((*VIDEO_HW, 3)), (4, 4, 0)) for _ in range(2))
    for t in range(FRAMES):
        frame = ground.copy()
        frame[16:48, 8 + 4 * t : 40 + 4 * t] = patch[16:48, 8:40]
        scaled = 255 * (frame - ground.min()) / np.ptp(ground)
        Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).save(directory / f"{t:05d}.png")
    return directory


@pytest.fixture
def torch_world(make_world: Any, direct: Callable[[Variant], Direct]) -> Callable[..., Any]:
    """Worlds whose engines compute what the reference computes."""

    def make(variant: Variant = "gmos", **options: Any) -> Any:
        world = make_world(variant=variant, pi3_sizes=((168, 112),), max_batch=BATCH, **options)
        reference = direct(variant)
        specs = network_specs(world.model)

        def compute(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
            given = {
                tensor.name: inputs[tensor.name]
                if tensor.host
                else torch.from_numpy(np.array(inputs[tensor.name]))
                for tensor in specs[name].inputs
            }
            return {key: value.numpy() for key, value in reference.runner(name)(given).items()}

        world.compute = compute
        return world

    return make


def run(backend: Any, clip: Path, save_dir: Path, **options: Any) -> None:
    model = backend.model
    sequence = resolve_inputs(
        [clip], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )[0]
    modes = frozenset({"mask"} if model.variant == "gmos" else {"mask", "prob"})
    asked = RunOptions(batch_size=BATCH, **options)
    results = ResultSet(
        save_dir=save_dir, sequence="clip", variant=model.variant, modes=modes, settings=asked.settings()
    )
    run = ClipRun(backend, sequence, asked)
    file_results(iter(run), results, sequence.media)


def files(save_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(save_dir)): path.read_bytes()
        for path in sorted(save_dir.rglob("*.png"))
        if ".gmos" not in path.parts
    }


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
def test_a_stream_on_engines_is_the_same_stream(
    torch_world: Callable[..., Any], direct: Callable[[Variant], Direct], clip: Path, variant: Variant
) -> None:
    """Byte for byte, with objects that are forgotten and a second sequence."""
    model = direct(variant).model
    (sequence,) = resolve_inputs(
        [clip], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    thresholds = Thresholds(max_objects=3, iou=0.6)
    found = []
    for backend in (direct(variant), torch_world(variant).backend()):
        session = LiveSession(
            backend,
            video_hw=VIDEO_HW,
            stride=1,
            fps=8,
            options=RunOptions(thresholds=thresholds),
            retire_after_s=0.2,
        )
        with session:
            answers = [answer for frame in played(sequence) for answer in session.push(frame)]
            answers += session.reset()
            answers += [answer for frame in played(sequence) for answer in session.push(frame)]
            answers += session.finish()
        found.append(answers)
    for one, other in zip(*found, strict=True):
        assert (one.index, one.ids) == (other.index, other.ids)
        for name in one.maps:
            assert np.array_equal(one.values(name), other.values(name)), (one.index, name)
    if variant == "gmos":
        assert max(found[0][-1].ids.values()) > 3
    # What is left of a stream may outlive its networks.
    left = LiveSession(backend, video_hw=VIDEO_HW, stride=1, fps=8)
    for frame in played(sequence):
        left.push(frame)
    backend.close()
    left.close()


def test_a_stream_takes_no_more_of_the_device(make_world: Callable[..., Any]) -> None:
    """The pool holds after 130 frames what it held after 90, with objects that come, are reinforced and go."""
    world = make_world(pi3_sizes=((168, 112),))
    toy = world.compute

    def compute(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = toy(name, inputs)
        if name == "proposer":
            out |= {"motion_logits": np.full_like(out["motion_logits"], 4), "ious": np.ones_like(out["ious"])}
        if name == "proposal_labels":
            out["labels"] = np.zeros_like(out["labels"])
            out["labels"][:, 8:40, 8:40] = 1
            out["labels"][:, 8:40, 60:90] = 2
        if name == "tracked_labels":
            out["positive"] = np.zeros_like(out["positive"])
            out["positive"][:, 8:40, 8:40] = 1
            out["labels"] = np.zeros_like(out["labels"])
        return out

    world.compute = compute
    backend = world.backend()
    held = []
    with LiveSession(
        backend,
        video_hw=VIDEO_HW,
        stride=2,
        fps=8,
        options=RunOptions(thresholds=Thresholds(max_objects=2)),
        retire_after_s=0.5,
    ) as session:
        ids = 0
        for index in range(130):
            rgb = np.full((*VIDEO_HW, 3), index, np.uint8)
            frame = LiveFrame(
                index=index, time_s=index / 8, arrival_s=0, rgb=rgb, new_sequence=index % 20 == 19
            )
            for answer in session.push(frame):
                ids = max(ids, *answer.ids.values(), 0)
            if index in {89, 129}:
                held.append(backend._device.pool.held_bytes)
    assert ids > 8
    assert held[0] == held[1]
    backend.close()


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
@pytest.mark.parametrize("options", [{}, {"device_budget": 0}, {"device_budget": 300_000, "host_budget": 0}])
def test_a_video_on_engines_is_the_same_video(
    torch_world: Callable[..., Any],
    direct: Callable[[Variant], Direct],
    clip: Path,
    tmp_path: Path,
    variant: Variant,
    options: dict[str, int],
) -> None:
    """With features on the device, in host memory and in a file; the tracker's calls become graphs."""
    world = torch_world(variant)
    backend = world.backend()
    run(direct(variant), clip, tmp_path / "direct", **options)
    run(backend, clip, tmp_path / "engines", **options)
    backend.close()
    expected, given = files(tmp_path / "direct"), files(tmp_path / "engines")
    assert len(expected) == 2 * FRAMES
    assert len(set(expected.values())) > 2, "the masks say something"
    assert given == expected
    assert not world.fake_cuda.device
    if variant == "gmos":
        assert world.fake_cuda.calls["cudaGraphLaunch"] > FRAMES
        assert set(world.computed) == set(world.bundle.networks)


@pytest.mark.parametrize(
    ("variant", "levers", "mos_i_only"),
    [
        ("gmos-s", Levers(geometry_every=2), False),
        ("gmos-s", Levers(geometry_every=3, geometry_change=0.01), False),
        ("gmos", Levers(geometry_every=2), True),
        ("gmos", Levers(geometry_every=3, propose_every=3), False),
    ],
)
def test_levers_on_engines(
    torch_world: Callable[..., Any],
    direct: Callable[[Variant], Direct],
    clip: Path,
    tmp_path: Path,
    *,
    variant: Variant,
    levers: Levers,
    mos_i_only: bool,
) -> None:
    """The files of the reference with the same levers, byte for byte; nothing of a run stays on the device."""
    options: dict[str, Any] = {"levers": levers, "mos_i_only": mos_i_only}
    world = torch_world(variant)
    backend = world.backend()
    run(direct(variant), clip, tmp_path / "direct", **options)
    run(backend, clip, tmp_path / "engines", **options)
    backend.close()
    expected, given = files(tmp_path / "direct"), files(tmp_path / "engines")
    assert len(expected) == FRAMES * (1 if mos_i_only else 2)
    assert given == expected
    assert not world.fake_cuda.device


def test_memory_does_not_grow_with_the_video(
    torch_world: Callable[..., Any], clip: Path, tmp_path: Path
) -> None:
    """What a video needs is there from those before it; in the second one, graphs are still captured."""
    world = torch_world("gmos")
    backend = world.backend()
    allocated = []
    for name in ("first", "second", "third", "fourth"):
        run(backend, clip, tmp_path / name, device_budget=0)
        allocated.append(world.fake_cuda.calls["cudaMalloc"])
    assert allocated[3] - allocated[2] <= 2
    backend.close()


@pytest.fixture
def gmos_run(
    capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the clip: exit status, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        words = [clip, "--stride", 1, "--save_dir", tmp_path / "out", "--batch_size", BATCH, *arguments]
        status = guarded(run_command, "gmos-run", [str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_gmos_run_on_engines(
    torch_world: Callable[..., Any],
    installed: Callable[[Any], None],
    gmos_run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    """It says what it will need before it starts, and that nobody has checked the engines here."""
    world = torch_world("gmos")
    installed(world)
    status, out, err = gmos_run(
        "--bundle", world.bundle.root, "--backend", "tensorrt", "--memory_budget", 500, "--no_cuda_graphs", "--json"
    )  # fmt: skip
    assert status == 0, err
    assert "TensorRT 10.3.0 on cuda:0 (Fake GPU), fp32; loaded in" in err
    assert f"memory: weights {3 * len(world.bundle.networks)} MiB, activations " in err
    assert "of --memory_budget 500 on cuda:0 (Fake GPU)" in err
    assert "warning: no engine was compared with ONNX Runtime on this GPU" in err
    assert "gmos-export check-engines --bundle" in err
    assert json.loads(out)["sequences"][0]["frames"] == FRAMES
    assert world.fake_cuda.calls["cudaGraphLaunch"] == 0


def test_auto_takes_engines_that_fit_and_says_why(
    torch_world: Callable[..., Any],
    installed: Callable[[Any], None],
    gmos_run: Callable[..., tuple[int, str, str]],
) -> None:
    """One line with the GPU."""
    world = torch_world("gmos-s")
    installed(world)
    status, _, err = gmos_run("--bundle", world.bundle.root)
    assert status == 0, err
    assert "backend auto: tensorrt, its engines fit Fake GPU (sm87)" in err


def test_two_workers_on_a_card_stay_within_it(
    torch_world: Callable[..., Any],
    clip: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each plans and takes its half less what its process needs beside; neither gets the other's, whoever is first."""
    caplog.set_level("INFO")
    world = torch_world("gmos")
    card = world.fake_cuda
    card.memory = 256 << 20
    own = 64 << 20
    used, malloc = [0], type(card).malloc

    def watched(self: Any, nbytes: int) -> Any:
        answer = malloc(self, nbytes)
        used.append(self.used)
        return answer

    monkeypatch.setattr(type(card), "malloc", watched)
    backends = []
    for name in ("first", "second"):
        before = card.used
        backend = world.backend(memory_share=0.5)
        backends.append(backend)
        model = backend.model
        (sequence,) = resolve_inputs(
            [clip], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
        )
        options = settle_run(backend, RunOptions(batch_size=BATCH, memory_share=0.5), [sequence])
        assert options.device_budget is not None
        run(backend, clip, tmp_path / name, device_budget=options.device_budget)
        assert card.used - before <= own
        # What its process has beside the networks, of which the run's budget knows nothing.
        card.outside += own
    assert 0 < max(used) <= card.memory
    assert caplog.text.count("of --memory_budget 64 on cuda:0") == 2
    third = r"a share of 0.5 of cuda:0 .* is 64 MiB for networks and arrays, and \d+ MiB are free; close other programs"
    card.outside += own
    with pytest.raises(GmosError, match=third):
        world.backend(memory_share=0.5)
    for backend in backends:
        backend.close()
    assert files(tmp_path / "first") == files(tmp_path / "second")
