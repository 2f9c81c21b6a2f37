"""Reuse policies: what stands in for the layers that do not run (docs/decoding.md).

A policy answers two questions. `plan(forward)`, before anything runs: is the forward skipped, and if
not, what happens in each layer that reuse names? `layer(index, hidden, store, forwards)`: what does a reused
layer return? Both answers are per row. A policy of your own is a Python file with a class `Policy`
that derives from one of these (docs/add_a_policy.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdllm.decode.revisions import Revision
from fastdllm.decode.step import Forward
from fastdllm.decode.store import Source, Store, changed, serves, slice_start
from fastdllm.decode.userfile import load
from fastdllm.settings import Reuse


@dataclass(frozen=True)
class ReusePlan:
    """What is to happen in one forward; rows with equal plans can share a batch."""

    decision: str                            # recompute, reuse, fallback, bypass, or "ask" (decided layer by layer)
    reason: str
    skip: bool = False                       # the whole forward is skipped
    columns: tuple[int, ...] | None = None   # reused layers compute these offsets of the forward

    def key(self) -> tuple[object, ...]:
        """Rows may run together if their keys are equal."""
        return self.decision, self.skip, None if self.columns is None else len(self.columns)


PLAIN = ReusePlan("bypass", "no policy")


class Original:
    """The layer itself, for a policy that wants it computed."""

    def whole(self, hidden: Tensor) -> Tensor:
        """The layer on hidden [R, w, hidden_size]; it writes the block cache."""
        raise NotImplementedError

    def part(self, hidden: Tensor, rows: list[int], columns: Tensor) -> Tensor:
        """The layer on some rows (indices) at some positions (offsets [len(rows), n]): [len(rows), n, hidden_size].

        Raises ValueError for a decoder whose layers can't (only our own network's can).
        """
        raise ValueError("policy: token and adaptive compute parts of a layer; allowed on this decoder: output, "
                         "residual")

    def aside(self, hidden: Tensor) -> Tensor:
        """As `whole`, but leaving no trace in the caches, where that is possible: for looking at what would have been.
        """
        return self.whole(hidden)


class OutputPolicy:
    """`output`: layer output := stored output. The log's layer reuse.

    Cost: a reused layer reads no weights and computes nothing. For contiguous layers the layers below
    still run in vain (notebook 06): `replay` gives the same tokens for nothing.
    """

    keeps_logits = False      # whether the executor is to store logits instead of layer outputs

    def __init__(self, reuse: Reuse, revision: Revision, layers: tuple[int, ...], slots: int, block: int):
        self.reuse, self.revision, self.layers = reuse, revision, layers
        self.store = Store(slots, block, in_place=reuse.full_forwards)

    def may_reuse(self, forward: Forward) -> bool:
        """The schedule: `step % k != 0`, counted over full and small forwards since the block began."""
        return forward.step is not None and forward.step % self.reuse.k != 0

    def plan(self, forward: Forward) -> ReusePlan:
        """Decide for one row's forward, from bookkeeping alone."""
        if forward.small_block is None:
            return ReusePlan("bypass", f"{forward.kind} forwards run without wrappers")
        if forward.kind == "full" and self.revision.on_full_block == "bypass":
            return ReusePlan("bypass", "wrappers are off in full forwards")
        if forward.kind == "full" and self.revision.on_full_block == "refresh" and not self.reuse.full_forwards:
            return ReusePlan("recompute", "a full forward refreshes")
        if not self.may_reuse(forward):
            return ReusePlan("recompute", "step % k == 0")
        source = self.store.source(self.layers[0], forward.slot)
        if source is None or (self.reuse.full_forwards and source.block != forward.block):
            return ReusePlan("recompute" if self.reuse.full_forwards else "fallback", "nothing stored")
        if not serves(source, forward):
            return ReusePlan("fallback", "slice out of range")
        return self.reuse_plan(source, forward)

    def reuse_plan(self, source: Source, forward: Forward) -> ReusePlan:
        """The plan of a forward that the schedule lets reuse and the store can serve."""
        return ReusePlan("reuse", "same width" if source.width == forward.width else "sliced at replace_position")

    def start(self, source: Source, forward: Forward) -> int:
        """Where the served part begins in the stored entry."""
        return slice_start(source, forward)

    def forget(self, slot: int) -> None:
        """A new row moves into a slot: nothing stored there is its own."""
        self.store.forget(slot)

    def starts(self, index: int, forwards: list[Forward]) -> list[int]:
        """`start` for each forward, from the entries of layer `index`."""
        return [self.start(self.store.sources[index, f.slot], f) for f in forwards]

    def stores(self, forward: Forward) -> bool:
        """Whether a recomputed output is kept (`cache_source="full"` keeps those of full forwards only)."""
        return self.revision.cache_source == "latest" or forward.kind == "full"

    def keep(self, index: int, forwards: list[Forward], hidden: Tensor, output: Tensor) -> None:
        """Store what a recomputed layer returned; hidden and output are [R, w, hidden]."""
        self.store.put(index, forwards, output)

    def layer(self, index: int, hidden: Tensor, store: Store, forwards: list[Forward]) -> Tensor:
        """What a reused layer returns for its input `hidden` [R, w, hidden]."""
        return store.get(index, forwards, self.starts(index, forwards))

    def run(self, index: int, hidden: Tensor, forwards: list[Forward], plan: ReusePlan,
            original: Original) -> tuple[Tensor, tuple[str, ...]]:
        """Carry out a plan in one layer: output [R, w, hidden] and the decision for each row."""
        if plan.decision == "reuse":
            if self.revision.run_skipped:
                original.whole(hidden)      # discarded: what remains is that it wrote the block cache
            return self.layer(index, hidden, self.store, forwards), ("reuse",) * len(forwards)
        output = original.whole(hidden)
        if plan.decision == "recompute" and self.stores(forwards[0]):
            self.keep(index, forwards, hidden, output)
        return output, (plan.decision,) * len(forwards)


class ResidualPolicy(OutputPolicy):
    """`residual`: layer output := input + stored (output - input).

    Sees new tokens through the input, so the subset matters. Cost of a reused layer: one addition.
    """

    def keep(self, index: int, forwards: list[Forward], hidden: Tensor, output: Tensor) -> None:
        self.store.put(index, forwards, output - hidden)

    def layer(self, index: int, hidden: Tensor, store: Store, forwards: list[Forward]) -> Tensor:
        return hidden + store.get(index, forwards, self.starts(index, forwards))


class TokenPolicy(OutputPolicy):
    """`token` (TRIM, token-level reuse minimisation): only positions whose token changed are computed.

    The other positions keep their stored output. Computed positions are written back, with their
    token, so that each is computed once per change. Cost: all of the layer's weights, but only the
    changed positions' FLOPs and activations: it pays where compute binds (large batches), not at batch 1.
    """

    def reuse_plan(self, source: Source, forward: Forward) -> ReusePlan:
        columns = changed(source, forward, self.start(source, forward))
        return ReusePlan("reuse", f"{len(columns)} changed positions computed", columns=columns)

    def run(self, index: int, hidden: Tensor, forwards: list[Forward], plan: ReusePlan,
            original: Original) -> tuple[Tensor, tuple[str, ...]]:
        if plan.decision != "reuse":
            return super().run(index, hidden, forwards, plan, original)
        starts = self.starts(index, forwards)
        columns = [changed(self.store.sources[index, f.slot], f, start)
                   for f, start in zip(forwards, starts, strict=True)]
        if columns[0]:     # equally many in every row, by the plan's key
            where = torch.tensor(columns, device=hidden.device)
            fresh = original.part(hidden, list(range(len(forwards))), where)
            for row, forward in enumerate(forwards):
                self.store.patch(index, forward, starts[row], columns[row], fresh[row])
        return self.store.get(index, forwards, starts), ("reuse",) * len(forwards)


class AdaptivePolicy(OutputPolicy):
    """`adaptive`: a layer is reused while its input resembles the input it was last computed from.

    Similarity is the mean cosine over positions against the last *computed* input, never a reused
    one, so that drift cannot hide. `Reuse.similarity` is the bound, k the longest time between forced
    recomputes. Cost of a reused layer: reading two inputs; each layer waits for the answer (one host
    synchronisation a layer).
    """

    def __init__(self, reuse: Reuse, revision: Revision, layers: tuple[int, ...], slots: int, block: int):
        super().__init__(reuse, revision, layers, slots, block)
        self.inputs = Store(slots, block, in_place=reuse.full_forwards)

    def forget(self, slot: int) -> None:
        super().forget(slot)
        self.inputs.forget(slot)

    def reuse_plan(self, source: Source, forward: Forward) -> ReusePlan:
        return ReusePlan("ask", "input similarity")

    def keep(self, index: int, forwards: list[Forward], hidden: Tensor, output: Tensor) -> None:
        super().keep(index, forwards, hidden, output)
        self.inputs.put(index, forwards, hidden)

    def run(self, index: int, hidden: Tensor, forwards: list[Forward], plan: ReusePlan,
            original: Original) -> tuple[Tensor, tuple[str, ...]]:
        if plan.decision != "ask":
            return super().run(index, hidden, forwards, plan, original)
        usable = [serves(self.store.source(index, f.slot), f) for f in forwards]
        if not all(usable):
            return super().run(index, hidden, forwards, ReusePlan("recompute", "slice out of range"), original)
        starts = self.starts(index, forwards)
        before = self.inputs.get(index, forwards, starts)
        similar = F.cosine_similarity(hidden.float(), before.float(), dim=-1).mean(1) >= self.reuse.similarity
        output = self.store.get(index, forwards, starts).clone()
        rows = [row for row, same in enumerate(similar.tolist()) if not same]
        if rows:
            every = torch.arange(hidden.shape[1], device=hidden.device).expand(len(rows), -1)
            fresh = (original.whole(hidden) if len(rows) == len(forwards)
                     else original.part(hidden, rows, every))
            output[rows] = fresh
            self.keep(index, [forwards[row] for row in rows], hidden[rows], fresh)
        return output, tuple("recompute" if row in rows else "reuse" for row in range(len(forwards)))


class ReplayPolicy(OutputPolicy):
    """`replay`: the forward is skipped altogether and the last logits are sampled again.

    The free equivalent of `output` on contiguous layers: the same tokens, no bytes and no FLOPs.
    What is stored are logits, by position of the block; the layers named only set the schedule's
    bookkeeping. No layer is touched.
    """

    keeps_logits = True

    def keep(self, index: int, forwards: list[Forward], hidden: Tensor, output: Tensor) -> None:
        """Only books which forward the stored logits are from; the executor stores them."""
        for forward in forwards:
            self.store.note(index, forward)

    def reuse_plan(self, source: Source, forward: Forward) -> ReusePlan:
        return ReusePlan("reuse", "the last logits are sampled again", skip=True)


BUILT_IN: dict[str, type[OutputPolicy]] = {
    "output": OutputPolicy,
    "residual": ResidualPolicy,
    "token": TokenPolicy,
    "adaptive": AdaptivePolicy,
    "replay": ReplayPolicy,
}


def policy_class(name: str) -> type[OutputPolicy]:
    """A built-in policy, or the class `Policy` of a Python file that the user named.

    Naming a file runs it: this happens only for the path given in `Reuse.policy`, never for one found
    in a results folder. Raises ValueError if the file or the class is missing.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module = load(name, f"Reuse.policy={name!r}", f"{', '.join(BUILT_IN)}, or a Python file")
    policy = vars(module).get("Policy")
    if not (isinstance(policy, type) and issubclass(policy, OutputPolicy)):
        raise ValueError(f"Reuse.policy={name!r}: no class Policy(OutputPolicy) in it; see docs/add_a_policy.md")
    return policy
