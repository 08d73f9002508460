"""Executors."""

from __future__ import annotations

from typing import Any

from .node import state


class ExternalShutdownException(Exception):  # noqa: N818 - ROS's name
    """ROS shuts down."""


class SingleThreadedExecutor:
    def add_node(self, node: Any) -> None:
        pass

    def spin_once(self, timeout_sec: float) -> None:
        if state.waiting:
            callback, message = state.waiting.popleft()
            callback(message)
