"""GMOS moving-object segmentation as a deployable toolkit: masks of moving objects from plain video.

`load` is the front door: `with load() as model: video = model.segment("street.mp4")`. Importing this package
imports nothing else; what it names is loaded when it is first used.
"""

from importlib import import_module

# Absolute: pytest runs this file alone where the checkout has another name than the package.
from gmos_deploy.errors import GmosError

# Not from `typing`: every command waits for this file before it can answer a signal.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import Checkpoints, Model, load
    from .runtime.frame_result import FrameResult, ObjectResult
    from .runtime.pipeline.thresholds import Thresholds
    from .streams import Session
    from .video_result import VideoResult

__version__ = "0.1.0"

__all__ = [
    "Checkpoints",
    "FrameResult",
    "GmosError",
    "Model",
    "ObjectResult",
    "Session",
    "Thresholds",
    "VideoResult",
    "__version__",
    "load",
]

_HOMES = {
    "Checkpoints": "api",
    "FrameResult": "runtime.frame_result",
    "Model": "api",
    "ObjectResult": "runtime.frame_result",
    "Session": "streams",
    "Thresholds": "runtime.pipeline.thresholds",
    "VideoResult": "video_result",
    "load": "api",
}
"""Where the names of `__all__` are defined, below this package."""


def __getattr__(name: str) -> object:
    """Load a name of `__all__` when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
