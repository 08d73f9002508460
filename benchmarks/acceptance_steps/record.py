"""What a step of the acceptance run is given, and what it writes down."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.doctor.selftest import selftest_bundle
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.bundle.signature import Trust
from gmos_deploy.runtime.precision import PRECISIONS
from gmos_deploy.runtime.tensorrt.choice import missing_engines
from gmos_deploy.runtime.tensorrt.library import FLAVOURS
from gmos_deploy.sides import Side

Verdict = Literal["passed", "failed", "noted", "missing"]
"""`noted` is a figure without a limit; `missing` is what this machine, or the engines, cannot do."""

NO_TIME = "no time was left; give more --minutes"

FOR_TIME = "more_minutes"
"""Among the values of an item that is missing for lack of time: with --resume its step runs again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all steps have in common.

    `bundle` is the bundle asked for, None for nano; `usable` are the backends that gmos-doctor finds ready, by its
    names. `seconds` is what the step may take, `out` where files go. `lacks_gpu` says why there is no usable CUDA
    device, empty where there is one. `trust` are files of public keys, as gmos-run takes them, `trust_engines` too.
    """

    bundle: Path | None
    out: Path
    usable: tuple[str, ...]
    device: int
    frames: int
    seconds: float
    lacks_gpu: str = ""
    trust: tuple[str, ...] = ()
    trust_engines: bool = False

    def trusted(self) -> Trust:
        """Whom the user trusts with what the bundle asked for runs; nano's engines are built here."""
        own = self.bundle is not None
        keys = tuple(map(Path, self.trust)) if own else ()
        return Trust(keys=keys, engines=self.trust_engines and own)

    def opened_bundle(self) -> Bundle:
        """The bundle that steps run: the one asked for, or nano's."""
        return open_bundle(self.bundle or selftest_bundle(), self.trusted())

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
            trust = self.trusted()
            choice = NetworkChoice(
                backend=kind,
                bundle=self.opened_bundle().root,
                device=device,
                trust=trust.keys,
                trust_engines=trust.engines,
                **options,
            )
        return Side(text=text, choice=choice)

    def sides(self) -> tuple[str, ...]:
        """The usable backends that run this bundle: PyTorch's has nano alone, ONNX Runtime not every precision.

        Of engines only where there is one of every network: the step engines builds them, no other one does.
        """
        bundle = self.opened_bundle()
        others = [flavour for flavour in FLAVOURS if missing_engines(bundle, flavour)]
        if self.bundle is not None:
            others.append("torch on")
        if not all(PRECISIONS[network.precision].onnxruntime for network in bundle.networks.values()):
            others.append("onnxruntime on")
        return tuple(
            name for name in self.usable if name not in others and " ".join(name.split()[:2]) not in others
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
            self.add(name, "missing", NO_TIME, **{FOR_TIME: True})
            return
        try:
            work()
        except MissingError as error:
            self.add(name, "missing", str(error))
        except GmosError as error:
            self.add(name, "failed", str(error))
            traceback.print_exc()
        # What a GPU's libraries raise has no common base; the part failed, and the others are still to be seen.
        except Exception as error:  # noqa: BLE001
            self.add(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")
            # Into the step's log.
            traceback.print_exc()


def tell_missing_engines(context: Context, notes: Notes) -> None:
    """Write down which engines cannot run here."""
    bundle = context.opened_bundle()
    for flavour in FLAVOURS:
        if flavour not in context.usable:
            notes.add(flavour, "missing", f"gmos-doctor says what {flavour} lacks here")
        elif lost := missing_engines(bundle, flavour):
            notes.add(flavour, "missing", f"engines of {', '.join(lost)}, which the step engines builds")


Step = Callable[[Context, Notes], None]


def without_graphs(side: Side) -> Side:
    """The same engines with their kernels launched one by one."""
    return Side(text=f"{side.text}, no graphs", choice=replace(side.networks, cuda_graphs=False))
