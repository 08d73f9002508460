"""Which optimisation profile of an engine takes a call, and into how many calls a large one is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import GmosError
from ..bundle.manifest import BundleNetwork
from ..contract import FRAME_BY_FRAME, NetworkName
from ..shapes import PI3_AXES, letters_of
from .record import Profile, ProfileRange

Sizes = Mapping[str, tuple[int, ...]]
"""What decides a call by input: the shape of a device input, the values of a host input."""

SizeKey = tuple[tuple[str, tuple[int, ...]], ...]

CUT_AXES = ("B", "O")
"""Frames, windows and objects do not see each other, so a call over many is as good as several over few."""


class NoProfileError(GmosError):
    """No profile of a network's engine takes a call: the `problem`, and the build `options` that solve it."""

    def __init__(self, network: NetworkName, problem: str, options: str, build_line: str) -> None:
        self.network, self.problem, self.options = network, problem, options
        super().__init__(f"{problem}; build one that takes it: {build_line} {options}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """A profile, and the lengths along the first axis of the calls that are made with it.

    `cut` are the inputs that are cut along their first axis; all others go to each call whole.
    """

    profile: int
    lengths: tuple[int, ...]
    cut: frozenset[str]


class CallPlanner:
    """Plans the calls of one network."""

    def __init__(self, entry: BundleNetwork, profiles: Sequence[Profile], build_line: str) -> None:
        self._name = entry.name
        self._profiles = profiles
        self._build_line = build_line
        self._inputs = entry.standard_inputs
        self._cut = cut_inputs(entry)
        self._one_by_one = entry.name in FRAME_BY_FRAME
        self._limits: dict[SizeKey, int] = {}
        self._plans: dict[SizeKey, CallPlan] = {}

    def plan(self, sizes: Sizes) -> CallPlan:
        """The fewest calls that some profile takes; of several profiles the one optimised closest by.

        Raises:
            NoProfileError: none takes the call, however it is cut; the message has the command that builds one.
        """
        key = size_key(sizes)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._compute(sizes)
        return found

    def cut_smaller(self, sizes: Sizes) -> bool:
        """From now on make calls of half the length that this one would be cut to; whether that is less.

        Calls of other sizes in the axes that are not cut stay as they are: few memories need little room.
        """
        longest, rest = max(self.plan(sizes).lengths), self._rest(sizes)
        if not self._cut or longest < 2:
            return False
        before = self._limits.get(rest)
        self._limits[rest] = -(-longest // 2)
        self._plans.clear()
        try:
            self.plan(sizes)
        except NoProfileError:
            # Profiles may have a least length above 1.
            if before is None:
                del self._limits[rest]
            else:
                self._limits[rest] = before
            self._plans.clear()
            return False
        return True

    def _rest(self, sizes: Sizes) -> SizeKey:
        """What of the sizes is not cut."""
        return size_key({name: size[1:] if name in self._cut else size for name, size in sizes.items()})

    def _compute(self, sizes: Sizes) -> CallPlan:
        length = next((sizes[name][0] for name in self._cut if name in sizes), 1)
        best: tuple[int, int, CallPlan] | None = None
        for index, profile in enumerate(self._profiles):
            lengths = self._lengths(length, sizes, profile)
            if lengths is None:
                continue
            plan = CallPlan(
                profile=index, lengths=lengths, cut=self._cut if len(lengths) > 1 else frozenset()
            )
            rank = (len(lengths), _distance(sizes, profile))
            if best is None or rank < best[:2]:
                best = (*rank, plan)
        if best is None:
            raise self._error(sizes)
        return best[2]

    def _lengths(self, length: int, sizes: Sizes, profile: Profile) -> tuple[int, ...] | None:
        """Nearly equal lengths: as few as fit the profile, None if none do."""
        if any(self._misfits(name, size, profile[name]) for name, size in sizes.items()):
            return None
        if not self._cut:
            return (length,)
        most = min(profile[name].max[0] for name in self._cut)
        most = min(most, 1 if self._one_by_one else self._limits.get(self._rest(sizes), most))
        least = max(profile[name].min[0] for name in self._cut)
        calls = -(-length // most) if most else 0
        if not calls or length // calls < least:
            return None
        short, longer = divmod(length, calls)
        return (short + 1,) * longer + (short,) * (calls - longer)

    def _misfits(self, name: str, size: tuple[int, ...], allowed: ProfileRange) -> bool:
        """Whether a size is outside of the profile in an axis that is not cut."""
        first = 1 if name in self._cut else 0
        if len(size) != len(allowed.max):
            return True
        return not all(
            least <= n <= most
            for least, n, most in zip(allowed.min[first:], size[first:], allowed.max[first:], strict=True)
        )

    def _error(self, sizes: Sizes) -> NoProfileError:
        """What was asked for, what the closest profile takes, and how to get one that fits."""

        def wrong(profile: Profile) -> list[str]:
            found = [name for name, size in sizes.items() if self._misfits(name, size, profile[name])]
            return found or sorted(self._cut)

        def beyond(profile: Profile) -> tuple[int, int]:
            names = wrong(profile)
            return len(names), sum(_outside(sizes[name], profile[name]) for name in names)

        closest = min(self._profiles, key=beyond)
        names = wrong(closest)
        asked = ", ".join(f"{name} {_text(sizes[name])}" for name in names)
        ranges = [
            ", ".join(f"{name} {range_text(profile[name])}" for name in names) for profile in self._profiles
        ]
        problem = (
            f"{self._name} was called with {asked}, and its engine takes {' or '.join(dict.fromkeys(ranges))}"
        )
        options, solved = [], set[str]()
        for name in names:
            # Those of one input set the axes of all.
            if not self._letters(name) <= solved:
                options.append(self._options(name, sizes[name], closest[name]))
                solved |= self._letters(name)
        return NoProfileError(self._name, problem, " ".join(options), self._build_line)

    def _letters(self, name: str) -> set[str]:
        letters = letters_of(tensor for tensor in self._inputs if tensor.name == name)
        return {PI3_AXES.get(letter, letter) for letter in letters}

    def _options(self, name: str, size: tuple[int, ...], allowed: ProfileRange) -> str:
        """Options of the build that widen a range to a size."""
        options = []
        for option, limit, pick in (("min", allowed.min, min), ("max", allowed.max, max)):
            wanted = tuple(map(pick, size, limit))
            if wanted != limit:
                options.append(f"--{option}-shapes {self._name}.{name}={_text(wanted)}")
        return " ".join(options)


def cut_inputs(entry: BundleNetwork) -> frozenset[str]:
    """The inputs along whose first axis calls can be cut: none if an output mixes what is along it."""
    tables = entry.graphs["standard"].tables
    for letter in CUT_AXES:
        inputs = frozenset(tensor.name for tensor in entry.inputs if tensor.axes[:1] == (letter,))
        others = [axis for tensor in (*entry.inputs, *tables) for axis in tensor.axes[1:]]
        if inputs and letter not in others and all(tensor.axes[:1] == (letter,) for tensor in entry.outputs):
            return inputs
    return frozenset()


def size_key(sizes: Sizes) -> SizeKey:
    """Sizes as a key for dictionaries."""
    return tuple(sorted(sizes.items()))


def _distance(sizes: Sizes, profile: Profile) -> int:
    """How far a call is from the lengths that a profile is optimised for."""
    return sum(
        abs(n - usual)
        for name, size in sizes.items()
        for n, usual in zip(size, profile[name].opt, strict=True)
    )


def _outside(size: tuple[int, ...], allowed: ProfileRange) -> int:
    """How far a size is from the nearest one that is allowed."""
    return sum(
        max(least - n, n - most, 0) for least, n, most in zip(allowed.min, size, allowed.max, strict=True)
    )


def _text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def range_text(allowed: ProfileRange) -> str:
    """A range in words: `1x3x98x182 to 8x3x98x182`."""
    if allowed.min == allowed.max:
        return _text(allowed.max)
    return f"{_text(allowed.min)} to {_text(allowed.max)}"
