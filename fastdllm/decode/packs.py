"""Packs: several states of one row in one forward, each seeing of the row's cache what it would see alone.

A slot's cache holds areas first, each as long as a block, then the prefix. The keys of an open block lie in an area;
a commit writes those of the clean block behind the prefix. A drafted state has an area of its own: if it is rejected,
nothing of it lies anywhere that a later forward looks at. If it is accepted, its area is the row's from then on, and
nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from fastdllm.decode.step import Forward

Stretch = tuple[int, int]         # positions of a slot's cache, the end excluded


@dataclass(frozen=True, slots=True)
class State:
    """One state of a row in a pack: its forward, and where its block's keys lie."""

    forward: Forward
    area: int                     # where a full or small forward puts its keys
    home: int                     # small forwards: the area with the keys of the rest of the block
    read: tuple[int, ...]         # offsets of the forward that are predicted


@dataclass(frozen=True, slots=True)
class Pack:
    """States of one row that run in one forward: the real one first, then drafts, each behind an earlier one."""

    slot: int
    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Some tokens of a pack that see the same: `start` counts in the text, `write` and `sees` in the slot's cache."""

    tokens: tuple[int, ...]
    start: int
    write: int
    sees: tuple[Stretch, ...]     # at most STRETCHES (model/positions.py); the segment's own keys are among them


@dataclass(frozen=True)
class Layout:
    """Where a slot's keys lie. `chunk` is the block length of the network's attention (bd_size)."""

    block: int
    areas: int
    chunk: int

    @property
    def prefix(self) -> int:
        """Where the prefix begins: position p of the text lies at `prefix + p` once it is clean."""
        return self.areas * self.block

    def segments(self, state: State) -> list[Segment]:
        """A state's tokens, by what they see: a prefill block by block, all else in one."""
        forward, prefix = state.forward, self.prefix
        begin, width = forward.start, forward.width
        if forward.kind == "prefill":
            cuts = [begin, *range((begin // self.chunk + 1) * self.chunk, forward.end, self.chunk), forward.end]
            return [Segment(forward.tokens[low - begin:high - begin], low, prefix + low, ((prefix, prefix + high),))
                    for low, high in pairwise(cuts)]
        if forward.kind == "commit":
            return [Segment(forward.tokens, begin, prefix + begin, ((prefix, prefix + forward.end),))]
        block = begin - (forward.replace_position or 0)
        write = state.area * self.block + begin - block
        sees = [(prefix, prefix + block), (write, write + width)]
        if forward.kind == "small":
            home = state.home * self.block
            sees += [(home, home + begin - block), (home + begin - block + width, home + self.block)]
        return [Segment(forward.tokens, begin, write, tuple((low, high) for low, high in sees if low < high))]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a state's forward says: argmax and its probability at the offsets that are read."""

    offsets: tuple[int, ...]
    tokens: tuple[int, ...]
    confidence: tuple[float, ...]

    def at(self, offset: int) -> tuple[int, float]:
        """Token and confidence at an offset of the forward."""
        index = self.offsets.index(offset)
        return self.tokens[index], self.confidence[index]
