"""The gmos-run command: its options, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import click

from ..cli import set_up_logging
from ..errors import GmosError, printable
from ..networks import AUTO, CHECKPOINTS, NetworkChoice
from ..options import (
    CONTEXT,
    DIR,
    FRAME_BLOCKS,
    INPUT,
    MIB,
    NETWORKS,
    PATH,
    RESULTS,
    SPEED,
    TRACKING,
    TRUST,
    GroupedCommand,
    checkpoint_options,
    flag,
    frame_block_options,
    given_input,
    json_flag,
    option,
    rate_options,
    trust_options,
)
from ..runtime.precision import PRECISIONS
from .levers import given_levers, lever_options
from .list_options import OF_LISTS, OF_RAY, list_inputs_options, list_results_options, workers_options
from .live_options import OF_STREAMS, live_options, refuse_file_options, refuse_live_options

BUDGETS = ("offload_cpu", "device_budget", "host_budget")
OF_BOTH = ("save_dir", "save_mode", "overlay", "fps", "stride", "quiet")
OF_FILES = ("recipe", "dataset", "root", "sequences", "time_anno_csv")


@click.command(name="gmos-run", cls=GroupedCommand, context_settings=CONTEXT)
@click.argument("inputs", nargs=-1, type=given_input, metavar="INPUT...")
@option(
    "input_rgb",
    INPUT,
    "An input, as the published scripts spell it; further inputs may follow it.",
    multiple=True,
    type=given_input,
    metavar="INPUT",
)
@rate_options
@option(
    "dataset",
    INPUT,
    "Run every sequence of a benchmark split instead of INPUT: davis16, davis17, davis17-im, ytvos19-im, segtrackv2, "
    "fbms59 or moca, or davis16-m or davis17-m with --sequences; needs --root.",
    metavar="NAME",
)
@option("root", INPUT, "The dataset's own folder, as it is unpacked.", type=DIR)
@option(
    "sequences",
    INPUT,
    "List of the sequences of --dataset to run, one name per line.  [default: the dataset's own list]",
    type=PATH,
    metavar="FILE",
)
@option(
    "time_anno_csv",
    INPUT,
    "Motion annotation that names the sequences of davis17-im and ytvos19-im.  [default: looked for in --root]",
    type=PATH,
    metavar="CSV",
)
@list_inputs_options
@option(
    "save_dir",
    RESULTS,
    "Where results go, one folder per kind of result.",
    type=DIR,
    default=Path("gmos-output"),
)
@option(
    "save_mode",
    RESULTS,
    "What to write: mask (palette PNGs), mp4 (overlay), prob (GMOS-S, 8-bit grey PNGs), tracks (objects with times, "
    "boxes and masks, JSON and CSV), coco, ytvis (YouTube-VIS), yolo (segment labels), npz (arrays), or several joined "
    "by +; docs/results.md has their layouts.  "
    "[default: as the published scripts, mask for gmos and prob for gmos-s, and mp4 with them unless --input_rgb or "
    "--dataset is given]",
    metavar="MODES",
)
@option(
    "overlay",
    RESULTS,
    "How mp4 is drawn: labelled (bright colours, ids, moving or still, a legend), or published (the pixels of the "
    "published implementation before encoding).",
    type=click.Choice(["labelled", "published"]),
    default="labelled",
)
@flag("resume", RESULTS, "Skip sequences that are finished with the same settings.")
@flag("overwrite", RESULTS, "Replace existing results.")
@list_results_options
@json_flag("the summary")
@flag("quiet", RESULTS, "Only warnings, errors and the summary.")
@option("bundle", NETWORKS, "Run an exported bundle instead of checkpoints (gmos-export onnx).", type=DIR)
@trust_options
@checkpoint_options
@frame_block_options
@option(
    "preset",
    NETWORKS,
    "Network sizes: published, nano, small or tiny. Without checkpoints nano runs on the trained weights that "
    "come with gmos-deploy, small and tiny on untrained ones.  [default: published with checkpoints, else nano]",
    metavar="NAME",
)
@flag(
    "allow_nonfinite",
    NETWORKS,
    "Go on where a network gives values that are not finite (NaN, infinity), which ends the run otherwise; the summary "
    "and the results' record count the frames.",
)
@option(
    "backend",
    SPEED,
    "What runs the networks: torch is the PyTorch reference, onnxruntime runs a bundle, tensorrt and "
    "tensorrt-rtx run its engines (gmos-export build-engines); auto is torch without --bundle, else engines that "
    "fit the GPU, else onnxruntime.",
    default=AUTO,
    metavar="NAME",
)
@option("device", SPEED, "cpu, cuda, cuda:N, or auto: CUDA where there is one.", default=AUTO, metavar="NAME")
@option(
    "precision",
    SPEED,
    "fp32, bf16, fp16, int8 or fp8; auto is that of the bundle, or of the published runs: bf16 on CUDA (fp16 "
    "where there is no bf16), fp32 on a CPU. int8 and fp8 run a bundle of gmos-export calibrate.",
    type=click.Choice([AUTO, *PRECISIONS]),
    default=AUTO,
    metavar="NAME",
)
@option(
    "batch_size",
    SPEED,
    "Windows per network call; lower it to save memory.",
    type=click.IntRange(min=1),
    default=8,
    metavar="N",
)
@flag("build", SPEED, "Build the engines that are missing or out of date first; minutes.")
@flag(
    "no_cuda_graphs",
    SPEED,
    "Launch the kernels of engines one by one; for devices or drivers on which CUDA graphs fail.",
)
@option(
    "memory_budget",
    SPEED,
    "MiB of device memory for all of a run on engines: weights, activations, arrays and stored features.  "
    "[default: what is free]",
    type=click.IntRange(min=1),
    metavar="MIB",
)
@workers_options
@option(
    "device_budget",
    SPEED,
    "MiB of features kept on the device.  [default: a quarter of what is free]",
    type=click.IntRange(min=0),
    metavar="MIB",
)
@option(
    "host_budget",
    SPEED,
    "MiB of features kept in host memory; more go to a file.  [default: a quarter of what is free]",
    type=click.IntRange(min=0),
    metavar="MIB",
)
@flag("offload_cpu", SPEED, "Keep features in host memory, not on the device (--device_budget 0).")
@option(
    "spill_dir",
    SPEED,
    "Directory for features beyond both budgets.  [default: the system's temporary one]",
    type=DIR,
)
@lever_options
@option(
    "thresholds",
    TRACKING,
    "Thresholds of the propagator in place of the published ones: motion, iou, match_iou, new_object_precision, "
    "motion_transfer_precision, moving_frames, stage2_share and stage2_iou from 0 to 1, max_objects and "
    "prompt_gap_frames from 1.  [default: as published]",
    metavar="NAME=VALUE,…",
)
@option(
    "max_conditioning",
    group=TRACKING,
    type=int,
    default=-1,
    show_default=True,
    metavar="N",
    help="Conditioning memories of an object that a frame reads at most, chosen as SAM2 chooses with "
    "max_cond_frames_in_attn: 2 or more; -1 for all, as published. Their number grows with the video, and the time "
    "of its second pass with its square.",
)
@live_options
def run_command(**options: Any) -> int:
    """Segment what moves in videos, and in streams while they run.

    INPUT is one or more video files (.mp4, .mov, .mkv, .webm, …), directories of JPEG or PNG frames, directories of
    video files, or patterns of them in quotes ('cam*/*.mp4'); or one stream: a camera (0, /dev/video0), an address
    (rtsp://, udp://, http://, …), - for a video on standard input, or gst:PIPELINE of GStreamer.

    Runs the published checkpoints with --pi3_ckpt, --sam2_ckpt and --gmos_ckpt (or --gmos_s_ckpt), or an
    exported bundle with --bundle. Without either it runs nano, a small model that comes with gmos-deploy.

    Exit status: 0 all done, 2 something given cannot be used, or the machine fails (one line says what), 3 some of
    several sequences failed and the others are done, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
    """
    from ..runtime.live.sources.registry import live_source_of  # noqa: PLC0415 - NumPy and PyAV
    from ..runtime.pipeline.options import RunOptions  # noqa: PLC0415 - the same
    from ..runtime.pipeline.thresholds import parse_thresholds  # noqa: PLC0415 - the same

    set_up_logging("gmos-run", quiet=options["quiet"])
    networks = NetworkChoice(
        **{name: options[name] for name in ("variant", "preset", "bundle", *CHECKPOINTS, *FRAME_BLOCKS)},
        **{name: options[name] for name in ("backend", "device", "precision", "build", *TRUST)},
        memory_budget=None if options["memory_budget"] is None else options["memory_budget"] * MIB,
        cuda_graphs=not options["no_cuda_graphs"],
        threads=options["threads"] or 0,
    )
    run_options = RunOptions.in_mib(
        **{
            name: options[name]
            for name in ("batch_size", "spill_dir", "max_conditioning", "allow_nonfinite", *BUDGETS)
        },
        thresholds=parse_thresholds(options["thresholds"]),
        **given_levers(options),
    )
    # The published spelling takes several values; those after the first arrive as arguments.
    inputs = (*options["input_rgb"], *options["inputs"])
    # Called as they are, runs write what they write.
    overlays = not options["input_rgb"]
    if options["live"] or any(live_source_of(str(one)) is not None for one in inputs):
        from ..run_live import LiveChoice, run_live  # noqa: PLC0415 - the same

        refuse_file_options(options)
        choice = LiveChoice(**{name: options[name] for name in ("live", "preview_token", *OF_STREAMS)})
        run_live(
            networks=networks,
            inputs=inputs,
            choice=choice,
            report=lambda report: _echo(report, as_json=options["as_json"], err=choice.tracks is not None),
            overlays=overlays,
            options=run_options,
            **{name: options[name] for name in OF_BOTH},
        )
        return 0
    refuse_live_options(options)
    from ..run import run_all  # noqa: PLC0415 - the same

    return run_all(
        networks=networks,
        inputs=inputs,
        overlays=overlays,
        **{name: options[name] for name in (*OF_BOTH, *OF_FILES)},
        options=run_options,
        existing=choose_existing(resume=options["resume"], overwrite=options["overwrite"]),
        **{name: options[name] for name in (*OF_LISTS, *OF_RAY)},
    )


class Rendered(Protocol):
    """A summary."""

    def render(self, *, as_json: bool) -> str:
        """The summary as text for people, or as JSON."""


def _echo(summary: Rendered, *, as_json: bool, err: bool = False) -> None:
    text = summary.render(as_json=as_json)
    click.echo(text if as_json else printable(text), err=err)


def choose_existing(*, resume: bool, overwrite: bool) -> Literal["error", "resume", "overwrite"]:
    """The policy for results that are there already."""
    if resume and overwrite:
        raise GmosError("--resume and --overwrite were both given; expected one of them")
    return "resume" if resume else "overwrite" if overwrite else "error"
