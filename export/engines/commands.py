"""The command that builds engines: options in, engines and a table out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ...errors import GmosError
from ..command_options import PATH, option

if TYPE_CHECKING:
    from ...runtime.tensorrt.library import Flavour
    from ...runtime.tensorrt.record import EngineCheck
    from .build import BuildOutcome

MIB = 1 << 20

SHAPE = "{} shape to build for, NETWORK=DIMS or NETWORK.INPUT=DIMS such as dino=1x3x378x672; several joined by commas "
SHAPE += "or repeated. Axes shared with other inputs follow.  [default: the bundle's shape profiles]"


@click.command(name="build-engines")
@option("bundle", type=PATH, required=True, metavar="DIR", help="Bundle made by gmos-export onnx. Required.")
@click.option(
    "--backend",
    "flavour",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    required=True,
    help="tensorrt builds on the device that runs the engines; tensorrt-rtx on any machine, for --target. Required.",
)
@click.option(
    "--target",
    multiple=True,
    metavar="SM",
    help="GPUs that tensorrt-rtx builds for: sm75 (Turing), sm80, sm86 (Ampere), sm89 (Ada), sm120, sm121 (Blackwell); "
    "several joined by commas or repeated.  [default: the GPU of this machine]",
)
@click.option(
    "--networks",
    multiple=True,
    metavar="NAMES",
    help="Networks to build, joined by commas or repeated.  [default: all]",
)
@option("min_shapes", multiple=True, metavar="SHAPES", help=SHAPE.format("Smallest"))
@option("opt_shapes", multiple=True, metavar="SHAPES", help="The same for the shape to be fastest at.")
@option("max_shapes", multiple=True, metavar="SHAPES", help="The same for the largest shape.")
@click.option(
    "--workspace",
    type=int,
    metavar="MIB",
    help="Scratch memory of a layer in MiB, 1 or more.  [default: all that the device has]",
)
@option(
    "opt_level",
    type=int,
    metavar="N",
    help="Effort of the builder, 0 (fastest build) to 5 (fastest engine).  [default: 3]",
)
@option(
    "timing_cache",
    type=PATH,
    metavar="FILE",
    help="Keep measured tactics in this file: later builds on the same device are much shorter. tensorrt only.",
)
@option(
    "version_compatible",
    is_flag=True,
    help="Engines that later versions of the library load; larger, maybe slower. tensorrt only.",
)
@option(
    "hardware_compatible",
    type=click.Choice(["ampere-plus", "same-capability"]),
    help="Engines for more than this machine's GPU: any from Ampere on, or all of its compute capability (not in "
    "TensorRT 10.3). tensorrt only.",
)
@click.option("--tf32", is_flag=True, help="Allow fp32 products with 10-bit mantissas: faster, less exact.")
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of the GPU to build for.",
)
@option("no_check", is_flag=True, help="Do not compare new engines with ONNX Runtime on this machine's GPU.")
@click.option("--force", is_flag=True, help="Build engines that are up to date as well.")
@option("dry_run", is_flag=True, help="Say what would be built and why, and build nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def build_engines_command(**options: Any) -> None:
    """Build a TensorRT engine of every network of a bundle, beside it in DIR/engines.

    Engines that are up to date are kept. After Ctrl-C or an error those that were finished stay.
    """
    # Imported here so that --help does not pay for NumPy and rich's tables.
    from ...runtime.bundle.manifest import open_bundle  # noqa: PLC0415
    from ...runtime.tensorrt.gpu import find_device  # noqa: PLC0415
    from ...runtime.tensorrt.library import load_tensorrt  # noqa: PLC0415
    from .build import EngineBuild, build_engines  # noqa: PLC0415
    from .options import BuildOptions, settled  # noqa: PLC0415
    from .shapes import parse_overrides  # noqa: PLC0415

    asked = BuildOptions(
        targets=_listed(options["target"]),
        workspace_mib=options["workspace"],
        opt_level=options["opt_level"],
        timing_cache=options["timing_cache"],
        version_compatible=options["version_compatible"],
        hardware_compatible=options["hardware_compatible"],
        tf32=options["tf32"],
    )
    bundle = open_bundle(options["bundle"])
    library, device = load_tensorrt(options["flavour"]), find_device(options["device"])
    build = EngineBuild(
        bundle=bundle,
        library=library,
        device=device,
        options=settled(asked, library, device),
        shapes=parse_overrides(
            bundle, {"min": options["min_shapes"], "opt": options["opt_shapes"], "max": options["max_shapes"]}
        ),
    )
    outcomes = build_engines(
        options["bundle"],
        options["flavour"],
        networks=_listed(options["networks"]),
        device=options["device"],
        build=build,
        force=options["force"],
        dry_run=options["dry_run"],
        checked=not options["no_check"],
    )
    if options["as_json"]:
        click.echo(_as_json(build.directory, outcomes))
    else:
        _show(build.directory, outcomes)


@click.command(name="check-engines")
@option("bundle", type=PATH, required=True, metavar="DIR", help="Bundle with engines. Required.")
@click.option(
    "--backend",
    "flavour",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    required=True,
    help="Which engines. Required.",
)
@click.option(
    "--networks",
    multiple=True,
    metavar="NAMES",
    help="Networks to compare, joined by commas or repeated.  [default: all]",
)
@click.option(
    "--device", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the GPU to run on."
)
def check_engines_command(bundle: Path, flavour: Flavour, networks: Sequence[str], device: int) -> None:
    """Compare engines with ONNX Runtime on this machine's GPU and note the result beside them.

    For engines that were built on another machine: those built here were compared already. Engines with
    wrong results are refused from then on.
    """
    from ...runtime.bundle.manifest import open_bundle  # noqa: PLC0415 - as above
    from ...runtime.tensorrt.gpu import find_device  # noqa: PLC0415
    from ...runtime.tensorrt.library import load_tensorrt  # noqa: PLC0415
    from .build import choose_networks  # noqa: PLC0415
    from .comparison import compare_engines, refuse_wrong  # noqa: PLC0415

    chosen = [network.name for network in choose_networks(open_bundle(bundle), _listed(networks))]
    library, gpu = load_tensorrt(flavour), find_device(device)
    if gpu is None:
        raise GmosError(
            f"--device {device}: no such GPU was found here; run this on the device that runs the engines"
        )
    checks = compare_engines(bundle, flavour, chosen, device=device)
    for name, check in checks.items():
        click.echo(f"{name}: {_verdict(check)}")
    refuse_wrong(checks, library, gpu)


def _verdict(check: EngineCheck) -> str:
    from ...runtime.parity import worst_severity  # noqa: PLC0415 - as above

    worst = worst_severity(check.outputs)
    return f"{'right' if check.passed else 'WRONG'} against {check.against}, off by up to {worst:.1e}"


def _listed(given: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for text in given for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def _as_json(directory: Path, outcomes: Sequence[BuildOutcome]) -> str:
    engines = {
        outcome.network: {
            "action": outcome.action,
            "record": None if outcome.record is None else asdict(outcome.record),
        }
        for outcome in outcomes
    }
    return json.dumps({"directory": str(directory), "engines": engines}, indent=2, ensure_ascii=False)


def _show(directory: Path, outcomes: Sequence[BuildOutcome]) -> None:
    counts = {
        action: sum(o.action == action for o in outcomes) for action in ("built", "kept", "would build")
    }
    total = sum(outcome.record.plan_bytes for outcome in outcomes if outcome.record is not None)
    seconds = sum(outcome.record.seconds for outcome in outcomes if outcome.record is not None)
    parts = [f"{count} {action}" for action, count in counts.items() if count]
    if counts["built"]:
        parts.append(f"{total / MIB:.1f} MiB in {seconds:.0f} s")
    Console().print(f"{directory}: {', '.join(parts)}", highlight=False, soft_wrap=True)
