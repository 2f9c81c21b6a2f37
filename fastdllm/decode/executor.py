"""Runs one batch of equal forwards through the network: the eager executor, which is the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fastdllm.decode.layer_reuse import LayerReuse
from fastdllm.decode.policies import OutputPolicy, ReusePlan
from fastdllm.decode.sampling import choose, predict, sample
from fastdllm.decode.step import Forward, Prediction
from fastdllm.decode.trace import Trace
from fastdllm.model.cache import Cache, Context
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.model.hooks import HookPoint
from fastdllm.model.network import Network
from fastdllm.settings import Decoding


class Executor(Protocol):
    """Runs forwards with equal keys, and says what they predict."""

    def key(self, forward: Forward, plan: ReusePlan) -> tuple[object, ...]:
        """What forwards must have in common to run together."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns while a device is still at work."""
        ...

    def launch(self, forwards: list[Forward], plans: list[ReusePlan]) -> Callable[[], list[Prediction]]:
        """Begin the forwards. What is returned is called once, and waits for a prediction of each, in order."""
        ...


def group(forward: Forward, plan: ReusePlan) -> tuple[object, ...]:
    """Kind, shape and plan; prompts run together where they begin at the same position."""
    return (forward.kind, forward.width, forward.start if forward.kind == "prefill" else 0, bool(forward.read),
            *plan.key())


class Eager:
    """Layer by layer, through the policy where one acts. One host synchronisation a forward."""

    def __init__(self, network: Network, slots: int, positions: int, decoding: Decoding, policy: OutputPolicy | None,
                 trace: Trace | None = None, generators: dict[int, torch.Generator] | None = None):
        self.network, self.decoding, self.policy, self.trace = network, decoding, policy, trace
        self.cache = network.new_cache(slots, positions)
        self.generators = generators if generators is not None else {}
        self.logits: Tensor | None = None      # [slots, block, vocab] for `replay`

    def key(self, forward: Forward, plan: ReusePlan) -> tuple[object, ...]:
        """Kind, shape and plan."""
        return group(forward, plan)

    overlaps = False

    def launch(self, forwards: list[Forward], plans: list[ReusePlan]) -> Callable[[], list[Prediction]]:
        """All is done when this returns. Raises NonFiniteLogits, MissingBlockCache."""
        predictions = self.run(forwards, plans)
        return lambda: predictions

    @torch.inference_mode()
    def run(self, forwards: list[Forward], plans: list[ReusePlan]) -> list[Prediction]:
        """One prediction per forward. Raises NonFiniteLogits, MissingBlockCache."""
        decisions: list[tuple[str, ...]] = [()] * len(forwards)
        if plans[0].skip:
            logits = self._replayed(forwards)
        elif self.policy is not None and forwards[0].small_block is not None:
            reuse = LayerReuse(self.policy, self.trace, forwards, plans)
            logits = self._computed(forwards, reuse)
            decisions = reuse.decisions()
        else:
            logits = self._computed(forwards, None)
        if logits is None:
            return [Prediction()] * len(forwards)
        denoising = forwards[0].small_block is not None
        if denoising and self.decoding.temperature > 0:
            tokens, confidence = sample(logits, self.decoding.temperature, self.decoding.top_p,
                                        [self.generators[f.row] for f in forwards])
        else:
            tokens, confidence = predict(logits)
        masked = torch.tensor([f.masked or (True,) for f in forwards], device=logits.device)
        unmask = choose(confidence, masked, self.decoding.threshold)
        packed = torch.stack([tokens.double(), confidence.double(), unmask.double()]).tolist()   # the one sync
        for row, forward in enumerate(forwards):
            if any(value != value for value in packed[1][row]):
                raise NonFiniteLogits(self.diagnose(forward, self.cache))
        return [Prediction(tuple(map(int, packed[0][row])), tuple(packed[1][row]), tuple(map(bool, packed[2][row])),
                           decisions[row]) for row in range(len(forwards))]

    def _context(self, forwards: list[Forward]) -> Context:
        return self.network.context(self.cache, forwards[0].kind, tuple(f.slot for f in forwards),
                                    [f.start for f in forwards], forwards[0].width, [f.end for f in forwards],
                                    tuple(f.replace_position for f in forwards))

    def _computed(self, forwards: list[Forward], reuse: LayerReuse | None) -> Tensor | None:
        """Run the network; float32 logits [R, n, vocab] at each forward's `read`, None if nothing is read."""
        first = forwards[0]
        context = self._context(forwards)
        if first.kind == "full" and not (self.policy and self.policy.reuse.full_forwards):
            self.cache.begin_block_cache(context.slots)
        tokens = torch.tensor([f.tokens for f in forwards], device=self.network.device)
        hidden = (self.network(tokens, context, self.cache, reuse.run_layer) if reuse
                  else self.network(tokens, context, self.cache))
        if not first.read:
            return None
        if reuse and reuse.policy.keeps_logits:
            return self._keep(reuse.policy, forwards, self.network.logits(hidden))
        read = torch.tensor([f.read for f in forwards], device=hidden.device)
        return self.network.logits(hidden.gather(1, read[:, :, None].expand(-1, -1, hidden.shape[-1])))

    def _keep(self, policy: OutputPolicy, forwards: list[Forward], logits: Tensor) -> Tensor:
        """Store raw logits [R, w, vocab] by position of the block; return those that are read."""
        if self.logits is None:
            self.logits = logits.new_empty(self.cache.slots, policy.store.block, logits.shape[-1])
        for row, forward in enumerate(forwards):
            offset = forward.replace_position or 0
            self.logits[forward.slot, offset:offset + forward.width] = logits[row]
            policy.keep(policy.layers[0], [forward], logits[row:row + 1, :, :1], logits[row:row + 1, :, :1])
        return torch.stack([logits[row, list(f.read)] for row, f in enumerate(forwards)])

    def _replayed(self, forwards: list[Forward]) -> Tensor:
        """Old logits for each forward's `read`, [R, n, vocab]."""
        if self.logits is None:
            raise RuntimeError("replay before any forward")      # plans skip only what a source has filled
        return torch.stack([self.logits[f.slot, [(f.replace_position or 0) + i for i in f.read]] for f in forwards])

    def diagnose(self, bad: Forward, cache: Cache) -> str:
        """Run a forward again, alone, on `cache`, and name the first layer whose output is not finite."""
        def again() -> None:
            self.network(torch.tensor([bad.tokens], device=self.network.device), self._context([bad]), cache)
        return first_not_finite(self.network, bad, again)


def first_not_finite(network: Network, bad: Forward, again: Callable[[], object]) -> str:
    """What is wrong with a forward whose logits are not finite: `again` runs it, and layers' outputs are looked at."""
    broken: list[int | None] = []

    def look(hidden: Tensor, point: HookPoint) -> None:
        if not hidden.isfinite().all():
            broken.append(point.layer)

    with network.hooks({"layers.*.output": look}):
        again()
    first = f"layer {broken[0]}" if broken else "the final norm or lm_head"
    return (f"logits are not finite: first in {first}, row {bad.row}, block {bad.block}, step {bad.step}, "
            f"{bad.kind} forward")


def no_hooks(network: Network) -> None:
    """Raises RuntimeError where hooks came after a fast executor began: it has no points to call them at."""
    if network.hook_points.listeners:
        raise RuntimeError("hooks were attached while the fast executor decodes, which has no points to call them "
                           "at; allowed: attach them before decoding begins, or executor='eager'")
