"""Looks at a decoder from outside: what ran, what was served in its place, what the block cache held.

Nothing is asked of the decoder. The network's hook points see every forward, so the same look fits our
loop, a user's own generation file, and a decoder with a fault planted in it. A layer ran if its attention
was computed. It was *reused* if what goes on behind it is not what it computed; where the served values came
from is found by comparing them, bit for bit, with all that the layer computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdllm.lab.instrument.work_count import occurrences
from fastdllm.model.cache import Cache, Context
from fastdllm.model.hooks import HookPoint
from fastdllm.model.network import Network

# Prompts that are decoded together -> None whenever a forward is done (a decoder that can't be interrupted yields
# none of these), and at the end the generated tokens of each prompt.
Decoder = Callable[[list[list[int]]], Iterator[list[list[int]] | None]]
OBSERVABLES = ("forwards", "input tokens", "layer calls", "decisions", "served from", "block cache", "output tokens",
               "outcome")


@dataclass(frozen=True, slots=True)
class LayerCall:
    """What one layer did in one forward."""

    ran: bool                          # its attention was computed
    reused: bool                       # what went on behind it is something else than what it computed
    source: tuple[int, int] | None     # (forward, offset) that the returned values were computed in; None if unknown


@dataclass(frozen=True, slots=True)
class ForwardObservation:
    """One forward of R rows."""

    index: int
    kind: str                          # prefill, full, small or commit
    start: int                         # absolute position of the first token (of row 0)
    block: int
    replace_position: int | None       # small forwards: offset in the block
    tokens: tuple[tuple[int, ...], ...]
    calls: tuple[LayerCall, ...]            # per layer
    block_cache: np.ndarray            # [layers, R, B, 2] mean key and mean value by position; nan: no entry

    def __str__(self) -> str:
        where = "" if self.replace_position is None else f" at replace_position {self.replace_position}"
        return f"forward {self.index}: {self.kind}{where}, block {self.block}"


def differences(a: ForwardObservation | None, b: ForwardObservation | None, tolerance: float = 1e-4) -> tuple[str, ...]:
    """The observables in which two forwards differ; a missing forward differs in "forwards"."""
    if a is None or b is None:
        return () if a is b else ("forwards",)
    same = {
        "forwards": (a.kind, a.start, len(a.tokens), len(a.tokens[0])) == (b.kind, b.start, len(b.tokens),
                                                                          len(b.tokens[0])),
        "input tokens": a.tokens == b.tokens,
        "layer calls": [call.ran for call in a.calls] == [call.ran for call in b.calls],
        "decisions": [call.reused for call in a.calls] == [call.reused for call in b.calls],
        "served from": [call.source for call in a.calls] == [call.source for call in b.calls],
        "block cache": a.block_cache.shape == b.block_cache.shape and np.allclose(
            a.block_cache, b.block_cache, rtol=tolerance, atol=tolerance, equal_nan=True)}
    return tuple(name for name, agrees in same.items() if not agrees)


@dataclass
class Probe:
    """Context manager: collects in `seen` what a decoder does on `network`, forward by forward."""

    network: Network
    seen: list[ForwardObservation] = field(default_factory=list)

    def __enter__(self) -> Probe:
        self._computed: list[list[tuple[int, Tensor]]] = [[] for _ in self.network.model.layers]
        self._listening = self.network.hooks({
            "tokens": self._begin, "layers.*.input": self._enter, "layers.*.attention": self._attend,
            "layers.*.mlp": self._compute, "layers.*.output": self._leave})
        self._listening.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._listening.__exit__(*error)

    def _begin(self, tokens: Tensor, _point: HookPoint) -> None:
        self._tokens, self._calls, self._any_ran = tokens, list[LayerCall](), False

    def _enter(self, _hidden: Tensor, _point: HookPoint) -> None:
        self._ran, self._fresh = False, None

    def _attend(self, _hidden: Tensor, _point: HookPoint) -> None:
        self._ran = self._any_ran = True

    def _compute(self, hidden: Tensor, _point: HookPoint) -> None:
        self._fresh: Tensor | None = hidden

    def _leave(self, hidden: Tensor, point: HookPoint) -> None:
        index, computed = len(self._calls), self._fresh
        fresh = computed is not None and hidden.data_ptr() == computed.data_ptr()
        source = None if fresh else self._source(index, hidden)
        if computed is not None and source is None and torch.equal(hidden, computed):
            fresh = True      # a copy of what the layer computed
        self._calls.append(LayerCall(self._ran, not fresh, source))
        if fresh:
            self._computed[index].append((len(self.seen), hidden.clone()))
        if len(self._calls) == len(self._computed) and self._any_ran and point.context and point.cache:
            self._end(point.context, point.cache)

    def _source(self, index: int, values: Tensor) -> tuple[int, int] | None:
        """The latest forward whose output of this layer holds `values` [R, w, d], and the offset there."""
        for forward, stored in reversed(self._computed[index]):
            for offset in occurrences(values, stored):
                return forward, offset
        return None

    def _end(self, context: Context, cache: Cache) -> None:
        size = self.network.config.bd_size
        self.seen.append(ForwardObservation(
            index=len(self.seen), kind=context.kind, start=int(context.positions[0, 0]),
            block=int(context.positions[0, -1]) // size, replace_position=context.replace_position[0],
            tokens=tuple(map(tuple, self._tokens.tolist())), calls=tuple(self._calls),
            block_cache=digest(cache, context, len(self._computed), size)))


def digest(cache: Cache, context: Context, layers: int, size: int) -> np.ndarray:
    """Mean key and mean value of the last `size` visible positions, [layers, R, B, 2]; nan: no entry."""
    parts = []
    for layer in range(layers):
        keys, values = (part[:, -size:].float().mean((-1, -2)) for part in cache.read(layer, context))   # [R, B]
        entry = torch.stack([keys, values], -1)
        for row, slot in enumerate(context.slots):
            if slot in cache.missing[layer]:
                entry[row] = torch.nan
        parts.append(entry)
    return torch.stack(parts).cpu().numpy()


@dataclass(frozen=True)
class Observed:
    """What was seen of a decoder: per group of prompts its forwards, its output, and how it ended."""

    seen: list[list[ForwardObservation]]
    tokens: list[list[list[int]]]
    outcome: list[str]                 # "ended", or the name of the error


@dataclass
class Run:
    """One call of a decoder: to be iterated, forward by forward, and left at any point.

    Afterwards `tokens` are what it generated (none where it did not end) and `outcome` is "ended", or the name of the
    RuntimeError that it came to: a DecodingError, or torch's own where shapes do not fit (as in fault 4). Any other
    error is a mistake in the decoder's code and goes its way.
    """

    decoder: Decoder
    prompts: list[list[int]]
    tokens: list[list[int]] = field(default_factory=list)
    outcome: str = "stopped"

    def __iter__(self) -> Iterator[None]:
        try:
            for output in self.decoder(self.prompts):
                if output is None:
                    yield
                else:
                    self.tokens = [list(map(int, row)) for row in output]
            self.outcome = "ended"
        except RuntimeError as error:
            self.outcome = type(error).__name__

    def finish(self) -> Run:
        """Run it to its end."""
        for _ in self:
            pass
        return self


def observe(decoder: Decoder, groups: Iterable[list[list[int]]], network: Network) -> Observed:
    """Run a decoder on every group of prompts."""
    seen, tokens, outcome = [], [], []
    for prompts in groups:
        with Probe(network) as probe:
            run = Run(decoder, prompts).finish()
        seen.append(probe.seen)
        tokens.append(run.tokens)
        outcome.append(run.outcome)
    return Observed(seen, tokens, outcome)
