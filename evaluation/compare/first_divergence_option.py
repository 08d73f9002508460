"""`--first_divergence` of `gmos-parity networks`: what it asks for, and how the answer is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...errors import GmosError
from ...networks import Side
from ...runtime.bundle.manifest import Bundle, open_bundle
from ...runtime.contract import NetworkName
from ...runtime.onnx.sessions import OnnxDevice, choose_device, load_onnxruntime
from ..report.html_page import escaped, sortable_table, table_row
from .first_divergence import FirstDivergence, first_divergence, load_onnx
from .network_parity import OutputParity
from .recording import Recording


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
        return first_divergence(
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


def layer_table(found: FirstDivergence) -> RenderableType:
    """For the terminal: the layers that add most, and the first that differs."""
    table = Table(title=f"Layers of {found.network} that add most, call {found.call}", title_justify="left")
    for head in ("module", "operator"):
        table.add_column(head)
    for head in ("shape", "relative L2", "added"):
        table.add_column(head, justify="right")
    for jump in found.jumps:
        shape = "x".join(map(str, jump.shape))
        table.add_row(jump.module or "–", jump.operator, shape, f"{jump.relative:.2e}", f"{jump.added:.2e}")
    return Group(table, Text(str(found), style="yellow" if found.first else ""))


def layer_section(found: FirstDivergence) -> str:
    """The same as a section of the page."""
    heads = ("Module", "Operator", "Node", "Shape", "Relative L2", "Added")
    rows = [
        table_row(
            jump.module or "–",
            (0.0, escaped(jump.operator)),
            (0.0, escaped(jump.node)),
            (math.prod(jump.shape), "x".join(map(str, jump.shape))),
            (jump.relative, f"{jump.relative:.2e}"),
            (jump.added, f"{jump.added:.2e}"),
        )
        for jump in found.jumps
    ]
    return (
        f'<h2>First divergence</h2><ul class="notes"><li>{escaped(found)}</li></ul><p class="dim">The layers that add '
        f"most to the error of what they are computed from, call {found.call}.</p>"
        + sortable_table(heads, rows)
    )
