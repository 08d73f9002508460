"""What SAM2 remembers of each object, and which of it a frame may read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..arrays import Array
from ..contract import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReach:
    """How far a frame sees: `memory_frames` and `object_pointers` as in `ModelSpec`.

    `conditioning` is how many conditioning outputs a frame reads at most; None: all.
    """

    memory_frames: int
    object_pointers: int
    conditioning: int | None = None

    @classmethod
    def of(cls, model: ModelSpec, video_frames: int | None, conditioning: int | None = None) -> MemoryReach:
        """The reach of a model in a video; a short video has fewer pointers, and counts them as fewer.

        `video_frames` is None for a stream.
        """
        pointers = model.object_pointers
        return cls(
            memory_frames=model.memory_frames,
            object_pointers=pointers if video_frames is None else min(pointers, video_frames),
            conditioning=conditioning,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class FrameOutput:
    """The tracker's output for one object on one frame, in arrays of the backend.

    `mask` (m, m) logits, `iou` the object IoU once it has been read back, `pointer` (C,). `memory` (M, g, g)
    is None for a prompt whose mask has not been encoded yet; its `score` is what the encoder needs then. Of a
    stream's frames that have passed, `mask` is None, and `memory` once no frame reads it any more.
    """

    mask: Array
    iou: float | None
    pointer: Array
    memory: Array | None = None
    score: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What memory attention reads for one object, in the order of the contract's tensors.

    `memories` R outputs with the row of the temporal table of each; `pointers` P outputs with the
    distance of each as a share of the largest one.
    """

    memories: tuple[FrameOutput, ...]
    positions: tuple[int, ...]
    pointers: tuple[FrameOutput, ...]
    distances: tuple[float, ...]

    @property
    def lengths(self) -> tuple[int, int]:
        """R and P: objects that agree in both can share a call."""
        return len(self.memories), len(self.pointers)


@dataclass(slots=True, eq=False)
class ObjectMemory:
    """One object: outputs on prompted frames, outputs on tracked frames, and prompts not yet encoded.

    A prompt on a frame that the object was not tracked on is conditioning: every frame reads it. One
    on a tracked frame replaces the output there, which nearby frames read as they would have read the
    old one. New prompts wait in `waiting`, by their kind, until the next propagation starts.
    """

    conditioning: dict[int, FrameOutput] = field(default_factory=dict)
    tracked: dict[int, FrameOutput] = field(default_factory=dict)
    waiting: dict[bool, dict[int, FrameOutput]] = field(default_factory=lambda: {False: {}, True: {}})
    frames_tracked: set[int] = field(default_factory=set)

    def add_prompt(self, frame: int, output: FrameOutput) -> bool:
        """Keep the output of a prompt; whether it is a conditioning one."""
        conditioning = frame not in self.frames_tracked
        self.waiting[conditioning][frame] = output
        return conditioning

    def answer(self, frame: int, *, conditioning: bool) -> FrameOutput | None:
        """The output that the answer to a prompt of that kind shows: new prompts of the other kind wait."""
        for outputs in (self.waiting[conditioning], self.conditioning, self.tracked):
            if frame in outputs:
                return outputs[frame]
        return None

    def to_encode(self) -> Iterator[tuple[int, FrameOutput]]:
        """The waiting prompts that a frame may read once they have a memory.

        A prompt on a tracked frame that conditions the object anyway is dropped (published SAM2 code).
        """
        for frame, output in self.waiting[False].items():
            if frame not in self.conditioning and frame not in self.waiting[True]:
                yield frame, output
        yield from self.waiting[True].items()

    def settle(self) -> bool:
        """Take the waiting prompts into the memory; whether there was a conditioning one."""
        conditioned = bool(self.waiting[True])
        self.tracked.update(self.waiting[False])
        self.conditioning.update(self.waiting[True])
        for outputs in self.waiting.values():
            outputs.clear()
        for frame in self.conditioning:
            self.tracked.pop(frame, None)
        return conditioned

    def forget_tracked(self, *, beyond: int, of: int) -> None:
        """Drop the outputs on tracked frames that are more than `beyond` frames away from `of`."""
        for frame in [t for t in self.tracked if abs(t - of) > beyond]:
            del self.tracked[frame]

    def forget_passed(self, frame: int, reach: MemoryReach) -> None:
        """Of a stream that has got as far as `frame`, keep what later frames read and what a prompt on it needs."""
        self.frames_tracked = {t for t in self.frames_tracked if t >= frame}
        # Seen from the next frame, outputs count as 1, 2, .. frames away.
        oldest_memory, oldest_pointer = frame + 2 - reach.memory_frames, frame + 2 - reach.object_pointers
        for t in [t for t in self.tracked if t < min(oldest_memory, oldest_pointer)]:
            del self.tracked[t]
        for t, output in (*self.tracked.items(), *self.conditioning.items()):
            if t < frame:
                output.mask = None
            if t < oldest_memory and t in self.tracked:
                output.memory = None

    def recall(self, frame: int, reach: MemoryReach, *, reverse: bool) -> Recall:
        """What a frame reads when the video is followed in that direction.

        Memories: conditioning ones, then those of the frames just passed, the farthest first.
        Pointers: conditioning ones on frames already passed, then those just passed, the nearest first.
        A conditioning output that is not read as one is read like that of a tracked frame.
        """
        sign = -1 if reverse else 1
        chosen = nearest_conditioning(self.conditioning, frame, reach.conditioning)

        def passed(distance: int) -> FrameOutput | None:
            t = frame - sign * distance
            return self.tracked.get(t) or (None if t in chosen else self.conditioning.get(t))

        memories = [(reach.memory_frames - 1, self.conditioning[t]) for t in chosen]
        memories += [
            (distance - 1, output)
            for distance in range(reach.memory_frames - 1, 0, -1)
            if (output := passed(distance))
        ]
        pointers = [(sign * (frame - t), self.conditioning[t]) for t in chosen if sign * (frame - t) >= 0]
        pointers += [
            (distance, output) for distance in range(1, reach.object_pointers) if (output := passed(distance))
        ]
        longest = reach.object_pointers - 1
        return Recall(
            memories=tuple(output for _, output in memories),
            positions=tuple(position for position, _ in memories),
            pointers=tuple(output for _, output in pointers),
            distances=tuple(distance / longest for distance, _ in pointers),
        )


def nearest_conditioning(frames: Iterable[int], frame: int, most: int | None) -> tuple[int, ...]:
    """The conditioning frames that a frame reads, in the order in which it reads them.

    All of them as they come, or of more than `most` the nearest one before the frame, the nearest one from it
    on, and then those at the least distance, earlier ones in `frames` first. So chooses the `sam2` package where
    `max_cond_frames_in_attn` is set, in either direction of the video (sam2.modeling.sam2_utils,
    rf-sam-2 1.0.3).
    """
    known = tuple(frames)
    if most is None or len(known) <= most:
        return known
    before = max((t for t in known if t < frame), default=None)
    behind = min((t for t in known if t >= frame), default=None)
    chosen = [t for t in (before, behind) if t is not None]
    rest = sorted((t for t in known if t not in chosen), key=lambda t: abs(t - frame))
    return (*chosen, *rest[: most - len(chosen)])
