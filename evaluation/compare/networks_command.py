"""`gmos-parity networks`: every network of two sides on what one of them sees in a real video."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import click

from ...errors import GmosError, printable
from ...runtime.bundle.manifest import Bundle
from ...runtime.comparison.parity import LIMITS
from ...runtime.contract import NetworkName
from ...runtime.onnx.sessions import choose_device, load_onnxruntime
from ...runtime.precision import PrecisionName
from ...runtime.video.inputs import resolve_inputs
from ...sides import Side, parse_side, refuse_idle_trust
from ..report.environment import environment
from ..report.files import publish, report_directory
from .document import networks_document
from .first_divergence import FirstDivergence, load_onnx
from .first_divergence import first_divergence as find_divergence
from .network_parity import OutputParity, SavedTensors, compare_calls, output_parities
from .recording import Recording, record
from .report import NetworksReport, networks_json
from .sides import chosen_networks, input_dtypes, limits_of, require_same_model

BATCH_SIZE = 2


def compare_sides(
    *,
    video: Path | str,
    a: str | None,
    side_b: Side,
    networks: str | None,
    frames: int,
    calls: int,
    limits: PrecisionName | None,
    first_divergence: str | None,
    save_tensors: Path | None,
    wide: bool,
    report: Path | None,
    trust: Mapping[str, Any] | None = None,
) -> int:
    """Compare every network of two sides, show and report it; the exit status. Options as gmos-parity's.

    Raises:
        GmosError: a side has no networks or cannot be loaded, the sides are not of one model, or there is no such
            network; as far as a moment shows it, before anything runs.
    """
    started = time.monotonic()
    report_directory(report)
    side_a = parse_side("--a", a if a is not None else default_reference(side_b), trust)
    for option, side in (("--a", side_a), ("--b", side_b)):
        if side.masks is not None:
            raise GmosError(f"{option} {side.text}: masks have no networks; name a backend")
        side.require_no_levers("networks are compared call by call, however often a run calls them")
    refuse_idle_trust((side_a, side_b), trust)
    model = side_a.check()
    require_same_model(side_a, model, side_b, side_b.check())
    chosen = chosen_networks(networks, model)
    limits = limits or limits_of((side_a, side_b))
    sought = None if first_divergence is None else sought_layer(first_divergence, side_a, side_b, limits)
    saved = None if save_tensors is None else SavedTensors(save_tensors, side_a, side_b, limits)
    (sequence,) = resolve_inputs([video], fps=None, stride=None if Path(video).is_file() else 1)
    with closing(side_a.load()) as backend:
        recorded = record(backend, sequence, frames=frames, limit=calls, batch_size=BATCH_SIZE)
    with closing(side_b.load()) as backend:
        dtypes = input_dtypes(side_b, model)
        found: list[OutputParity] = []
        for name in chosen:
            if recorded.calls(name):
                compared = compare_calls(name, recorded.calls(name), backend, dtypes[name])
                if saved is not None:
                    saved.save(compared)
                found += output_parities(compared)
    result = NetworksReport(
        a=side_a.text,
        b=side_b.text,
        video=Path(video),
        frames=frames,
        profile=limits,
        found=tuple(found),
        made_from=side_a.made_from() | side_b.made_from() | sequence.made_from(),
        first_layer=None if sought is None else sought(found, recorded),
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    written = networks_json(result)
    publish(networks_document(result), written, written["outputs"], wide=wide, report=report)
    for line in () if saved is None else saved.lines:
        click.echo(printable(line))
    return 1 if result.failures else 0


def default_reference(side: Side) -> str:
    """The reference at the size of a side's bundle.

    Raises:
        GmosError: it needs checkpoints.
    """
    if side.bundle is None:
        raise GmosError(f"--a is missing: {side.text} has no bundle to tell the preset from")
    model = cast(Bundle, side.open_bundle()).model
    if model.preset == "published":
        raise GmosError(
            "--a is missing: the published preset needs the checkpoints that the bundle was exported from; give --a "
            "torch:preset=published,pi3_ckpt=FILE,sam2_ckpt=FILE,gmos_ckpt=FILE"
        )
    shared = ",share_block=1" if model.frame_blocks else ""
    local = f",local_layers={model.local_layers}" if model.local_layers else shared
    return f"torch:preset={model.preset},variant={model.variant}{local}"


def sought_layer(
    text: str, side_a: Side, side_b: Side, limits: PrecisionName
) -> Callable[[Sequence[OutputParity], Recording], FirstDivergence]:
    """What `--first_divergence` asks for, checked before anything runs.

    Returns:
        What looks for it on the call in which the network's outputs are worst; raises a `GmosError` if the video
        did not call the network.

    Raises:
        GmosError: a side is no bundle on ONNX Runtime, or has no such network or output, or a package is missing.
    """
    for option, side in (("--a", side_a), ("--b", side_b)):
        if side.bundle is None or side.networks.backend != "onnxruntime":
            raise GmosError(
                f"--first_divergence compares two bundles on onnxruntime, and {option} is {side.text}; give "
                f"{option} onnxruntime:DIR (for the reference: made of it by gmos-export onnx --precision fp32)"
            )
    a, b = (cast(Bundle, side.open_bundle()) for side in (side_a, side_b))
    name, _, output = text.partition(".")
    if name not in a.networks:
        raise GmosError(
            f"--first_divergence {text}: expected NETWORK[.OUTPUT] with one of {', '.join(a.networks)}"
        )
    network = cast(NetworkName, name)
    outputs = [tensor.name for tensor in a.networks[network].outputs]
    if output and output not in outputs:
        raise GmosError(
            f"--first_divergence {text}: {name} has the outputs {', '.join(outputs)}, not {output!r}"
        )
    load_onnx()
    onnxruntime = load_onnxruntime()
    device_a, device_b = (choose_device(side.networks.device, onnxruntime) for side in (side_a, side_b))
    limit = LIMITS[limits].relative

    def find(found: Sequence[OutputParity], recorded: Recording) -> FirstDivergence:
        calls = recorded.calls(network)
        if not calls:
            raise GmosError(
                f"--first_divergence {network}: this video does not call it; give one in which objects move"
            )
        parities = [parity for parity in found if parity.network == network]
        worst = max(parities, key=lambda parity: parity.worst.severity).call if parities else calls[0].index
        call = next(call for call in calls if call.index == worst)
        return find_divergence(network, call, a, b, (device_a, device_b), limit=limit, output=output or None)

    return find
