"""The fast executor: the same predictions as `Eager`, from one captured graph per shape of forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fastdllm.decode.drafts import choose
from fastdllm.decode.executor import Eager, group, no_hooks
from fastdllm.decode.policies import OutputPolicy, ReplayPolicy, ResidualPolicy, ReusePlan
from fastdllm.decode.step import Forward, Prediction
from fastdllm.decode.ticks import Part, Tick, launches, parts_of
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.model.graphs import FIELDS, Graphs, Rows, Run, Shape, rounded
from fastdllm.model.network import Network
from fastdllm.model.static import TritonOps
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


def alike(forwards: Sequence[Forward], plans: Sequence[ReusePlan]) -> bool:
    """Whether all of them are of one `group`."""
    if len(forwards) == 1:
        return True
    first = group(forwards[0], plans[0])
    return all(group(forward, plan) == first for forward, plan in zip(forwards, plans, strict=True))


class Call(NamedTuple):
    """One launch: its shape and data, and which of its rows (or readers) says what of which forward."""

    shape: Shape
    rows: Rows
    read: list[tuple[int, int]]      # index of a forward, row


class Fast:
    """An executor (see `Executor`) on static buffers. Layers that are reused neither run nor are looked at.

    Policy `replay` needs no logits here: at temperature 0 a token and its confidence say all, and they
    are on the host already.

    `packed`: forwards of all kinds, and prompts, are one launch, cut into rows as long as a small block. None: where
    the attention of such rows costs no copies of the cache, on a GPU in half precision.
    """

    def __init__(self, network: Network, slots: int, positions: int, decoding: Decoding, policy: OutputPolicy | None,
                 packed: bool | None = None):
        self.network = network
        self.eager = Eager(network, slots + 1, positions, decoding, None)      # for its cache and its diagnosis
        self.cache, self.policy, self.threshold = self.eager.cache, policy, decoding.threshold
        self.block = policy.store.block if policy else 0
        self.width, self.small = network.config.bd_size, decoding.small_block
        self.graphs = Graphs(network, self.cache, self.block, decoding.threshold, slots)
        self.runs = runs(policy.layers) if policy else ()
        # Predictions at all positions of a block may be replayed: those of a small forward are read in the small block
        # of the forward before it, those of a full one anywhere.
        self.everything = policy is not None and policy.keeps_logits and policy.reuse.full_forwards
        self.packed = not self.everything and (isinstance(self.graphs.ops, TritonOps) if packed is None else packed)
        self.idle = tuple(self.graphs.idle_row(Shape(1, self.small, 0))[-len(FIELDS):])
        self.predicted: dict[int, list[tuple[int, float]]] = {}      # slot -> token, confidence at each offset

    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns while the device is still at work."""
        return self.graphs.captures

    def key(self, forward: Forward, plan: ReusePlan) -> tuple[object, ...]:
        """Forwards with equal keys can run together: packed, all of them; else those of like width, of all kinds and
        with all plans.

        A captured graph that is not packed runs the same layers for each of its rows: there a policy's kinds and plans
        run apart.
        """
        if plan.skip:
            return ("skip",)
        if self.packed:
            return ("packed",)
        if self.graphs.captures and (self.policy is not None or forward.kind == "prefill"):
            return group(forward, plan)
        return (min(forward.width, self.width),)

    def run(self, forwards: list[Forward], plans: list[ReusePlan]) -> list[Prediction]:
        """One prediction per forward. Raises NonFiniteLogits, and RuntimeError where hooks came after the start."""
        return self.launch(forwards, plans)()

    def launch(self, forwards: list[Forward], plans: list[ReusePlan]) -> Callable[[], list[Prediction]]:
        """Begin `run`; what is returned waits for the predictions."""
        no_hooks(self.network)
        if plans[0].skip:
            replayed = [self._replay(forward) for forward in forwards]
            return lambda: replayed
        under_way = [(self.graphs.launch(call.shape, call.rows), call.read)
                     for call in self._calls(forwards, plans)]

        def predictions() -> list[Prediction]:
            said = dict[int, tuple[Any, ...]]()
            for done, read in under_way:
                tokens, confidence, unmask = done()
                for index, row in read:
                    said[index] = tokens[row], confidence[row], unmask[row]
            return [self._prediction(forward, plan, *said.get(index, ((), (), ())))
                    for index, (forward, plan) in enumerate(zip(forwards, plans, strict=True))]
        return predictions

    def _calls(self, forwards: list[Forward], plans: list[ReusePlan]) -> Iterator[Call]:
        """What is to be launched for some forwards: as few launches as their tokens need."""
        parts = list[Part]()
        for index, (forward, plan) in enumerate(zip(forwards, plans, strict=True)):
            parts += parts_of(index, forward, self._entry(forward, plan), plan.decision == "reuse", self.width)
        reusing = sum([part.reuses for part in parts])
        if reusing:
            parts.sort(key=lambda part: part.reuses)
        if self.packed and (forwards[0].kind == "prefill" or not alike(forwards, plans)):
            yield from map(self._tick, launches(parts, self.small))
        else:
            everything = self.everything and any(forward.small_block is not None for forward in forwards)
            yield self._rows(parts, reusing, everything, shared=len(parts) > len(forwards))

    def _rows(self, parts: list[Part], reusing: int, everything: bool, shared: bool) -> Call:
        """A row for each of these parts, which are equally long."""
        read, rows, readings = max([len(part.read) for part in parts]), list[list[int]](), list[tuple[int, int]]()
        for index, slot, start, end, tokens, entry, _, offsets, masked in parts:
            if offsets:
                readings.append((index, len(rows)))
            idle = [0] * (read - len(offsets))
            rows.append([*tokens, *offsets, *idle, *masked, *idle, slot, start, end, entry])
        shape = Shape(self.graphs.bucket(len(rows)), len(parts[0].tokens), read, everything=everything, shared=shared)
        return Call(self._reused(shape, parts, reusing, len(rows) - reusing), rows, readings)

    def _tick(self, parts: list[Part]) -> Call:
        """Rows of the parts that run every layer, those of the others, and readers that look anywhere."""
        tick = Tick(self.small, max(len(part.read) for part in parts), self.idle)
        reusing = sum(part.reuses for part in parts)
        tick.add(parts[:len(parts) - reusing])
        if reusing:
            tick.fill(self._rounded(tick.rows))      # so that few sizes are captured
        running = tick.rows
        tick.add(parts[len(parts) - reusing:])
        many = self.graphs.bucket(tick.readers) if tick.readers else 0
        tick.fill(max(self._rounded(tick.rows), many))
        shape = Shape(tick.rows, self.small, tick.read, readers=many, shared=True)
        return Call(self._reused(shape, parts, reusing, running), tick.data(), tick.readings)

    def _reused(self, shape: Shape, parts: list[Part], reusing: int, running: int) -> Shape:
        """The shape with the layers that so many parts, the last ones, reuse, and with those that others store.

        `running` rows, the first ones, are of parts that run every layer.
        """
        if self.policy is None:
            return shape
        storing = any(part.entry != self.graphs.spare_entry for part in parts[:len(parts) - reusing])
        return shape._replace(skipped=self.runs if reusing else (), running=running if reusing else 0,
                              keep=self.runs if storing else (),
                              residual=isinstance(self.policy, ResidualPolicy) and bool(reusing or storing))

    def _rounded(self, rows: int) -> int:
        """The size of a tick of so many rows: with idle ones up to a size that graphs are captured for."""
        return rounded(rows) if self.graphs.captures else rows

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

    def _prediction(self, forward: Forward, plan: ReusePlan, tokens: Sequence[int], confidence: Sequence[float],
                    unmask: Sequence[bool]) -> Prediction:
        """What a row of `Graphs.run` says of a forward; `replay` holds it by position of the block."""
        count, decisions = len(forward.read), ()
        if (total := sum(confidence[:count])) != total:
            raise NonFiniteLogits(self.eager.diagnose(forward, self.graphs.ops.plain_cache()))
        if self.policy is not None and forward.small_block is not None:
            decisions = (plan.decision,) * len(self.policy.layers)
            if self.policy.keeps_logits:
                held = self.predicted.setdefault(forward.slot, [(0, 0.0)] * self.block)
                where = (*forward.read, *range(forward.width))      # the latter only where everything is predicted
                for at, pair in zip(where, zip(tokens, confidence, strict=True), strict=False):
                    held[(forward.replace_position or 0) + at] = pair
        return Prediction(tuple(tokens[:count]), tuple(confidence[:count]), tuple(unmask[:count]), decisions)

    def _replay(self, forward: Forward) -> Prediction:
        """Sample the last predictions again; no device is involved."""
        offset = forward.replace_position or 0
        pairs = [self.predicted[forward.slot][offset + i] for i in forward.read]
        confidence = tuple(value for _, value in pairs)
        return Prediction(tuple(token for token, _ in pairs), confidence,
                          choose(confidence, forward.masked, self.threshold))
