"""The whole GMOS pipeline at published size on the first frames of a real video: seconds and peak memory.

`python benchmarks/published.py VIDEO [--frames 3] [--device cpu] [--precision auto] [--variant gmos]`

Weights are deterministic stand-ins of the published shapes, so the time is that of the published
networks and the masks mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import platform
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from PIL import Image

from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.loading import choose_device, choose_precision
from gmos_deploy.gmos_ref.presets import PUBLISHED, model_spec
from gmos_deploy.runtime.console_progress import LineProgress
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.video.inputs import resolve_inputs


def peak_gib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run once and print a line per stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="an .mp4 file")
    parser.add_argument("--frames", type=int, default=3, help="frames from its beginning (3)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N (cpu)")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16 (auto)")
    parser.add_argument("--variant", choices=["gmos", "gmos-s"], default="gmos", help="(gmos)")
    parser.add_argument("--batch-size", type=int, default=1, help="windows per call (1)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    start = time.perf_counter()
    networks = stand_in_networks(PUBLISHED, options.variant)
    spec = model_spec(PUBLISHED, options.variant)
    backend = TorchBackend(spec, networks, device=device, precision=precision)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {date.today()}"
    )
    print(f"{machine}; {backend.description}; batch {options.batch_size}")
    print(f"networks made in {time.perf_counter() - start:.1f} s, peak {peak_gib():.1f} GiB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip"
        clip.mkdir()
        with resolve_inputs([options.video], fps=None, stride=1)[0].open() as reader:
            for frame in itertools.islice(reader, options.frames):
                Image.fromarray(frame.rgb).save(clip / f"{frame.index:05d}.png")
        sequence = resolve_inputs([clip], fps=25, stride=None)[0]
        mode = frozenset({"mask"})
        results = ResultSet(
            save_dir=Path(folder) / "out", sequence="clip", variant=options.variant, modes=mode
        )
        run = ClipRun(backend, sequence, RunOptions(batch_size=options.batch_size), progress=LineProgress())
        file_results(iter(run), results, sequence.media)
        summary = run.summary
    height, width = sequence.video_hw
    for stage, seconds in summary.stage_s.items():
        rate = seconds / summary.frames
        print(
            f"{stage}: {seconds:.1f} s for {summary.frames} frames of {width}x{height}, {rate:.2f} s a frame"
        )
    print(f"objects: {summary.mos_i_objects} in MOS-I, {summary.mos_objects} in MOS")
    print(f"peak {peak_gib():.1f} GiB resident; features {summary.feature_bytes}")
    if device.type == "cuda":
        print(f"peak {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB on the device")


if __name__ == "__main__":
    sys.exit(main())
