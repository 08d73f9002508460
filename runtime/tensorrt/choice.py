"""Which engines of a bundle can be used on this machine, and why the others cannot."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...errors import GmosError
from ..bundle.manifest import Bundle
from ..contract import NetworkName
from .gpu import find_device
from .library import FLAVOURS, NAMES, Flavour, load_tensorrt
from .record import DeviceIdentity, EngineRecord, engine_directory, record_path
from .trust import build_command, check_record, find_record


def missing_engines(bundle: Bundle, flavour: Flavour) -> list[NetworkName]:
    """The networks that have no engine of that flavour."""
    directory = engine_directory(bundle.root, flavour)
    return [name for name in bundle.networks if not record_path(directory, name).is_file()]


def require_engines(bundle: Bundle, flavour: Flavour) -> None:
    """Refuse a bundle without all of its engines, before anything is loaded.

    Raises:
        GmosError: some are missing; the message has the command that builds them.
    """
    missing = missing_engines(bundle, flavour)
    if missing:
        every = len(missing) == len(bundle.networks)
        what = "engines" if every else f"engines of {', '.join(missing)}"
        command = build_command(bundle.root, flavour, () if every else missing)
        raise GmosError(
            f"{bundle.root} has no {NAMES[flavour]} {what}; build them: {command}, or add --build"
        )


def usable_flavour(bundle: Bundle, index: int) -> tuple[Flavour | None, str]:
    """The flavour whose engines all fit this machine as far as their records say, and why or why none.

    Args:
        bundle: with or without engines.
        index: of the CUDA device.
    """
    reasons = []
    for flavour in FLAVOURS:
        if len(missing_engines(bundle, flavour)) == len(bundle.networks):
            continue
        reason = engine_obstacle(bundle, flavour, index)
        if reason is None:
            return flavour, f"its engines fit {find_device(index)}"
        reasons.append(f"the {flavour} engines cannot be used: {reason}")
    return None, "; ".join(reasons) or "the bundle has no engines"


def unchecked(records: dict[NetworkName, EngineRecord], device: DeviceIdentity) -> list[NetworkName]:
    """The networks whose engines have not been compared with a trusted computation on this GPU."""
    return [
        name for name, record in records.items() if record.check is None or record.check.device != device.name
    ]


def check_command(bundle_root: Path, flavour: Flavour, index: int) -> str:
    """The command line that compares engines with ONNX Runtime on a CUDA device of this machine."""
    words = ["gmos-export", "check-engines", "--bundle", str(bundle_root), "--backend", flavour]
    return shlex.join([*words, *(["--device", str(index)] if index else [])])


def engine_obstacle(bundle: Bundle, flavour: Flavour, index: int) -> str | None:
    """Why a bundle's engines cannot run here, as far as their records say; None if they can. `index` is of the GPU."""
    try:
        device = find_device(index)
        if device is None:
            return f"no CUDA device {index} was found"
        require_engines(bundle, flavour)
        library = load_tensorrt(flavour)
        for name in bundle.networks:
            check_record(find_record(bundle, name, flavour), bundle=bundle, library=library, device=device)
    except GmosError as error:
        return str(error)
    return None
