"""The instrumented layer wrappers: they stand in for `layer.forward` while one forward runs.

They work on any decoder whose layers stand in `model.model.layers`. Attaching is a context manager
around a single forward, so the model is whole again between two steps, whatever happens in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastdllm.decode.policies import Original, OutputPolicy, ReusePlan
from fastdllm.decode.step import Forward
from fastdllm.decode.trace import Trace
from fastdllm.model.cache import Cache, Context

NAN = float("nan")


class Wrappers:
    """Carries out a policy in the layers it names, and logs what happened.

    `decisions` holds, for the forward that ran last, one tuple per wrapped layer call: a decision for
    each row.
    """

    def __init__(self, layers: Sequence[nn.Module], policy: OutputPolicy, trace: Trace | None = None):
        self.layers, self.policy, self.trace = layers, policy, trace
        self.decisions: list[tuple[str, ...]] = []

    @contextmanager
    def attached(self, forwards: list[Forward], plans: list[ReusePlan]) -> Iterator[Wrappers]:
        """Wrap the policy's layers for one forward of the given rows (in batch order); always undone."""
        self.decisions = []
        saved: list[tuple[nn.Module, Any]] = []
        try:
            for index in self.policy.layers:
                layer = self.layers[index]
                saved.append((layer, layer.__dict__.get("forward")))
                layer.forward = self._wrap(index, layer.forward, forwards, plans)
            yield self
        finally:
            for layer, before in saved:
                if before is None:
                    del layer.forward
                else:
                    layer.forward = before

    def _wrap(self, index: int, forward: Callable[..., Any], forwards: list[Forward],
              plans: list[ReusePlan]) -> Callable[..., Any]:
        def wrapped(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            as_tuple = False

            def whole(values: Tensor) -> Tensor:
                nonlocal as_tuple
                output = forward(values, *args, **kwargs)
                as_tuple = isinstance(output, tuple)      # Hugging Face layers of some versions return tuples
                return output[0] if as_tuple else output

            ours = len(args) == 2 and isinstance(args[0], Context) and isinstance(args[1], Cache)
            original = Original(whole, partial(forward, *args) if ours else None)
            sources = [self.policy.store.source(index, f.slot) for f in forwards] if self.trace else []
            output, decisions = self.policy.run(index, hidden, forwards, plans[0], original)
            self.decisions.append(decisions)
            if self.trace:
                self._log(index, hidden, output, forwards, plans, decisions, sources, original, args if ours else ())
            return (output,) if as_tuple else output
        return wrapped

    def _log(self, index: int, hidden: Tensor, output: Tensor, forwards: list[Forward], plans: list[ReusePlan],
             decisions: tuple[str, ...], sources: list[Any], original: Original, args: tuple[Any, ...]) -> None:
        trace = self.trace
        if trace is None:
            return
        distances = [NAN] * len(forwards)
        if trace.distance and "reuse" in decisions:
            if args:
                with args[1].preserved(index, args[0]):
                    fresh = original.whole(hidden)
            else:
                fresh = original.whole(hidden)
            gap = (output - fresh).float().flatten(1).norm(dim=1) / fresh.float().flatten(1).norm(dim=1)
            distances = [value if decision == "reuse" else NAN
                         for value, decision in zip(gap.tolist(), decisions, strict=True)]
        for row, forward in enumerate(forwards):
            source = sources[row]
            start = self.policy.start(source, forward) if source and decisions[row] == "reuse" else 0
            trace.add(forward, index, decisions[row], plans[row].reason, hidden, source, start, distances[row])


def partial(forward: Callable[..., Tensor], context: Context,
            cache: Cache) -> Callable[[Tensor, list[int], Tensor], Tensor]:
    """The layer on some rows and positions (columns [len(rows), n]): hidden [R, w, d] -> [len(rows), n, d]."""
    def part(hidden: Tensor, rows: list[int], columns: Tensor) -> Tensor:
        wide = columns[:, :, None].expand(-1, -1, hidden.shape[-1])
        return forward(hidden[torch.tensor(rows, device=hidden.device)].gather(1, wide),
                       context.at(rows, columns, cache.positions), cache)
    return part
