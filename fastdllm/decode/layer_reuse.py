"""Reuse in one forward: the function through which the network calls its layers while a policy acts.

Nothing is patched: `LayerReuse.run_layer` is handed to the network with the forward. The layers that the
policy names are answered by the policy, all others by themselves; what happened goes into the trace. (For
decoders whose layers must be patched, see lab/instrument/patched_layers.py.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastdllm.decode.policies import Original, OutputPolicy, ReusePlan
from fastdllm.decode.step import Forward
from fastdllm.decode.trace import Trace
from fastdllm.model.cache import Cache, Context

NAN = float("nan")


@dataclass
class LayerReuse:
    """A policy at work in one forward of some rows (in batch order, with equal plans)."""

    policy: OutputPolicy
    trace: Trace | None
    forwards: list[Forward]
    plans: list[ReusePlan]
    calls: list[tuple[str, ...]] = field(default_factory=list)      # so far: per reusable layer, a decision a row

    def run_layer(self, index: int, layer: nn.Module, hidden: Tensor, context: Context, cache: Cache) -> Tensor:
        """Layer `index` of our own network on hidden [R, w, hidden_size]; see `Network.forward`."""
        if index not in self.policy.layers:
            return layer(hidden, context, cache)
        return self.answer(index, hidden, OwnLayer(index, layer, context, cache))

    def answer(self, index: int, hidden: Tensor, original: Original) -> Tensor:
        """What stands for a layer that the policy names; books the decisions and writes the trace."""
        sources = [self.policy.store.source(index, f.slot) for f in self.forwards] if self.trace else []
        output, decisions = self.policy.run(index, hidden, self.forwards, self.plans[0], original)
        self.calls.append(decisions)
        if self.trace:
            distances = [NAN] * len(self.forwards)
            if self.trace.distance and "reuse" in decisions:
                distances = distance(output, original.aside(hidden), decisions)
            for row, (forward, decision) in enumerate(zip(self.forwards, decisions, strict=True)):
                source = sources[row]
                start = self.policy.start(source, forward) if source and decision == "reuse" else 0
                self.trace.add(forward, index, decision, self.plans[row].reason, hidden, source, start, distances[row])
        return output

    def decisions(self) -> list[tuple[str, ...]]:
        """For each row what was decided in each of the policy's layers, in their order."""
        return list(zip(*self.calls, strict=True)) or [()] * len(self.forwards)


class OwnLayer(Original):
    """A layer of our own network, in one forward."""

    def __init__(self, index: int, layer: nn.Module, context: Context, cache: Cache):
        self.index, self.layer, self.context, self.cache = index, layer, context, cache

    def whole(self, hidden: Tensor) -> Tensor:
        return self.layer(hidden, self.context, self.cache)

    def part(self, hidden: Tensor, rows: list[int], columns: Tensor) -> Tensor:
        wide = columns[:, :, None].expand(-1, -1, hidden.shape[-1])
        return self.layer(hidden[torch.tensor(rows, device=hidden.device)].gather(1, wide),
                          self.context.at(rows, columns, self.cache.positions), self.cache)

    def aside(self, hidden: Tensor) -> Tensor:
        with self.cache.preserved(self.index, self.context):
            return self.layer(hidden, self.context, self.cache)


def distance(served: Tensor, fresh: Tensor, decisions: tuple[str, ...]) -> list[float]:
    """|served - fresh| / |fresh| of each row that was reused, nan for the others; both are [R, w, hidden_size]."""
    gap = (served - fresh).float().flatten(1).norm(dim=1) / fresh.float().flatten(1).norm(dim=1)
    return [value if decision == "reuse" else NAN for value, decision in zip(gap.tolist(), decisions, strict=True)]
