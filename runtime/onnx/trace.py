"""The trace that an ONNX Runtime session writes while it profiles, as times of layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ..layer_times import LayerTime, LayerTimes

KERNEL_SUFFIX = "_kernel_time"
"""Of the event for a node's computation; older versions write others for what surrounds it."""


def read_onnx_trace(path: Path, *, warm_up: int, iterations: int) -> LayerTimes:
    """Read the trace that an ONNX Runtime session wrote (Chrome's trace format).

    Nodes of the main thread have their operator, provider and sizes. A build that profiles CUDA adds the
    kernels of each node, whose time is the device's; without them a CUDA node's time is the host's.

    Args:
        path: the trace of a session that ran nothing but these calls.
        warm_up: calls before those that count.
        iterations: calls that count.

    Raises:
        GmosError: it is no such trace.
    """
    try:
        events = json.loads(path.read_bytes())
        runs = sorted(float(event["ts"]) for event in events if event.get("name") == "model_run")
        # A call may be cut into several runs, all calls into equally many.
        begin = runs[len(runs) * warm_up // (warm_up + iterations)]
        counted = [event for event in events if float(event.get("ts", 0)) >= begin]
        nodes = [event for event in counted if _is_node(event)]
        kernels = [event for event in counted if event.get("cat") == "Kernel"]
        return _layers(nodes, kernels, iterations)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise GmosError(
            f"ONNX Runtime's profile {path.name} cannot be read ({error!r}); leave out --layers with this version"
        ) from error


def _is_node(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event["name"]).endswith(KERNEL_SUFFIX)


@dataclass(slots=True)
class _Sum:
    operator: str
    provider: str
    host_us: float = 0.0
    device_us: float = 0.0
    calls: int = 0
    moved_bytes: float = 0.0


def _layers(nodes: list[Mapping[str, Any]], kernels: list[Mapping[str, Any]], iterations: int) -> LayerTimes:
    found: dict[str, _Sum] = {}
    for event in sorted(nodes, key=lambda event: float(event["ts"])):
        given = event["args"]
        name = str(event["name"]).removesuffix(KERNEL_SUFFIX)
        total = found.setdefault(name, _Sum(str(given["op_name"]), str(given["provider"])))
        total.host_us += float(event["dur"])
        total.calls += 1
        sizes = ("activation_size", "parameter_size", "output_size")
        total.moved_bytes += sum(float(given.get(size, 0)) for size in sizes)
    if not found:
        raise ValueError("no node in it")
    for event in kernels:
        parent = str(event.get("args", {}).get("parent_name", "")).removesuffix(KERNEL_SUFFIX)
        if parent in found:
            found[parent].device_us += float(event["dur"])
    on_device = any(total.device_us for total in found.values())
    layers = tuple(
        LayerTime(
            name=name,
            operator=total.operator,
            provider=total.provider.removesuffix("ExecutionProvider"),
            ms=(total.device_us if on_device and total.device_us else total.host_us) / 1e3 / iterations,
            calls=total.calls / iterations,
            moved_bytes=total.moved_bytes / iterations,
        )
        for name, total in found.items()
    )
    return LayerTimes(layers=layers, clock="device" if on_device else "host", iterations=iterations)
