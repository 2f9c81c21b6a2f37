"""The loop of docs/decoding.md: prompts of any length, stop tokens anywhere, and the quirks it does not inherit."""

from itertools import pairwise

import pytest
import torch
from golden_support import DATA, GOLDEN

import fastdllm
from benchmarks.plain_network import PlainNetwork
from benchmarks.reference import Loop
from fastdllm import Decoding, Reuse
from fastdllm.decode.sampling import choose, predict, sample

MASK = 511
CASES = {case["id"]: case for case in DATA["cases"]}


def run(lm, prompts, *, reuse=Reuse(), revision="fixed", batch_size=None, **decoding):
    values = {"mask_id": MASK, "max_new_tokens": 40, "stop_ids": (), **decoding}
    return fastdllm.generate(lm, prompts, decoding=Decoding(**values), reuse=reuse, revision=revision,
                             batch_size=batch_size)


@pytest.fixture(scope="module")
def plain():
    return PlainNetwork.load(GOLDEN)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 31, 32, 33, 63, 64, 65])
def test_any_prompt_length(shallow, golden_prompts, length):
    prompt = golden_prompts["p70"][:length]
    steps = list(fastdllm.denoise(shallow, [prompt], decoding=Decoding(mask_id=MASK, max_new_tokens=34, stop_ids=())))
    denoised = [step for step in steps if step.small_block is not None]
    assert (steps[0].kind == "prefill") == (length >= 32)
    assert steps[-1].nfe["prefill"] == (length >= 32)
    first = denoised[0]
    assert first.kind == "full" and first.start == length // 32 * 32
    assert list(first.tokens[:length % 32]) == prompt[length // 32 * 32:]
    for before, after in pairwise(denoised):
        assert sum(after.unmasked) >= 1
        if before.block == after.block:
            opened = [i for i in range(32) if before.tokens[i] != after.tokens[i]]
            assert opened == [i for i in range(32) if after.unmasked[i]]
            assert all(before.tokens[i] == MASK for i in opened)
            assert after.small_block >= before.small_block
    out = run(shallow, [prompt], max_new_tokens=34)
    assert len(out.tokens[0]) == 34 and MASK not in out.tokens[0]


def test_block_cache_off_runs_full_forwards_only(shallow, golden_prompts):
    out = run(shallow, [golden_prompts["p40"]], block_cache=False)
    assert out.nfe[0]["small"] == 0 and out.nfe[0]["full"] > 0


def test_threshold_one_unmasks_one_token_a_step(shallow, golden_prompts):
    steps = fastdllm.denoise(shallow, [golden_prompts["p5"]],
                             decoding=Decoding(mask_id=MASK, threshold=1.0, max_new_tokens=20, stop_ids=()))
    assert {sum(step.unmasked) for step in steps if step.small_block is not None} == {1}


def test_threshold_zero_unmasks_the_small_block_at_once(shallow, golden_prompts):
    out = run(shallow, [golden_prompts["p64"]], threshold=0.0, max_new_tokens=31)
    assert out.nfe[0] == {"prefill": 1, "full": 4, "small": 0, "commit": 0, "replay": 0}


@pytest.mark.parametrize("at", [0, 1, 5, 20, 39])
def test_stop_token_anywhere(shallow, golden_prompts, at):
    free = run(shallow, [golden_prompts["p40"]]).tokens[0]
    stop = free[at]
    out = run(shallow, [golden_prompts["p40"]], stop_ids=(stop,))
    assert out.tokens[0] == free[:free.index(stop) + 1]
    assert out.rows[0].finish == "stop"


def test_stop_needs_unmasked_predecessors(shallow, golden_prompts):
    """A stop token that is unmasked early does not end the row while a position before it is masked."""
    prompt = golden_prompts["p40"]
    free = run(shallow, [prompt]).tokens[0]
    for stop in set(free):
        decoding = Decoding(mask_id=MASK, max_new_tokens=40, stop_ids=(stop,))
        last = list(fastdllm.denoise(shallow, [prompt], decoding=decoding))[-1]
        offset = len(prompt) + free.index(stop) - last.start
        if offset < 32 and last.kind != "commit":
            assert MASK not in last.tokens[:offset + 1]


def test_prompt_tokens_are_no_stop(shallow, golden_prompts):
    prompt = golden_prompts["p40"]
    free = run(shallow, [prompt]).tokens[0]
    inside = next(token for token in prompt if token not in free)
    assert run(shallow, [prompt], stop_ids=(inside,)).tokens[0] == free


def test_longer_limit_keeps_the_prefix(shallow, golden_prompts):
    long = run(shallow, [golden_prompts["p33"]], max_new_tokens=70).tokens[0]
    for limit in (1, 2, 31, 32, 40):
        out = run(shallow, [golden_prompts["p33"]], max_new_tokens=limit)
        assert out.tokens[0] == long[:limit] and out.rows[0].finish == "length"


# Quirks of the published loops that this loop does not have, each beside the reference that has it.

def test_quirk_prompt_of_exactly_one_block(golden, golden_prompts, plain):
    one = golden_prompts["p32"]
    other = [(token + 7) % 500 for token in one]
    lost = [Loop(plain, [prompt], max_new_tokens=32).run().generated[0][:31] for prompt in (one, other)]
    assert lost[0] == lost[1]                     # upstream: the prompt has no influence at all
    kept = [run(golden, [prompt], max_new_tokens=32).tokens[0] for prompt in (one, other)]
    assert kept[0] != kept[1]


def test_quirk_carried_over_stop(golden, plain):
    case = CASES["upstream/k1/None/p40/thr0.9/n96/stopnone"]
    prompt = DATA["prompts"]["p40"]["rows"][0]
    carried = 32 - len(prompt) % 32               # the token that opens the second generated block
    stop = case["generated"][0][carried]
    assert stop not in case["generated"][0][:carried]
    theirs = Loop(plain, [prompt], stop_token=stop).run().generated[0]
    assert theirs[:carried + 1][-1] == stop and len(theirs) > carried + 1
    ours = run(golden, [prompt], stop_ids=(stop,), max_new_tokens=96)
    assert ours.tokens[0] == theirs[:carried + 1] and ours.rows[0].finish == "stop"
    upstream = run(golden, [prompt], stop_ids=(stop,), max_new_tokens=96, revision="upstream")
    assert len(upstream.tokens[0]) > carried + 1


def test_quirk_lockstep_rows_wait_for_each_other(golden, golden_prompts, plain):
    prompts = [golden_prompts["p5"], golden_prompts["p40"]]
    together = Loop(plain, prompts, max_new_tokens=32).run()
    alone = [Loop(plain, [prompt], max_new_tokens=32).run() for prompt in prompts]
    assert together.nfe["full"] > max(result.nfe["full"] for result in alone)
    ours = run(golden, prompts, max_new_tokens=27)
    assert ours.nfe == [run(golden, [prompt], max_new_tokens=27).nfe[0] for prompt in prompts]


def test_quirk_sampling_from_row_zero():
    """Each row is drawn from its own distribution; upstream's multinomial(p[0]) gives row 0's token to all."""
    logits = torch.full((2, 1, 5), -20.0)
    logits[0, 0, 1] = logits[1, 0, 3] = 20.0
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    tokens, confidence = sample(logits, 1.0, 0.95, generators)
    assert tokens.tolist() == [[1], [3]] and (confidence > 0.99).all()


def test_quirk_every_block_starts_with_a_full_forward(shallow, golden_prompts):
    """A kept block cache would let a block whose first position is carried over begin with a small forward."""
    steps = fastdllm.denoise(shallow, [golden_prompts["p64"]],
                             decoding=Decoding(mask_id=MASK, max_new_tokens=96, stop_ids=()))
    first = {}
    for step in steps:
        if step.small_block is not None:
            first.setdefault(step.block, step)
    assert len(first) == 3
    assert all(step.kind == "full" and step.tokens[0] != MASK for step in first.values())


# Sampling.

def test_ties_go_to_the_leftmost_position():
    masked = torch.tensor([[False, True, True, True]])
    assert choose(torch.full((1, 4), 0.5), masked, 0.9).tolist() == [[False, True, False, False]]


def test_threshold_is_exclusive():
    masked = torch.ones(1, 3, dtype=torch.bool)
    assert choose(torch.tensor([[0.5, 0.9, 0.95]]), masked, 0.9).tolist() == [[False, False, True]]


def test_confidence_is_the_probability_of_the_argmax():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)) * 5
    tokens, confidence = predict(logits)
    probability, expected = torch.softmax(logits.double(), -1).max(-1)
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(confidence.double(), probability, rtol=1e-5, atol=1e-7)


def test_sampled_row_does_not_depend_on_its_batch(shallow, golden_prompts):
    prompts = [golden_prompts["p5"], golden_prompts["p33"], golden_prompts["p40"]]
    decoding = Decoding(mask_id=MASK, max_new_tokens=12, stop_ids=(), temperature=1.0)
    together = fastdllm.generate(shallow, prompts, decoding=decoding, seed=3)
    one_by_one = fastdllm.generate(shallow, prompts, decoding=decoding, seed=3, batch_size=1)
    other_seed = fastdllm.generate(shallow, prompts, decoding=decoding, seed=4)
    assert together.tokens == one_by_one.tokens
    assert together.tokens != other_seed.tokens
