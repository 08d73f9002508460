"""As much of rclpy as the example uses, within one process: topics are lists of callbacks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .node import Node, state


def init(args: list[str] | None = None) -> None:
    """Take parameters and remappings from the arguments."""
    words = args or []
    for flag, word in pairwise(words):
        name, _, value = word.partition(":=")
        if flag == "-p":
            state.parameters[name] = value
        elif flag == "-r":
            state.names[name] = value
    state.running = True


def ok() -> bool:
    return state.running


def create_node(name: str) -> Node:
    return Node(name)


def try_shutdown() -> None:
    state.running = False


def spin(node: Any) -> None:
    """Give what waits, then shut down as at Ctrl-C."""
    while state.waiting:
        callback, message = state.waiting.popleft()
        callback(message)
    state.running = False
    raise KeyboardInterrupt
