"""Building: every engine of the bundle that this GPU cannot take as it is; all of them compared on it."""

from __future__ import annotations

import time
from functools import partial

from gmos_deploy.errors import GmosError
from gmos_deploy.export.engines.build import build_engines
from gmos_deploy.export.engines.comparison import compare_engines, refuse_wrong
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.tensorrt.choice import unchecked
from gmos_deploy.runtime.tensorrt.gpu import find_device
from gmos_deploy.runtime.tensorrt.library import FLAVOURS, Flavour, TensorRT, load_tensorrt
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity, engine_directory, plan_path
from gmos_deploy.runtime.tensorrt.trust import find_record, misfit, plan_difference

from .record import Context, MissingError, Notes


def engines(context: Context, notes: Notes) -> None:
    """The step: what is missing or does not fit is built; wrong results fail."""
    bundle, gpu = context.opened_bundle(), find_device(context.device)
    if gpu is None:
        raise MissingError(f"CUDA device {context.device}")
    for flavour in FLAVOURS:
        if flavour not in context.usable:
            notes.add(flavour, "missing", f"gmos-doctor says what {flavour} lacks here")
            continue
        for network in bundle.networks:
            label = f"{flavour}: {network}"
            work = partial(
                _settle, label, bundle, flavour, network, gpu=gpu, device=context.device, notes=notes
            )
            notes.attempt(label, work)


def _settle(
    label: str,
    bundle: Bundle,
    flavour: Flavour,
    network: NetworkName,
    *,
    gpu: DeviceIdentity,
    device: int,
    notes: Notes,
) -> None:
    """One engine at a time: what is finished stays when time is over. One that was built elsewhere is compared too."""
    start, library = time.perf_counter(), load_tensorrt(flavour)
    problem = unfit(bundle, flavour, network, library=library, gpu=gpu)
    if problem is not None:
        build_engines(bundle.root, flavour, networks=[network], device=device, trust=bundle.trust)
    record = find_record(bundle, network, flavour)
    did = "fits" if problem is None else "built"
    if unchecked({network: record}, gpu):
        checks = compare_engines(bundle.root, flavour, [network], device=device, trust=bundle.trust)
        refuse_wrong(checks, library, gpu)
        did += ", compared"
    attention = record.attention.get("lost")
    words = (
        f"{did} in {time.perf_counter() - start:.1f} s, {record.plan_bytes / 2**20:.1f} MiB, activations up to "
        f"{max(record.activation_bytes) >> 20} MiB"
    )
    if attention and record.precision != "fp32":
        words += f"; {attention}"
    notes.add(label, "passed", words if problem is None else f"{words}; before: {problem}")


def unfit(
    bundle: Bundle, flavour: Flavour, network: NetworkName, *, library: TensorRT, gpu: DeviceIdentity
) -> str | None:
    """Why an engine cannot run here as it is, in words; whatever options it was built with."""
    try:
        record = find_record(bundle, network, flavour)
    except GmosError as error:
        return str(error)
    plan = plan_path(engine_directory(bundle.root, flavour), network)
    return misfit(record, bundle=bundle, library=library, device=gpu) or plan_difference(
        plan, record, content=True
    )
