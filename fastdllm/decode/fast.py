"""The fast executor: the same predictions as `Eager`, from one captured graph per shape of forward."""

from __future__ import annotations

from fastdllm.decode.drafts import choose
from fastdllm.decode.executor import Eager, group, no_hooks
from fastdllm.decode.policies import OutputPolicy, ReplayPolicy, ResidualPolicy, ReusePlan
from fastdllm.decode.step import Forward, Prediction
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.model.graphs import Graphs, Run, Shape
from fastdllm.model.network import Network
from fastdllm.settings import Decoding


def supported(network: Network, decoding: Decoding, policy: OutputPolicy | None, traced: bool) -> str | None:
    """None if the fast executor can run this, or else what it can't do."""
    if decoding.block_size not in (None, network.config.bd_size):
        return f"block_size={decoding.block_size} is not the checkpoint's {network.config.bd_size}"
    if traced:
        return "a trace looks into the layers"
    if network.hook_points.listeners:
        return f"hooks listen in at {', '.join(sorted(network.hook_points.listeners)[:3])}"
    if decoding.temperature > 0:
        return "sampling at temperature > 0 needs a generator per row"
    if policy is not None and type(policy) not in (OutputPolicy, ResidualPolicy, ReplayPolicy):
        return f"policy {policy.reuse.policy} decides inside the layers"
    if policy is not None and (policy.revision.run_skipped or policy.revision.on_full_block == "by_step"):
        return f"revision {policy.revision.name} has bugs that show only layer by layer"
    return None


def runs(layers: tuple[int, ...]) -> tuple[Run, ...]:
    """Contiguous stretches of ascending layer indices: (8, 9, 10, 14) -> ((8, 10), (14, 14))."""
    stretches: list[Run] = []
    for layer in layers:
        if stretches and stretches[-1][1] == layer - 1:
            stretches[-1] = (stretches[-1][0], layer)
        else:
            stretches.append((layer, layer))
    return tuple(stretches)


class Fast:
    """An executor (see `Executor`) on static buffers. Layers that are reused neither run nor are looked at.

    Policy `replay` needs no logits here: at temperature 0 a token and its confidence say all, and they
    are on the host already.
    """

    def __init__(self, network: Network, slots: int, positions: int, decoding: Decoding, policy: OutputPolicy | None):
        self.network = network
        self.eager = Eager(network, slots + 1, positions, decoding, None)      # for its cache and its diagnosis
        self.cache, self.policy, self.threshold = self.eager.cache, policy, decoding.threshold
        self.block = policy.store.block if policy else 0
        self.width = network.config.bd_size
        self.graphs = Graphs(network, self.cache, self.block, decoding.threshold, slots)
        self.runs = runs(policy.layers) if policy else ()
        self.predicted: dict[int, list[tuple[float, float]]] = {}      # slot -> token, confidence at each offset

    def key(self, forward: Forward, plan: ReusePlan) -> tuple[object, ...]:
        """Forwards with equal keys can run together: those of like width, of all kinds and with all plans.

        A captured graph runs the same layers for each of its rows: there a policy's kinds and plans run apart.
        """
        if plan.skip:
            return ("skip",)
        if self.graphs.captures and (self.policy is not None or forward.kind == "prefill"):
            return group(forward, plan)
        return (min(forward.width, self.width),)

    def run(self, forwards: list[Forward], plans: list[ReusePlan]) -> list[Prediction]:
        """One prediction per forward. Raises NonFiniteLogits, and RuntimeError where hooks came after the start."""
        no_hooks(self.network)
        if plans[0].skip:
            return [self._replay(forward) for forward in forwards]
        width, read = min(forwards[0].width, self.width), max(len(forward.read) for forward in forwards)
        reuses = [plan.decision == "reuse" for plan in plans]
        entries = [self._entry(forward, plan) for forward, plan in zip(forwards, plans, strict=True)]
        rows, last = list[list[int]](), [0] * len(forwards)      # last: which of its rows a forward is read from
        for index in sorted(range(len(forwards)), key=lambda index: reuses[index]):      # as `Shape.running` wants it
            rows += self._rows(forwards[index], width, read, entries[index])
            last[index] = len(rows) - 1
        reusing = sum(reuses)
        storing = any(entry != self.graphs.spare_entry and not reuse
                      for entry, reuse in zip(entries, reuses, strict=True))
        shape = Shape(self.graphs.bucket(len(rows)), width, read, skipped=self.runs if reusing else (),
                      running=len(rows) - reusing if reusing else 0, keep=self.runs if storing else (),
                      residual=isinstance(self.policy, ResidualPolicy) and bool(reusing or storing),
                      everything=any(map(self._replayed_anywhere, forwards)), shared=len(rows) > len(forwards))
        packed = self.graphs.run(shape, rows)
        return [self._prediction(forward, plan, *(part[row] for part in packed))
                for forward, plan, row in zip(forwards, plans, last, strict=True)]

    def _entry(self, forward: Forward, plan: ReusePlan) -> int:
        """Where among the stored outputs a forward reads, if it reuses, or writes; the spare entry if it does neither.

        Books what it stores, for all layers of the policy.
        """
        policy, start = self.policy, None
        if policy is None or forward.small_block is None:
            return self.graphs.spare_entry
        if plan.decision == "reuse":
            [start] = policy.starts(policy.layers[0], [forward])
        elif policy.keeps_logits or (plan.decision == "recompute" and policy.stores(forward)):
            for layer in policy.layers:
                start = policy.store.note(layer, forward)
        return self.graphs.spare_entry if start is None or policy.keeps_logits else forward.slot * self.block + start

    def _rows(self, forward: Forward, width: int, read: int, entry: int) -> list[list[int]]:
        """Of a prefill each block is a row of its own, attending to what stands before its end; the last one is read.
        """
        rows = []
        for begin in range(0, forward.width, width):
            start, offsets, masked = forward.start + begin, [0] * read, [0] * read
            if begin + width == forward.width:
                offsets[:len(forward.read)] = [offset - begin for offset in forward.read]
                masked[:len(forward.read)] = forward.masked or [1] * len(forward.read)
            rows.append([*forward.tokens[begin:begin + width], *offsets, *masked, forward.slot, start,
                         forward.end if forward.kind == "small" else start + width, entry])
        return rows

    def _replayed_anywhere(self, forward: Forward) -> bool:
        """Whether predictions at all of its positions may be replayed: those of a small forward are read in the small
        block of the forward before it, those of a full one anywhere."""
        return (self.policy is not None and self.policy.keeps_logits and self.policy.reuse.full_forwards
                and forward.small_block is not None)

    def _prediction(self, forward: Forward, plan: ReusePlan, tokens: list[float], confidence: list[float],
                    unmask: list[float]) -> Prediction:
        """What a row of `Graphs.run` says of a forward; `replay` holds it by position of the block."""
        count, decisions = len(forward.read), ()
        if any(value != value for value in confidence[:count]):
            raise NonFiniteLogits(self.eager.diagnose(forward, self.graphs.ops.plain_cache()))
        if self.policy is not None and forward.small_block is not None:
            decisions = (plan.decision,) * len(self.policy.layers)
            if self.policy.keeps_logits:
                held = self.predicted.setdefault(forward.slot, [(0.0, 0.0)] * self.block)
                where = (*forward.read, *range(forward.width))      # the latter only where everything is predicted
                for at, pair in zip(where, zip(tokens, confidence, strict=True), strict=False):
                    held[(forward.replace_position or 0) + at] = pair
        return Prediction(tuple(map(int, tokens[:count])), tuple(confidence[:count]), tuple(map(bool, unmask[:count])),
                          decisions)

    def _replay(self, forward: Forward) -> Prediction:
        """Sample the last predictions again; no device is involved."""
        offset = forward.replace_position or 0
        pairs = [self.predicted[forward.slot][offset + i] for i in forward.read]
        confidence = tuple(value for _, value in pairs)
        return Prediction(tuple(int(token) for token, _ in pairs), confidence,
                          choose(confidence, forward.masked, self.threshold))
