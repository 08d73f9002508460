"""The gmos-export commands: options in, a bundle, its engines or its description out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import GmosError, printable
from ..options import (
    CONTEXT,
    ENGINES,
    FRAME_BLOCKS,
    NETWORKS,
    PATH,
    RESULTS,
    SHAPES,
    GroupedCommand,
    checkpoint_options,
    device_number_option,
    engine_backend_option,
    flag,
    force_option,
    frame_block_options,
    given_trust,
    json_flag,
    listed,
    names_option,
    option,
    trust_options,
)
from ..runtime.onnx.telemetry import turn_telemetry_off
from ..runtime.precision import EXPORTED

if TYPE_CHECKING:
    from ..runtime.contract import Variant
    from ..runtime.tensorrt.library import Flavour

logger = logging.getLogger(__name__)

PRECISIONS = click.Choice(EXPORTED)

SHAPE = "{} shape to build for, NETWORK=DIMS or NETWORK.INPUT=DIMS such as dino=1x3x378x672; several joined by commas "
SHAPE += "or repeated. Axes shared with other inputs follow.  [default: the bundle's shape profiles]"


@click.group(name="gmos-export", context_settings=CONTEXT)
def export_command() -> None:
    """Export the networks for deployment, and look at what was exported."""


@export_command.command(name="onnx", cls=GroupedCommand)
@option("out", group=RESULTS, type=PATH, required=True, metavar="DIR", help="Directory of the new bundle.")
@force_option
@flag(
    "no_validation",
    group=RESULTS,
    old=("no_gate",),
    help="Keep the networks without comparing them with the reference.",
)
@flag(
    "no_check_inputs",
    group=RESULTS,
    help="Record no inputs of the networks. Without them engines are compared on random numbers only.",
)
@checkpoint_options
@option(
    "weights_licence",
    group=NETWORKS,
    multiple=True,
    metavar="PART=ID",
    help="Licence of own weights as an SPDX id, such as pi3=LicenseRef-ours; PART is pi3, sam2, gmos or gmos_s; may be "
    "repeated.  [default: that of the published weights, of which Pi3's are CC-BY-NC-4.0: not for commercial use]",
)
@option(
    "preset",
    group=NETWORKS,
    default="published",
    show_default=True,
    metavar="NAME",
    help="Network sizes: published, nano, small or tiny; without checkpoints the last two get untrained weights.",
)
@frame_block_options
@option(
    "precision",
    group=NETWORKS,
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help="Precision of the weights and activations in the graphs.",
)
@option(
    "head_precision",
    group=NETWORKS,
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help="The same for the proposer and GMOS-S, which are published in fp32.",
)
@option(
    "opset",
    group=NETWORKS,
    type=int,
    default=20,
    show_default=True,
    metavar="N",
    help="ONNX opset, 20 or 23. 23 has an attention operator, which JetPack 6 and 7.1 cannot build.",
)
@option(
    "resolution",
    group=SHAPES,
    multiple=True,
    metavar="WxH",
    help="Pi3 resolution in pixels that engines are built for, such as 672x378; may be repeated. ONNX "
    "Runtime takes any.",
)
@option(
    "aspect",
    group=SHAPES,
    multiple=True,
    metavar="W:H",
    help="The same by the shape of the videos; may be repeated.  [default: 16:9]",
)
@option(
    "max_batch",
    group=SHAPES,
    type=int,
    default=8,
    show_default=True,
    metavar="N",
    help="Largest batch of windows or frames that engines are built for, 1 or more.",
)
def onnx_command(**options: Any) -> None:
    """Export the networks as ONNX into a bundle, a directory that gmos-run --bundle takes.

    Every network is compared with the PyTorch reference before it is kept. After an error or an
    interruption the directory is as it was before.
    """
    _require_exporter()
    from ..evaluation.report.terminal import show  # noqa: PLC0415 - here and below: --help does not pay for the work
    from ..export.inspection import inspection  # noqa: PLC0415
    from ..export.onnx.bundle_export import ExportConfig, export_bundle  # noqa: PLC0415
    from ..gmos_ref.reference_config import ReferenceConfig  # noqa: PLC0415
    from ..networks import CHECKPOINTS  # noqa: PLC0415

    reference = ReferenceConfig(
        variant=_variant(options["variant"], options["gmos_ckpt"], options["gmos_s_ckpt"]),
        **{name: options[name] for name in ("preset", *CHECKPOINTS, *FRAME_BLOCKS)},
        device="cpu",
        precision="fp32",
    )
    same = ("out", "precision", "head_precision", "opset", "resolution", "aspect", "max_batch", "force")
    config = ExportConfig(
        reference=reference,
        validated=not options["no_validation"],
        recorded=not options["no_check_inputs"],
        weights_licence=options["weights_licence"],
        **{name: options[name] for name in same},
    )
    show(inspection(export_bundle(config)))


@export_command.command(name="inspect", cls=GroupedCommand)
@click.argument("directory", type=PATH, metavar="DIR")
@trust_options
@json_flag("everything")
def inspect_command(directory: Path, as_json: bool, **trusted: Any) -> None:
    """Show the networks of a bundle: tensors, precision, size, arithmetic, how it was validated; and its engines.

    Of an engine: what its shape profiles take, its precision and sums, the GPUs that it is for, and whether it was
    compared.
    """
    from ..evaluation.report.terminal import show  # noqa: PLC0415
    from ..export import inspection  # noqa: PLC0415
    from ..runtime.bundle.manifest import open_bundle  # noqa: PLC0415

    bundle = open_bundle(directory, given_trust(trusted))
    if as_json:
        click.echo(inspection.as_json(bundle))
    else:
        show(inspection.inspection(bundle))


@export_command.command(name="build-engines", cls=GroupedCommand)
@option(
    "bundle", group=NETWORKS, type=PATH, required=True, metavar="DIR", help="Bundle made by gmos-export onnx."
)
@names_option(NETWORKS, "Networks to build", multiple=True)
@trust_options
@engine_backend_option(
    "tensorrt builds on the device that runs the engines; tensorrt-rtx on any machine, for --target."
)
@option(
    "target",
    group=ENGINES,
    multiple=True,
    metavar="SM",
    help="GPUs that tensorrt-rtx builds for: sm80, sm86 (Ampere), sm89 (Ada), sm120, sm121 (Blackwell); "
    "several joined by commas or repeated.  [default: the GPU of this machine]",
)
@device_number_option("Number of the GPU to build for.")
@option(
    "opt_level",
    group=ENGINES,
    type=int,
    metavar="N",
    help="Effort of the builder, 0 (fastest build) to 5 (fastest engine).  [default: 3]",
)
@option(
    "workspace",
    group=ENGINES,
    type=int,
    metavar="MIB",
    help="Scratch memory of a layer in MiB, 1 or more.  [default: all that the device has]",
)
@option(
    "timing_cache",
    group=ENGINES,
    type=PATH,
    metavar="FILE",
    help="Keep measured tactics in this file: later builds on the same device are much shorter. tensorrt only.",
)
@flag("tf32", group=ENGINES, help="Allow fp32 products with 10-bit mantissas: faster, less exact.")
@flag(
    "half_sums",
    group=ENGINES,
    help="Leave the library to sum long fp16 products in float16: GeForce cards then compute them at twice the rate, "
    "less exactly. By default sums of 4096 terms or more, and all of the heads, are in float32.",
)
@flag(
    "version_compatible",
    group=ENGINES,
    help="Engines that later versions of the library load; larger, maybe slower. tensorrt only.",
)
@option(
    "hardware_compatible",
    group=ENGINES,
    type=click.Choice(["ampere-plus", "same-capability"]),
    metavar="GPUS",
    help="Engines for more than this machine's GPU: any from Ampere on (ampere-plus), or all of its compute "
    "capability (same-capability, not in TensorRT 10.3). tensorrt only.",
)
@option("min_shapes", group=SHAPES, multiple=True, metavar="SHAPES", help=SHAPE.format("Smallest"))
@option(
    "opt_shapes",
    group=SHAPES,
    multiple=True,
    metavar="SHAPES",
    help="The same for the shape to be fastest at.",
)
@option("max_shapes", group=SHAPES, multiple=True, metavar="SHAPES", help="The same for the largest shape.")
@flag(
    "default_shapes",
    group=SHAPES,
    help="Build for the bundle's shape profiles again: shapes that an earlier build was given are kept otherwise.",
)
@flag("no_check", group=RESULTS, help="Do not compare new engines with ONNX Runtime on this machine's GPU.")
@flag("force", group=RESULTS, help="Build engines that are up to date as well.")
@flag("dry_run", group=RESULTS, help="Say what would be built and why, and build nothing.")
@json_flag("what was done")
def build_engines_command(**options: Any) -> None:
    """Build a TensorRT engine of every network of a bundle, beside it in DIR/engines.

    Engines that are up to date are kept. After Ctrl-C or an error those that were finished stay.
    """
    from ..export.engines.build import EngineBuild, build_engines, device_for  # noqa: PLC0415
    from ..export.engines.options import BuildOptions, settled  # noqa: PLC0415
    from ..export.engines.outcomes import outcomes_json, show_outcomes  # noqa: PLC0415
    from ..export.engines.shapes import parse_overrides  # noqa: PLC0415
    from ..runtime.bundle.manifest import open_bundle  # noqa: PLC0415
    from ..runtime.tensorrt.library import load_tensorrt  # noqa: PLC0415

    same = ("opt_level", "timing_cache", "version_compatible", "hardware_compatible", "tf32", "half_sums")
    asked = BuildOptions(
        targets=listed(options["target"]),
        workspace_mib=options["workspace"],
        **{name: options[name] for name in same},
    )
    bundle = open_bundle(options["bundle"], given_trust(options))
    library = load_tensorrt(options["flavour"])
    device = device_for(library, options["device"], asked.targets)
    build = EngineBuild(
        bundle=bundle,
        library=library,
        device=device,
        options=settled(asked, library, device),
        shapes=parse_overrides(bundle, {name: options[f"{name}_shapes"] for name in ("min", "opt", "max")}),
        index=options["device"],
        default_shapes=options["default_shapes"],
    )
    outcomes = build_engines(
        options["bundle"],
        options["flavour"],
        networks=listed(options["networks"]),
        build=build,
        force=options["force"],
        dry_run=options["dry_run"],
        checked=not options["no_check"],
    )
    if options["as_json"]:
        click.echo(outcomes_json(build.directory, outcomes))
    else:
        show_outcomes(build.directory, outcomes)


@export_command.command(name="check-engines", cls=GroupedCommand)
@option("bundle", group=NETWORKS, type=PATH, required=True, metavar="DIR", help="Bundle with engines.")
@names_option(NETWORKS, "Networks to compare", multiple=True)
@trust_options
@engine_backend_option("Which engines.")
@device_number_option("Number of the GPU to run on.")
def check_engines_command(
    bundle: Path, flavour: Flavour, networks: tuple[str, ...], device: int, **trusted: Any
) -> None:
    """Compare engines with ONNX Runtime on this machine's GPU and note the result beside them.

    For engines that were built on another machine: those built here were compared already. Engines with
    wrong results are refused from then on.
    """
    from ..export.engines.build import choose_networks  # noqa: PLC0415
    from ..export.engines.comparison import compare_engines, refuse_wrong  # noqa: PLC0415
    from ..export.engines.outcomes import check_line  # noqa: PLC0415
    from ..runtime.bundle.manifest import open_bundle  # noqa: PLC0415
    from ..runtime.tensorrt.gpu import find_device  # noqa: PLC0415
    from ..runtime.tensorrt.library import load_tensorrt  # noqa: PLC0415

    trust = given_trust(trusted)
    chosen = [network.name for network in choose_networks(open_bundle(bundle, trust), listed(networks))]
    library, gpu = load_tensorrt(flavour), find_device(device)
    if gpu is None:
        raise GmosError(
            f"--device {device}: no such GPU was found here; run this on the device that runs the engines"
        )
    checks = compare_engines(bundle, flavour, chosen, device=device, trust=trust)
    for name, check in checks.items():
        click.echo(printable(check_line(name, check)))
    refuse_wrong(checks, library, gpu)


@export_command.command(name="keygen", cls=GroupedCommand)
@click.argument("key", type=PATH, metavar="KEY")
def keygen_command(key: Path) -> None:
    """Make a key to sign bundles with: KEY, which stays with you, and KEY.pub, which you give to others.

    Both are Ed25519 keys as OpenSSL reads and writes them.
    """
    from ..runtime.bundle.signature import write_key_pair  # noqa: PLC0415

    click.echo(f"{key}: keep it secret; whoever gets your bundles needs {write_key_pair(key)}")


@export_command.command(name="sign", cls=GroupedCommand)
@click.argument("directory", type=PATH, metavar="DIR")
@option(
    "key", group=RESULTS, type=PATH, required=True, metavar="KEY", help="Private key of gmos-export keygen."
)
def sign_command(directory: Path, key: Path) -> None:
    """Sign a bundle with all that is in it now, engines too.

    Whoever gets it runs it with --trust KEY.pub. A signed bundle to which a file was added, or of which one was
    changed or removed, is refused there.
    """
    from ..runtime.bundle.manifest import open_bundle  # noqa: PLC0415
    from ..runtime.bundle.signature import sign_bundle  # noqa: PLC0415

    listed = open_bundle(directory).files
    path, count, foreign = sign_bundle(directory, key, {name: listed.sha256(name) for name in listed})
    if foreign:
        logger.warning(
            "%d files of engines were not made by this user's machine, such as %s: you vouch for native code of "
            "others; if that is not meant, remove them and sign again",
            *(len(foreign), foreign[0]),
        )
    click.echo(f"{path}: {count} files signed")


def _variant(given: Variant | None, gmos_ckpt: Path | None, gmos_s_ckpt: Path | None) -> Variant:
    if given is not None:
        return given
    if gmos_ckpt is not None and gmos_s_ckpt is not None:
        raise GmosError(
            "both --gmos_ckpt and --gmos_s_ckpt were given; expected one of them, or --variant gmos or gmos-s"
        )
    return "gmos-s" if gmos_s_ckpt is not None else "gmos"


def _require_exporter() -> None:
    turn_telemetry_off()
    try:
        import onnx  # noqa: F401, PLC0415
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
        import sam2  # noqa: F401, PLC0415
        import torch  # noqa: F401, PLC0415
    except ImportError as error:
        raise GmosError(
            f"gmos-export onnx needs PyTorch, SAM2, ONNX and ONNX Runtime ({error}); install them with "
            "pip install 'gmos-deploy[export]'"
        ) from error
