"""What a run on engines takes on the device, told before it starts."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from ...errors import GmosError
from ..backend import Backend
from ..bundle.manifest import Bundle, BundleNetwork
from ..contract import FRAME_BY_FRAME, ModelSpec, NetworkName
from ..cuda.device_array import byte_count
from ..levers import EXACT, Levers
from ..pipeline.options import FREE_MEMORY_SHARE, ConditioningLimit, RunOptions
from ..shapes import Lengths, bound_lengths, letters_of, size_of, video_lengths
from ..video.sequence import SequenceInput
from .call_plans import NoProfileError, Sizes, cut_inputs
from .record import EngineRecord
from .runner import EngineRunner
from .trust import build_command

logger = logging.getLogger(__name__)

MIB = 1 << 20

ACTIVATION_SHARE = 0.5
"""Of what weights and arrays leave: beyond it calls are cut, as features want room too."""


LIVE_FRAMES = 3
"""Frames of a stream whose features are there at a time: the first ones wait for each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSize:
    """What decides the memory of a run: windows per call, height and width of the video, window stride.

    `conditioning` is the greatest number of conditioning memories of an object; None: the usual one. `live_objects` is
    of a stream how many objects it may have at a time, whose memories count as arrays. `levers` let frames wait.
    """

    batch_size: int
    video_hw: tuple[int, int]
    stride: int
    conditioning: int | None = None
    live_objects: int = 0
    levers: Levers = EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by part. `activations` are those of `largest`, the network that needs most; all share them.

    `parts` are the windows or objects per call of networks that do not take all of them at once.
    `free` is what is left beside the weights, which are loaded; `budget` bounds the whole if given.
    """

    device: str
    weights: int
    activations: int
    largest: NetworkName
    parts: Mapping[NetworkName, int]
    arrays: int
    free: int
    budget: int | None

    @property
    def left(self) -> int:
        """Bytes left for features; negative: the run does not fit."""
        return self.free - self.activations - self.arrays

    @property
    def bound(self) -> str:
        """What the run has to keep within, in words."""
        where = f"on {self.device}"
        return where if self.budget is None else f"of --memory_budget {self.budget >> 20} {where}"

    def line(self, features: int) -> str:
        """The plan in one line, with the bytes that features may take."""
        together = self.weights + self.activations + self.arrays + features
        parts = "".join(f"; {name} {count} at a time" for name, count in self.parts.items())
        return (
            f"memory: weights {_mib(self.weights)}, activations {_mib(self.activations)} "
            f"({self.largest}{parts}), arrays {_mib(self.arrays)}, features up to {_mib(features)}; together up to "
            f"{_mib(together)} {self.bound}"
        )


@runtime_checkable
class PlansMemory(Protocol):
    """A backend that knows what a run will take."""

    def plan(self, size: RunSize) -> MemoryPlan:
        """What a run of that size takes on the device."""
        ...

    def most_conditioning(self) -> int:
        """The greatest number of conditioning memories of an object that a shape profile takes."""
        ...

    def build_for(self, conditioning: int) -> str:
        """The command line that builds an engine for so many."""
        ...


def fitting_plan(plan: Callable[[RunSize], MemoryPlan], size: RunSize) -> MemoryPlan:
    """The plan of a run, if it fits.

    Raises:
        GmosError: it does not; the message says which batch size would.
    """
    found = plan(size)
    if found.left >= 0:
        return found
    batch = size.batch_size // 2
    while batch and plan(replace(size, batch_size=batch)).left < 0:
        batch //= 2
    advice = (
        f"--batch_size {batch} fits (now {size.batch_size})"
        if batch
        else "no --batch_size fits: export with --precision fp16, or use a device with more memory"
    )
    raise GmosError(
        f"this run needs {_mib(found.activations + found.arrays)} of device memory beside {_mib(found.weights)} of "
        f"weights (activations {_mib(found.activations)} for {found.largest}, arrays {_mib(found.arrays)}), and "
        f"{_mib(found.free)} are left {found.bound}; {advice}"
    )


def settle_features(
    planner: PlansMemory, size: RunSize, *, device_budget: int | None, share: float
) -> tuple[int, str]:
    """The bytes of features that stay on the device in a run, and what the run will need in one line.

    Args:
        planner: the backend.
        size: of the run.
        device_budget: bytes that were asked for; None takes `share` of what is left.
        share: between 0 and 1; 0 for a variant that keeps no features.

    Raises:
        GmosError: the run does not fit, or not with so much for features.
    """
    plan = fitting_plan(planner.plan, size)
    features = int(share * plan.left) if device_budget is None else device_budget
    if features > plan.left:
        raise GmosError(
            f"--device_budget {features >> 20}: {_mib(plan.left)} are left {plan.bound} beside weights, activations "
            "and arrays; lower it, or leave it out"
        )
    return features, plan.line(features)


def settle_run(backend: Backend, options: RunOptions, videos: Sequence[SequenceInput]) -> RunOptions:
    """The options of a run on videos, within what the device and the engines can take if the backend can tell.

    Features are bounded by what is left beside the run, which is said. How many conditioning memories objects will
    have is known after stage 1 only; where the videos are long enough for more than can be taken, that is said too.

    Args:
        backend: with its networks loaded.
        options: as asked for.
        videos: all that will be run.

    Raises:
        GmosError: as `settle_features`.
    """
    if not isinstance(backend, PlansMemory):
        return options
    size = RunSize(
        batch_size=options.batch_size,
        video_hw=max((video.video_hw for video in videos), key=lambda video_hw: video_hw[0] * video_hw[1]),
        stride=max(video.stride for video in videos),
        levers=options.levers,
    )
    tracks, limit = backend.model.variant == "gmos", None
    if tracks and not options.mos_i_only:
        bounds = {
            video.name: options.conditioning_bound(video.frame_count_estimate)
            for video in videos
            if video.frame_count_estimate is not None
        }
        size, limit = _with_conditioning(backend, size, max(bounds.values(), default=None))
        for name, bound in bounds.items():
            if limit is not None and bound > limit.most:
                logger.warning(
                    "%s: objects may get up to %d conditioning memories, and %s; should the first pass find so many, "
                    "the run ends there: %s",
                    name,
                    bound,
                    limit.problem,
                    limit.ways,
                )
    features, line = settle_features(
        backend, size, device_budget=options.device_budget, share=FREE_MEMORY_SHARE if tracks else 0
    )
    logger.info("%s", line)
    return replace(options, device_budget=features, conditioning_limit=limit)


def settle_live(
    backend: Backend, options: RunOptions, *, video_hw: tuple[int, int], stride: int, name: str
) -> RunOptions:
    """The options of a stream, whose windows go one by one; what it will take is said if the backend can tell.

    A stream has one conditioning memory an object, and features of a few frames beside it: nothing of it grows.

    Args:
        backend: with its networks loaded.
        options: as asked for.
        video_hw: height and width of its frames in pixels.
        stride: frames between neighbours of a window.
        name: of the stream.

    Raises:
        GmosError: the device or the engines have no room for it.
    """
    if isinstance(backend, PlansMemory):
        tracks = backend.model.variant == "gmos"
        size = RunSize(
            batch_size=1,
            video_hw=video_hw,
            stride=stride,
            conditioning=1 if tracks else None,
            live_objects=options.thresholds.max_objects if tracks else 0,
            levers=options.levers,
        )
        logger.info("%s: %s", name, fitting_plan(backend.plan, size).line(0))
    return options


def _with_conditioning(
    planner: PlansMemory, size: RunSize, bound: int | None
) -> tuple[RunSize, ConditioningLimit | None]:
    """The size with as many conditioning memories as the videos may make and the run can take, and its limit."""

    def overflows(conditioning: int) -> bool:
        return planner.plan(replace(size, conditioning=conditioning)).left < 0

    in_profile = planner.most_conditioning()
    asked = max(1, in_profile if bound is None else min(bound, in_profile))
    # Nearly always all fit, which one plan tells.
    fitting = bisect_left(range(1, asked), True, key=overflows) if overflows(asked) else asked
    if not fitting:
        # Not even one: the run has no room, which whoever settles its features says.
        return size, None
    limited = replace(size, conditioning=fitting)
    if bound is not None and fitting >= bound:
        return limited, None
    if fitting == in_profile:
        problem = f"the engine of memory_attention takes {fitting}"
        way = f"build one for more ({planner.build_for(max(bound or 0, 2 * in_profile))})"
    else:
        problem = f"the device has room for {fitting}"
        way = "lower --batch_size"
    ways = f"{way}, or read only some of them with --max_conditioning {max(fitting, 2)}"
    return limited, ConditioningLimit(most=fitting, problem=problem, ways=ways)


def plan_memory(
    runners: Mapping[NetworkName, EngineRunner],
    bundle: Bundle,
    size: RunSize,
    *,
    free: int,
    budget: int | None,
    device: str,
) -> MemoryPlan:
    """Ask the library for the activations of every network at a run's sizes, and count the arrays.

    Args:
        runners: of the networks, loaded.
        bundle: they are of.
        size: of the run.
        free: bytes that are free beside the weights.
        budget: of the run in bytes.
        device: in words.

    Raises:
        GmosError: an engine takes no calls of these sizes.
    """
    lengths = {
        name: run_lengths(runner.entry, runner.record, bundle.model, size) for name, runner in runners.items()
    }
    arrays = _array_bytes(runners, lengths, _waiting_tokens(bundle, size)) + live_bytes(bundle, size)
    room = int(ACTIVATION_SHARE * max(free - arrays, 0))
    activations: dict[NetworkName, int] = {}
    parts: dict[NetworkName, int] = {}
    misfits: list[NoProfileError] = []
    for name, runner in runners.items():
        try:
            shaped, part = runner.fit(_sizes(runner, lengths[name]), room)
        except NoProfileError as error:
            misfits.append(error)
            continue
        activations[name] = shaped.activation_bytes
        if (
            name not in FRAME_BY_FRAME
            and cut_inputs(runner.entry)
            and part < _rows(runner.entry, lengths[name])
        ):
            parts[name] = part
    if misfits:
        raise _without_profile(misfits, bundle, runners, size)
    largest = max(activations, key=lambda name: activations[name])
    return MemoryPlan(
        device=device,
        weights=sum(runner.record.weight_bytes for runner in runners.values()),
        activations=activations[largest],
        largest=largest,
        parts=parts,
        arrays=arrays,
        free=free,
        budget=budget,
    )


def _array_bytes(
    runners: Mapping[NetworkName, EngineRunner], lengths: Mapping[NetworkName, Lengths], tokens: int
) -> int:
    """Bytes of the arrays of the first pass, with its waiting tokens, or of tracking if that is more."""
    phases = {"encoding": tokens, "tracking": 0}
    for name, runner in runners.items():
        # An output is the next network's input in the first pass, but for the frames; the tracker stacks what it feeds.
        entry = runner.entry
        phase = "tracking" if "O" in letters_of((*entry.inputs, *entry.outputs)) else "encoding"
        counted = list(runner.entry.outputs)
        if phase == "tracking" or "frames" in {tensor.name for tensor in entry.inputs}:
            counted += [tensor for tensor in runner.entry.inputs if not tensor.host]
        counted += runner.entry.graphs["standard"].tables
        phases[phase] += sum(byte_count(size_of(tensor, lengths[name]), tensor.dtype) for tensor in counted)
    return max(phases.values())


def _without_profile(
    misfits: Sequence[NoProfileError],
    bundle: Bundle,
    runners: Mapping[NetworkName, EngineRunner],
    size: RunSize,
) -> GmosError:
    """What is wrong first, and the one command that builds all engines that are missing."""
    record = next(iter(runners.values())).record
    names = [error.network for error in misfits]
    command = build_command(bundle.root, record.flavour, names, targets=record.targets)
    height, width = size.video_hw
    return GmosError(
        f"no engines for a video of {width}x{height} pixels: {misfits[0].problem}; build them: {command} "
        f"{' '.join(error.options for error in misfits)}"
    )


def _rows(entry: BundleNetwork, lengths: Lengths) -> int:
    """The length along which calls of a network are cut."""
    axis = entry.outputs[0].axes[0]
    return lengths[axis] if isinstance(axis, str) else axis


def run_lengths(entry: BundleNetwork, record: EngineRecord, model: ModelSpec, size: RunSize) -> Lengths:
    """The lengths of a network's axes in a run; of objects and memories the usual ones of its profile."""
    usual = {name: allowed.opt for name, allowed in record.profiles[0].items()}
    memories = {} if size.conditioning is None else memory_lengths(model, size.conditioning)
    return {
        **bound_lengths(entry.inputs, usual),
        **memories,
        "B": size.batch_size,
        **video_lengths(size.levers.sized(model), size.video_hw),
    }


def memory_lengths(model: ModelSpec, conditioning: int) -> Lengths:
    """Memories and pointers that a frame reads of an object with so many conditioning ones, at most."""
    return {"R": conditioning + model.memory_frames - 1, "P": conditioning + model.object_pointers - 1}


def most_conditioning(record: EngineRecord, model: ModelSpec) -> int:
    """The greatest number of conditioning memories that a profile of memory attention's engine takes."""
    passed = memory_lengths(model, 0)
    return max(
        min(profile["memories"].max[1] - passed["R"], profile["pointers"].max[1] - passed["P"])
        for profile in record.profiles
    )


def build_for_conditioning(bundle: Bundle, record: EngineRecord, conditioning: int) -> str:
    """The command line that builds memory attention for so many."""
    lengths, longest = memory_lengths(bundle.model, conditioning), record.profiles[-1]
    shapes = ",".join(
        f"memory_attention.{name}=" + "x".join(map(str, (size[0], lengths[axis], *size[2:])))
        for name, axis, size in (
            ("memories", "R", longest["memories"].max),
            ("pointers", "P", longest["pointers"].max),
        )
    )
    command = build_command(bundle.root, record.flavour, ["memory_attention"], targets=record.targets)
    return f"{command} --max-shapes {shapes}"


def _waiting_tokens(bundle: Bundle, size: RunSize) -> int:
    """Bytes of the tokens that wait for the frames of their windows."""
    model = bundle.model
    lengths = {**video_lengths(size.levers.sized(model), size.video_hw), "B": 1}
    outputs = bundle.networks["dino"].outputs
    frame = sum(byte_count(size_of(tokens, lengths), tokens.dtype) for tokens in outputs)
    # Those of the windows' neighbours on both sides, and the windows themselves once stacked.
    reach = model.window // 2 * size.stride
    waiting = 2 * reach + size.batch_size * (1 + model.window)
    return frame * (waiting + size.levers.waiting_frames(reach))


def live_bytes(bundle: Bundle, size: RunSize) -> int:
    """Bytes that a stream keeps from frame to frame beside its tokens: features and memories of objects."""
    if not size.live_objects:
        return 0
    model, lengths = bundle.model, {"B": 1, "O": 1}

    def of(network: NetworkName, *names: str) -> int:
        outputs = [one for one in bundle.networks[network].outputs if not names or one.name in names]
        return sum(byte_count(size_of(one, lengths), one.dtype) for one in outputs)

    # A conditioning memory more than those of the frames that have passed; the masks of the current frame.
    an_object = (
        model.memory_frames * of("memory_encoder")
        + model.object_pointers * of("mask_decoder", "pointer")
        + of("mask_decoder", "masks")
    )
    return LIVE_FRAMES * of("sam2_encoder") + size.live_objects * an_object


def _sizes(runner: EngineRunner, lengths: Lengths) -> Sizes:
    tensors = runner.entry.standard_inputs
    inputs = {tensor.name for tensor in runner.record.tensors if tensor.mode == "input"}
    return {tensor.name: size_of(tensor, lengths) for tensor in tensors if tensor.name in inputs}


def _mib(nbytes: int) -> str:
    return f"{-(-nbytes // MIB)} MiB"
