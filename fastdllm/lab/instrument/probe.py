"""Looks at a decoder from outside: what ran, what was served in its place, what the block cache held.

Nothing is asked of the decoder. Hooks on the network's modules see every forward, so the same look
fits our loop, a user's own generation file, and a decoder with a fault planted in it. A layer ran if
its attention was called. It was *reused* if the tensor it returned is not the one it computed; where the
returned values came from is found by comparing them, bit for bit, with all that the layer computed
before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastdllm.model.cache import Cache, Context
from fastdllm.model.network import Network

Decoder = Callable[[list[list[int]]], list[list[int]]]      # prompts that are decoded together -> generated tokens
OBSERVABLES = ("forwards", "input tokens", "layer calls", "decisions", "served from", "block cache", "output tokens",
               "outcome")
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class LayerCall:
    """What one layer did in one forward."""

    ran: bool                          # its attention was called
    reused: bool                       # it returned something else than what it computed
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
        place = "" if self.replace_position is None else f" at replace_position {self.replace_position}"
        return f"forward {self.index}: {self.kind}{place}, block {self.block}"


def differences(a: ForwardObservation | None, b: ForwardObservation | None, tolerance: float = 1e-4) -> tuple[str, ...]:
    """The observables in which two forwards differ; a missing forward differs in "forwards"."""
    if a is None or b is None:
        return () if a is b else ("forwards",)
    found = []
    if (a.kind, a.start, len(a.tokens), len(a.tokens[0])) != (b.kind, b.start, len(b.tokens), len(b.tokens[0])):
        found.append("forwards")
    if a.tokens != b.tokens:
        found.append("input tokens")
    if [c.ran for c in a.calls] != [c.ran for c in b.calls]:
        found.append("layer calls")
    if [c.reused for c in a.calls] != [c.reused for c in b.calls]:
        found.append("decisions")
    if [c.source for c in a.calls] != [c.source for c in b.calls]:
        found.append("served from")
    if a.block_cache.shape != b.block_cache.shape or not np.allclose(a.block_cache, b.block_cache, rtol=tolerance,
                                                                     atol=tolerance, equal_nan=True):
        found.append("block cache")
    return tuple(found)


class Parted(Exception):
    """A probed decoder left the expected path; `observables` say in what."""

    def __init__(self, index: int, observables: tuple[str, ...]):
        super().__init__(f"forward {index}: {', '.join(observables)}")
        self.index, self.observables = index, observables


@dataclass
class Probe:
    """Context manager: collects `seen` while a decoder runs on `network`.

    `layers` are the modules whose outputs count, where they are not the network's own (see
    lab/published.py). With `expect`, the first forward that differs raises Parted.
    """

    network: Network
    layers: Sequence[nn.Module] | None = None
    expect: list[ForwardObservation] | None = None
    seen: list[ForwardObservation] = field(default_factory=list)

    def __enter__(self) -> Probe:
        own = self.network.model.layers
        self._computed: list[list[tuple[int, Tensor]]] = [[] for _ in own]
        self._calls: dict[int, LayerCall] = {}
        self._parts: dict[str, Tensor] = {}
        self._cache: Cache | None = None
        with ExitStack() as stack:
            def hook(handle: Any) -> None:
                stack.callback(handle.remove)
            hook(self.network.model.embed_tokens.register_forward_hook(self._begin))
            for index, layer in enumerate(self.layers or own):
                hook(layer.register_forward_pre_hook(self._enter))
                hook(layer.register_forward_hook(self._leave(index)))
            for layer in own:
                for name, part in (("attention", "self_attn"), ("mlp", "mlp")):
                    hook(layer.get_submodule(part).register_forward_hook(self._part(name)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _begin(self, _module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
        self._tokens, self._calls, self._parts = args[0], {}, {}
        self._context: Context | None = None

    def _enter(self, _module: nn.Module, _args: tuple[Any, ...]) -> None:
        self._parts = {}

    def _part(self, name: str) -> Callable[..., None]:
        def part(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            self._parts[name] = output
            if name == "attention":
                self._context, self._cache = args[1], args[2]
        return part

    def _leave(self, index: int) -> Callable[..., None]:
        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            values = output[0] if isinstance(output, tuple) else output
            parts, ran = self._parts, "attention" in self._parts
            computed = parts.get("mlp")      # the layer's last operation: it ends with the residual addition
            fresh = computed is not None and values.data_ptr() == computed.data_ptr()
            source = None if fresh else self._source(index, values)
            if computed is not None and source is None and torch.equal(values, computed):
                fresh = True      # a copy of what the layer computed
            self._calls[index] = LayerCall(ran, not fresh, source)
            if fresh:
                self._computed[index].append((len(self.seen), values.clone()))
            if index == len(self._computed) - 1:
                self._end()
        return leave

    def _source(self, index: int, values: Tensor) -> tuple[int, int] | None:
        """The latest forward whose output of this layer holds `values` [R, w, d], and the offset there."""
        for forward, stored in reversed(self._computed[index]):
            for row, offset in (stored == values[0, 0]).all(-1).nonzero().tolist():
                if torch.equal(stored[row, offset:offset + values.shape[1]], values[0]):
                    return forward, offset
        return None

    def _end(self) -> None:
        context, cache, size = self._context, self._cache, self.network.config.bd_size
        if context is None or cache is None:
            return      # no layer ran at all
        start = int(context.positions[0, 0])
        last = int(context.positions[0, -1])
        seen = ForwardObservation(index=len(self.seen), kind=context.kind, start=start, block=last // size,
                    replace_position=context.replace_position[0],
                    tokens=tuple(map(tuple, self._tokens.tolist())),
                    calls=tuple(self._calls[i] for i in range(len(self._computed))),
                    block_cache=digest(cache, context, len(self._computed), size))
        self.seen.append(seen)
        if self.expect is not None:
            wanted = self.expect[seen.index] if seen.index < len(self.expect) else None
            if found := differences(wanted, seen):
                raise Parted(seen.index, found)


def digest(cache: Cache, context: Context, layers: int, size: int) -> np.ndarray:
    """Mean key and mean value of the last `size` visible positions, [layers, R, B, 2]; nan: no entry."""
    parts = []
    for layer in range(layers):
        keys, values = (part[:, -size:].float().mean((-1, -2)) for part in cache.read(layer, context))   # [R, B]
        found = torch.stack([keys, values], -1)
        for row, slot in enumerate(context.slots):
            if slot in cache.missing[layer]:
                found[row] = torch.nan
        parts.append(found)
    return torch.stack(parts).cpu().numpy()


@dataclass(frozen=True)
class Observed:
    """What was seen of a decoder: per group of prompts its forwards, its output, and how it ended."""

    seen: list[list[ForwardObservation]]
    tokens: list[list[list[int]]]
    outcome: list[str]                 # "ended", or the name of the exception


def observe(decoder: Decoder, groups: Sequence[list[list[int]]], network: Network,
            layers: Sequence[nn.Module] | None = None) -> Observed:
    """Run a decoder on every group of prompts; an exception is an outcome."""
    seen, tokens, outcome = [], [], []
    for prompts in groups:
        with Probe(network, layers) as probe:
            output, how = attempt(decoder, prompts)
        seen.append(probe.seen)
        tokens.append(output)
        outcome.append(how)
    return Observed(seen, tokens, outcome)


def attempt(decoder: Decoder, prompts: list[list[int]]) -> tuple[list[list[int]], str]:
    """The output and "ended", or nothing and what was raised. Parted passes through."""
    try:
        return [list(map(int, row)) for row in decoder(prompts)], "ended"
    except FAULTS as error:
        return [], type(error).__name__
