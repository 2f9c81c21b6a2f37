"""Policy `verify`: drafted states run beside the real one, and those that k=1 would have come to are kept.

A draft is right if the row, having taken in what the real forward predicted, asks for exactly the drafted forward:
then what that forward predicted in the same pass is its answer, and the next draft is looked at. From the first one
that is wrong on all are dropped. Tokens, stop and NFE are those of k=1; what is saved are passes through the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fastdllm.decode.drafts import Drafter, Memory, OldLogits, chain, choose
from fastdllm.decode.pack_executor import PackExecutor
from fastdllm.decode.packs import Pack, Reading, State
from fastdllm.decode.row import Row
from fastdllm.decode.rules import Rules
from fastdllm.decode.step import Forward, Prediction, Step

PASS_TOKENS = 64        # of all rows together, real and drafted: up to here a pass costs about what its weights cost


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
        self.drafter: Drafter = drafter or OldLogits(rules.threshold, rules.mask_id)
        self.live: dict[int, Verified] = {}                # by slot

    def tick(self, rows: list[Row]) -> Iterator[Step]:
        """One pass for all rows: a step for the real state of each, and for every draft that was right."""
        kept, share = [self._kept(row) for row in rows], PASS_TOKENS // len(rows)
        drafting = share >= 2 * self.rules.small      # else nothing fits, and only what the rule looks at is read
        chains = [chain(row, self.drafter, each.memory, self.depth, share) if drafting else [row.next()]
                  for row, each in zip(rows, kept, strict=True)]
        packs = [self._pack(each, forwards, drafting) for each, forwards in zip(kept, chains, strict=True)]
        for each, pack, read in zip(kept, packs, self.executor.run(packs), strict=True):
            yield from self._accept(each, pack, read)

    def _kept(self, row: Row) -> Verified:
        each = self.live.get(row.slot)
        if each is None or each.row is not row:
            each = self.live[row.slot] = Verified(row)
        return each

    def _pack(self, each: Verified, forwards: list[Forward], everything: bool) -> Pack:
        """Lay out a chain: no two states share an area, and a small forward looks at that of the last full one."""
        states, home = [], each.area
        for depth, forward in enumerate(forwards):
            area = (each.area + depth) % (self.depth + 1)
            states.append(State(forward, area, home, offsets_read(forward, everything)))
            if forward.kind == "full":
                home = area
        return Pack(each.row.slot, tuple(states))

    def _accept(self, each: Verified, pack: Pack, readings: list[Reading]) -> Iterator[Step]:
        """Take in the real state's prediction, then those of the drafts up to the first wrong one."""
        row, forwards = each.row, [state.forward for state in pack.states]
        row.forwards_run += 1
        for depth, forward in enumerate(forwards[1:], 1):
            row.count_draft(depth, draft_kind(forwards[depth - 1], forward), offered=1)
        for depth, (forward, reading) in enumerate(zip(forwards, readings, strict=True)):
            if depth:
                row.count_draft(depth, draft_kind(forwards[depth - 1], forward), accepted=1)
            predicted = prediction(forward, reading, self.rules.threshold)
            if any(value != value for value in predicted.confidence):
                raise self.executor.not_finite(row.slot, pack.states[depth])
            step = row.apply(forward, predicted)
            each.memory.update(forward, reading)
            if forward.kind == "full":
                each.area = pack.states[depth].area
            drafted = forwards[depth + 1] if depth + 1 < len(forwards) else None
            right = drafted is not None and not row.finish and row.next() == drafted
            rejected = () if right or drafted is None else guessed(drafted, step)
            yield replace(step, draft=depth, rejected=rejected) if depth or rejected else step
            if not right:
                return


def offsets_read(forward: Forward, everything: bool) -> tuple[int, ...]:
    """What is predicted of a forward: of a prefill the last token, of others what the rule looks at, or everything."""
    if forward.kind == "prefill":
        return (forward.width - 1,)
    return tuple(range(forward.width)) if everything else forward.read


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


def guessed(draft: Forward, step: Step) -> tuple[tuple[int, int], ...]:
    """Positions of the block and tokens of a rejected draft that are not what the step came to."""
    begin = draft.start - step.start
    return tuple((begin + i, token) for i, token in enumerate(draft.tokens)
                 if 0 <= begin + i < len(step.tokens) and step.tokens[begin + i] != token)
