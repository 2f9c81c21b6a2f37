"""Forwards of rows that do different things at a time run in one network call, and no row can tell."""

import random
from collections import Counter

import pytest

from fastdllm import Decoding, Execution, Reuse
from fastdllm.decode.fast import Fast
from fastdllm.decode.generate import build
from fastdllm.decode.loop import Plain
from fastdllm.decode.policies import OutputPolicy, ResidualPolicy, ReusePlan
from fastdllm.decode.store import serves

DECODING = Decoding(threshold=0.6, max_new_tokens=40, stop_ids=(510,), mask_id=511)
LENGTHS = (5, 64, 40, 33, 12, 70)


class AtRandom(OutputPolicy):
    """Each row decides by a draw of its own, in full forwards too: the same draw alone and in a batch."""

    seed = 0

    def plan(self, forward):
        choice = random.Random(f"{self.seed} {forward.row} {forward.index}").choice(
            ("reuse", "reuse", "recompute", "fallback", "bypass"))
        source = self.store.source(self.layers[0], forward.slot)
        fresh = source is not None and source.block == forward.block and serves(source, forward)
        return ReusePlan("recompute" if choice == "reuse" and not fresh else choice, "at random")


class ResidualAtRandom(AtRandom, ResidualPolicy):
    """The same draws; what is stored is what a layer adds."""


def prompts(seed):
    draw = random.Random(seed)
    return [[draw.randrange(500) for _ in range(length)] for length in LENGTHS]


def decode(lm, reuse, policy_class, seed, batch, executor="fast"):
    """What each row did (steps, tokens, forwards, decisions), and the engine."""
    ids, reuse = prompts(seed), reuse.model_copy(update={"full_forwards": policy_class is not None})
    engine, _ = build(lm, ids, DECODING, reuse, "fixed", Execution(batch_size=batch, executor=executor), None)
    if policy_class is not None:
        policy = policy_class(reuse, engine.rules.revision, engine.policy.layers, batch, engine.rules.block)
        policy.seed, engine.policy, engine.executor.policy = seed, policy, policy
        engine.turn = Plain(engine.executor, policy)
    ran = Counter()
    if isinstance(engine.executor, Fast):
        ops = engine.executor.graphs.ops
        layer_range = ops.layer_range

        def counted(first, last, hidden, positions, wanted=None):
            ran.update(dict.fromkeys(range(first, last + 1), hidden.shape[0]))
            return layer_range(first, last, hidden, positions, wanted)
        ops.layer_range = counted
    steps = {row: [] for row in range(len(ids))}
    for step in engine.steps(iter(enumerate(ids))):
        steps[step.row].append((step.kind, step.block, step.tokens, step.unmasked))
    rows = {row.index: (steps[row.index], row.generated, row.nfe, row.decisions) for row in engine.finished}
    return rows, ran, engine


@pytest.mark.parametrize(("seed", "layers", "policy_class"), [
    (1, "first", AtRandom), (2, "middle", ResidualAtRandom), (3, "last", AtRandom), (4, "0,3-5,27", AtRandom),
    (5, "0,3-5,27", ResidualAtRandom), (6, "0-27", ResidualAtRandom)])
def test_a_row_does_what_it_does_alone_whatever_the_others_do(golden, policy_class, seed, layers):
    """Tokens, forwards, decisions, and for each layer how many tokens it ran on: those of the rows that run it."""
    reuse = Reuse(k=2, layers=layers)
    alone, ran_alone, _ = decode(golden, reuse, policy_class, seed, 1)
    for batch in (3, len(LENGTHS)):
        together, ran, _ = decode(golden, reuse, policy_class, seed, batch)
        assert together == alone
        assert ran == ran_alone
    assert all(sum(row[3][decision] for row in alone.values()) > 0 for decision in ("reuse", "recompute", "fallback"))
    assert len(set(ran_alone.values())) == 1 + (layers != "0-27")


def test_the_reference_agrees(golden):
    reuse = Reuse(k=2, layers="middle")
    assert decode(golden, reuse, AtRandom, 7, 4)[0] == decode(golden, reuse, AtRandom, 7, 4, "eager")[0]


@pytest.mark.parametrize("reuse", [Reuse(k=2, layers="middle"), Reuse(k=3, layers="last", policy="residual"),
                                   Reuse(k=3, layers="middle", policy="replay")], ids=lambda reuse: reuse.policy)
def test_with_a_policy_as_without_one_a_tick_is_a_call_for_each_width(golden, reuse):
    """Whole blocks (prefill, full, commit) in one, small blocks in another, those that reuse and those that do not."""
    for given in (Reuse(), reuse):
        _, _, engine = decode(golden, given, None, 1, len(LENGTHS))
        ticks = max(row.forwards for row in engine.finished)
        assert engine.executor.graphs.synchronisations <= 2 * ticks
