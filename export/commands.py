"""The gmos-export commands: options in, a bundle or its description out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..errors import GmosError
from ..runtime.bundle.manifest import open_bundle
from ..runtime.contract import Variant
from ..runtime.precision import EXPORTED
from ..runtime.renamed_option import renamed_option
from .command_options import PATH, option
from .engines.commands import build_engines_command, check_engines_command

PRECISIONS = click.Choice(EXPORTED)


@click.group(
    name="gmos-export", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def export_command() -> None:
    """Export the networks for deployment, and look at what was exported."""


export_command.add_command(build_engines_command)
export_command.add_command(check_engines_command)


@export_command.command(name="onnx")
@option("out", type=PATH, required=True, metavar="DIR", help="Directory of the new bundle. Required.")
@click.option(
    "--variant",
    type=click.Choice(["gmos", "gmos-s"]),
    help="gmos: tracked objects; gmos-s: one foreground mask per frame.  [default: gmos, or gmos-s if only "
    "--gmos_s_ckpt is given]",
)
@option("pi3_ckpt", type=PATH, metavar="FILE", help="Pi3 checkpoint (.safetensors or .pth).")
@option("sam2_ckpt", type=PATH, metavar="FILE", help="SAM2.1 Hiera-L checkpoint (.pt or .safetensors).")
@option("gmos_ckpt", type=PATH, metavar="FILE", help="GMOS checkpoint (.pth or .safetensors).")
@option("gmos_s_ckpt", type=PATH, metavar="FILE", help="GMOS-S checkpoint (.pth or .safetensors).")
@click.option(
    "--preset",
    default="published",
    show_default=True,
    help="Network sizes: published, small or tiny; without checkpoints the last two get untrained weights.",
)
@option(
    "precision",
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help="Precision of the weights and activations in the graphs.",
)
@option(
    "head_precision",
    type=PRECISIONS,
    default="fp32",
    show_default=True,
    help="The same for the proposer and GMOS-S, which are published in fp32.",
)
@click.option(
    "--opset",
    type=int,
    default=20,
    show_default=True,
    help="ONNX opset, 20 or 23. 23 has an attention operator, which JetPack 6 and 7.1 cannot build.",
)
@option(
    "resolution",
    multiple=True,
    metavar="WxH",
    help="Pi3 resolution in pixels that engines are built for, such as 672x378; may be repeated. ONNX "
    "Runtime takes any.",
)
@option(
    "aspect",
    multiple=True,
    metavar="W:H",
    help="The same by the shape of the videos; may be repeated.  [default: 16:9]",
)
@option(
    "max_batch",
    type=int,
    default=8,
    show_default=True,
    help="Largest batch of windows or frames that engines are built for, 1 or more.",
)
@option("no_validation", is_flag=True, help="Keep the networks without comparing them with the reference.")
@renamed_option("no_gate", "no_validation", is_flag=True)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
def onnx_command(**options: Any) -> None:
    """Export the networks as ONNX into a bundle, a directory that gmos-run --bundle takes.

    Every network is compared with the PyTorch reference before it is kept. After an error or an
    interruption the directory is as it was before.
    """
    _require_exporter()
    # Imported here so that --help does not pay for PyTorch.
    from ..gmos_ref.reference_config import ReferenceConfig  # noqa: PLC0415
    from .inspection import show  # noqa: PLC0415
    from .onnx.bundle_export import ExportConfig, export_bundle  # noqa: PLC0415

    reference = ReferenceConfig(
        variant=_variant(options["variant"], options["gmos_ckpt"], options["gmos_s_ckpt"]),
        preset=options["preset"],
        pi3_ckpt=options["pi3_ckpt"],
        sam2_ckpt=options["sam2_ckpt"],
        gmos_ckpt=options["gmos_ckpt"],
        gmos_s_ckpt=options["gmos_s_ckpt"],
        device="cpu",
        precision="fp32",
    )
    bundle = export_bundle(
        ExportConfig(
            out=options["out"],
            reference=reference,
            precision=options["precision"],
            head_precision=options["head_precision"],
            opset=options["opset"],
            resolution=options["resolution"],
            aspect=options["aspect"],
            max_batch=options["max_batch"],
            validated=not options["no_validation"],
            force=options["force"],
        )
    )
    show(bundle, Console())


@export_command.command(name="inspect")
@click.argument("directory", type=PATH, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect_command(directory: Path, as_json: bool) -> None:
    """Show the networks of a bundle: tensors, precision, size, arithmetic and the validation's result."""
    from . import inspection  # noqa: PLC0415 - rich's tables are not needed for --help

    bundle = open_bundle(directory)
    if as_json:
        click.echo(inspection.as_json(bundle))
    else:
        inspection.show(bundle, Console())


def _variant(given: Variant | None, gmos_ckpt: Path | None, gmos_s_ckpt: Path | None) -> Variant:
    if given is not None:
        return given
    if gmos_ckpt is not None and gmos_s_ckpt is not None:
        raise GmosError(
            "both --gmos_ckpt and --gmos_s_ckpt were given; expected one of them, or --variant gmos or gmos-s"
        )
    return "gmos-s" if gmos_s_ckpt is not None else "gmos"


def _require_exporter() -> None:
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
