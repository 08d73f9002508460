"""The objects of a stream: an id each that never comes back, and one of a few slots while they live."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class LiveObject:
    """One live object.

    `id` counts from 1 through the whole stream; `slot` is its label, 1 to the number of places. `seen_s` is when a
    logit of its mask was above 0 last and `moved_s` when it moved last, in seconds of the source's clock. `prompts`
    are the frames of its prompts that can still be near one.
    """

    id: int
    slot: int
    seen_s: float
    moved_s: float
    prompts: list[int] = field(default_factory=list)

    def was_seen(self, time_s: float) -> None:
        """Something of it is there; at its start that may be earlier than its first prompt."""
        self.seen_s = max(self.seen_s, time_s)

    def has_moved(self, time_s: float) -> None:
        """It moves; as `was_seen`."""
        self.moved_s = max(self.moved_s, time_s)


class ObjectTable:
    """The live objects, at most `places` of them.

    `retire_after_s` seconds without a pixel an object is gone, and after so many without motion it may have to give
    way to a new one; 0: neither.
    """

    def __init__(self, places: int, retire_after_s: float) -> None:
        self._places = places
        self._retire_after_s = retire_after_s
        self._objects: dict[int, LiveObject] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, object_id: int) -> LiveObject:
        return self._objects[object_id]

    def ids_by_slot(self) -> Mapping[int, int]:
        """The id of the object in each slot that is taken, by slot."""
        return {one.slot: one.id for one in sorted(self._objects.values(), key=lambda one: one.slot)}

    def start(self, time_s: float) -> LiveObject | None:
        """A new object in the smallest free slot; None if there is none."""
        taken = {one.slot for one in self._objects.values()}
        slot = next((slot for slot in range(1, self._places + 1) if slot not in taken), None)
        if slot is None:
            return None
        self._last_id += 1
        started = LiveObject(id=self._last_id, slot=slot, seen_s=time_s, moved_s=time_s)
        self._objects[started.id] = started
        return started

    def longest_still(self, time_s: float, *, but: Collection[int]) -> int | None:
        """The object that has to give way to a new one: of those still for long enough the one still longest.

        Ties go to the smaller id; those in `but` are left in peace.
        """
        still = [
            one for one in self._objects.values() if one.id not in but and self._is_over(time_s - one.moved_s)
        ]
        return min(still, key=lambda one: (one.moved_s, one.id)).id if still else None

    def unseen(self, time_s: float) -> list[int]:
        """The objects that have had no pixel for so long that they are gone."""
        return [one.id for one in self._objects.values() if self._is_over(time_s - one.seen_s)]

    def remove(self, object_ids: Iterable[int]) -> None:
        """Free the slots of objects."""
        for object_id in object_ids:
            del self._objects[object_id]

    def clear(self) -> None:
        """Free all slots; ids go on."""
        self._objects.clear()

    def _is_over(self, passed_s: float) -> bool:
        return self._retire_after_s > 0 and passed_s >= self._retire_after_s
