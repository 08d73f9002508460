"""Times every network and a whole video on a GPU: each backend of the machine against the eager reference.

    python benchmarks/gpu.py --bundle DIR --preset published [--networks dino,pi3_decoder] [--batch_size N]
                             [--objects N] [--rounds N] [--frames N] [--no_video]

The bundle is exported from the preset's stand-in weights (gmos-export onnx --preset P --precision fp16) and has
engines for this GPU where they are to be timed. Backends take turns within each round, the first one of a
round changes, and a ratio is the median over the rounds, eager time over the backend's, with its least and
greatest value. A round calls a network as often as fills a tenth of a second and waits for the device at its
end, so launching counts where it is slower than computing. `gpu` is the time between two CUDA events around
the same calls where a backend has a stream to put them in; it is less than the whole by what the host adds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.bundle.uploading import dtypes_of, upload_inputs
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.onnx.backend import open_bundle_backend
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.shapes import VIDEO_AXES, with_pi3
from gmos_deploy.runtime.tensorrt.backend import EngineBackend, open_engine_backend
from gmos_deploy.runtime.tensorrt.library import FLAVOURS
from gmos_deploy.runtime.video.inputs import resolve_inputs

EAGER = "torch"
FILL_S = 0.1
"""Calls of one measurement together: waiting for the device once is lost in it."""

WARM_CALLS = 5
"""Before anything is timed: kernels are loaded, chosen and, where calls come again, captured."""

VIDEO_HW = (480, 854)
MEMORIES, POINTERS = 7, 16


@dataclass(slots=True)
class Timing:
    """Milliseconds a call by round; `gpu_ms` between CUDA events."""

    wall_ms: list[float] = field(default_factory=list)
    gpu_ms: list[float] = field(default_factory=list)


def turns(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The order of each round: every name is first, second and so on equally often."""
    for number in range(rounds):
        start = number % len(names)
        yield [*names[start:], *names[:start]]


def ratios(timing: Timing, eager: Timing) -> tuple[float, float, float]:
    """Median, least and greatest of eager time over this one's, round by round."""
    found = [theirs / own for own, theirs in zip(timing.wall_ms, eager.wall_ms, strict=True)]
    return statistics.median(found), min(found), max(found)


def line(name: str, backend: str, timing: Timing, eager: Timing) -> str:
    """One row of the report."""
    middle, least, greatest = ratios(timing, eager)
    gpu = f"{statistics.median(timing.gpu_ms):9.3f} ms gpu" if timing.gpu_ms else " " * 16
    wall = statistics.median(timing.wall_ms)
    return f"{name:<17}{backend:<13}{wall:10.3f} ms{gpu}  {middle:5.2f}x ({least:.2f}..{greatest:.2f})"


def gpu_timer(backend: Any) -> Callable[[Callable[[], None]], float] | None:  # noqa: ANN401 - either backend
    """Measures work between two events in the backend's stream; None for one that shows no stream."""
    if isinstance(backend, TorchBackend):

        def by_torch(work: Callable[[], None]) -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return by_torch
    return backend.measure_ms if isinstance(backend, EngineBackend) else None


def measure(backend: Any, call: Callable[[], object], repeats: int, timing: Timing) -> None:  # noqa: ANN401
    """Add one round to a timing."""

    def work() -> None:
        for _ in range(repeats):
            call()

    timer = gpu_timer(backend)
    backend.arrays.synchronize()
    start = time.perf_counter()
    if timer is None:
        work()
    else:
        timing.gpu_ms.append(timer(work) / repeats)
    backend.arrays.synchronize()
    timing.wall_ms.append(1e3 * (time.perf_counter() - start) / repeats)


def time_calls(
    backends: Mapping[str, Any],
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = WARM_CALLS,
) -> dict[str, Timing]:
    """Warm every backend up, then time them in turns."""
    repeats = {}
    for name, backend in backends.items():
        for _ in range(warm):
            calls[name]()
        backend.arrays.synchronize()
        start = time.perf_counter()
        calls[name]()
        backend.arrays.synchronize()
        repeats[name] = max(1, round(FILL_S / (time.perf_counter() - start)))
    timings = {name: Timing() for name in backends}
    for order in turns(list(backends), rounds):
        for name in order:
            measure(backends[name], calls[name], repeats[name], timings[name])
    return timings


def network_call(
    backend: Any,  # noqa: ANN401 - either backend
    bundle: Bundle,
    name: NetworkName,
    lengths: Mapping[str, int],
) -> Callable[[], object]:
    """A call of a network on inputs that lie on the device."""
    entry = bundle.networks[name]
    values = seeded_inputs(name, entry.inputs, bundle.model, lengths)
    inputs = upload_inputs(backend.arrays, values, dtypes_of(entry.inputs))
    run = backend.runner(name)
    return lambda: run(inputs)


def video(folder: Path, frames: int) -> Path:
    """Frames of noise: what is in them costs no time."""
    directory = folder / "clip"
    directory.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (*VIDEO_HW, 3), np.uint8)
    for index in range(frames):
        Image.fromarray(np.roll(noise, 4 * index, axis=1)).save(directory / f"{index:05d}.png")
    return directory


def video_call(backend: Any, clip: Path, out: Path, batch_size: int) -> Callable[[], object]:  # noqa: ANN401
    """A whole run over the clip; its files are replaced."""
    model = backend.model
    (sequence,) = resolve_inputs(
        [clip], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    results = ResultSet(save_dir=out, sequence="clip", variant=model.variant, modes=frozenset({"mask"}))
    options = RunOptions(batch_size=batch_size)

    def call() -> None:
        run = ClipRun(backend, sequence, options)
        file_results(iter(run), results, sequence.media, existing="overwrite")

    return call


def available(bundle: Bundle, reference: TorchBackend) -> dict[str, Any]:
    """The reference and every other backend that runs this bundle here; the others say why not."""
    backends: dict[str, Any] = {EAGER: reference}
    makers: dict[str, Callable[[], Any]] = {
        "onnxruntime": lambda: open_bundle_backend(bundle.root, device="cuda"),
        **{
            flavour: lambda flavour=flavour: open_engine_backend(bundle.root, flavour)  # type: ignore[misc]
            for flavour in FLAVOURS
        },
    }
    for name, make in makers.items():
        with said(name):
            backends[name] = make()
    return backends


@contextmanager
def said(name: str) -> Iterator[None]:
    """Say why a backend is left out."""
    try:
        yield
    except GmosError as error:
        print(f"{name}: not timed, {error}", file=sys.stderr)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--preset", default="published")
    parser.add_argument("--networks")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--no_video", action="store_true")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    networks = stand_in_networks(preset(options.preset), bundle.model.variant)
    if model_spec(preset(options.preset), bundle.model.variant) != bundle.model:
        sys.exit(f"{options.bundle} is not of the {options.preset} preset")
    reference = TorchBackend(
        bundle.model, networks, device=torch.device("cuda"), precision=cast(Any, bundle.precision)
    )
    width, height = bundle.resolutions[0]
    pi3 = with_pi3({"Hp": height, "Wp": width}, bundle.model.patch_px)
    video_size = dict(zip(VIDEO_AXES, VIDEO_HW, strict=True))
    with ExitStack() as stack:
        backends = available(bundle, reference)
        for backend in backends.values():
            stack.enter_context(closing(backend))
            print(backend.description)
        chosen = options.networks.split(",") if options.networks else list(bundle.networks)
        for name in chosen:
            lengths = {"B": options.batch_size, "O": options.objects, "R": MEMORIES, "P": POINTERS}
            lengths |= {**video_size, **pi3}
            calls = {key: network_call(backend, bundle, name, lengths) for key, backend in backends.items()}
            timings = time_calls(backends, calls, options.rounds)
            for key, timing in timings.items():
                print(line(name, key, timing, timings[EAGER]))
        if not options.no_video:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            clip = video(folder, options.frames)
            calls = {
                key: video_call(backend, clip, folder / key, options.batch_size)
                for key, backend in backends.items()
            }
            timings = time_calls(backends, calls, options.rounds, warm=1)
            for key, timing in timings.items():
                print(line(f"video, {options.frames} fr", key, timing, timings[EAGER]))


if __name__ == "__main__":
    main()
