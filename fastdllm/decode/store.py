"""What earlier forwards left behind for reuse: one buffer a layer, and where each entry came from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdllm.decode.step import Forward


@dataclass(frozen=True, slots=True)
class Source:
    """The forward that filled an entry, and the tokens that it saw."""

    kind: str
    block: int
    small_block: int | None
    step: int | None
    forward: int
    width: int
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, forward: Forward) -> Source:
        return cls(forward.kind, forward.block, forward.small_block, forward.step, forward.index, forward.width,
                   forward.tokens)


def serves(source: Source | None, forward: Forward) -> bool:
    """Whether an entry can stand in: same width, or wide enough to be sliced at `replace_position`."""
    if source is None:
        return False
    return source.width == forward.width or (forward.replace_position or 0) + forward.width <= source.width


def slice_start(source: Source, forward: Forward) -> int:
    """Where in the entry the served part begins: a same-width entry is served whole, whatever its origin."""
    return 0 if source.width == forward.width else (forward.replace_position or 0)


def changed(source: Source, forward: Forward, start: int) -> tuple[int, ...]:
    """Offsets in the forward whose token differs from the one the served entry was computed from."""
    return tuple(i for i, token in enumerate(forward.tokens) if source.tokens[start + i] != token)


class Store:
    """Tensors [slots, block, hidden] by layer and the source of each slot's entry.

    An entry of a small forward occupies the first positions of its buffer, unless `in_place`: then it
    is written where it belongs in the block's wide entry, which stays wide.
    """

    def __init__(self, slots: int, block: int, in_place: bool = False):
        self.slots, self.block, self.in_place = slots, block, in_place
        self.values: dict[int, Tensor] = {}
        self.sources: dict[tuple[int, int], Source] = {}      # (layer, slot) -> source

    def forget(self, slot: int) -> None:
        """Drop all entries of a slot: a new row moves in."""
        self.sources = {key: source for key, source in self.sources.items() if key[1] != slot}

    def source(self, layer: int, slot: int) -> Source | None:
        """Where the entry of a layer and slot came from; None if there is none."""
        return self.sources.get((layer, slot))

    def put(self, layer: int, forwards: list[Forward], values: Tensor) -> None:
        """Store values [R, w, hidden], one row per forward; all forwards are of one kind."""
        if layer not in self.values:
            shape = (self.slots, self.block, values.shape[-1])
            self.values[layer] = torch.zeros(shape, dtype=values.dtype, device=values.device)
        for row, forward in enumerate(forwards):
            start = self.note(layer, forward)
            self.values[layer][forward.slot, start:start + forward.width] = values[row]

    def note(self, layer: int, forward: Forward) -> int:
        """Book where an entry comes from; returns where in the slot's buffer its values belong."""
        source, start = Source.of(forward), 0
        held = self.source(layer, forward.slot)
        if self.in_place and held and held.block == forward.block and forward.replace_position is not None:
            start = forward.replace_position
            tokens = held.tokens[:start] + forward.tokens + held.tokens[start + forward.width:]
            source = Source(held.kind, held.block, forward.small_block, forward.step, forward.index, held.width, tokens)
        self.sources[layer, forward.slot] = source
        return start

    def patch(self, layer: int, forward: Forward, start: int, columns: tuple[int, ...], values: Tensor) -> None:
        """Replace single positions (start + offsets in the forward) of an entry by values [len(columns), hidden]."""
        source = self.sources[layer, forward.slot]
        tokens = list(source.tokens)
        for column in columns:
            tokens[start + column] = forward.tokens[column]
        self.values[layer][forward.slot, [start + column for column in columns]] = values
        self.sources[layer, forward.slot] = Source(source.kind, source.block, source.small_block, source.step,
                                                   source.forward, source.width, tuple(tokens))

    def get(self, layer: int, forwards: list[Forward], starts: list[int]) -> Tensor:
        """The part of each forward's entry from its start on, [R, w, hidden]."""
        values, width = self.values[layer], forwards[0].width
        if len(forwards) == 1:
            return values[forwards[0].slot:forwards[0].slot + 1, starts[0]:starts[0] + width]
        return torch.stack([values[f.slot, start:start + width] for f, start in zip(forwards, starts, strict=True)])
