"""Findings on a bundle: are its files whole, do its engines fit this machine, were they checked here."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ...errors import GmosError
from ...runtime.bundle.manifest import Bundle, open_bundle
from ...runtime.bundle.recipe import Recipe, bundle_recipes
from ...runtime.bundle.signature import Trust
from ...runtime.contract import NetworkName
from ...runtime.tensorrt.choice import check_command, missing_engines, unchecked
from ...runtime.tensorrt.library import FLAVOURS, NAMES, Flavour, load_tensorrt
from ...runtime.tensorrt.record import DeviceIdentity, EngineRecord, engine_directory, plan_path
from ...runtime.tensorrt.trust import VOUCH, build_command, find_record, misfit, plan_difference
from .finding import BUNDLE, Finding, State


def bundle_findings(
    root: Path,
    device: DeviceIdentity | None,
    *,
    index: int = 0,
    loadable: Collection[Flavour] = FLAVOURS,
    trust: Trust | None = None,
) -> Iterator[Finding]:
    """All of them.

    Args:
        root: the bundle.
        device: the GPU that its engines should run on, None where there is none.
        index: its number among the CUDA devices.
        loadable: the libraries that load here; others are not tried in this process.
        trust: whom the user trusts with what is in it.

    One that cannot be read is a finding as well.
    """
    try:
        bundle = open_bundle(root, trust)
    except GmosError as error:
        yield _finding("files", "wrong", str(error))
        return
    yield _files(bundle)
    for name, recipe in bundle_recipes(bundle.root).items():
        if isinstance(recipe, str):
            yield _finding(f"recipe {name}", "wrong", recipe)
        else:
            yield _finding(f"recipe {name}", *_recipe(bundle, recipe))
    unused: State = "optional" if device is None else "missing"
    for flavour in FLAVOURS:
        if len(missing_engines(bundle, flavour)) == len(bundle.networks):
            continue
        if flavour in loadable:
            yield from _engines(bundle, flavour, device, index)
        else:
            words = f"whether they fit is not known, as {NAMES[flavour]} does not load here"
            yield _finding(f"{NAMES[flavour]} engines", unused, words)
    if all(len(missing_engines(bundle, flavour)) == len(bundle.networks) for flavour in FLAVOURS):
        yield _finding("engines", unused, "none were built; ONNX Runtime runs the bundle without")


def _finding(name: str, state: State, found: str, mend: str = "") -> Finding:
    return Finding(group=BUNDLE, name=name, state=state, found=found, mend=mend)


def _recipe(bundle: Bundle, recipe: Recipe) -> tuple[State, str]:
    """What a recipe in a bundle is, and whether it is for its networks."""
    if recipe.variant != bundle.model.variant:
        return "wrong", f"it was tuned for {recipe.variant}"
    if recipe.bundle != bundle.identity:
        return "missing", f"it was tuned with other networks, and keeps nobody knows what; {recipe.line()}"
    return "ok", recipe.line()


def _files(bundle: Bundle) -> Finding:
    try:
        for name in bundle.files:
            bundle.files.verified(name)
    except GmosError as error:
        return _finding("files", "wrong", str(error))
    what = f"{bundle.model.variant}, {bundle.model.preset} size, {bundle.precision}"
    return _finding("files", "ok", f"{what}, {len(list(bundle.files))} files as they were exported")


def _engines(
    bundle: Bundle, flavour: Flavour, device: DeviceIdentity | None, index: int
) -> Iterator[Finding]:
    label, library = f"{NAMES[flavour]} engines", load_tensorrt(flavour)
    lost = missing_engines(bundle, flavour)
    read = {name: _record(bundle, name, flavour) for name in bundle.networks if name not in lost}
    records = {name: record for name, record in read.items() if not isinstance(record, str)}
    # New engines are for the cards that the others are for, and for the one that is here.
    targets = [target for record in records.values() for target in record.targets]
    if library.builds_ahead and device is not None:
        targets.append(device.target)
    targets = list(dict.fromkeys(targets))
    if lost:
        words = f"there are none of {', '.join(lost)}"
        yield _finding(label, "missing", words, build_command(bundle.root, flavour, lost, targets=targets))
    for name, refusal in read.items():
        if isinstance(refusal, str):
            # It has the command that builds the engine.
            yield _finding(f"{flavour} {name}", "wrong", refusal)
    fitting = {}
    for name, record in records.items():
        problem = misfit(record, bundle=bundle, library=library, device=device) or _plan_problem(
            bundle, record
        )
        if problem is None:
            fitting[name] = record
        else:
            command = build_command(bundle.root, flavour, [name], targets=targets)
            ways = "" if record.unvouched is None else f": build it again, or {VOUCH}"
            yield _finding(f"{flavour} {name}", "wrong", f"{problem}{ways}", command)
    if not fitting:
        return
    count = f"{len(fitting)} of {len(bundle.networks)}"
    if device is None:
        words = f"{count} are whole and of this bundle and library; there is no GPU to run them on"
        yield _finding(label, "ok", words)
        return
    yield _finding(label, "ok", f"{count} fit {device}")
    names = unchecked(fitting, device)
    yield _finding(
        f"{flavour} checks",
        "missing" if names else "ok",
        f"never compared on this GPU: {', '.join(names)}"
        if names
        else "all were compared with ONNX Runtime on this GPU, and are right",
        check_command(bundle.root, flavour, index) if names else "",
    )


def _record(bundle: Bundle, network: NetworkName, flavour: Flavour) -> EngineRecord | str:
    """The record of an engine, or why it cannot be read."""
    try:
        return find_record(bundle, network, flavour)
    except GmosError as error:
        return str(error)


def _plan_problem(bundle: Bundle, record: EngineRecord) -> str | None:
    """What of an engine's file is not as its record says."""
    path = plan_path(engine_directory(bundle.root, record.flavour), record.network)
    difference = plan_difference(path, record, content=True)
    return None if difference is None else f"its file {difference}"
