"""`gmos-parity networks`: every network of two sides on what one of them sees in a real video."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click

from ...errors import GmosError
from ...networks import Side, parse_side
from ...runtime.bundle.manifest import Bundle, open_bundle
from ...runtime.comparison.parity import LIMITS
from ...runtime.contract import NetworkName
from ...runtime.onnx.sessions import OnnxDevice, choose_device, load_onnxruntime
from ...runtime.video.inputs import resolve_inputs
from ..report.environment import environment
from ..report.files import PAGE_FILE, report_directory, write_report
from ..report.terminal import show
from .document import networks_document
from .first_divergence import FirstDivergence, load_onnx
from .first_divergence import first_divergence as find_divergence
from .limits import ProfileName
from .network_parity import OutputParity, SaveCalls, SavedTensors, compare_networks
from .recording import Recording, record
from .report import NetworksReport, networks_json
from .sides import chosen_networks, input_dtypes, require_same_model

BATCH_SIZE = 2


def compare_sides(
    *,
    video: Path,
    a: str | None,
    side_b: Side,
    networks: str | None,
    frames: int,
    calls: int,
    limits: ProfileName,
    first_divergence: str | None,
    save_tensors: Path | None,
    wide: bool,
    report: Path | None,
) -> int:
    """Compare every network of two sides, show and report it; the exit status. Options as gmos-parity's.

    Raises:
        GmosError: a side has no networks or cannot be loaded, or there is no such network.
    """
    started = time.monotonic()
    if report is not None:
        report_directory(report)
    side_a = parse_side("--a", a if a is not None else default_reference(side_b))
    for option, side in (("--a", side_a), ("--b", side_b)):
        if side.masks is not None:
            raise GmosError(f"{option} {side.text}: masks have no networks; name a backend")
    sought = None if first_divergence is None else sought_layer(first_divergence, side_a, side_b)
    saved = None if save_tensors is None else SavedTensors(save_tensors, side_a.bundle, side_b.bundle, limits)
    save = (lambda _: None) if saved is None else saved.save
    found, recorded = _compare(video, side_a, side_b, networks, frames=frames, calls=calls, save=save)
    limit = LIMITS[limits].relative
    result = NetworksReport(
        a=side_a.text,
        b=side_b.text,
        video=video,
        frames=frames,
        profile=limits,
        found=tuple(found),
        first_layer=None if sought is None else sought.find(found, recorded, limit),
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    document = networks_document(result)
    show(document, wide=wide)
    if report is not None:
        written = networks_json(result)
        write_report(report, document, written, written["outputs"])
        click.echo(f"report: {report / PAGE_FILE}")
    for line in () if saved is None else saved.lines:
        click.echo(line)
    return 1 if result.failures else 0


def default_reference(side: Side) -> str:
    """The reference at the size of a side's bundle.

    Raises:
        GmosError: it needs checkpoints.
    """
    if side.bundle is None:
        raise GmosError(f"--a is missing: {side.text} has no bundle to tell the preset from")
    model = open_bundle(side.bundle).model
    if model.preset == "published":
        raise GmosError(
            "--a is missing: the published preset needs the checkpoints that the bundle was exported from; give --a "
            "torch:preset=published,pi3_ckpt=FILE,sam2_ckpt=FILE,gmos_ckpt=FILE"
        )
    return f"torch:preset={model.preset},variant={model.variant}"


def _compare(
    video: Path, side_a: Side, side_b: Side, names: str | None, *, frames: int, calls: int, save: SaveCalls
) -> tuple[list[OutputParity], Recording]:
    (sequence,) = resolve_inputs([video], fps=None, stride=None if video.is_file() else 1)
    with closing(side_a.load()) as backend:
        chosen = chosen_networks(names, backend.model)
        recorded = record(backend, sequence, frames=frames, limit=calls, batch_size=BATCH_SIZE)
        model = backend.model
    with closing(side_b.load()) as backend:
        require_same_model(side_a, model, side_b, backend.model)
        return compare_networks(recorded, chosen, backend, input_dtypes(side_b, model), save), recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class SoughtLayer:
    """The network whose first differing layer is looked for, in both bundles."""

    network: NetworkName
    output: str | None
    bundles: tuple[Bundle, Bundle]
    devices: tuple[OnnxDevice, OnnxDevice]

    def find(self, found: Sequence[OutputParity], recorded: Recording, limit: float) -> FirstDivergence:
        """Look for it on the call in which the network's outputs are worst.

        Raises:
            GmosError: the video did not call the network.
        """
        calls = recorded.calls(self.network)
        if not calls:
            raise GmosError(
                f"--first_divergence {self.network}: this video does not call it; give one in which objects move"
            )
        outputs = [parity for parity in found if parity.network == self.network]
        worst = max(outputs, key=lambda parity: parity.worst.severity).call if outputs else calls[0].index
        call = next(call for call in calls if call.index == worst)
        return find_divergence(
            self.network, call, *self.bundles, self.devices, limit=limit, output=self.output
        )


def sought_layer(text: str, side_a: Side, side_b: Side) -> SoughtLayer:
    """What `--first_divergence` asks for, checked before anything runs.

    Raises:
        GmosError: a side is no bundle on ONNX Runtime, or has no such network or output, or a package is missing.
    """
    for option, side in (("--a", side_a), ("--b", side_b)):
        if side.bundle is None or side.networks.backend != "onnxruntime":
            raise GmosError(
                f"--first_divergence compares two bundles on onnxruntime, and {option} is {side.text}; give "
                f"{option} onnxruntime:DIR (for the reference: made of it by gmos-export onnx --precision fp32)"
            )
    a, b = (open_bundle(cast(Path, side.bundle)) for side in (side_a, side_b))
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
    return SoughtLayer(
        network=network,
        output=output or None,
        bundles=(a, b),
        devices=(
            choose_device(side_a.networks.device, onnxruntime),
            choose_device(side_b.networks.device, onnxruntime),
        ),
    )
