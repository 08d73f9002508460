"""Nodes."""

from __future__ import annotations

import sys
from collections import deque
from types import SimpleNamespace
from typing import Any

state = SimpleNamespace(running=False, parameters={}, names={}, topics={}, waiting=deque(), profiles={})


def topic(name: str) -> str:
    return state.names.get(name, name).lstrip("/")


class Publisher:
    def __init__(self, kind: type, name: str) -> None:
        self._kind, self._name = kind, topic(name)

    def publish(self, message: Any) -> None:
        assert isinstance(message, self._kind)
        state.waiting.extend((callback, message) for callback in state.topics.get(self._name, ()))

    def get_subscription_count(self) -> int:
        return len(state.topics.get(self._name, ()))


class Node:
    def __init__(self, name: str) -> None:
        self._name = name

    def declare_parameter(self, name: str, default: Any) -> Any:
        given = state.parameters.get(name)
        return SimpleNamespace(value=default if given is None else type(default)(given))

    def create_publisher(self, kind: type, name: str, _profile: Any) -> Publisher:
        return Publisher(kind, name)

    def create_subscription(self, _kind: type, name: str, callback: Any, profile: Any) -> None:
        state.topics.setdefault(topic(name), []).append(callback)
        state.profiles[topic(name)] = profile

    def get_logger(self) -> Any:
        return SimpleNamespace(info=lambda text: print(text, file=sys.stderr))  # noqa: T201 - a log

    def destroy_node(self) -> None:
        pass
