"""Building: every engine of the bundle, for this GPU, compared as it is built."""

from __future__ import annotations

import time
from functools import partial

from gmos_deploy.export.engines.build import build_engines
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.tensorrt.library import FLAVOURS, Flavour
from gmos_deploy.runtime.tensorrt.trust import find_record

from .networks import tell_missing_engines
from .record import Context, Notes


def engines(context: Context, notes: Notes) -> None:
    """The step: what is missing or does not fit is built; wrong results fail."""
    tell_missing_engines(context, notes)
    bundle = context.opened_bundle()
    for flavour in FLAVOURS:
        if flavour in context.usable:
            for network in bundle.networks:
                label = f"{flavour}: {network}"
                notes.attempt(
                    label,
                    partial(_build, label, bundle, flavour, network, device=context.device, notes=notes),
                )


def _build(label: str, bundle: Bundle, flavour: Flavour, network: str, *, device: int, notes: Notes) -> None:
    """One engine at a time: what is finished stays when time is over."""
    start = time.perf_counter()
    (outcome,) = build_engines(bundle.root, flavour, networks=[network], device=device)
    record = find_record(bundle, outcome.network, flavour)
    took = f"{outcome.action} in {time.perf_counter() - start:.1f} s"
    attention = record.attention.get("lost")
    words = f"{took}, {record.plan_bytes / 2**20:.1f} MiB, activations up to {max(record.activation_bytes) >> 20} MiB"
    if attention and record.precision != "fp32":
        words += f"; {attention}"
    right = record.check is not None and record.check.passed
    notes.expect(label, right, words if right else f"{words}; it was not compared on this GPU")
