"""Each network by itself: what it answers to real inputs, and to as many memories as long videos have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.compare.network_parity import compare_calls, output_parities
from gmos_deploy.evaluation.compare.recording import record
from gmos_deploy.evaluation.compare.sides import input_dtypes
from gmos_deploy.evaluation.profile.roofline import host_rates
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.bundle.uploading import Dtypes, upload_inputs
from gmos_deploy.runtime.comparison.parity import LIMITS, compare_outputs, worst_severity
from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.onnx.backend import open_bundle_backend
from gmos_deploy.runtime.tensorrt.call_plans import NoProfileError
from gmos_deploy.runtime.video.sequence import SequenceInput

from .clips import acceptance_video
from .record import FOR_TIME, Context, MissingError, Notes, tell_missing_engines

RECORDED_FRAMES, RECORDED_CALLS = 12, 2

MEMORIES = (*range(1, 8), 16, 36)
"""R of memory attention: all lengths of a first pass, and those of second passes of 60 and of 300 frames."""

OBJECTS = 2

TRUST = "onnxruntime on cpu"

Inputs = Mapping[str, NDArray[Any]]


def networks(context: Context, notes: Notes) -> None:
    """The step: every network of every backend on what it sees in a video, against ONNX Runtime on the CPU."""
    bundle = context.opened_bundle()
    sides = [name for name in context.sides() if name != TRUST]
    tell_missing_engines(context, notes)
    for name in sides:
        notes.attempt(name, partial(_compare_side, context, bundle, name, notes))


def memories(context: Context, notes: Notes) -> None:
    """The step: memory attention over 1 to 36 memories, right and finite, on every backend."""
    bundle = context.opened_bundle()
    tell_missing_engines(context, notes)
    if "memory_attention" not in bundle.networks:
        raise MissingError(
            f"a bundle of GMOS: {bundle.root} holds {bundle.model.variant}, which has no memories"
        )
    for name in context.sides():
        notes.attempt(name, partial(_sweep_side, context, bundle, name, notes))


def trusted(bundle: Bundle) -> Backend:
    """The bundle on ONNX Runtime's CPU provider.

    Raises:
        MissingError: it is not installed, or does not run the bundle's precision.
    """
    try:
        return open_bundle_backend(bundle, device="cpu")
    except GmosError as error:
        raise MissingError(f"ONNX Runtime on the CPU to compare with: {error}") from error


def _compare_side(context: Context, bundle: Bundle, name: str, notes: Notes) -> None:
    side = context.side(name)
    with ExitStack() as stack:
        truth = stack.enter_context(closing(trusted(bundle)))
        backend = stack.enter_context(closing(side.load()))
        sequence = acceptance_video(backend.model, RECORDED_FRAMES)
        compare_recorded(name, backend, truth, bundle=bundle, sequence=sequence, notes=notes)


def compare_recorded(
    name: str, backend: Backend, truth: Backend, *, bundle: Bundle, sequence: SequenceInput, notes: Notes
) -> None:
    """Hold what a backend answered while it ran a video against the same calls of a trusted one.

    Networks that would take the processor longer than half of what is left are not compared, which is written down.
    """
    recorded = record(backend, sequence, frames=RECORDED_FRAMES, limit=RECORDED_CALLS, batch_size=1)
    rates = host_rates()
    for network in network_specs(bundle.model):
        entry = bundle.networks[network]
        needed_s = RECORDED_CALLS * entry.flops / (rates.flops or 1e11)
        if not recorded.calls(network):
            notes.add(f"{name}: {network}", "missing", "the video never called it")
            continue
        if needed_s > notes.left_s / 2:
            words = f"{needed_s:.0f} s of this processor to compare with"
            notes.add(f"{name}: {network}", "missing", words, **{FOR_TIME: True})
            continue

        def compare(network: Any = network, entry: Any = entry) -> None:  # noqa: ANN401 - a name
            dtypes = {t.name: "host" if t.host else t.dtype for t in entry.inputs}
            found = output_parities(compare_calls(network, recorded.calls(network), truth, dtypes))
            beyond = [line for one in found if (line := one.excess(entry.precision)) is not None]
            worst = max(one.worst.severity for one in found)
            calls = len(recorded.calls(network))
            words = "; ".join(beyond) or f"off by up to {worst:.1e} in {calls} calls"
            notes.expect(f"{name}: {network}", not beyond, words, severity=worst)

        notes.attempt(f"{name}: {network}", compare)


def _sweep_side(context: Context, bundle: Bundle, name: str, notes: Notes) -> None:
    side = context.side(name)
    with ExitStack() as stack:
        truth = None
        if name != TRUST:
            try:
                truth = stack.enter_context(closing(trusted(bundle)))
            except MissingError as error:
                # What is finite can be seen without.
                notes.add(f"{name}: right", "missing", str(error))
        backend = stack.enter_context(closing(side.load()))
        dtypes = input_dtypes(side, backend.model)["memory_attention"]
        sweep_memories(name, backend, truth, bundle=bundle, dtypes=dtypes, notes=notes)


def sweep_memories(
    name: str,
    backend: Backend,
    truth: Backend | None,
    *,
    bundle: Bundle,
    dtypes: Dtypes,
    notes: Notes,
    memories: Sequence[int] = MEMORIES,
) -> None:
    """Call memory attention with more and more memories, then with one again: finite, and as a trusted one answers.

    Args:
        name: of the backend.
        backend: with the network.
        truth: None: only finiteness is looked at.
        bundle: both are of.
        dtypes: of the backend's inputs.
        notes: where it is written down.
        memories: numbers of them.
    """
    entry = bundle.networks["memory_attention"]
    rates, run = host_rates(), backend.runner("memory_attention")
    for count in (*memories, memories[0]):
        lengths = {"O": OBJECTS, "R": count, "P": count if count > bundle.model.memory_frames else count - 1}
        label = f"{name}: R={count} P={lengths['P']}"
        inputs = seeded_inputs("memory_attention", entry.inputs, bundle.model, lengths)
        try:
            answer = run(upload_inputs(backend.arrays, inputs, dtypes))
        except NoProfileError as error:
            notes.add(label, "missing", str(error))
            continue
        given = {key: backend.arrays.download(array) for key, array in answer.items()}
        whole = all(np.isfinite(values).all() for values in given.values())
        # Counted at other lengths: its products over memories grow with their number.
        needed_s = entry.flops * max(1.0, count / bundle.model.memory_frames) / (rates.flops or 1e11)
        if truth is None or not whole or needed_s > notes.left_s / 4:
            notes.expect(label, whole, "finite" if whole else "not finite")
            continue
        host = {t.name: "host" if t.host else t.dtype for t in entry.inputs}
        wanted = truth.runner("memory_attention")(upload_inputs(truth.arrays, inputs, host))
        expected = {key: truth.arrays.download(array) for key, array in wanted.items()}
        found = compare_outputs("memory_attention", given, expected, target=name, lengths=lengths)
        beyond = [line for one in found if (line := one.failure(LIMITS[entry.precision])) is not None]
        words = "; ".join(beyond) or f"finite, off by up to {worst_severity(found):.1e}"
        notes.expect(label, not beyond, words, severity=worst_severity(found))
