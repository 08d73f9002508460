"""How a device is named on a command line: cpu, cuda, cuda:N or auto."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ..errors import GmosError


class DeviceName(NamedTuple):
    """A parsed name; `number` among the CUDA devices, 0 where none was given."""

    kind: Literal["cpu", "cuda", "auto"]
    number: int = 0


def parse_device(name: str) -> DeviceName:
    """The device of that name.

    Raises:
        GmosError: it names none.
    """
    if name == "cpu":
        return DeviceName("cpu")
    if name == "auto":
        return DeviceName("auto")
    found = re.fullmatch(r"cuda(?::(\d+))?", name)
    if found is None:
        raise GmosError(f"--device {name}: expected cpu, cuda, cuda:N or auto")
    return DeviceName("cuda", int(found[1] or 0))
