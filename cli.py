"""The commands. The only place that parses options, catches errors and writes to the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from . import __version__
from .errors import GmosError
from .runtime.precision import PRECISIONS

BAD_INPUT_STATUS = 2
INTERRUPTED_STATUS = 130
"""128 + SIGINT, as shells count."""

MIB = 1 << 20

logger = logging.getLogger(__name__)


class LineFormatter(logging.Formatter):
    """One line a record, after the command's name; the level is named from warnings up."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"{self._command}: {level}{record.getMessage()}"


def guarded(command: click.Command, name: str, arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user did wrong is one line on stderr."""
    try:
        status = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        message = error.format_message()
    except GmosError as error:
        message = str(error)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted; what was finished is kept", err=True)
        return INTERRUPTED_STATUS
    else:
        return status if isinstance(status, int) else 0
    click.echo(f"{name}: " + " ".join(message.split()), err=True)
    return BAD_INPUT_STATUS


def set_up_logging(command: str, *, quiet: bool) -> None:
    """Send the package's log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(command))
    package = logging.getLogger(__package__)
    package.handlers = [handler]
    package.setLevel(logging.WARNING if quiet else logging.INFO)


def published_option(name: str, **attributes: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """An option with the published snake_case spelling and the kebab-case one."""
    kebab = name.replace("_", "-")
    spellings = [f"--{name}"] if kebab == name else [f"--{name}", f"--{kebab}"]
    return click.option(*spellings, name, **attributes)


FILE = click.Path(path_type=Path)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.command(name="gmos-run", context_settings=CONTEXT)
@click.argument("inputs", nargs=-1, type=FILE, metavar="INPUT...")
@published_option(
    "input_rgb",
    multiple=True,
    type=FILE,
    help="An input, as the published scripts spell it; further inputs may follow it.",
)
@published_option(
    "save_dir",
    type=FILE,
    default=Path("gmos-output"),
    show_default=True,
    help="Where results go, one folder per kind of result.",
)
@published_option(
    "save_mode",
    help="What to write: mask (palette PNGs), mp4 (overlay), prob (GMOS-S, 8-bit grey PNGs), or several "
    "joined by +.  [default: mask for gmos, prob for gmos-s]",
)
@published_option(
    "fps",
    type=float,
    help="Frames per second of the input; needed for directories unless --stride is given.  "
    "[default: the file's own]",
)
@published_option(
    "stride",
    type=int,
    help="Frames between the neighbours of a window, 1 or more.  [default: fps / 8, rounded down]",
)
@click.option(
    "--variant",
    type=click.Choice(["gmos", "gmos-s"]),
    help="gmos: tracked objects; gmos-s: one foreground mask per frame.  [default: gmos, or gmos-s if only "
    "--gmos_s_ckpt is given]",
)
@published_option("pi3_ckpt", type=FILE, help="Pi3 checkpoint (.safetensors or .pth).")
@published_option("sam2_ckpt", type=FILE, help="SAM2.1 Hiera-L checkpoint (.pt or .safetensors).")
@published_option("gmos_ckpt", type=FILE, help="GMOS checkpoint (.pth or .safetensors).")
@published_option("gmos_s_ckpt", type=FILE, help="GMOS-S checkpoint (.pth or .safetensors).")
@click.option(
    "--preset",
    help="Network sizes: published, nano, small or tiny. Without checkpoints nano runs on the trained weights that "
    "come with gmos-deploy, small and tiny on untrained ones.  [default: published with checkpoints, else nano]",
)
@click.option("--bundle", type=FILE, help="Run an exported bundle instead of checkpoints (gmos-export onnx).")
@click.option(
    "--backend",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="What runs the networks: torch is the PyTorch reference, onnxruntime runs a bundle, tensorrt and "
    "tensorrt-rtx run its engines (gmos-export build-engines); auto is torch without --bundle, else engines that "
    "fit the GPU, else onnxruntime.",
)
@click.option(
    "--build", is_flag=True, help="Build the engines that are missing or out of date first; minutes."
)
@published_option(
    "memory_budget",
    type=click.IntRange(min=1),
    help="MiB of device memory for all of a run on engines: weights, activations, arrays and stored features.  "
    "[default: what is free]",
)
@published_option(
    "no_cuda_graphs",
    is_flag=True,
    help="Launch the kernels of engines one by one; for devices or drivers on which CUDA graphs fail.",
)
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto: CUDA where there is one."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="auto is that of the bundle, or of the published runs: bf16 on CUDA (fp16 where there is no bf16), "
    "fp32 on a CPU. int8 and fp8 run a bundle of gmos-export calibrate.",
)
@published_option(
    "batch_size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Windows per network call; lower it to save memory.",
)
@published_option(
    "offload_cpu", is_flag=True, help="Keep features in host memory, not on the device (--device_budget 0)."
)
@published_option(
    "device_budget",
    type=click.IntRange(min=0),
    help="MiB of features kept on the device.  [default: a quarter of what is free]",
)
@published_option(
    "host_budget",
    type=click.IntRange(min=0),
    help="MiB of features kept in host memory; more go to a file.  [default: a quarter of what is free]",
)
@published_option(
    "spill_dir",
    type=FILE,
    help="Directory for features beyond both budgets.  [default: the system's temporary one]",
)
@click.option(
    "--dataset",
    help="Run every sequence of a benchmark split instead of INPUT: davis16, davis17, davis17-im, ytvos19-im, "
    "segtrackv2, fbms59 or moca; needs --root.",
)
@click.option("--root", type=FILE, help="The dataset's own folder, as it is unpacked.")
@published_option(
    "time_anno_csv",
    type=FILE,
    help="Motion annotation that names the sequences of davis17-im and ytvos19-im.  [default: looked for in "
    "--root]",
)
@click.option("--resume", is_flag=True, help="Skip sequences that are finished with the same settings.")
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@click.option("--quiet", is_flag=True, help="Only warnings, errors and the summary.")
@click.version_option(__version__, prog_name="gmos-run")
def run_command(**options: Any) -> None:
    """Segment what moves in videos.

    INPUT is one or more .mp4 files, or one or more directories of JPEG or PNG frames.

    Runs the published checkpoints with --pi3_ckpt, --sam2_ckpt and --gmos_ckpt (or --gmos_s_ckpt), or an
    exported bundle with --bundle. Without either it runs nano, a small model that comes with gmos-deploy.

    Exit status: 0 done, 2 something given cannot be used (one line says what), 130 interrupted.
    """
    set_up_logging("gmos-run", quiet=options["quiet"])
    # Imported here so that --help does not pay for NumPy, PyAV and rich.
    from .networks import NetworkChoice  # noqa: PLC0415
    from .run_command import RunRequest, run_all  # noqa: PLC0415

    networks = NetworkChoice(
        **{
            name: options[name]
            for name in (
                "variant",
                "preset",
                "bundle",
                "pi3_ckpt",
                "sam2_ckpt",
                "gmos_ckpt",
                "gmos_s_ckpt",
                "backend",
                "device",
                "precision",
                "build",
            )
        },
        memory_budget=None if options["memory_budget"] is None else options["memory_budget"] * MIB,
        cuda_graphs=not options["no_cuda_graphs"],
    )
    request = RunRequest(
        networks=networks,
        # The published spelling takes several values; those after the first arrive as arguments.
        inputs=(*options["input_rgb"], *options["inputs"]),
        save_dir=options["save_dir"],
        save_mode=options["save_mode"],
        fps=options["fps"],
        stride=options["stride"],
        batch_size=options["batch_size"],
        device_budget=device_budget(options["offload_cpu"], options["device_budget"]),
        host_budget=None if options["host_budget"] is None else options["host_budget"] * MIB,
        spill_dir=options["spill_dir"],
        dataset=options["dataset"],
        root=options["root"],
        time_anno_csv=options["time_anno_csv"],
        existing=choose_existing(resume=options["resume"], overwrite=options["overwrite"]),
        quiet=options["quiet"],
    )
    click.echo(run_all(request).render(as_json=options["as_json"]))


def choose_existing(*, resume: bool, overwrite: bool) -> Literal["error", "resume", "overwrite"]:
    """The policy for results that are there already."""
    if resume and overwrite:
        raise GmosError("--resume and --overwrite were both given; expected one of them")
    return "resume" if resume else "overwrite" if overwrite else "error"


def device_budget(offload_cpu: bool, budget_mib: int | None) -> int | None:
    """Bytes of features on the device; None leaves the choice to the run."""
    if offload_cpu:
        if budget_mib:
            raise GmosError(f"--offload_cpu and --device_budget {budget_mib} contradict each other; give one")
        return 0
    return None if budget_mib is None else budget_mib * MIB


def run() -> None:
    """Entry point of `gmos-run`."""
    sys.exit(guarded(run_command, "gmos-run"))


def export() -> None:
    """Entry point of `gmos-export`."""
    # Imported here: exporting needs PyTorch and ONNX, and no other command does both.
    from .calibration.commands import calibrate_command  # noqa: PLC0415
    from .export.commands import export_command as command  # noqa: PLC0415

    command.add_command(calibrate_command)
    set_up_logging("gmos-export", quiet=False)
    sys.exit(guarded(command, "gmos-export"))


def evaluate() -> None:
    """Entry point of `gmos-eval`."""
    # Imported here: the evaluators need NumPy and SciPy, and no other command does.
    from .evaluation.benchmarks.commands import evaluate as command  # noqa: PLC0415

    set_up_logging("gmos-eval", quiet=False)
    sys.exit(guarded(command, "gmos-eval"))


def parity() -> None:
    """Entry point of `gmos-parity`."""
    # Imported here: comparing needs NumPy and SciPy, and a run of both sides much more.
    from .evaluation.compare.commands import parity as command  # noqa: PLC0415
    from .evaluation.compare.networks_command import networks_command  # noqa: PLC0415
    from .evaluation.compare.video_command import video_command  # noqa: PLC0415

    set_up_logging("gmos-parity", quiet=False)
    command.add_command(video_command)
    command.add_command(networks_command)
    sys.exit(guarded(command, "gmos-parity"))


def profile() -> None:
    """Entry point of `gmos-profile`."""
    # Imported here, as for gmos-parity.
    from .evaluation.profile.commands import profile_command as command  # noqa: PLC0415

    set_up_logging("gmos-profile", quiet=False)
    sys.exit(guarded(command, "gmos-profile"))
