"""Engines for a bundle: what is missing or out of date is built, compared where it can run, and recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from ...errors import GmosError, MachineError
from ...runtime.bundle.engine_files import WAITING_SUFFIX
from ...runtime.bundle.manifest import Bundle, BundleNetwork, open_bundle
from ...runtime.bundle.signature import Trust
from ...runtime.bundle.user_key import require_key
from ...runtime.contract import NetworkName
from ...runtime.cuda.driver import Cuda
from ...runtime.files.atomic_file import check_directory, replaced_at_end, writing
from ...runtime.precision import PRECISIONS
from ...runtime.tensorrt.call_plans import range_text
from ...runtime.tensorrt.gpu import find_device
from ...runtime.tensorrt.library import Flavour, TensorRT, load_tensorrt
from ...runtime.tensorrt.record import (
    DeviceIdentity,
    EngineRecord,
    Profile,
    engine_directory,
    host_platform,
    plan_path,
    read_engine_record,
    record_path,
    waiting_plan,
    write_engine_record,
)
from ...runtime.tensorrt.trust import build_command, graph_sources, misfit, plan_difference
from .comparison import compare_engines, refuse_wrong
from .options import BuildOptions, check_precision, settled
from .plan import BuiltPlan, build_plan
from .progress import BuildPhases, build_progress
from .shapes import ShapeOverride, engine_profile, engine_ranges, kept_shapes

logger = logging.getLogger(__name__)

MIB = 1 << 20

Action = Literal["built", "kept", "would build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An engine as it should be; `reason` says why the one that is there will not do, None that it does.

    `targets` are those that were asked for, and those of the engine that is there: one plan has the kernels of all.
    `shapes` are those that were asked for, `kept` as many of them as an earlier build was given.
    """

    network: BundleNetwork
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]
    shapes: tuple[ShapeOverride, ...]
    kept: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """What became of an engine; `record` is None where nothing was built for a dry run."""

    network: NetworkName
    action: Action
    record: EngineRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """Builds the engines of a bundle with one library for one device or set of targets.

    `device` is the GPU of number `index` of this machine, None without one. Shapes that engines were given before
    are kept, unless `default_shapes`, and so are their targets, unless all is built anew by force.
    """

    bundle: Bundle
    library: TensorRT
    device: DeviceIdentity | None
    options: BuildOptions
    shapes: tuple[ShapeOverride, ...] = field(default=())
    index: int = 0
    default_shapes: bool = False

    @property
    def directory(self) -> Path:
        """Where the engines go."""
        return engine_directory(self.bundle.root, self.library.flavour)

    def plan(self, networks: Sequence[str] = (), *, force: bool = False) -> tuple[Planned, ...]:
        """Which engines are to be built and why; all of the bundle if none is named.

        Raises:
            GmosError: the bundle has no such network, or its shapes cannot be built for.
        """
        chosen = choose_networks(self.bundle, networks)
        idle = [shape.option for shape in self.shapes if shape.network not in {net.name for net in chosen}]
        if idle:
            raise GmosError(f"{idle[0]}: that network is not among --networks; leave one of them out")
        if self.options.half_sums and all(PRECISIONS[net.precision].dtype != "float16" for net in chosen):
            logger.warning("--half_sums changes nothing: none of these networks computes in fp16")
        planned = []
        for network in chosen:
            check_precision(network.precision, self.options)
            new = tuple(shape for shape in self.shapes if shape.network == network.name)
            earlier = self._earlier(network.name)
            # Those of an earlier engine, where they are to stay.
            shapes = earlier.shapes if isinstance(earlier, EngineRecord) and not self.default_shapes else ()
            kept = kept_shapes(network, shapes, new)
            ranges = engine_ranges(network, (*kept, *new))
            profiles = tuple(engine_profile(network, each) for each in ranges)
            planned.append(
                Planned(
                    network=network,
                    targets=self.options.targets if force else self._all_targets(earlier),
                    profiles=profiles,
                    shapes=(*kept, *new),
                    kept=len(kept),
                    reason="--force was given" if force else self._stale(network.name, earlier, profiles),
                )
            )
        return tuple(planned)

    def _earlier(self, name: NetworkName) -> EngineRecord | str:
        """The record of the engine that is there, or in words why there is none to use."""
        path = record_path(self.directory, name)
        if not path.is_file():
            return "there is none yet"
        try:
            return read_engine_record(path, self.bundle.vouches_for)
        except GmosError as error:
            return f"its record cannot be used ({error})"

    def _all_targets(self, earlier: EngineRecord | str) -> tuple[str, ...]:
        """Those that are asked for, and those of an engine that somebody vouches for, in the library's order."""
        before = earlier.targets if isinstance(earlier, EngineRecord) and earlier.unvouched is None else ()
        asked = self.options.targets
        return tuple(one for one in self.library.targets if one in asked or (asked and one in before))

    def _stale(
        self, name: NetworkName, record: EngineRecord | str, profiles: tuple[Profile, ...]
    ) -> str | None:
        """Why the engine that is there will not do, in words; None if it does."""
        if isinstance(record, str):
            return record
        if (record.network, record.flavour) != (name, self.library.flavour):
            return f"its record is of {record.network} for {record.flavour}"
        device = None if self.library.builds_ahead else self.device
        difference = misfit(record, bundle=self.bundle, library=self.library, device=device)
        if difference is not None:
            return difference
        missing = set(self.options.targets) - set(record.targets)
        if missing:
            stay = f"; the new one is for {', '.join(self._all_targets(record))}"
            return (
                f"it was built for {', '.join(record.targets)} and not for {', '.join(sorted(missing))}{stay}"
            )
        if record.profiles != profiles:
            return f"it was built for other shapes{_other_shapes(record.profiles, profiles)}"
        for option, value in self._options_of(name).items():
            if record.options.get(option) != value:
                return f"it was built with {option} {record.options.get(option)}, and {value} is asked for"
        plan = plan_path(self.directory, name)
        difference = plan_difference(plan, record, content=True)
        return None if difference is None else f"{plan.name} {difference}"

    def build(self, planned: Planned, phases: BuildPhases) -> EngineRecord:
        """Build one engine and write it with its record, whole or not at all.

        Raises:
            GmosError: the library cannot build it, or it cannot be written.
        """
        name = planned.network.name
        built = build_plan(
            self.library,
            self.bundle,
            planned.network,
            profiles=planned.profiles,
            options=replace(self.options, targets=planned.targets),
            phases=phases,
            # The builder times kernels on the device of the thread that calls it.
            enter=None if self.library.builds_ahead else Cuda(self.index).enter,
        )
        record = self._record(planned, built)
        self._write(plan_path(self.directory, name), built, record)
        if built.attention.lost is not None and planned.network.precision != "fp32":
            logger.warning("%s: %s", name, built.attention.lost)
        return record

    def _write(self, plan: Path, built: BuiltPlan, record: EngineRecord) -> None:
        """The old engine is whole until the new one is: the plan waits beside it for its record.

        A reader that comes between the record and the last step takes that step itself.
        """
        path, waiting = record_path(self.directory, record.network), waiting_plan(plan, record.plan_sha256)
        try:
            with replaced_at_end(waiting) as temporary:
                temporary.write_bytes(built.data)
            write_engine_record(path, record)
            with writing(plan), suppress(FileNotFoundError):
                waiting.replace(plan)
        finally:
            _settle(plan, path)

    def _options_of(self, name: NetworkName) -> dict[str, Any]:
        """What decides what an engine is; sums in half precision are those of networks in fp16."""
        in_half = PRECISIONS[self.bundle.networks[name].precision].dtype == "float16"
        return {**self.options.record(), "half_sums": self.options.half_sums and in_half}

    def _record(self, planned: Planned, built: BuiltPlan) -> EngineRecord:
        ahead = self.library.builds_ahead
        return EngineRecord(
            network=planned.network.name,
            flavour=self.library.flavour,
            library_version=self.library.full_version,
            sources=graph_sources(self.bundle, planned.network.name),
            plan_bytes=built.data.nbytes,
            plan_sha256=built.sha256,
            precision=planned.network.precision,
            device=None if ahead else self.device,
            targets=planned.targets,
            platform=host_platform(),
            profiles=planned.profiles,
            shapes=tuple(shape.asked() for shape in planned.shapes),
            tensors=built.tensors,
            options=self._options_of(planned.network.name),
            activation_bytes=built.activation_bytes,
            weight_bytes=built.weight_bytes,
            attention=built.attention.record(),
            built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=round(built.seconds, 2),
        )


def _other_shapes(before: Sequence[Profile], now: Sequence[Profile]) -> str:
    """The first range that changes, in words; nothing where there are more or fewer shape profiles."""
    for old, new in zip(before, now, strict=False):
        for name, wanted in new.items():
            if name in old and old[name] != wanted:
                return f" ({name} of {range_text(old[name])}, now {range_text(wanted)})"
    return ""


def _settle(plan: Path, path: Path) -> None:
    """Have the plan of the record at its place, and remove those that wait for another one."""
    kept = None
    with suppress(GmosError):
        record = read_engine_record(path)
        kept = waiting_plan(plan, record.plan_sha256)
        plan_difference(plan, record)
    for left in plan.parent.glob(f"{plan.name}.*{WAITING_SUFFIX}"):
        if left != kept:
            left.unlink(missing_ok=True)


def choose_networks(bundle: Bundle, names: Sequence[str]) -> tuple[BundleNetwork, ...]:
    """The networks of these names in the bundle's order; all if there are none.

    Raises:
        GmosError: the bundle has no network of a name.
    """
    for name in names:
        if name not in bundle.networks:
            raise GmosError(f"--networks {name}: expected one of {', '.join(bundle.networks)}")
    return tuple(network for name, network in bundle.networks.items() if not names or name in names)


def device_for(library: TensorRT, index: int, targets: Sequence[str]) -> DeviceIdentity | None:
    """The GPU of that number, None without one.

    Raises:
        GmosError: CUDA does not work here, and engines are not built for named targets, which needs no GPU.
    """
    try:
        return find_device(index)
    except GmosError as error:
        if not (library.builds_ahead and targets):
            raise
        logger.info("engines will not be compared here: %s", error)
        return None


def build_engines(
    bundle_root: Path,
    flavour: Flavour,
    *,
    networks: Sequence[str] = (),
    device: int = 0,
    build: EngineBuild | None = None,
    trust: Trust | None = None,
    force: bool = False,
    dry_run: bool = False,
    checked: bool = True,
) -> tuple[BuildOutcome, ...]:
    """Build what is missing or out of date, one engine after the other, and compare it where it can run.

    Args:
        bundle_root: the bundle's directory.
        flavour: of the library.
        networks: names; none means all.
        device: number of the GPU to build for, where there is one; not read if `build` is given.
        build: how to build; None takes the defaults of the library for that GPU.
        trust: whom the user trusts; not read if `build` is given.
        force: build what is up to date too.
        dry_run: say what would be built and why, and build nothing.
        checked: compare new engines with ONNX Runtime on the GPU of this machine.

    Raises:
        GmosError: an engine cannot be built, or was built and gives wrong results. Engines that were
            finished before stay.
    """
    if build is None:
        library, gpu = load_tensorrt(flavour), find_device(device)
        if gpu is None:
            raise MachineError(
                f"no GPU {device} was found here to build engines for and run them on; use --backend onnxruntime "
                f"--device cpu, or build ahead for others: {build_command(bundle_root, 'tensorrt-rtx')}"
            )
        build = EngineBuild(
            bundle=open_bundle(bundle_root, trust),
            library=library,
            device=gpu,
            options=settled(BuildOptions(), library, gpu),
            index=device,
        )
    planned = build.plan(networks, force=force)
    for engine in planned:
        if engine.reason is None:
            logger.info("%s: up to date", engine.network.name)
        else:
            verb = "would be built" if dry_run else "to be built"
            logger.info("%s: %s, %s", engine.network.name, verb, engine.reason)
        for shape in engine.shapes[: engine.kept]:
            logger.info("%s: kept %s", engine.network.name, shape.option)
    due = [engine for engine in planned if engine.reason is not None]
    if dry_run:
        return tuple(_outcome(engine, None, dry_run=True) for engine in planned)
    if due:
        # Minutes later would be too late to find out that nothing can be sealed or written.
        require_key()
        check_directory(build.directory)
    records: dict[NetworkName, EngineRecord] = {}
    for engine in due:
        with build_progress(engine.network.name) as report:
            record = build.build(engine, BuildPhases(report))
        records[engine.network.name] = record
        logger.info(
            "%s: built in %.1f s, plan %.1f MiB, activations up to %.0f MiB",
            record.network,
            record.seconds,
            record.plan_bytes / MIB,
            max(record.activation_bytes, default=0) / MIB,
        )
    if checked and records:
        _check(build, records)
    return tuple(_outcome(engine, records.get(engine.network.name), dry_run=False) for engine in planned)


def _outcome(engine: Planned, record: EngineRecord | None, *, dry_run: bool) -> BuildOutcome:
    action: Action = "kept" if engine.reason is None else "would build" if dry_run else "built"
    return BuildOutcome(network=engine.network.name, action=action, record=record)


def _check(build: EngineBuild, records: Mapping[NetworkName, EngineRecord]) -> None:
    """Hold new engines against ONNX Runtime where they can run, and say where they cannot."""
    device = build.device
    networks = [
        name
        for name, record in records.items()
        if device is not None and (not record.targets or device.target in record.targets)
    ]
    if device is None or not networks:
        here = "there is no GPU here" if device is None else f"the GPU here is {device}"
        logger.info("not compared: %s; on the device run gmos-export check-engines", here)
        return
    checks = compare_engines(
        build.bundle.root, build.library.flavour, networks, device=build.index, trust=build.bundle.trust
    )
    refuse_wrong(checks, build.library, device)
