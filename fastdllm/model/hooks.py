"""Hook points inside the network's forward, by dotted name: look at a value on its way, or put another in its place.

    def keep(value, point):
        outputs.append((point.layer, value))

    with network.hooks({"layers.*.output": keep}):
        hidden = network(tokens, context, cache)

In the order in which a forward comes to them:

tokens              token ids [R, w] as they go in
layers.N.input      what goes into layer N, [R, w, hidden_size]
layers.N.attention  behind its attention, residual added; only where the layer itself is computed
layers.N.mlp        what the layer computed; only where it is computed
layers.N.output     what goes on to the next layer: computed, or what a policy put in its place
logits              float32 [R, n, vocab_size]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from fastdllm.model.cache import Cache, Context

LAYER_POINTS = ("input", "attention", "mlp", "output")


@dataclass(frozen=True, slots=True)
class HookPoint:
    """Where a hook was called, and in which forward."""

    name: str
    layer: int | None = None          # None at tokens and logits
    context: Context | None = None    # None at logits
    cache: Cache | None = None


Hook = Callable[[Tensor, HookPoint], Tensor | None]      # None: the value goes on as it is


class Hooks:
    """Who listens at the points of one network. Nobody is there unless a `with` block says so."""

    def __init__(self, layers: int):
        self.names = ("tokens", *(f"layers.{index}.{part}" for index in range(layers) for part in LAYER_POINTS),
                      "logits")
        self.listeners: dict[str, list[Hook]] = {}      # by point; empty while nobody listens

    @contextmanager
    def attached(self, hooks: Mapping[str, Hook]) -> Iterator[None]:
        """Call hooks (by name or pattern, as "layers.*.output") until the block ends, whatever ends it.

        At a point, those attached first come first. Raises ValueError for a name that fits no point.
        """
        wanted = {pattern: [name for name in self.names if fnmatchcase(name, pattern)] for pattern in hooks}
        if unknown := [pattern for pattern, names in wanted.items() if not names]:
            raise ValueError(f"hooks: {', '.join(map(repr, unknown))}; allowed: {self.names[0]}, {self.names[1]} to "
                             f"{self.names[-2]} ({', '.join(LAYER_POINTS)}), {self.names[-1]}, or a pattern such as "
                             "'layers.*.output'")
        added = [(name, hooks[pattern]) for pattern, names in wanted.items() for name in names]
        for name, hook in added:
            self.listeners.setdefault(name, []).append(hook)
        try:
            yield
        finally:
            for name, hook in added:
                self.listeners[name].remove(hook)
                if not self.listeners[name]:
                    del self.listeners[name]

    def at(self, name: str, value: Tensor, layer: int | None = None, context: Context | None = None,
           cache: Cache | None = None) -> Tensor:
        """The value with which the forward goes on from a point."""
        if name in self.listeners:
            point = HookPoint(name, layer, context, cache)
            for hook in tuple(self.listeners[name]):
                replaced = hook(value, point)
                value = value if replaced is None else replaced
        return value
