"""The self-test: nano on every backend that is there, its masks held against the reference's, which are stored here.

`python -m gmos_deploy.evaluation.doctor.selftest BACKEND DEVICE REPORT` runs one backend, in a process of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...networks import NetworkChoice
from ...runtime.backend import Backend
from ...runtime.frame_result import ResultName
from ...runtime.pipeline.clip import ClipRun, label_maps
from ...runtime.pipeline.options import RunOptions
from ...runtime.tensorrt.memory import settle_run
from ...runtime.video.drawn_clip import drawn_clip
from ...runtime.video.inputs import resolve_frames
from ..child_process import child_main, run_child
from ..compare.mask_agreement import PROFILES, Labels, sequence_agreement
from .finding import SELFTEST, Finding
from .machine import cache_error

STORED = Path(__file__).with_name("selftest_masks.npz")
"""Label maps (16, 252, 448) uint8 of MOS-I and MOS: the reference on a CPU in float32, by tools/selftest_masks.py."""

NAME = "selftest"

AGAIN_S = 3.0
"""A run that took less is run again: the first one loads kernels, and only the second tells a speed."""

CPU_LIMIT_S, GPU_LIMIT_S, BUILD_LIMIT_S = 240.0, 120.0, 600.0
"""Of one backend; engines are built first, which takes a minute or two on an Orin."""

SIDES: Sequence[tuple[str, str]] = (
    ("torch", "cpu"),
    ("torch", "cuda"),
    ("onnxruntime", "cpu"),
    ("onnxruntime", "cuda"),
    ("tensorrt", "cuda"),
    ("tensorrt-rtx", "cuda"),
)

ENGINES = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideResult:
    """One backend on the clip.

    `load_s` is reading and preparing all networks, engines built included. `differences` are in words, empty
    where the masks are within the limits; the IoUs are of the worse of both results.
    """

    description: str
    load_s: float
    run_s: float
    frames_per_second: float
    mean_iou: float
    least_iou: float
    differences: list[str]


def side_name(backend: str, device: str) -> str:
    """As the findings on backends call it."""
    return backend if backend in ENGINES else f"{backend} on {device}"


def selftest_findings(usable: Sequence[str], *, index: int = 0) -> Iterator[Finding]:
    """Run the backends of these names, one after the other; where the cache cannot be written, in one for now."""
    with ExitStack() as stack:
        environment = {}
        if cache_error() is not None:
            folder = stack.enter_context(TemporaryDirectory(prefix="gmos-cache-", ignore_cleanup_errors=True))
            environment["XDG_CACHE_HOME"] = folder
        yield from _findings(usable, index, environment)


def _findings(usable: Sequence[str], index: int, environment: dict[str, str]) -> Iterator[Finding]:
    for backend, device in SIDES:
        name = side_name(backend, device)
        if name not in usable:
            continue
        limit = BUILD_LIMIT_S if backend in ENGINES else CPU_LIMIT_S if device == "cpu" else GPU_LIMIT_S
        place = device if device == "cpu" else f"{device}:{index}"
        ran = run_child(["-m", __name__, backend, place], limit_s=limit, environment=environment)
        yield side_finding(name, None if ran.fault else SideResult(**ran.value), ran.fault)


def side_finding(name: str, result: SideResult | None, fault: str = "") -> Finding:
    """What a run came to, in words."""
    if result is None:
        return Finding(group=SELFTEST, name=name, state="wrong", found=fault)
    if result.differences:
        words = f"{result.description}: {'; '.join(result.differences)}"
        mend = (
            f"gmos-export check-engines --bundle {selftest_bundle()} --backend {name}"
            if name in ENGINES and cache_error() is None
            else ""
        )
        return Finding(group=SELFTEST, name=name, state="wrong", found=words, mend=mend)
    words = (
        f"{result.description}: masks equal the reference's (mean IoU {result.mean_iou:.5f}, least "
        f"{result.least_iou:.5f}); {result.frames_per_second:.1f} frames/s, loaded in {result.load_s:.1f} s"
    )
    return Finding(group=SELFTEST, name=name, state="ok", found=words)


def selftest_bundle() -> Path:
    """Nano's bundle.

    Raises:
        GmosError: it cannot be made.
    """
    bundle = NetworkChoice(preset="nano", variant="gmos", backend="onnxruntime").resolve().bundle()
    if bundle is None:
        raise ValueError("nano on ONNX Runtime has a bundle")
    return bundle.root


def run_side(backend: str, device: str) -> SideResult:
    """Load one backend and run the clip.

    Raises:
        GmosError: it cannot be loaded, or does not run.
    """
    start = time.perf_counter()
    if backend in ENGINES:
        choice = NetworkChoice(backend=backend, device=device, bundle=selftest_bundle(), build=True)
    else:
        choice = NetworkChoice(
            backend=backend, device=device, preset="nano", variant="gmos", precision="fp32"
        )
    with closing(choice.resolve().load()) as loaded:
        load_s = time.perf_counter() - start
        return run_backend(loaded, load_s=load_s)


def run_backend(backend: Backend, *, load_s: float = 0.0) -> SideResult:
    """Run the clip on networks that are loaded; twice where that takes no time."""
    maps, run_s = clip_masks(backend)
    if run_s < AGAIN_S:
        maps, run_s = clip_masks(backend)
    stored = stored_masks()
    found = [
        sequence_agreement(
            NAME, name, frame_names(len(stored[name])), partial(_pair, stored[name], maps[name])
        )
        for name in stored
    ]
    return SideResult(
        description=backend.description,
        load_s=load_s,
        run_s=run_s,
        frames_per_second=len(maps["mos"]) / run_s,
        mean_iou=min(one.mean_iou for one in found),
        least_iou=min(one.worst_frame.iou for one in found),
        differences=[line for one in found for line in one.failures(PROFILES["fp32"])],
    )


def clip_masks(backend: Backend) -> tuple[dict[ResultName, NDArray[np.uint8]], float]:
    """Label maps (T, H, W) uint8 of the clip by result, and the seconds that they took."""
    model = backend.model
    sequence = resolve_frames(
        drawn_clip(), name=NAME, fps=8, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    options = settle_run(backend, RunOptions(), [sequence])
    start = time.perf_counter()
    stores = label_maps(ClipRun(backend, sequence, options))
    run_s = time.perf_counter() - start
    return {name: np.stack(list(store)) for name, store in stores.items()}, run_s


def stored_masks(path: Path = STORED) -> dict[ResultName, NDArray[np.uint8]]:
    """What the reference answers on the clip.

    Raises:
        GmosError: the package's file is missing or damaged.
    """
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {"mos-i": arrays["mos_i"], "mos": arrays["mos"]}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise GmosError(f"{path} cannot be read ({error}); install gmos-deploy again") from error


def store_masks(maps: Mapping[ResultName, NDArray[np.uint8]], path: Path = STORED) -> None:
    """Write what `stored_masks` reads."""
    arrays: dict[str, Any] = {"mos_i": maps["mos-i"], "mos": maps["mos"]}
    np.savez_compressed(path, **arrays)


def frame_names(count: int) -> list[str]:
    """Of the frames, as files of results are called."""
    return [f"{index:05d}" for index in range(count)]


def _pair(a: Labels, b: Labels, index: int) -> tuple[Labels, Labels]:
    return a[index], b[index]


def main() -> int:
    """Run one backend."""
    backend, device, report = sys.argv[1:]
    return child_main(lambda tell: tell(asdict(run_side(backend, device))), Path(report))


if __name__ == "__main__":
    sys.exit(main())
