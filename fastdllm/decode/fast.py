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
        """Forwards with equal keys can run together: with no policy whole blocks of all kinds do."""
        if self.policy is not None or (forward.kind == "prefill" and self.graphs.captures):
            return group(forward, plan)
        return (min(forward.width, self.width),)

    def run(self, forwards: list[Forward], plans: list[ReusePlan]) -> list[Prediction]:
        """One prediction per forward. Raises NonFiniteLogits, and RuntimeError where hooks came after the start."""
        first, plan = forwards[0], plans[0]
        no_hooks(self.network)
        if plan.skip:
            return [self._replay(forward) for forward in forwards]
        if self.policy is None or first.small_block is None:
            return self._plain(forwards)
        policy, entries = self.policy, [0] * len(forwards)
        skipped: tuple[Run, ...] = ()
        keep: tuple[Run, ...] = ()
        if plan.decision == "reuse":
            skipped, entries = self.runs, policy.starts(policy.layers[0], forwards)
        elif policy.keeps_logits or (plan.decision == "recompute" and policy.stores(first)):
            keep = () if policy.keeps_logits else self.runs
            entries = [self._note(policy, forward) for forward in forwards]
        decisions = (plan.decision,) * len(policy.layers)
        # A replayed small forward reads in the small block of the forward before it, a replayed full one anywhere.
        everything = policy.keeps_logits and policy.reuse.full_forwards
        shape = Shape(self.graphs.bucket(len(forwards)), first.width, len(first.read), skipped, keep,
                      isinstance(policy, ResidualPolicy) and bool(skipped or keep), everything)
        packed = self.graphs.run(shape, [self._row(forward, entry)
                                         for forward, entry in zip(forwards, entries, strict=True)])
        if policy.keeps_logits:
            for row, forward in enumerate(forwards):
                held = self.predicted.setdefault(forward.slot, [(0.0, 0.0)] * self.block)
                for i, at in enumerate((*forward.read, *range(forward.width if everything else 0))):
                    held[(forward.replace_position or 0) + at] = packed[0][row][i], packed[1][row][i]
        return [self._prediction(forwards, row, packed, shape.read, decisions) for row in range(len(forwards))]

    def _row(self, forward: Forward, entry: int) -> list[int]:
        masked = forward.masked or (True,) * len(forward.read)
        return [*forward.tokens, *forward.read, *masked, forward.slot, forward.start, forward.end, entry]

    def _prediction(self, forwards: list[Forward], row: int, packed: list[list[list[float]]],
                    read: int, decisions: tuple[str, ...] = ()) -> Prediction:
        tokens, confidence, unmask = (part[row][:read] for part in packed)
        if any(value != value for value in confidence):
            raise NonFiniteLogits(self.eager.diagnose(forwards[row], self.graphs.ops.plain_cache()))
        return Prediction(tuple(map(int, tokens)), tuple(confidence), tuple(map(bool, unmask)), decisions)

    def _note(self, policy: OutputPolicy, forward: Forward) -> int:
        """Book a stored output for all layers of the policy; where in the slot's entry it goes."""
        start = 0
        for layer in policy.layers:
            start = policy.store.note(layer, forward)
        return start

    def _plain(self, forwards: list[Forward]) -> list[Prediction]:
        """Every layer runs. Of a prefill, each block is a row of its own, attending to what stands before its end."""
        width, read = min(forwards[0].width, self.width), max(len(forward.read) for forward in forwards)
        rows, last = [], []
        for forward in forwards:
            for begin in range(0, forward.width, width):
                start, spare = forward.start + begin, [0] * (read - len(forward.read))
                offsets, masked = [0] * read, [0] * read
                if begin + width == forward.width:
                    offsets = [*(offset - begin for offset in forward.read), *spare]
                    masked = [*(forward.masked or (1,) * len(forward.read)), *spare]
                rows.append([*forward.tokens[begin:begin + width], *offsets, *masked, forward.slot, start,
                             forward.end if forward.kind == "small" else start + width, 0])
            last.append(len(rows) - 1)
        shape = Shape(self.graphs.bucket(len(rows)), width, read, shared=len(rows) > len(forwards))
        packed = self.graphs.run(shape, rows)
        packed = [[part[i] for i in last] for part in packed]
        return [self._prediction(forwards, row, packed, len(forward.read)) for row, forward in enumerate(forwards)]

    def _replay(self, forward: Forward) -> Prediction:
        """Sample the last predictions again; no device is involved."""
        offset = forward.replace_position or 0
        pairs = [self.predicted[forward.slot][offset + i] for i in forward.read]
        confidence = tuple(value for _, value in pairs)
        return Prediction(tuple(int(token) for token, _ in pairs), confidence,
                          choose(confidence, forward.masked, self.threshold))
