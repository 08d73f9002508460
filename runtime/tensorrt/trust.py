"""Which engine may run: that of this bundle, library and machine, which somebody vouches for, not found wrong."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ...errors import GmosError
from ..bundle.manifest import Bundle
from ..bundle.private_read import private_read
from ..contract import NetworkName
from ..files.checkpoint_identity import file_sha256
from .gpu import find_device
from .library import NAMES, Flavour, TensorRT
from .record import (
    DeviceIdentity,
    EngineRecord,
    check_path,
    engine_directory,
    host_platform,
    plan_path,
    read_engine_record,
    record_path,
    waiting_plan,
)

logger = logging.getLogger(__name__)

VOUCH = (
    "run it where it is signed and you have the key of whoever signed it (--trust KEY.pub), or with --trust_engines if "
    "you know where it comes from: an engine is native code"
)
"""What can be done about an engine that nobody vouches for, beside building it."""

RTX_CARDS = ("sm86", "sm89", "sm120")
"""Targets for the cards of the last three generations, where it is not known which one will run the engines."""

AMPERE = (8, 0)
"""The least compute capability of `ampere-plus` engines."""


def build_command(
    bundle_root: Path,
    flavour: Flavour,
    networks: Sequence[NetworkName] = (),
    *,
    targets: Sequence[str] = (),
) -> str:
    """The command line that builds engines; all networks if none is named.

    Without a GPU here a library that builds ahead of time is told for which ones.
    """
    words = ["gmos-export", "build-engines", "--bundle", str(bundle_root), "--backend", flavour]
    if flavour == "tensorrt-rtx" and not targets and not _has_gpu():
        targets = RTX_CARDS
    if targets:
        words += ["--target", ",".join(targets)]
    if networks:
        words += ["--networks", ",".join(networks)]
    return shlex.join(words)


def _has_gpu() -> bool:
    try:
        return find_device() is not None
    except GmosError:
        # CUDA does not work: nothing is built for a GPU that cannot be asked what it is.
        return False


def graph_sources(bundle: Bundle, network: NetworkName) -> dict[str, str]:
    """SHA-256 by file of what an engine of the network is built from, as the bundle lists them."""
    graph = bundle.networks[network].graphs["standard"]
    return {name: bundle.files.sha256(name) for name in (graph.file, *graph.weights)}


def find_record(bundle: Bundle, network: NetworkName, flavour: Flavour) -> EngineRecord:
    """The record of a network's engine.

    Raises:
        GmosError: there is no engine, its files are links out of the bundle that nobody signed, or its record cannot
            be read; the message has the command that builds it.
    """
    directory = engine_directory(bundle.root, flavour)
    path = record_path(directory, network)

    def command() -> str:
        # Without targets it asks for the GPU of this machine: only messages need it.
        return build_command(bundle.root, flavour, [network])

    if not path.is_file():
        raise GmosError(
            f"{bundle.root} has no {NAMES[flavour]} engine of {network} ({path} is missing); build it: {command()}"
        )
    for file in (path, plan_path(directory, network), check_path(path)):
        # What was signed was compared through the link: its content is what counts.
        signed = file.relative_to(bundle.root).as_posix() in (bundle.signed or {})
        if not signed and not file.resolve().is_relative_to(bundle.root.resolve()):
            raise GmosError(
                f"{file} is a link out of the bundle; copy the bundle with cp -rL if links are how it is kept, as in "
                f"the cache of a model hub, else do not trust it, build it again: {command()}"
            )
    try:
        record = read_engine_record(path, bundle.vouches_for)
    except GmosError as error:
        raise GmosError(f"{error}: {command()}") from error
    if (record.network, record.flavour) != (network, flavour):
        raise GmosError(
            f"{path} is of {record.network} for {record.flavour}, expected {network} for {flavour}; build it again: "
            f"{command()}"
        )
    return record


def misfit(
    record: EngineRecord, *, bundle: Bundle, library: TensorRT, device: DeviceIdentity | None
) -> str | None:
    """What of an engine does not fit, in words; None if it may run as far as its record says.

    Args:
        record: of the engine.
        bundle: that it should be of.
        library: that should run it.
        device: that it should run on; None asks about everything else.
    """
    if record.unvouched is not None:
        return f"nobody vouches for it ({record.unvouched})"
    if (sources := graph_sources(bundle, record.network)) != record.sources:
        changed = sorted(
            name
            for name in sources.keys() | record.sources.keys()
            if sources.get(name) != record.sources.get(name)
        )
        return f"it was built from another {' and another '.join(changed)} than the bundle has"
    if not _version_fits(record, library):
        return f"it was built with {NAMES[record.flavour]} {record.library_version}, and {library.label} is installed"
    if record.platform != host_platform():
        return f"it was built for {record.platform}, and this is {host_platform()}"
    difference = None if device is None else _device_misfit(record, device)
    if difference is not None:
        return difference
    if record.check is not None and not record.check.passed:
        wrong = next((found for found in record.check.outputs), None)
        where = f" in {wrong.output}" if wrong is not None else ""
        return (
            f"its results were wrong{where} when it was compared with {record.check.against} on {record.check.device}, "
            f"{record.check.date}"
        )
    return None


def _version_fits(record: EngineRecord, library: TensorRT) -> bool:
    if record.options.get("version_compatible"):
        return _numbers(library.full_version) >= _numbers(record.library_version)
    return library.full_version == record.library_version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _device_misfit(record: EngineRecord, device: DeviceIdentity) -> str | None:
    if record.device is None:
        if device.target in record.targets:
            return None
        return f"it was built for {', '.join(record.targets)}, and this GPU is {device}"
    built_on, level = record.device, record.options.get("hardware_compatible")
    if level == "ampere-plus":
        fits = device.compute_capability >= AMPERE
    else:
        fits = built_on.compute_capability == device.compute_capability
        # TensorRT calls plans of another model of GPU unsafe even where the capability is the same.
        fits = fits and (level == "same-capability" or built_on.name == device.name)
    if fits:
        return None
    also = f" as {level}" if level else ""
    return f"it was built on {built_on}{also}, and this GPU is {device}"


def check_record(record: EngineRecord, *, bundle: Bundle, library: TensorRT, device: DeviceIdentity) -> None:
    """Refuse an engine that does not fit, without reading it.

    Raises:
        GmosError: it is of another bundle, library or machine, or was found wrong on it; the message
            says what differs and has the command that builds it again.
    """
    difference = misfit(record, bundle=bundle, library=library, device=device)
    if difference is None:
        return
    path = plan_path(engine_directory(bundle.root, record.flavour), record.network)
    if library.builds_ahead and device.target not in library.targets:
        raise GmosError(
            f"{path} cannot run: {library.label} has no kernels for {device}, only for "
            f"{', '.join(library.targets)}; use --backend tensorrt"
        )
    ways = "" if record.unvouched is None else f", or {VOUCH}"
    raise GmosError(
        f"{path} cannot run: {difference}; build it again: {_rebuild(record, bundle, device)}{ways}"
    )


def _rebuild(record: EngineRecord, bundle: Bundle, device: DeviceIdentity) -> str:
    targets = tuple(dict.fromkeys((*record.targets, device.target))) if record.targets else ()
    return build_command(bundle.root, record.flavour, [record.network], targets=targets)


def verified_plan(
    bundle: Bundle, network: NetworkName, library: TensorRT, device: DeviceIdentity
) -> tuple[EngineRecord, bytearray]:
    """A plan whose record fits and whose content is what the record says: nothing else may be deserialised.

    Returns:
        The record, and the plan: a copy in memory of this process, read once and hashed there. A mapping of the file
        would change when the file does.

    Raises:
        GmosError: it is missing, does not fit (`check_record`), is cut short or has changed.
    """
    record = find_record(bundle, network, library.flavour)
    check_record(record, bundle=bundle, library=library, device=device)
    path = plan_path(engine_directory(bundle.root, library.flavour), network)
    command = _rebuild(record, bundle, device)
    difference = plan_difference(path, record)
    if difference is not None:
        raise GmosError(f"{path} {difference}; do not trust it, build it again: {command}")
    plan, found = private_read(path, record.plan_bytes)
    if found != record.plan_sha256:
        raise GmosError(f"{path} has changed since it was built; do not trust it, build it again: {command}")
    return record, plan


def plan_difference(path: Path, record: EngineRecord, *, content: bool = False) -> str | None:
    """Whether a plan is there in its full length, and if asked with its content: what is wrong, in words, or None.

    A build that was stopped between the record and the last step is finished first.
    """
    try:
        waiting_plan(path, record.plan_sha256).replace(path)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("%s cannot be replaced by what was built (%s)", path, error.strerror)
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != record.plan_bytes or not size:
        return f"has {size} bytes, expected {record.plan_bytes}"
    if content and file_sha256(path) != record.plan_sha256:
        return "has changed since it was built"
    return None
