"""Options as the commands spell them: in two spellings, in groups of --help, and once where several commands share one.

Imports click alone, as what defines a command does: --help must not pay for the work.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from .runtime.bundle.signature import Trust

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

logger = logging.getLogger(__name__)

MIB = 1 << 20


NO_NAME = "it is empty, as a variable of the shell that is not set; expected a path"


class NamedPath(click.Path):
    """A path that has a name: `Path("")` is the working directory, which nobody meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """The path."""
        if value == "":
            self.fail(NO_NAME, param, ctx)
        return super().convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A number of a range. NaN is in none: every comparison with it is false, and a limit of NaN would hold for all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no finite number", param, ctx)
        return number


def named_path(name: str) -> click.Path:
    """A path that --help shows by this name."""
    path = NamedPath(path_type=Path)
    path.name = name
    return path


def given_input(text: str) -> Path | str:
    """The type of an input: a path, or the text itself of an address or a pipeline, which a path would not keep."""
    if not text:
        raise click.BadParameter(NO_NAME)
    return text if "://" in text or text.startswith("gst:") else Path(text)


PATH, DIR, FILE = named_path("path"), named_path("dir"), named_path("file")
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

INPUT = "Input"
NETWORKS = "Networks"
SPEED = "Speed and memory"
RESULTS = "Results"
TRACKING = "Tracking"
COMPARISON = "Comparison"
MEASUREMENT = "Measurement"
SAMPLES = "Samples"
QUANTISATION = "Quantisation"
TARGETS = "What is kept in half precision"
SHAPES = "Shapes"
ENGINES = "Engines"
OTHER = "Other"


class GroupedOption(click.Option):
    """An option that belongs to a group of --help.

    Args:
        group: title of the group; groups and their options come as they are declared.
        old: spellings of earlier releases, which work with a warning and are not shown.
    """

    def __init__(self, *args: Any, group: str = OTHER, old: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group
        self.old = tuple(old)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """As click's, in the first spelling only; `GroupedCommand` says that there is another."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        names, _, metavar = record[0].rpartition(", ")[2].partition(" ")
        return f"{self.opts[0]} {metavar}".rstrip() if names else record[0], record[1]


class GroupedCommand(click.Command):
    """A command that shows its options in groups and takes the spellings of earlier releases with a warning."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section a group, in the order in which they are declared."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", OTHER), []).append(record)
        # Click's own, which are no option of the work.
        groups[OTHER] = groups.pop(OTHER, [])
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say how options may be spelled."""
        super().format_epilog(ctx, formatter)
        if any(len(parameter.opts) > 1 and "_" in parameter.opts[0] for parameter in self.params):
            formatter.write_paragraph()
            formatter.write_text("The words of an option may also be joined by '-', as in --save-dir.")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with the spellings of earlier releases replaced."""
        now = {
            old: option.opts[0]
            for option in self.params
            if isinstance(option, GroupedOption)
            for old in option.old
        }
        replaced = []
        for argument in args:
            name, equals, value = argument.partition("=")
            if name in now:
                logger.warning("%s is now %s; the old name goes with the next release", name, now[name])
                argument = now[name] + equals + value  # noqa: PLW2901 - the argument as it is spelled now
            replaced.append(argument)
        return super().parse_args(ctx, replaced)


def spellings(name: str) -> tuple[str, ...]:
    """The published snake_case spelling of an option and the kebab-case one."""
    return tuple(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


def option(
    name: str, group: str, text: str | None = None, *, old: Sequence[str] = (), **attributes: Any
) -> Decorator[Any]:
    """An option in both spellings, passed on as `name` unless `to` says otherwise; its default is shown.

    Args:
        name: in snake_case, without the dashes.
        group: its group of --help.
        text: its help.
        old: names of earlier releases, in snake_case.
        attributes: click's; `to` is the name of the argument that gets the value.
    """
    olds = [spelling for one in old for spelling in spellings(one)]
    to = attributes.pop("to", name)
    shown = {"help": text, "show_default": "default" in attributes}
    return click.option(
        *spellings(name), to, cls=GroupedOption, group=group, old=olds, **(shown | attributes)
    )


def flag(name: str, group: str, text: str | None = None, **attributes: Any) -> Decorator[Any]:
    """An option without a value."""
    return option(name, group, text, is_flag=True, **attributes)


def together(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Any) -> Any:  # noqa: ANN401 - click's decorators take any function
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


rate_options = together(
    option(
        "fps",
        INPUT,
        "Frames per second of the input; needed for directories unless --stride is given.  [default: the file's own]",
        type=float,
    ),
    option(
        "stride",
        INPUT,
        "Frames between the neighbours of a window, 1 or more.  [default: fps / 8, rounded down]",
        type=int,
        metavar="FRAMES",
    ),
)
"""The rate of a video, and the windows that follow from it."""

checkpoint_options = together(
    option(
        "variant",
        NETWORKS,
        "gmos: tracked objects; gmos-s: one foreground mask per frame.  [default: gmos, or gmos-s if only "
        "--gmos_s_ckpt is given]",
        type=click.Choice(["gmos", "gmos-s"]),
    ),
    option("pi3_ckpt", NETWORKS, "Pi3 checkpoint (.safetensors or .pth).", type=FILE),
    option("sam2_ckpt", NETWORKS, "SAM2.1 Hiera-L checkpoint (.pt or .safetensors).", type=FILE),
    option("gmos_ckpt", NETWORKS, "GMOS checkpoint (.pth or .safetensors).", type=FILE),
    option("gmos_s_ckpt", NETWORKS, "GMOS-S checkpoint (.pth or .safetensors).", type=FILE),
)
"""The published checkpoints."""

frame_block_options = together(
    option(
        "local_layers",
        NETWORKS,
        "So many of the Pi3 decoder's global layers, from the first, attend within a frame and are computed once for "
        "it, not in each of its five windows: faster, and the masks change. 0 to all but the last.",
        type=int,
        default=0,
        metavar="K",
    ),
    flag(
        "share_block",
        NETWORKS,
        "Compute the decoder's first block, which attends within a frame as it is, once per frame: the same up to "
        "rounding. --local_layers of 1 or more does so.",
    ),
)
"""Which blocks of the Pi3 decoder are computed for a frame, where networks are made from checkpoints."""

FRAME_BLOCKS = ("local_layers", "share_block")
"""Fields of what `frame_block_options` give."""


def engine_backend_option(text: str) -> Decorator[Any]:
    """The library whose engines are built or checked."""
    return option(
        "backend", ENGINES, text, to="flavour", type=click.Choice(["tensorrt", "tensorrt-rtx"]), required=True
    )


def device_number_option(text: str) -> Decorator[Any]:
    """A GPU by its number."""
    return option("device", ENGINES, text, type=click.IntRange(min=0), default=0, metavar="N")


def names_option(
    group: str, what: str = "Networks", default: str = "all", **attributes: Any
) -> Decorator[Any]:
    """Networks by name, joined by commas, and repeated where that is `multiple`."""
    repeated = " or repeated" if attributes.get("multiple") else ""
    return option(
        "networks",
        group,
        f"{what}, joined by commas{repeated}.  [default: {default}]",
        metavar="NAMES",
        **attributes,
    )


def report_option(
    text: str = "Write result.json, observations.jsonl and report.html there.",
) -> Decorator[Any]:
    """Where a report goes, as `report`; None is not written."""
    return option("report", RESULTS, f"{text}  [default: not written]", type=DIR)


wide_option = flag(
    "wide",
    RESULTS,
    "Print every column and table, in lines as long as they need.  [default: what fits 80 columns]",
)


def count_option(
    name: str, group: str, default: int, text: str, *, least: int = 1, most: int | None = None
) -> Decorator[Any]:
    """How many of something."""
    kind = click.IntRange(least, most)
    return option(name, group, text, type=kind, default=default, metavar="N")


def worst_frames_option(default: int, most: int, where: str) -> Decorator[Any]:
    """How many of the worst frames a report shows."""
    text = f"How many of the worst frames {where}."
    return count_option("worst_frames", RESULTS, default, text, least=0, most=most)


force_option = flag("force", RESULTS, "Replace a bundle that is there.")


def trust_option(then: str = "") -> Decorator[Any]:
    """Whose signature a bundle must have."""
    return option(
        "trust",
        NETWORKS,
        "Public key (KEY.pub of gmos-export keygen) of whoever signed the bundle; may be repeated. The bundle must "
        f"then be signed with one of them (gmos-export sign) and be as it was signed{then}.  "
        "[default: no signature is asked for]",
        multiple=True,
        type=FILE,
        metavar="KEY.pub",
    )


trust_options = together(
    trust_option(", and engines in it may run"),
    flag(
        "trust_engines",
        NETWORKS,
        "Run engines of the bundle whoever built them. An engine is native code, which can do whatever you can: only "
        "for a bundle that you got from where it was built over a channel you trust.  [default: those that you built "
        "on this machine, or that --trust vouches for]",
    ),
)
"""Who vouches for what a bundle runs, as `trust` and `trust_engines`."""

TRUST = ("trust", "trust_engines")


def given_trust(options: Mapping[str, Any]) -> Trust:
    """What was given with `trust_options`."""
    from .runtime.bundle.signature import Trust  # noqa: PLC0415 - --help does not pay for msgspec

    return Trust(keys=options["trust"], engines=options["trust_engines"])


def json_flag(what: str) -> Decorator[Any]:
    """JSON on stdout, as `as_json`."""
    return flag("json", RESULTS, f"Print {what} as JSON.", to="as_json")


def listed(texts: Sequence[str]) -> tuple[str, ...]:
    """The names of a repeated option whose values are joined by commas, each once."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))
