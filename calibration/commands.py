"""The gmos-export calibrate command: options in, a quantised bundle out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ..errors import GmosError
from ..export.command_options import PATH, option
from ..runtime.precision import QUANTISED
from ..runtime.renamed_option import renamed_option

logger = logging.getLogger(__name__)

SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@click.command(name="calibrate")
@click.argument("inputs", nargs=-1, type=PATH, metavar="INPUT...")
@option("bundle", type=PATH, required=True, metavar="DIR", help="The fp16 bundle to quantise. Required.")
@option("out", type=PATH, required=True, metavar="DIR", help="Directory of the new bundle. Required.")
@option(
    "precision",
    type=click.Choice(QUANTISED),
    required=True,
    help="int8 runs everywhere; fp8 (E4M3) needs an Ada, Hopper or Blackwell GPU. Required.",
)
@option(
    "networks",
    multiple=True,
    metavar="NAMES",
    help="Networks to quantise, joined by commas or repeated.  [default: all that are fp16]",
)
@option("fps", type=float, help="Frames per second of the inputs, as in gmos-run.  [default: the file's own]")
@option("stride", type=int, help="Frames between the neighbours of a window.  [default: fps / 8]")
@option("frames", type=int, help="Frames of each input, 1 or more.  [default: all]")
@option(
    "max_samples",
    type=int,
    default=32,
    show_default=True,
    help="Calls kept of each network, over all inputs, 1 or more.",
)
@option(
    "max_bytes",
    default="4G",
    show_default=True,
    metavar="SIZE",
    help="Bytes of all samples on the disk; K, M and G may follow.",
)
@option("seed", type=int, default=0, show_default=True, help="Seed of the choice of samples.")
@option(
    "samples",
    type=PATH,
    metavar="DIR",
    help="Where samples go, to be kept.  [default: beside --out, removed when the bundle is complete]",
)
@option(
    "ranges",
    type=click.Choice(["best", "max", "percentile", "entropy"]),
    default="best",
    show_default=True,
    help="How far a tensor's range reaches: its maximum, a percentile, the least divergence, or for each layer what "
    "changes its output least.",
)
@option(
    "percentile",
    type=float,
    default=99.99,
    show_default=True,
    help="The percentile of --ranges percentile, above 50 to 100.",
)
@option("no_smoothquant", is_flag=True, help="int8: no SmoothQuant of activations that a LayerNorm gives.")
@renamed_option("no_balance", "no_smoothquant", is_flag=True)
@option(
    "no_mean_shift",
    is_flag=True,
    help="fp8: do not take the means of channels away before they are quantised.",
)
@renamed_option("no_centre", "no_mean_shift", is_flag=True)
@option("no_gptq", is_flag=True, help="Round weights to the nearest, not by GPTQ, and correct no bias.")
@renamed_option("no_compensation", "no_gptq", is_flag=True)
@option(
    "target_parity",
    multiple=True,
    metavar="TARGET",
    help="Exclude the most sensitive layers, which stay fp16, until every network is within the limits of this profile "
    "(fp16, bf16, int8, fp8), or within this relative error, such as 0.01; NETWORK=TARGET for one of them. Joined by "
    "commas or repeated.  [default: none is excluded]",
)
@option(
    "weight_only",
    multiple=True,
    metavar="NAMES",
    help="Networks whose layers compute in half precision from weights in eight bits, joined by commas or repeated; "
    "excluded stands for the layers that --target_parity excludes.  [default: none]",
)
@renamed_option("weights_only", "weight_only", multiple=True)
@option(
    "target_masks",
    type=float,
    metavar="IOU",
    help="Run INPUT again and make networks weight-only, until each result of "
    "each video keeps this mean IoU with the bundle's, such as 0.97.  [default: masks are not compared]",
)
@option("sensitivity", is_flag=True, help="Quantise each group of layers alone and rank them by the error.")
@option(
    "report",
    type=PATH,
    metavar="DIR",
    help="Write result.json and report.html there, with times measured on this machine.  [default: not written]",
)
@option("device", default="cpu", show_default=True, help="Where the videos run: cpu, cuda, cuda:N or auto.")
@option("no_validation", is_flag=True, help="Keep the networks whatever they differ by.")
@renamed_option("no_gate", "no_validation", is_flag=True)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
def calibrate_command(**options: Any) -> None:
    """Quantise the linear layers of a bundle's networks on what they see in INPUT.

    INPUT is one or more .mp4 files, or directories of frames. Attention, normalisations, mask heads and last layers
    stay in half precision. Each network is compared with its own fp16 graph on calls that its ranges have not seen.
    After an interruption the same command goes on with what was not finished.
    """
    if not options["inputs"]:
        raise GmosError("no INPUT was given; expected videos like those that the networks will run on")
    _require_quantiser()
    # Imported here so that --help does not pay for NumPy, ONNX and ONNX Runtime.
    from rich.console import Console  # noqa: PLC0415

    from ..evaluation.report.files import PAGE_FILE, report_directory  # noqa: PLC0415
    from ..export.inspection import show  # noqa: PLC0415
    from .calibrate import calibrate  # noqa: PLC0415
    from .config import CalibrationConfig  # noqa: PLC0415
    from .quantiser.layer_choice import QuantiserOptions  # noqa: PLC0415
    from .report import write_report  # noqa: PLC0415
    from .sampling.record_calls import SampleLimits  # noqa: PLC0415
    from .search.target_parity import parse_target_parity  # noqa: PLC0415

    report = None if options["report"] is None else report_directory(options["report"])
    config = CalibrationConfig(
        bundle=options["bundle"],
        inputs=tuple(options["inputs"]),
        precision=options["precision"],
        out=options["out"],
        networks=_names(options["networks"]),
        limits=SampleLimits(
            max_samples=options["max_samples"],
            max_bytes=parse_size(options["max_bytes"]),
            frames=options["frames"],
            seed=options["seed"],
        ),
        quantiser=QuantiserOptions(
            method=options["ranges"],
            percentile=options["percentile"],
            smoothquant=not options["no_smoothquant"],
            mean_shift=not options["no_mean_shift"],
            gptq=not options["no_gptq"],
        ),
        target_parity=parse_target_parity(options["target_parity"]),
        weight_only=_weight_only(options["weight_only"]),
        target_masks=options["target_masks"],
        sensitivity=options["sensitivity"],
        validated=not options["no_validation"],
        samples=options["samples"],
        timed=report is not None,
        fps=options["fps"],
        stride=options["stride"],
        device=options["device"],
        force=options["force"],
    )
    bundle, networks = calibrate(config)
    show(bundle, Console())
    if report is not None:
        write_report(report, config, bundle, networks)
        click.echo(f"report: {Path(report) / PAGE_FILE}")


def _names(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def _weight_only(texts: Iterable[str]) -> tuple[str, ...]:
    names = _names(texts)
    if "kept" in names:
        logger.warning("--weight_only kept is called excluded now; the old name goes with the next release")
    return tuple("excluded" if name == "kept" else name for name in names)


def parse_size(text: str) -> int:
    """`4G` as bytes.

    Raises:
        GmosError: it is no size.
    """
    found = re.fullmatch(r"(\d+)([kmg]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise GmosError(f"--max_bytes {text}: expected a number of bytes, such as 500M or 4G")
    return int(found[1]) * SIZE_UNITS[found[2]]


def _require_quantiser() -> None:
    try:
        import onnx  # noqa: F401, PLC0415
        import onnx_ir  # noqa: F401, PLC0415
        import onnxruntime  # noqa: F401, PLC0415
    except ImportError as error:
        raise GmosError(
            f"gmos-export calibrate needs ONNX, onnx-ir and ONNX Runtime ({error}); install them with "
            "pip install 'gmos-deploy[export]'"
        ) from error
