"""Forwards of rows that do different things at a time run in one network call, and no row can tell."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import bench_ticks
from fastdllm import Decoding, Execution, Reuse
from fastdllm.decode.fast import Fast
from fastdllm.decode.generate import build
from fastdllm.decode.plain import Plain
from fastdllm.decode.policies import OutputPolicy, ResidualPolicy, ReusePlan
from fastdllm.decode.store import serves
from fastdllm.decode.ticks import Part, Tick
from fastdllm.model.graphs import SLOW, rounded

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


class Overlapping(Fast):
    """What a GPU is: `launch` may return before the end, and so the batch goes in halves."""

    overlaps = True


def decode(lm, reuse, policy_class, seed, batch, executor="fast", packed=False, halves_from=None):
    """What each row did (steps, tokens, forwards, decisions), and the engine."""
    ids, reuse = prompts(seed), reuse.model_copy(update={"full_forwards": policy_class is not None})
    engine, _ = build(lm, ids, DECODING, reuse, "fixed", Execution(batch_size=batch, executor=executor), None)
    if policy_class is not None:
        policy = policy_class(reuse, engine.rules.revision, engine.policy.layers, batch, engine.rules.block)
        policy.seed, engine.policy, engine.executor.policy = seed, policy, policy
        engine.turn = Plain(engine.executor, policy)
    if halves_from is not None:
        fast = engine.executor
        overlapping = Overlapping(lm.network, batch, fast.cache.positions, DECODING, engine.policy)
        engine.turn = Plain(overlapping, engine.policy, halves_from)
    if packed:
        engine.executor.packed = True
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
    (1, "1", AtRandom), (2, "1-2", ResidualAtRandom), (3, "2-3", AtRandom), (4, "0,2-3", AtRandom),
    (5, "0,2-3", ResidualAtRandom), (6, "0-3", ResidualAtRandom)])
def test_a_row_does_what_it_does_alone_whatever_the_others_do(shallow, policy_class, seed, layers):
    """Tokens, forwards, decisions, and for each layer how many tokens it ran on: those of the rows that run it."""
    reuse = Reuse(k=2, layers=layers)
    alone, ran_alone, _ = decode(shallow, reuse, policy_class, seed, 1)
    for batch in (3, len(LENGTHS)):
        together, ran, _ = decode(shallow, reuse, policy_class, seed, batch)
        assert together == alone
        assert ran == ran_alone
    assert all(sum(row[3][decision] for row in alone.values()) > 0 for decision in ("reuse", "recompute", "fallback"))
    assert len(set(ran_alone.values())) == 1 + (layers != "0-3")


@pytest.mark.parametrize(("seed", "layers", "policy_class", "halves_from"), [
    (1, "1", AtRandom, None), (5, "0,2-3", ResidualAtRandom, 2), (6, "0-3", ResidualAtRandom, 4),
    (7, "1-2", None, None), (8, "1-2", None, 2), (9, "1-2", AtRandom, 64)])
def test_a_packed_tick_gives_each_row_what_it_gets_alone(shallow, seed, layers, policy_class, halves_from):
    """Prompts, full, small and commit forwards, with and without reuse, in one launch; all at a time, or by halves."""
    reuse = Reuse(k=2, layers=layers) if policy_class else Reuse()
    alone, ran_alone, engine = decode(shallow, reuse, policy_class, seed, 1)
    calls = engine.executor.graphs.synchronisations
    together, ran, engine = decode(shallow, reuse, policy_class, seed, 5, packed=True, halves_from=halves_from)
    assert together == alone
    assert ran == ran_alone      # no token runs that need not run
    assert engine.executor.graphs.synchronisations < calls * (0.8 if halves_from in (2, 4) else 0.4)


@pytest.mark.parametrize(("small_block", "reuse"), [
    (4, Reuse(k=2, layers="1-2")), (16, Reuse(k=3, layers="2-3", policy="replay")), (32, Reuse()),
    (16, Reuse(k=2, layers="1", policy="residual", full_forwards=True))])
def test_a_packed_tick_of_small_blocks_of_every_size(shallow, small_block, reuse):
    ids, decoding = prompts(8), DECODING.model_copy(update={"small_block": small_block})
    outcomes = []
    for packed, batch in ((False, 1), (True, 4)):
        engine, _ = build(shallow, ids, decoding, reuse, "fixed", Execution(batch_size=batch, executor="fast"), None)
        engine.executor.packed = packed
        list(engine.steps(iter(enumerate(ids))))
        outcomes.append({row.index: (row.generated, row.nfe, row.decisions) for row in engine.finished})
    assert outcomes[0] == outcomes[1]


def test_rows_that_are_dropped_under_way_take_in_nothing(shallow):
    """`abandon` while a half is on its way: its rows stay as they were, and the slots serve the next prompts."""
    ids = prompts(9)
    engine, _ = build(shallow, ids, DECODING, Reuse(), "fixed", Execution(batch_size=6, executor="fast"), None)
    want = {tuple(row.generated) for row in drained(engine, ids)}
    engine.turn = Plain(Overlapping(shallow.network, 6, engine.executor.cache.positions, DECODING, None), None, 2)
    steps = engine.steps(iter(enumerate(ids)))
    dropped = [next(steps).row for _ in range(4)]
    rows = [row for row in engine.slots if row is not None]
    engine.abandon()
    steps.close()
    before = [(row.forwards, list(row.block)) for row in rows]
    assert dropped and {tuple(row.generated) for row in drained(engine, ids)} == want
    assert [(row.forwards, list(row.block)) for row in rows] == before


@pytest.mark.parametrize(("batch", "halves_from"), [(3, 64), (4, 2), (1, 64)])
def test_steps_are_told_of_while_the_device_runs_the_next(shallow, batch, halves_from):
    """Each once, in its row's order, with another launch begun before, and only what has landed."""
    ids, events = prompts(10), []
    engine, _ = build(shallow, ids, DECODING, Reuse(), "fixed", Execution(batch_size=batch, executor="fast"), None)
    want = {row.index: row.forwards for row in drained(engine, ids)}
    executor = Overlapping(shallow.network, batch, engine.executor.cache.positions, DECODING, None)
    launch = executor.launch

    def watched(forwards, plans):
        landing = launch(forwards, plans)
        events.extend(("launched", forward.row, forward.index) for forward in forwards)

        def land():
            events.extend(("landed", forward.row, forward.index) for forward in forwards)
            return landing()
        return land
    executor.launch, engine.turn = watched, Plain(executor, None, halves_from)
    engine.finished.clear()
    count, busy = dict.fromkeys(range(len(ids)), 0), []
    for step in engine.steps(iter(enumerate(ids))):
        assert ("landed", step.row, count[step.row]) in events
        count[step.row] += 1
        names = [name for name, *_ in events]
        busy.append(names.count("launched") > names.count("landed"))
    assert count == want == {row.index: row.forwards for row in engine.finished}
    assert sum(busy) > 0.8 * len(busy)


def drained(engine, ids):
    """All rows of an engine, decoded to their ends."""
    engine.finished.clear()
    list(engine.steps(iter(enumerate(ids))))
    return engine.finished


@pytest.mark.parametrize(("small", "seed"), [(4, 1), (8, 2), (8, 3), (16, 4)])
def test_the_data_of_a_tick_say_for_each_row_and_reader_what_it_is(small, seed):
    """Tokens and place of each row in the order of the parts, idle rows where they are filled in, readers on top."""
    draw, idle = random.Random(seed), (9, 0, small, 99)

    def part(index):
        width = draw.choice((small, 32))
        read = draw.choice(((), (width - 1,), tuple(range(small))))
        return Part(index, draw.randrange(8), draw.randrange(0, 96, 8), 128, tuple(draw.choices(range(500), k=width)),
                    draw.randrange(64), False, read, tuple(draw.random() < 0.5 for _ in read))
    before, after = [part(index) for index in range(5)], [part(index) for index in range(5, 12)]
    tick = Tick(small, small, idle)
    tick.add(before)
    gap = tick.rows
    tick.fill(gap + 3)
    tick.add(after)
    end = tick.rows
    tick.fill(end + 2)
    data, row, readers = tick.data(), 0, []
    assert data.shape == (end + 2, 3 * small + 4) and len(tick.readings) == tick.readers
    for each in before + after:
        if row == gap:
            assert all(tuple(fields) == idle for fields in data[gap:gap + 3, -4:])
            row += 3
        if each.read:
            readers.append((each.index, [row * small + offset for offset in each.read], list(each.masked)))
        for begin in range(0, len(each.tokens), small):
            assert tuple(data[row, :small]) == each.tokens[begin:begin + small]
            assert tuple(data[row, -4:]) == (each.slot, each.start + begin, each.end, each.entry + begin)
            row += 1
    assert row == end and all(tuple(fields) == idle for fields in data[end:, -4:])
    assert tick.readings == [(index, number) for number, (index, *_) in enumerate(readers)]
    for (_, where, masked), said in zip(readers, data.tolist(), strict=False):
        assert said[small:small + len(where)] == where
        assert said[2 * small:3 * small] == [*masked, *[0] * (small - len(masked))]
    assert not data[len(readers):, small:3 * small].any()


def test_sizes_that_are_captured():
    """Few enough to capture, and little idle work."""
    sizes = [rounded(rows) for rows in range(1, 513)]
    assert all(0 <= size - rows <= min(7, rows / 16) for rows, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 150 and not SLOW & set(sizes)


def test_slow_sizes_are_those_that_were_measured():
    [file] = Path(bench_ticks.__file__).parent.glob("results/h100_ticks_*.json")
    measured = {int(rows): took for rows, took in json.loads(file.read_text())["milliseconds"].items()}
    assert list(measured) == bench_ticks.sizes()
    assert set(bench_ticks.slow(measured)) == SLOW
    assert bench_ticks.slow({60: 2.0, 61: 1.0, 80: 1.5, 90: 1.0}) == [60]      # 90 is out of the reach of 80


def test_the_reference_agrees(shallow):
    reuse = Reuse(k=2, layers="1-2")
    assert decode(shallow, reuse, AtRandom, 7, 4)[0] == decode(shallow, reuse, AtRandom, 7, 4, "eager")[0]


@pytest.mark.parametrize("reuse", [Reuse(k=2, layers="1-2"), Reuse(k=3, layers="2-3", policy="residual"),
                                   Reuse(k=3, layers="1-2", policy="replay")], ids=lambda reuse: reuse.policy)
def test_with_a_policy_as_without_one_a_tick_is_a_call_for_each_width(shallow, reuse):
    """Whole blocks (prefill, full, commit) in one, small blocks in another, those that reuse and those that do not."""
    for given in (Reuse(), reuse):
        _, _, engine = decode(shallow, given, None, 1, len(LENGTHS))
        ticks = max(row.forwards for row in engine.finished)
        assert engine.executor.graphs.synchronisations <= 2 * ticks
