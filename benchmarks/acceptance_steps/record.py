"""What a step of the acceptance run is given, and what it writes down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.doctor.selftest import selftest_bundle
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.sides import Side

Verdict = Literal["passed", "failed", "noted", "missing"]
"""`noted` is a figure without a limit; `missing` is what this machine, or the engines, cannot do."""

ENGINES = ("tensorrt", "tensorrt-rtx")

NO_TIME = "no time was left; give more --minutes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all steps have in common.

    `bundle` is the bundle asked for, None for nano; `usable` are the backends that gmos-doctor finds ready, by its
    names. `seconds` is what the step may take, `out` where files go. `lacks_gpu` says why there is no usable CUDA
    device, empty where there is one.
    """

    bundle: Path | None
    out: Path
    usable: tuple[str, ...]
    device: int
    frames: int
    seconds: float
    lacks_gpu: str = ""

    def opened_bundle(self) -> Bundle:
        """The bundle that steps run: the one asked for, or nano's."""
        return open_bundle(self.bundle or selftest_bundle())

    def side(self, name: str, *, precision: str = "fp32", **options: Any) -> Side:
        """A backend by gmos-doctor's name, with the options of `NetworkChoice`; PyTorch's runs nano."""
        kind, _, place = name.partition(" on ")
        device = place if place == "cpu" else f"cuda:{self.device}"
        text = name if precision == "fp32" else f"{name}, {precision}"
        if kind == "torch":
            choice = NetworkChoice(
                backend=kind, preset="nano", variant="gmos", device=device, precision=precision, **options
            )
        else:
            root = self.opened_bundle().root
            choice = NetworkChoice(backend=kind, bundle=root, device=device, build=kind in ENGINES, **options)
        return Side(text=text, choice=choice)

    def sides(self, *, of: str = "") -> tuple[str, ...]:
        """The usable backends that run this bundle: PyTorch's has nano alone; those whose names begin with `of`."""
        return tuple(
            name
            for name in self.usable
            if name.startswith(of) and (self.bundle is None or not name.startswith("torch"))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that a step has looked at."""

    name: str
    verdict: Verdict
    words: str
    values: Mapping[str, Any] = field(default_factory=dict)


class MissingError(Exception):
    """This machine lacks what a step, or a part of it, needs."""


class Notes:
    """The items of a step so far; each is reported at once, so that a crash keeps those before it."""

    def __init__(self, tell: Callable[[Any], None], seconds: float = float("inf")) -> None:
        self.items: list[Item] = []
        self._tell = tell
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until the step's end."""
        return self._end - time.monotonic()

    def add(self, name: str, verdict: Verdict, words: str, **values: Any) -> None:
        """Write an item down."""
        self.items.append(Item(name=name, verdict=verdict, words=words, values=values))
        self._tell([asdict(item) for item in self.items])

    def expect(self, name: str, right: bool, words: str, **values: Any) -> None:
        """Write down whether something is as it must be."""
        self.add(name, "passed" if right else "failed", words, **values)

    def attempt(self, name: str, work: Callable[[], None]) -> None:
        """Do a part; what it lacks or refuses is written down, and the step goes on. None begins when time is over."""
        if self.left_s <= 0:
            self.add(name, "missing", NO_TIME)
            return
        try:
            work()
        except MissingError as error:
            self.add(name, "missing", str(error))
        except GmosError as error:
            self.add(name, "failed", str(error))
        # What a GPU's libraries raise has no common base; the part failed, and the others are still to be seen.
        except Exception as error:  # noqa: BLE001
            self.add(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


Step = Callable[[Context, Notes], None]


def without_graphs(side: Side) -> Side:
    """The same engines with their kernels launched one by one."""
    return Side(text=f"{side.text}, no graphs", choice=replace(side.networks, cuda_graphs=False))
