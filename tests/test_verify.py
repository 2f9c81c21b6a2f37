"""Policy `verify` is k=1: tokens, stop, NFE and caches, whatever is drafted. What it saves are passes."""

from itertools import groupby, pairwise
from pathlib import Path

import golden_support
import pytest
import torch
from golden_support import DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab_support import checkpoint, params

import fastdllm
from fastdllm import Decoding, Execution, Reuse, tasks
from fastdllm.decode.drafts import Memory, OldLogits, chain, tree
from fastdllm.decode.generate import build
from fastdllm.decode.pack_executor import Together
from fastdllm.decode.plain import Plain
from fastdllm.decode.revisions import REVISIONS
from fastdllm.decode.step import Prediction
from fastdllm.decode.verify import PASS_TOKENS, Verify, drafts_fit
from fastdllm.lab import records
from fastdllm.lab.config import grid_file
from fastdllm.lab.config.computation import repeated
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.evaluation import evaluate
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.ui.conversation import Conversation
from tools import verify_figure

CASES = golden_support.covering([case for case in DATA["cases"] if case["k"] == 1], "variant", "small_block_size",
                                "stop_token", together=("prompt",))
EXECUTORS = ("eager", "fast")


def verify(k):
    return Reuse(k=k, policy="verify")


def decode(lm, prompts, decoding, reuse=Reuse(), executor="fast", revision="fixed", batch=None, drafter=None):
    """The engine after decoding, and the steps of each row without what only `verify` notes in them."""
    engine, ids = build(lm, prompts, decoding, reuse, revision, Execution(executor=executor, batch_size=batch), None)
    if drafter is not None:
        engine.turn.drafter = drafter
    steps = sorted(engine.steps(iter(enumerate(ids))), key=lambda step: step.row)
    engine.finished.sort(key=lambda row: row.index)
    return engine, steps


def course(engine, steps):
    """What must be that of k=1: every state of every row, its output, and how it ended."""
    return ([(s.row, s.block, s.small_block, s.step, s.kind, s.tokens, s.unmasked, s.nfe) for s in steps],
            [(row.generated, row.finish, row.nfe) for row in engine.finished])


def both(lm, prompts, decoding, k, drafter=None, **how):
    """The courses of `verify` and of k=1, every step and every output, and the engine of `verify`."""
    engine, steps = decode(lm, prompts, decoding, verify(k), drafter=drafter, **how)
    return course(engine, steps), course(*decode(lm, prompts, decoding, **how)), engine


def counts(engine):
    """Offered and accepted drafts, passes and NFE, over all rows."""
    drafts = [draft for row in engine.finished for draft in row.result("").drafts]
    return (sum(draft.offered for draft in drafts), sum(draft.accepted for draft in drafts),
            sum(row.forwards_run for row in engine.finished), sum(sum(row.nfe.values()) for row in engine.finished))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_cases(golden, case):
    own, plain, _ = both(golden, golden_support.rows(case), golden_support.decoding(case), 3,
                 revision=golden_support.VARIANTS[case["variant"]])
    assert own == plain


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_revision(shallow, golden_prompts, revision):
    """Its k=1, with its own rule of stopping and with the exact one."""
    decoding = Decoding(threshold=0.2, max_new_tokens=40, mask_id=511, stop_ids=(155,))
    for name in (revision, f"{revision}+termination=exact"):
        own, plain, _ = both(shallow, [golden_prompts["p33"], golden_prompts["p64"]], decoding, 4, revision=name)
        assert own == plain


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 75), min_size=1, max_size=3), k=st.integers(2, 6), batch=st.integers(1, 3),
       threshold=st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.75, 0.9, 1.0]), small=st.sampled_from([4, 8, 16, 32]),
       block_cache=st.booleans(), executor=st.sampled_from(EXECUTORS), tokens=st.integers(1, 50), data=st.data())
def test_any_prompts_and_settings(shallow, lengths, k, batch, threshold, small, block_cache, executor, tokens, data):
    prompts = [data.draw(st.lists(st.integers(0, 500), min_size=length, max_size=length)) for length in lengths]
    decoding = Decoding(threshold=threshold, small_block=small, block_cache=block_cache, max_new_tokens=tokens,
                        mask_id=511, stop_ids=(155, 224))
    own, plain, _ = both(shallow, prompts, decoding, k, batch=batch, executor=executor)
    assert own == plain


@pytest.fixture(scope="module")
def questions():
    return [problem.prompt for problem in tasks.get("arithmetic").problems(5, None)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_a_trained_checkpoint_and_every_threshold(tiny, questions, threshold):
    """There drafts are often right: passes are saved at every threshold."""
    decoding = Decoding(threshold=threshold, max_new_tokens=64)
    own, plain, engine = both(tiny, questions[:3], decoding, 3, batch=1)
    assert own == plain
    offered, accepted, passes, nfe = counts(engine)
    assert 0 < accepted <= offered and passes == nfe - accepted
    assert {draft.kind for row in engine.finished for draft in row.result("").drafts} >= {"full", "small behind full"}


@pytest.mark.parametrize("batch", [2, 4, 5])
def test_batches(tiny, questions, batch):
    """Up to four rows draft, packs of unlike width in one pass; five are decoded by what decodes k=1."""
    own, plain, engine = both(tiny, questions, Decoding(threshold=0.9, max_new_tokens=48), 3, batch=batch)
    assert own == plain
    offered, accepted, passes, nfe = counts(engine)
    if batch < 5:
        assert isinstance(engine.turn, Verify) and 0 < accepted <= offered and passes == nfe - accepted
    else:
        assert isinstance(engine.turn, Plain) and offered == 0 and passes == nfe


@pytest.mark.parametrize(("small", "most"), [(4, 8), (8, 4), (16, 2), (32, 1)])
def test_the_largest_batch_that_drafts(small, most):
    """Every row has room for its own small forward and for one that is drafted."""
    assert drafts_fit(most, small) and not drafts_fit(most + 1, small)


def test_stop_strings(tiny, questions):
    free = fastdllm.generate(tiny, questions, decoding=Decoding(max_new_tokens=64), batch_size=1)
    strings = tuple({text[len(text) // 2:len(text) // 2 + 3] for text in free.texts})
    decoding = Decoding(max_new_tokens=64, stop_strings=strings)
    own, plain, engine = both(tiny, questions, decoding, 4, batch=1)
    assert own == plain
    assert {row.finish for row in engine.finished} == {"stop_string"}
    assert fastdllm.generate(tiny, questions, decoding=decoding, reuse=verify(4), batch_size=3).texts == \
        fastdllm.generate(tiny, questions, decoding=decoding, batch_size=3).texts


def test_block_cache_off(tiny, questions):
    """Every forward is a full one, and drafts are too."""
    own, plain, engine = both(tiny, questions[:2], Decoding(max_new_tokens=40, block_cache=False), 2, batch=1)
    assert own == plain
    assert counts(engine)[1] > 0


class Told:
    """A drafter that knows the steps of k=1, and tells the truth or not, forward by forward."""

    def __init__(self, steps, truth, second=None):
        self.rows = {row: list(mine) for row, mine in groupby(steps, key=lambda step: step.row)}
        self.truth, self.second_truth = truth, second

    def guess(self, forward, memory):
        return self.told(forward, 0 if self.truth(forward.index) else 1)

    def second(self, forward, first):
        return self.second_truth and self.told(forward, 0 if self.second_truth(forward.index) else 2)

    def told(self, forward, shift):
        def token(right):
            return right - shift if right + shift == 511 else right + shift     # never the mask instead of a token

        steps = self.rows[forward.row]
        if forward.index + 1 >= len(steps):
            return None
        if forward.kind == "prefill" and not forward.read:
            return Prediction()         # nothing is predicted, so nothing can be wrong
        if forward.kind in ("prefill", "commit"):
            return Prediction((token(steps[forward.index + 1].tokens[0]),), (1.0,))
        step, part = steps[forward.index], slice(forward.offset, forward.offset + len(forward.masked))
        return Prediction(tuple(map(token, step.tokens[part])), (1.0,) * len(forward.masked),
                          step.unmasked[part])


@pytest.mark.parametrize(("executor", "k", "threshold"), [("eager", 3, 0.1), ("fast", 2, 1.0), ("fast", 5, 0.1)])
def test_drafts_that_are_all_right_all_wrong_or_in_turns(shallow, golden_prompts, executor, k, threshold):
    decoding = Decoding(threshold=threshold, max_new_tokens=40, mask_id=511, stop_ids=())
    prompts, sure = [golden_prompts["p33"], golden_prompts["p64"]], 1      # behind the prefill of p33
    _, steps = decode(shallow, prompts, decoding, executor=executor)
    for truth in (lambda _: True, lambda _: False, lambda index: index % 2, lambda index: index % 3):
        own, plain, engine = both(shallow, prompts, decoding, k, executor=executor, batch=1, drafter=Told(steps, truth))
        assert own == plain
        offered, accepted, passes, nfe = counts(engine)
        assert offered and passes == nfe - accepted
        if truth(0) and truth(3):
            assert accepted == offered if truth(1) and truth(2) else 0 < accepted < offered
        if not truth(1) and not truth(2):
            assert accepted == sure


def test_nothing_is_drafted_from_a_guess_of_the_mask_itself(shallow, golden_prompts):
    """Such a step would unmask nothing; whatever a drafter says, what runs is k=1."""
    decoding, prompts = Decoding(threshold=1.0, max_new_tokens=12, mask_id=511, stop_ids=()), [golden_prompts["p5"]]

    class Masks:
        def guess(self, forward, memory):
            return Prediction((511,) * 8, (1.0,) * 8, forward.masked) if forward.masked else None

        def second(self, forward, first):
            return None

    own, plain, engine = both(shallow, prompts, decoding, 3, batch=1, drafter=Masks())
    assert own == plain and counts(engine)[0] == 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_second_candidate_is_taken_where_the_first_is_wrong(shallow, golden_prompts, executor):
    """Beside a draft behind the first candidate; whichever is right, what runs is k=1."""
    decoding = Decoding(threshold=1.0, max_new_tokens=12, mask_id=511, stop_ids=())
    prompts = [golden_prompts["p33"], golden_prompts["p64"]]
    _, steps = decode(shallow, prompts, decoding, executor=executor)
    for truth, second in ((lambda _: False, lambda _: True), (lambda _: False, lambda _: False),
                          (lambda index: index % 2, lambda index: index % 3)):
        own, plain, engine = both(shallow, prompts, decoding, 4, executor=executor, batch=1,
                            drafter=Told(steps, truth, second))
        assert own == plain
        offered, accepted, passes, nfe = counts(engine)
        assert passes == nfe - accepted and accepted < offered
        assert (accepted > 2) == bool(second(1))


@pytest.mark.parametrize(("threshold", "k", "most"), [(0.9, 4, 2), (0.9, 3, 1), (1.0, 4, 1)])
def test_a_second_candidate_is_offered_from_three_drafts_on_below_threshold_1(tiny, questions, threshold, k, most):
    trees = [tree(row, drafter, memory, k - 1, PASS_TOKENS) for row, drafter, memory in
             moments(tiny, questions[:2], threshold, k)]
    assert max(sum(draft.depth == 1 for draft in drafts) for drafts in trees) == most


def moments(lm, prompts, threshold, k):
    """The row, the drafter and the memory at every forward of `verify`, one prompt after another."""
    engine, ids = build(lm, prompts, Decoding(threshold=threshold, max_new_tokens=24), verify(k), "fixed",
                        Execution(batch_size=1), None)
    for _ in engine.steps(iter(enumerate(ids))):
        if (row := engine.slots[0]) is not None and row.finish is None:
            yield row, engine.turn.drafter, engine.turn.live[0].memory


@pytest.mark.parametrize("most", [16, 40, 48, 56, 64, 96])
def test_no_draft_is_given_up_for_a_second_candidate_that_does_not_fit(tiny, questions, most):
    kept, taken = 0, 0
    for row, drafter, memory in moments(tiny, questions[:3], 0.9, 4):
        line, drafts = chain(row, drafter, memory, 3, most), tree(row, drafter, memory, 3, most)
        second = [draft.depth for draft in drafts].count(1) == 2
        assert drafts == line or (second and drafts[:-1] == line[:3])
        assert row.next().kind == "prefill" or sum(draft.forward.width for draft in drafts[1:]) <= most
        kept, taken = kept + (drafts == line and len(line) == 4), taken + second
    assert kept or taken or most < 32


def largest_gap(engine, plain, steps):
    """Between the caches of `verify` and of k=1 (eager) at the end, relative to the norm of each stretch: over layers,
    keys and values, of every row's prefix and of its open block, but for the small block in it that was denoised
    last, which every later forward writes before it reads."""
    layout, ops = engine.executor.layout, engine.executor
    cache = ops.graphs.ops.plain_cache() if engine.executor_name == "fast" else ops.cache
    ours, theirs = cache.keys + cache.values, plain.executor.cache.keys + plain.executor.cache.values
    gaps = []
    for row in engine.finished:
        last = [step for step in steps if step.row == row.index][-1]
        stretches = [(layout.prefix, 0, row.prefix)]        # where it lies is shifted by so much, from where, to where
        if last.small_block is not None:
            home = engine.turn.live[row.slot].area * layout.block - row.start
            before = row.start + last.small_block * row.rules.small
            stretches += [(home, row.start, before), (home, before + row.rules.small, row.start + layout.block)]
        for shift, low, high in stretches:
            for one, other in zip(ours, theirs, strict=True):
                own, wanted = one[row.slot, shift + low:shift + high], other[row.slot, low:high]
                gaps.append((((own - wanted).norm()) / wanted.norm()).item() if high > low else 0.0)
    return max(gaps)


@pytest.mark.parametrize("block_cache", [True, False])
@pytest.mark.parametrize("truth", [True, False])
def test_nothing_of_a_rejected_draft_stays_in_the_caches(shallow, golden_prompts, truth, block_cache):
    """The committed keys and values are those of k=1, and so are those of the block that is open at the end."""
    decoding = Decoding(threshold=0.3, max_new_tokens=50, mask_id=511, stop_ids=(), block_cache=block_cache)
    prompt = golden_prompts["p40"]
    plain, steps = decode(shallow, [prompt], decoding, executor="eager")
    drafter = Told(steps, lambda _: truth)
    for executor in EXECUTORS:
        own, without, engine = both(shallow, [prompt], decoding, 3, executor=executor, drafter=drafter)
        assert own == without
        assert engine.finished[0].prefix == 64 and steps[-1].small_block is not None
        assert largest_gap(engine, plain, steps) <= 1e-5


def decoded_alike():
    """Of the golden cases one for each course of k=1: they differ in k and subset, which k=1 has not."""
    return list({(case["variant"], case["prompt"], golden_support.decoding(case)): case
                 for case in DATA["cases"]}.values())


@pytest.mark.parametrize("case", decoded_alike(), ids=lambda case: case["id"])
def test_caches_of_golden_cases(shallow, case):
    """Whatever was drafted rightly and wrongly on the way, the caches at the end are those of k=1."""
    decoding, revision = golden_support.decoding(case), golden_support.VARIANTS[case["variant"]]
    prompts = golden_support.rows(case)
    plain, steps = decode(shallow, prompts, decoding, executor="eager", revision=revision)
    engine, _ = decode(shallow, prompts, decoding, verify(3), revision=revision,
                       drafter=Told(steps, lambda index: index % 3))
    offered, accepted, _, _ = counts(engine)
    assert 0 < accepted < offered
    assert largest_gap(engine, plain, steps) <= 1e-5


def test_steps_say_what_was_drafted(shallow, golden_prompts):
    """A right draft is a step of its depth; of a wrong one the step before it has the positions and tokens."""
    decoding = Decoding(threshold=1.0, max_new_tokens=30, mask_id=511, stop_ids=())
    prompt = golden_prompts["p5"]
    _, steps = decode(shallow, [prompt], decoding)
    _, right = decode(shallow, [prompt], decoding, verify(3), drafter=Told(steps, lambda _: True))
    assert all(after.draft in (0, before.draft + 1) for before, after in pairwise(right))
    assert {step.draft for step in right} == {0, 1, 2} and not any(step.rejected for step in right)
    _, wrong = decode(shallow, [prompt], decoding, verify(2), drafter=Told(steps, lambda _: False))
    assert {step.draft for step in wrong} == {0}
    assert sum(bool(step.rejected) for step in wrong) > 5
    for right_one, step in zip(steps, wrong, strict=True):
        for offset, token in step.rejected:
            if step.kind != "commit":
                assert right_one.unmasked[offset] and token == right_one.tokens[offset] + 1


def test_a_rejected_draft_of_the_next_block_is_told_by_its_first_token(shallow, golden_prompts):
    """What a commit carries over opens the next block: its offset counts on from the block that the commit closed."""
    decoding, prompt = Decoding(threshold=1.0, max_new_tokens=70, mask_id=511, stop_ids=()), golden_prompts["p5"]
    _, steps = decode(shallow, [prompt], decoding)
    _, wrong = decode(shallow, [prompt], decoding, verify(2), drafter=Told(steps, lambda _: False))
    commits = [(step, steps[index + 1]) for index, step in enumerate(wrong[:-1]) if step.kind == "commit"]
    assert len(commits) == 2
    for step, opened in commits:
        assert opened.start == step.start + 32 and step.rejected == ((32, opened.tokens[0] + 1),)


def test_drafts_only_where_few_tokens_run():
    """PASS_TOKENS are shared by the rows; a batch that fills them with its real states drafts nothing."""
    lm = fastdllm.load(Path(__file__).parent / "golden", device="cpu")
    decoding = Decoding(threshold=1.0, max_new_tokens=16, mask_id=511, stop_ids=())
    for rows in (1, 4, PASS_TOKENS // 8 + 1):
        prompts = [[row + 1] * 7 for row in range(rows)]
        engine, ids = build(lm, prompts, decoding, verify(3), "fixed", Execution(), None)
        run, widths = engine.executor.run, []

        def watched(packs, run=run, widths=widths):
            widths.append([sum(state.forward.width for state in pack.states) for pack in packs])
            return run(packs)
        engine.turn.executor.run = watched
        list(engine.steps(iter(enumerate(ids))))
        drafted = sum(draft.offered for row in engine.finished for draft in row.result("").drafts)
        assert (drafted > 0) == (rows * 16 <= PASS_TOKENS)
        assert all(width <= PASS_TOKENS // len(each) or width in (8, 32) for each in widths for width in each)


def test_old_logits_have_nothing_to_say_of_what_was_never_predicted(golden, golden_prompts):
    engine, steps = build(golden, [golden_prompts["p5"]], Decoding(mask_id=511, stop_ids=()), verify(2), "fixed",
                          Execution(), None)
    first = next(engine.steps(iter(enumerate(steps))))
    assert first.kind == "full" and engine.slots[0].forwards_run == 1 and not engine.slots[0].drafts
    assert OldLogits(0.9).guess(engine.slots[0].next(), Memory()) is None


def first_blocks(engine):
    """For each row: drafts behind the prefill, offered and accepted."""
    return [[(draft.offered, draft.accepted) for draft in row.result("").drafts if draft.kind == "first block"]
            for row in engine.finished]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("block_cache", [True, False])
def test_the_first_block_runs_beside_the_prefill_where_its_tokens_are_known(shallow, executor, block_cache):
    """Not without a prefill, nor where the prefill predicts the block's first token, nor behind a long one."""
    prompts = [[1 + i % 400 for i in range(length)] for length in (33, 95, 31, 64, 64 * 7 + 1, 64 * 8 + 1)]
    decoding = Decoding(threshold=0.1, max_new_tokens=20, mask_id=511, stop_ids=(), block_cache=block_cache)
    own, plain, engine = both(shallow, prompts, decoding, 2, executor=executor, batch=1)
    assert own == plain
    assert first_blocks(engine) == [[(1, 1)], [(1, 1)], [], [], [(1, 1)], []]
    own, plain, together = both(shallow, prompts[:2], decoding, 2, executor=executor, batch=2)
    assert own == plain
    assert first_blocks(together) == [[(1, 1)], [(1, 1)]]


def test_threads_and_chat(tiny, questions):
    """Threads over one queue, and turns that keep the conversation's prefix."""
    decoding = Decoding(max_new_tokens=40)
    plain = fastdllm.generate(tiny, questions, decoding=decoding)
    threads = fastdllm.generate(tiny, questions, decoding=decoding, reuse=verify(3), threads=2, batch_size=2)
    assert threads.tokens == plain.tokens and threads.nfe == plain.nfe
    answers = []
    for reuse in (Reuse(), verify(3)):
        chat = Conversation(tiny, decoding, reuse)
        answers.append([])
        for question in questions[:3]:
            answers[-1].append(list(chat.ask(question))[-1].text)
    assert answers[0] == answers[1]


def test_a_broken_network_is_named(golden_prompts):
    for executor in EXECUTORS:
        lm = fastdllm.load(Path(__file__).parent / "golden", device="cpu")
        with torch.no_grad():
            lm.network.model.layers[5].mlp.down_proj.weight[0, 0] = float("nan")
        engine, ids = build(lm, [golden_prompts["p40"]], Decoding(mask_id=511), verify(2), "fixed",
                            Execution(executor=executor), None)
        with pytest.raises(NonFiniteLogits, match=r"layer 5, row 0, block 1, step 0, full"):
            list(engine.steps(iter(enumerate(ids))))


def test_what_is_refused_by_name(golden):
    with pytest.raises(ValueError, match=r"policy='verify' with temperature=0.7.*allowed: temperature=0"):
        fastdllm.generate(golden, [[1]], decoding=Decoding(temperature=0.7, mask_id=511), reuse=verify(2))
    with pytest.raises(ValueError, match="policy='verify' with temperature"):
        Parameters.of(k=2, policy="verify", temperature=0.7)
    with pytest.raises(ValueError, match="full_forwards=True with policy='verify'"):
        Reuse(k=2, policy="verify", full_forwards=True)
    fastdllm.generate(golden, [[1]], decoding=Decoding(temperature=0.7, mask_id=511, max_new_tokens=2),
                      reuse=Reuse(policy="verify"))      # k=1 drafts nothing
    Parameters.of(k=2, policy="verify", block_cache=False)


def test_layers_are_no_axis_of_verify():
    runs = {f"t/k2_{layers}": Parameters.of(k=2, policy="verify", layers=layers)
            for layers in ("first", "middle", None)}
    reasons = repeated(runs)
    assert list(reasons) == ["t/k2_middle", "t/k2_None"]
    assert "policy verify skips no layer" in reasons["t/k2_middle"]
    assert not repeated({"a": Parameters.of(k=2, policy="verify"), "b": Parameters.of(k=3, policy="verify")})


def test_a_record_counts_passes_and_drafts(tmp_path):
    """From a params file to a record: NFE of k=1, passes, drafts by depth and kind; a run without drafts has none."""
    model = checkpoint(tmp_path / "model")
    path = params(tmp_path / "drafted.yml", model, axes={"k": [1, 2], "policy": ["verify"]}, limit=2)
    plain, drafted = (evaluate.evaluate(PreparedRun(configuration), log=lambda text: None)
                      for configuration in grid_file.load(path).configurations())
    assert drafted.nfe == plain.nfe and drafted.tokens == plain.tokens and plain.forwards_run is None
    assert 0 < drafted.forwards_run <= drafted.forwards and drafted.reused_nothing == 0
    offered, accepted = (sum(each) for each in zip(*((d.offered, d.accepted) for d in drafted.drafts), strict=True))
    assert drafted.forwards_run == drafted.forwards - accepted and offered > 0
    flat = records.row(records.read(grid_file.load(path).configurations()[1].directory))
    assert flat["forwards_run"] == drafted.forwards_run and flat["acceptance"] == accepted / offered
    assert flat["tokens_per_forward"] == drafted.tokens / drafted.forwards_run
    assert "forwards_run" not in plain.content() and records.row(plain)["forwards_run"] == plain.forwards


def test_no_draft_that_was_right_is_a_result(golden):
    """Unlike a reuse that reused nothing."""
    out = fastdllm.generate(golden, [[1, 2]], decoding=Decoding(mask_id=511, threshold=0.0, max_new_tokens=4),
                            reuse=verify(2))
    assert not out.reused_nothing and not out.rows[0].reused_nothing


def test_the_figure_is_today_s():
    """python -m tools.verify_figure draws it anew."""
    assert (Path(__file__).parent.parent / verify_figure.PICTURE).read_text() == verify_figure.svg()


def test_the_fast_executor_is_taken_where_it_can_be(golden):
    for executor, kind in (("auto", True), ("fast", True), ("eager", False)):
        engine, _ = build(golden, [[1]], Decoding(mask_id=511), verify(2), "fixed", Execution(executor=executor), None)
        assert isinstance(engine.turn, Verify) and isinstance(engine.executor, Together) == kind


def test_what_the_kernels_read_is_contiguous_for_any_number_of_rows(golden, golden_prompts):
    """They count on it; the integers of a row come to the device side by side."""
    prompts = [golden_prompts[name] for name in ("p5", "p33", "p64")]
    engine, ids = build(golden, prompts, Decoding(mask_id=511, stop_ids=(), max_new_tokens=40), verify(2), "fixed",
                        Execution(executor="fast", batch_size=3), None)
    ops, seen = engine.executor.graphs.ops, []
    begin = ops.begin
    ops.begin = lambda batch: (seen.append(batch), begin(batch))
    list(engine.steps(iter(enumerate(ids))))
    assert {1, 2} <= {batch.rows for batch in seen}
    for batch in seen:
        assert all(part.is_contiguous() for part in (batch.slots, batch.positions, batch.places, batch.sees))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@gpu
@pytest.mark.parametrize("k", [2, 4])
def test_captured_packs_are_k1_in_float32(golden_prompts, k):
    """Plain operations in captured graphs, prompts and idle rows among them."""
    lm = fastdllm.load(Path(__file__).parent / "golden", device="cuda", dtype="float32")
    decoding = Decoding(threshold=0.3, max_new_tokens=40, mask_id=511, stop_ids=())
    prompts = [golden_prompts[name] for name in ("p5", "p33", "p64", "p70")]
    for batch in (1, 3):
        own, plain, _ = both(lm, prompts, decoding, k, batch=batch)
        assert own == plain


@gpu
@pytest.mark.parametrize(("rows", "width", "split"), [(1, 8, True), (1, 40, True), (2, 24, False), (1, 64, True)])
def test_attention_kernel_of_packs(rows, width, split, monkeypatch):
    """Every token has a place and four stretches of its own, and sees what the others of its pack wrote."""
    from fastdllm.model import attention_parts, pack_attention
    from fastdllm.model.network import rotate
    from fastdllm.model.positions import PackPositions
    heads, kv, size, length, device = 14, 2, 64, 320, torch.device("cuda")
    torch.manual_seed(0)
    monkeypatch.setattr(pack_attention, "SPLIT_PROGRAMS", 256 if split else 0)
    keys, values = (torch.randn(3, length, kv, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    qkv = torch.randn(rows, width, (heads + 2 * kv) * size, device=device, dtype=torch.bfloat16)
    half = torch.randn(2, 400, size // 2, device=device, dtype=torch.bfloat16)
    cos, sin = half[0].repeat(1, 2), torch.cat([-half[1], half[1]], 1)
    slots, positions = torch.tensor([2, 0], device=device)[:rows], torch.randint(0, 400, (rows, width), device=device)
    places = torch.stack([torch.randperm(length, device=device)[:width] for _ in range(rows)])
    places = (slots[:, None] * length + places).reshape(-1)
    sees = torch.randint(0, length, (rows, width, 4, 2), device=device)
    sees[..., 0, :] = torch.tensor([0, 7], device=device)
    batch = PackPositions(rows, width, slots, positions, places, sees, False)
    want_keys, want_values = keys.clone(), values.clone()
    scratch = attention_parts.Scratch(device, heads, size, length)
    for _ in range(2):      # the counters must be back at zero
        out = pack_attention.attend_packs(qkv, cos, sin, keys, values, batch, heads, scratch)
    parts = qkv.view(rows, width, heads + 2 * kv, size)
    turned = rotate(parts[:, :, :heads + kv].float(), cos[positions][:, :, None].float(),
                    sin[positions][:, :, None].float()).bfloat16()
    want_keys.view(-1, kv, size)[places] = turned[:, :, heads:].reshape(-1, kv, size)
    want_values.view(-1, kv, size)[places] = parts[:, :, heads + kv:].reshape(-1, kv, size)
    for row in range(rows):
        want = torch.nn.functional.scaled_dot_product_attention(
            turned[row, :, :heads].float().transpose(0, 1), want_keys[slots[row]].float().transpose(0, 1),
            want_values[slots[row]].float().transpose(0, 1), attn_mask=batch.mask(length)[row][None], enable_gqa=True)
        gap = out.view(rows, width, -1)[row].float() - want.transpose(0, 1).reshape(width, -1)
        assert gap.norm() < 1e-2 * want.norm()
    assert torch.equal(values, want_values)
