"""The gmos-export calibrate command: options in, a quantised bundle out."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import GmosError
from ..options import (
    DIR,
    INPUT,
    NETWORKS,
    QUANTISATION,
    RESULTS,
    SAMPLES,
    TARGETS,
    GroupedCommand,
    flag,
    force_option,
    given_input,
    listed,
    names_option,
    option,
    rate_options,
    report_option,
    trust_option,
    wide_option,
)
from ..runtime.onnx.telemetry import turn_telemetry_off
from ..runtime.precision import QUANTISED

logger = logging.getLogger(__name__)

AS_GIVEN = (
    "bundle",
    "precision",
    "out",
    "target_masks",
    "sensitivity",
    "samples",
    "fps",
    "stride",
    "device",
    "force",
    "trust",
)

SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@click.command(name="calibrate", cls=GroupedCommand)
@click.argument("inputs", nargs=-1, type=given_input, metavar="INPUT...")
@rate_options
@option("frames", INPUT, "Frames of each input, 1 or more.  [default: all]", type=int, metavar="N")
@option("device", INPUT, "Where the videos run: cpu, cuda, cuda:N or auto.", default="cpu", metavar="NAME")
@option("bundle", NETWORKS, "The fp16 bundle to quantise.", type=DIR, required=True)
@trust_option()
@names_option(NETWORKS, "Networks to quantise", "all that are fp16", multiple=True)
@option("out", RESULTS, "Directory of the new bundle.", type=DIR, required=True)
@force_option
@wide_option
@report_option("Write result.json and report.html there, with times measured on this machine.")
@flag("no_validation", RESULTS, "Keep the networks whatever they differ by.", old=("no_gate",))
@option(
    "precision",
    QUANTISATION,
    "int8 runs everywhere; fp8 (E4M3) needs an Ada, Hopper or Blackwell GPU.",
    type=click.Choice(QUANTISED),
    required=True,
)
@option(
    "ranges",
    QUANTISATION,
    "How far a tensor's range reaches: its maximum (max), a percentile, the least divergence (entropy), or for "
    "each layer what changes its output least (best).",
    type=click.Choice(["best", "max", "percentile", "entropy"]),
    default="best",
    metavar="METHOD",
)
@option(
    "percentile",
    QUANTISATION,
    "The percentile of --ranges percentile, above 50 to 100.",
    type=float,
    default=99.99,
)
@flag(
    "no_smoothquant",
    QUANTISATION,
    "int8: no SmoothQuant of activations that a LayerNorm gives.",
    old=("no_balance",),
)
@flag(
    "no_mean_shift",
    QUANTISATION,
    "fp8: do not take the means of channels away before they are quantised.",
    old=("no_centre",),
)
@flag(
    "no_gptq",
    QUANTISATION,
    "Round weights to the nearest, not by GPTQ, and correct no bias.",
    old=("no_compensation",),
)
@flag("sensitivity", QUANTISATION, "Quantise each group of layers alone and rank them by the error.")
@option(
    "target_parity",
    TARGETS,
    "Exclude the most sensitive layers, which stay fp16, until every network is within these limits (fp16, bf16, "
    "int8, fp8), or within this relative error, such as 0.01; NETWORK=TARGET for one of them. Joined by commas "
    "or repeated.  [default: none is excluded]",
    multiple=True,
    metavar="TARGET",
)
@option(
    "weight_only",
    TARGETS,
    "Networks whose layers compute in half precision from weights in eight bits, joined by commas or repeated; "
    "excluded stands for the layers that --target_parity excludes.  [default: none]",
    old=("weights_only",),
    multiple=True,
    metavar="NAMES",
)
@option(
    "target_masks",
    TARGETS,
    "Run INPUT again and make networks weight-only, until each result of each video keeps this mean IoU with the "
    "bundle's, such as 0.97.  [default: masks are not compared]",
    type=float,
    metavar="IOU",
)
@option(
    "max_samples",
    SAMPLES,
    "Calls kept of each network, over all inputs, 1 or more.",
    type=int,
    default=32,
    metavar="N",
)
@option(
    "max_bytes",
    SAMPLES,
    "Bytes of all samples on the disk; K, M and G may follow.",
    default="4G",
    metavar="SIZE",
)
@option("seed", SAMPLES, "Seed of the choice of samples.", type=int, default=0, metavar="N")
@option(
    "samples",
    SAMPLES,
    "Where samples go, to be kept.  [default: beside --out, removed when the bundle is complete]",
    type=DIR,
)
def calibrate_command(**options: Any) -> int:
    """Quantise the linear layers of a bundle's networks on what they see in INPUT.

    INPUT is one or more video files, directories of frames, directories of videos, or patterns of them. Attention,
    normalisations, mask heads and last layers stay in half precision. Each network is compared with its own fp16 graph
    on calls that its ranges have not seen.
    After an interruption the same command goes on with what was not finished.

    Exit status: 0 done, 2 something given cannot be used (one line says what), 3 done without some of several videos,
    which are named.
    """
    if not options["inputs"]:
        raise GmosError("no INPUT was given; expected videos like those that the networks will run on")
    _require_quantiser()
    # Imported here so that --help does not pay for NumPy, ONNX and ONNX Runtime.
    from ..calibration.calibrate import calibrate  # noqa: PLC0415
    from ..calibration.config import CalibrationConfig, parse_target_parity  # noqa: PLC0415
    from ..calibration.quantiser.layer_choice import QuantiserOptions  # noqa: PLC0415
    from ..calibration.report import report_calibration  # noqa: PLC0415
    from ..calibration.sampling.record_calls import SampleLimits  # noqa: PLC0415
    from ..evaluation.report.files import PAGE_FILE, report_directory  # noqa: PLC0415
    from ..fleet.several import Several  # noqa: PLC0415

    report = None if options["report"] is None else report_directory(options["report"])
    config = CalibrationConfig(
        **{name: options[name] for name in AS_GIVEN},
        inputs=options["inputs"],
        networks=listed(options["networks"]),
        limits=SampleLimits(
            **{name: options[name] for name in ("max_samples", "frames", "seed")},
            max_bytes=parse_size(options["max_bytes"]),
        ),
        quantiser=QuantiserOptions(
            method=options["ranges"],
            percentile=options["percentile"],
            **{name: not options[f"no_{name}"] for name in ("smoothquant", "mean_shift", "gptq")},
        ),
        target_parity=parse_target_parity(options["target_parity"]),
        weight_only=_weight_only(options["weight_only"]),
        validated=not options["no_validation"],
        timed=report is not None,
    )
    several = Several(config.inputs, fps=config.fps, stride=config.stride)
    bundle, networks = calibrate(config, several)
    report_calibration(config, bundle, networks, directory=report, wide=options["wide"])
    if report is not None:
        click.echo(f"report: {Path(report) / PAGE_FILE}")
    return several.status()


def _weight_only(texts: Sequence[str]) -> tuple[str, ...]:
    names = listed(texts)
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
    turn_telemetry_off()
    try:
        import onnx  # noqa: F401, PLC0415
        import onnx_ir  # noqa: F401, PLC0415
        import onnxruntime  # noqa: F401, PLC0415
    except ImportError as error:
        raise GmosError(
            f"gmos-export calibrate needs ONNX, onnx-ir and ONNX Runtime ({error}); install them with "
            "pip install 'gmos-deploy[export]'"
        ) from error
