"""Runs packs: one state after the other (the reference), or all states of all rows in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from fastdllm.decode.executor import first_not_finite, no_hooks
from fastdllm.decode.packs import Layout, Pack, Reading, Segment, State
from fastdllm.decode.sampling import predict
from fastdllm.model.cache import Cache, Context
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.model.graphs import Shape, rounded
from fastdllm.model.network import Network
from fastdllm.model.pack_graphs import PackGraphs
from fastdllm.model.positions import STRETCHES

ROW = 8         # tokens of a row where packs of unlike widths run together; else rows have a multiple of it


class PackExecutor(Protocol):
    """Runs packs, and says what is predicted at every token of every state."""

    def run(self, packs: list[Pack]) -> list[list[Reading]]:
        """For each pack a reading of each state."""
        ...

    def not_finite(self, slot: int, state: State) -> NonFiniteLogits:
        """The error that names the layer in which a state's hidden values stop being finite."""
        ...


class OneByOne:
    """Each state in a forward of its own: what packing computes together, without packing."""

    def __init__(self, network: Network, slots: int, positions: int, layout: Layout):
        self.network, self.layout = network, layout
        self.cache = network.new_cache(slots, layout.prefix + positions)

    @torch.inference_mode()
    def run(self, packs: list[Pack]) -> list[list[Reading]]:
        """For each pack a reading of each state."""
        return [[self._reading(pack.slot, state) for state in pack.states] for pack in packs]

    def _reading(self, slot: int, state: State) -> Reading:
        hidden = self._hidden(slot, state, self.cache)[:, list(state.read)]
        tokens, confidence = predict(self.network.logits(hidden))
        return Reading(state.read, tuple(tokens[0].tolist()), tuple(confidence[0].tolist()))

    def _hidden(self, slot: int, state: State, cache: Cache) -> Tensor:
        device = self.network.device
        tokens = torch.tensor([state.forward.tokens], device=device)
        return self.network(tokens, self._context(slot, self.layout.segments(state), cache), cache)

    def _context(self, slot: int, segments: list[Segment], cache: Cache) -> Context:
        """A forward over some segments in one row; the mask is over the positions of the slot's cache."""
        device, visible = self.network.device, max(end for segment in segments for _, end in segment.sees)
        positions = torch.cat([torch.arange(s.start, s.start + len(s.tokens)) for s in segments])[None].to(device)
        places = torch.cat([torch.arange(s.write, s.write + len(s.tokens)) for s in segments]).to(device)
        mask = torch.zeros(positions.shape[1], visible, dtype=torch.bool)
        begin = 0
        for segment in segments:
            for low, high in segment.sees:
                mask[begin:begin + len(segment.tokens), low:high] = True
            begin += len(segment.tokens)
        cos, sin = self.network.rotary_tables(positions)
        return Context(kind="pack", slots=(slot,), slot_index=torch.tensor([slot], device=device), positions=positions,
                       flat=slot * cache.positions + places, cos=cos, sin=sin, visible=visible,
                       mask=mask.to(device)[None, None], replace_position=(None,))

    def not_finite(self, slot: int, state: State) -> NonFiniteLogits:
        """Run a state again and name the first layer whose output is not finite."""
        return self.diagnose(slot, state, self.cache)

    def diagnose(self, slot: int, state: State, cache: Cache) -> NonFiniteLogits:
        """As `not_finite`, on any cache of this layout."""
        with torch.inference_mode():
            return NonFiniteLogits(first_not_finite(self.network, state.forward,
                                                    lambda: self._hidden(slot, state, cache)))


class Together:
    """All states of a pack side by side in one row of a forward, where all packs have one width and none a prompt; else
    see `_tick`."""

    def __init__(self, network: Network, slots: int, positions: int, layout: Layout):
        self.one_by_one = OneByOne(network, slots + 1, positions, layout)      # for its cache and its diagnosis
        self.network, self.layout, self.cache = network, layout, self.one_by_one.cache
        self.graphs = PackGraphs(network, self.cache, slots)

    def not_finite(self, slot: int, state: State) -> NonFiniteLogits:
        return self.one_by_one.diagnose(slot, state, self.graphs.ops.plain_cache())

    def run(self, packs: list[Pack]) -> list[list[Reading]]:
        """For each pack a reading of each state. Raises RuntimeError where hooks came after the start."""
        no_hooks(self.network)
        widths = {-(-sum(state.forward.width for state in pack.states) // ROW) * ROW for pack in packs}
        if len(widths) > 1 or any(pack.states[0].forward.kind == "prefill" for pack in packs):
            return self._tick(packs)
        return self._states(packs, *widths)

    def _tick(self, packs: list[Pack]) -> list[list[Reading]]:
        """Prompts and packs of unlike widths in one launch: cut into rows of ROW tokens, which are read anywhere."""
        rows, where = list[list[int]](), list[int]()
        for pack in packs:
            begin = len(rows) * ROW
            for state in pack.states:
                where += [begin + offset for offset in state.read]
                begin += state.forward.width
            segments = [segment for state in pack.states for segment in self.layout.segments(state)]
            rows += [self._row(pack.slot, cut, ROW) for cut in cuts(segments, ROW)]
        where += [0] * (-len(where) % ROW)
        readers, size = len(where) // ROW, len(rows)
        if self.graphs.captures:
            readers = rounded(readers)
            size = max(rounded(size), readers)
        shape = Shape(size, ROW, ROW, readers=readers, shared=True)
        rows = [*([*row, *[0] * ROW] for row in rows), *(self.graphs.idle_row(shape) for _ in range(size - len(rows)))]
        for row, begin in zip(rows, range(0, len(where), ROW), strict=False):
            row[-ROW:] = where[begin:begin + ROW]
        tokens, confidence, _ = self.graphs.run(shape, rows)
        said = zip((int(token) for row in tokens for token in row), (value for row in confidence for value in row),
                   strict=True)
        return [[Reading(state.read, *zip(*islice(said, len(state.read)), strict=True)) for state in pack.states]
                for pack in packs]

    def _states(self, packs: list[Pack], width: int) -> list[list[Reading]]:
        """Every token of every state is predicted, in order."""
        rows = [[*self._row(pack.slot, [segment for state in pack.states for segment in self.layout.segments(state)],
                            width), *range(width)] for pack in packs]
        tokens, confidence, _ = self.graphs.run(Shape(self.graphs.bucket(len(rows)), width, width), rows)
        readings = []
        for row, pack in enumerate(packs):
            begin, mine = 0, list[Reading]()
            for state in pack.states:
                end = begin + len(state.read)
                mine.append(Reading(state.read, tuple(map(int, tokens[row][begin:end])),
                                    tuple(confidence[row][begin:end])))
                begin = end
            readings.append(mine)
        return readings

    def _row(self, slot: int, segments: list[Segment], width: int) -> list[int]:
        """A row's data as `pack_graphs.parts` says, without what is read; idle tokens write to the spare slot."""
        tokens, positions, places, sees = list[int](), list[int](), list[int](), list[int]()
        for segment in segments:
            count, spare = len(segment.tokens), STRETCHES - len(segment.sees)
            tokens += segment.tokens
            positions += range(segment.start, segment.start + count)
            begin = slot * self.cache.positions + segment.write
            places += range(begin, begin + count)
            sees += [*(end for stretch in segment.sees for end in stretch), *(0, 0) * spare] * count
        idle = width - len(tokens)
        trash = (self.cache.slots - 1) * self.cache.positions
        return [slot, *tokens, *[0] * idle, *positions, *[0] * idle, *places, *range(trash, trash + idle),
                *sees, *([0, 1, *(0, 0) * (STRETCHES - 1)] * idle)]


def cuts(segments: list[Segment], size: int) -> Iterator[list[Segment]]:
    """Segments in rows of `size` tokens; the last one may have fewer."""
    row, room = list[Segment](), size
    for segment in segments:
        begin = 0
        while begin < len(segment.tokens):
            count = min(room, len(segment.tokens) - begin)
            row.append(replace(segment, tokens=segment.tokens[begin:begin + count], start=segment.start + begin,
                               write=segment.write + begin))
            begin, room = begin + count, room - count
            if not room:
                yield row
                row, room = [], size
    if row:
        yield row
