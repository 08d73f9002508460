"""Images."""

from dataclasses import dataclass, field
from types import SimpleNamespace


@dataclass
class Image:
    header: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(frame_id="", stamp=SimpleNamespace(sec=0, nanosec=0))
    )
    height: int = 0
    width: int = 0
    encoding: str = ""
    step: int = 0
    data: bytes = b""
