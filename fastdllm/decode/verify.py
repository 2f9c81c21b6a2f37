"""Policy `verify`: drafted states run beside the real one, and those that k=1 would have come to are kept.

A draft is right if the row, having taken in what the forward before it predicted, asks for exactly the drafted one:
then what that predicted in the same pass is its answer, and the drafts behind it are looked at. Where none is right all
that are left are dropped. Tokens, stop and NFE are those of k=1; what is saved are passes through the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fastdllm.decode.drafts import Draft, Drafter, Memory, OldLogits, choose, tree
from fastdllm.decode.pack_executor import PackExecutor
from fastdllm.decode.packs import Pack, Reading, State
from fastdllm.decode.row import Row
from fastdllm.decode.rules import Rules
from fastdllm.decode.step import Forward, Prediction, Step

PASS_TOKENS = 64        # of all rows together, real and drafted: up to here a pass costs about what its weights cost


def drafts_fit(slots: int, small: int) -> bool:
    """Whether a batch of so many rows leaves each room for a draft; those that do not are decoded as k=1 decodes."""
    return PASS_TOKENS // slots >= 2 * small


@dataclass
class Verified:
    """What verification keeps of a row while it lives."""

    row: Row
    area: int = 0                                          # where the open block's keys lie
    memory: Memory = field(default_factory=Memory)


class Verify:
    """The engine's tick under policy `verify`. `drafter` may be replaced: no guess can change a token."""

    def __init__(self, rules: Rules, depth: int, executor: PackExecutor, drafter: Drafter | None = None):
        self.rules, self.depth, self.executor = rules, depth, executor
        self.drafter: Drafter = drafter or OldLogits(rules.threshold)
        self.live: dict[int, Verified] = {}                # by slot

    def tick(self, rows: list[Row]) -> Iterator[Step]:
        """One pass for all rows: a step for the real state of each, and for every draft that was right."""
        kept, share = [self._kept(row) for row in rows], PASS_TOKENS // len(rows)
        trees = [tree(row, self.drafter, each.memory, self.depth, share)
                 for row, each in zip(rows, kept, strict=True)]
        packs = [self._pack(each, drafts) for each, drafts in zip(kept, trees, strict=True)]
        for each, drafts, pack, read in zip(kept, trees, packs, self.executor.run(packs), strict=True):
            yield from self._accept(each, drafts, pack, read)

    def rest(self) -> Iterator[Step]:
        """All is told of where it is done."""
        return iter(())

    def _kept(self, row: Row) -> Verified:
        each = self.live.get(row.slot)
        if each is None or each.row is not row:
            each = self.live[row.slot] = Verified(row)
        return each

    def _pack(self, each: Verified, drafts: list[Draft]) -> Pack:
        """Lay out a tree: no two states share an area, and a small forward looks at that of the last full one."""
        states, homes = list[State](), list[int]()      # where the keys lie that a state leaves to those behind it
        for index, draft in enumerate(drafts):
            forward, area = draft.forward, (each.area + index) % (self.depth + 1)
            home = homes[draft.parent] if index else each.area
            states.append(State(forward, area, home, offsets_read(forward)))
            homes.append(area if forward.kind == "full" else home)
        return Pack(each.row.slot, tuple(states))

    def _accept(self, each: Verified, drafts: list[Draft], pack: Pack, readings: list[Reading]) -> Iterator[Step]:
        """Take in the real state's prediction, then that of the draft behind it which is right, until none is."""
        row = each.row
        row.forwards_run += 1
        for draft in drafts[1:]:
            row.count_draft(draft.depth, draft_kind(drafts[draft.parent].forward, draft.forward), offered=1)
        at: int | None = 0
        while at is not None:
            draft, forward = drafts[at], drafts[at].forward
            if at:
                row.count_draft(draft.depth, draft_kind(drafts[draft.parent].forward, forward), accepted=1)
            predicted = prediction(forward, readings[at], self.rules.threshold)
            if any(value != value for value in predicted.confidence):
                raise self.executor.not_finite(row.slot, pack.states[at])
            step = row.apply(forward, predicted)
            each.memory.update(forward, readings[at])
            if forward.kind == "full":
                each.area = pack.states[at].area
            behind = [index for index, other in enumerate(drafts) if index and other.parent == at]
            after = None if row.finish else row.next()
            at = next((index for index in behind if drafts[index].forward == after), None)
            rejected = wrong(drafts[behind[0]].forward, step, after) if behind and at is None else ()
            yield step._replace(draft=draft.depth, rejected=rejected) if draft.depth or rejected else step


def offsets_read(forward: Forward) -> tuple[int, ...]:
    """What is predicted of a forward: of a prefill the last token, of others everything."""
    return (forward.width - 1,) if forward.kind == "prefill" else tuple(range(forward.width))


def prediction(forward: Forward, reading: Reading, threshold: float) -> Prediction:
    """What a forward predicts at its `read`, and what the rule unmasks of it."""
    pairs = [reading.at(offset) for offset in forward.read]
    tokens, confidence = tuple(token for token, _ in pairs), tuple(value for _, value in pairs)
    return Prediction(tokens, confidence, choose(confidence, forward.masked, threshold) if forward.masked else ())


def draft_kind(before: Forward, forward: Forward) -> str:
    """What a draft leaps over: nothing (`small`), or what lies between it and the forward before it."""
    if before.kind == "prefill":
        return "first block"
    if forward.block != before.block:
        return "next block"
    if forward.kind == "small":
        return "small" if before.kind == "small" else "small behind full"
    return forward.kind


def wrong(draft: Forward, step: Step, after: Forward | None) -> tuple[tuple[int, int], ...]:
    """Offsets from the step's block, and tokens, of a rejected draft that are not what the row came to.

    Offsets beyond the block are of the next one, where `after`, the forward that the row then needed, lies there too.
    """
    true = dict(enumerate(step.tokens, step.start))
    if after is not None:
        true.update(enumerate(after.tokens, after.start))
    return tuple((position - step.start, token) for position, token in enumerate(draft.tokens, draft.start)
                 if true.get(position, token) != token)
