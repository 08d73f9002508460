"""Times every network on ONNX Runtime against eager PyTorch, in one interleaved run on the CPU.

    python benchmarks/networks.py [--preset small] [--networks dino,pi3_decoder] [--bundle DIR]
                                  [--rounds N] [--threads N] [--objects N]

Exports the preset into a temporary folder unless a bundle of it is given. In every round both run once
on the same inputs, in alternating order, so that a machine that slows down slows both; the ratio is the
median over the rounds, eager time over ONNX Runtime's, with its least and greatest value. The limit is
the graph's arithmetic over the fastest of a few large matrix products in the same run. `pi3_decoder` is
also timed in its plain form, which computes all five frames in the last block.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stand_in_export import stand_in_plan

from gmos_deploy.export.onnx.bundle_export import write_bundle
from gmos_deploy.gmos_ref.backend import ReferenceNetworks, TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.presets import Preset, model_spec, preset
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.onnx.sessions import OnnxDevice, SessionOptions, load_onnxruntime
from gmos_deploy.runtime.shapes import VIDEO_AXES, with_pi3

PRODUCT_SIDE = 2048
"""Side of the matrices that the machine's rate is measured with."""

VIDEO_HW = (480, 854)

WARM_S = 5.0
"""A first call longer than this is counted too: what it pays once is lost in it."""

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one network by round."""

    name: str
    onnx_s: list[float]
    eager_s: list[float]
    plain_s: list[float]
    load_s: float
    session_mib: float
    flops: float

    def ratios(self, eager_s: list[float]) -> list[float]:
        """Eager time over ONNX Runtime's, by round."""
        return [eager / own for own, eager in zip(self.onnx_s, eager_s, strict=True)]


def matrix_rate(rounds: int) -> float:
    """Floating-point operations per second of a float32 matrix product."""
    a = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE)
    return max(2 * PRODUCT_SIDE**3 / seconds(lambda: a @ a) for _ in range(rounds))


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident_mib() -> float:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def plain_decoder(pi3: Pi3Encoder, tokens: torch.Tensor) -> torch.Tensor:
    """The decoder as published: the last block for all frames too, and the middle one of the result."""
    batch, window, h, w, channels = tokens.shape
    tables = pi3.tables(h, w)
    registers = pi3.register_token.expand(batch, window, -1, -1)
    x = torch.cat((registers, tokens.flatten(2, 3)), dim=2)
    length = x.shape[2]
    for i, block in enumerate(pi3.decoder):
        shape = (batch * window, length) if i % 2 == 0 else (batch, window * length)
        x = block(x.reshape(*shape, channels), tables.frame_rope if i % 2 == 0 else tables.window_rope)
    frames = x.reshape(batch, window, length, channels)
    return frames[:, pi3.config.middle, pi3.config.decoder_registers :].unflatten(1, (h, w))


def time_network(
    name: NetworkName,
    bundle: Bundle,
    reference: TorchBackend,
    pi3: Pi3Encoder,
    *,
    rounds: int,
    threads: int,
    lengths: dict[str, int],
) -> Timing:
    """Time one network; the session lives for this call only."""
    entry = bundle.networks[name]
    inputs = seeded_inputs(name, entry.inputs, bundle.model, lengths)
    host = {tensor.name for tensor in entry.inputs if tensor.host}
    options = SessionOptions(threads=threads)
    own = OnnxBackend(bundle, OnnxDevice(kind="cpu"), options, load_onnxruntime())
    before = resident_mib()
    load_s = seconds(lambda: own.runner(name))
    session_mib = resident_mib() - before
    run_own = own.runner(name)
    run_eager = reference.runner(name)
    tensors = {key: value if key in host else torch.from_numpy(value) for key, value in inputs.items()}

    def plain() -> None:
        with torch.inference_mode():
            plain_decoder(pi3, cast(torch.Tensor, tensors["tokens"]))

    calls: dict[str, Callable[[], object]] = {
        "onnx": lambda: run_own(inputs),
        "eager": lambda: run_eager(tensors),
    }
    if name == "pi3_decoder":
        calls["plain"] = plain
    found: dict[str, list[float]] = {key: [] for key in ("onnx", "eager", "plain")}
    for number in range(rounds + 1):
        for key in list(calls) if number % 2 else list(calls)[::-1]:
            if len(found[key]) < rounds:
                taken = seconds(calls[key])
                if number or taken > WARM_S:
                    found[key].append(taken)
    own.close()
    return Timing(
        name=name,
        onnx_s=found["onnx"],
        eager_s=found["eager"],
        plain_s=found["plain"],
        load_s=load_s,
        session_mib=session_mib,
        flops=count(entry.flops, entry.flops_at, lengths),
    )


def count(flops: float, at: Any, lengths: dict[str, int]) -> float:  # noqa: ANN401 - a mapping of lengths
    """The recorded arithmetic, where the lengths are those of the record; else not known."""
    same = all(lengths.get(axis, length) == length for axis, length in at.items())
    return flops if same else float("nan")


def report(timing: Timing, rate: float) -> str:
    """One line per form."""
    own = statistics.median(timing.onnx_s)
    limit = timing.flops / rate
    share = f"{limit * 1e3:9.1f} ms ({limit / own:4.0%})" if timing.flops > 0 else " " * 19
    lines = []
    for form, eager_s in (("eager", timing.eager_s), ("plain", timing.plain_s)):
        if eager_s:
            ratios = timing.ratios(eager_s)
            lines.append(
                f"{timing.name:<17}{own * 1e3:10.1f} ms {statistics.median(eager_s) * 1e3:10.1f} ms {form}  "
                f"{statistics.median(ratios):5.2f}x ({min(ratios):.2f}..{max(ratios):.2f})  {share}  "
                f"load {timing.load_s:5.1f} s, {timing.session_mib:6.0f} MiB"
            )
    return "\n".join(lines)


@contextmanager
def bundle_of(sizes: Preset, networks: ReferenceNetworks, given: Path | None) -> Iterator[Bundle]:
    """The bundle given, or one exported for the occasion."""
    if given is not None:
        yield open_bundle(given)
        return
    plan, resolutions = stand_in_plan(sizes, "fp32")
    with tempfile.TemporaryDirectory() as folder:
        yield write_bundle(
            Path(folder) / "bundle", plan, networks, resolutions=resolutions, checkpoints={}, validated=False
        )


def main() -> None:
    """Print a table, and the numbers as JSON on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="small", help="published, small or tiny [small]")
    parser.add_argument("--networks", help="names joined by commas [all]")
    parser.add_argument("--bundle", type=Path, help="a bundle of the preset, fp32 with stand-in weights")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, 1 or more [5]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both [all cores]")
    parser.add_argument("--objects", type=int, default=4, help="tracked objects in a call [4]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = preset(options.preset)
    networks = stand_in_networks(sizes, "gmos")
    reference = TorchBackend(
        model_spec(sizes, "gmos"), networks, device=torch.device("cpu"), precision="fp32"
    )
    timings = []
    with bundle_of(sizes, networks, options.bundle) as bundle:
        if bundle.model != model_spec(sizes, "gmos"):
            sys.exit(f"{options.bundle} is not of the {options.preset} preset")
        ((width, height), *_) = bundle.resolutions
        patch = bundle.model.patch_px
        rate = matrix_rate(rounds=5)
        print(f"{options.threads} threads, matrix products at {rate / 1e9:.0f} GFLOP/s, {width}x{height}")
        print(f"{'network':<17}{'onnxruntime':>13} {'torch':>13}        ratio (spread)      limit")
        for name in options.networks.split(",") if options.networks else bundle.networks:
            lengths = {
                "B": 1,
                "O": options.objects,
                "R": 7,
                "P": 16,
                **dict(zip(VIDEO_AXES, VIDEO_HW, strict=True)),
                **with_pi3({"Hp": height, "Wp": width}, patch),
            }
            timing = time_network(
                name,
                bundle,
                reference,
                networks.pi3,
                rounds=options.rounds,
                threads=options.threads,
                lengths=lengths,
            )
            timings.append(timing)
            print(report(timing, rate), flush=True)
            gc.collect()
    medians = {
        timing.name: {
            "onnxruntime_s": statistics.median(timing.onnx_s),
            "eager_s": statistics.median(timing.eager_s),
            "ratio": float(np.median(timing.ratios(timing.eager_s))),
            "load_s": timing.load_s,
            "session_mib": timing.session_mib,
        }
        for timing in timings
    }
    print(json.dumps({"matrix_gflops": rate / 1e9, "networks": medians}))


if __name__ == "__main__":
    main()
