"""What must not depend on what: on the embedded checkpoint, with real problems."""

from contextlib import closing

import pytest

import fastdllm
from fastdllm import Decoding, Reuse, Trace, tasks
from fastdllm.decode.layer_reuse import LayerReuse
from fastdllm.lab.instrument.patched_layers import patched

QUICK = Decoding(threshold=0.9, max_new_tokens=48)


@pytest.fixture(scope="module")
def questions():
    problems = tasks.get("arithmetic").problems(6, None)
    return [problem.prompt for problem in sorted(problems, key=lambda problem: len(problem.prompt))]


def test_k1_through_a_policy_equals_no_policy_bit_for_bit(tiny, questions):
    plain = [(step.tokens, step.confidence) for step in
             fastdllm.denoise(tiny, questions[:1], decoding=QUICK, executor="eager")]
    wrapped = [(step.tokens, step.confidence) for step in
               fastdllm.denoise(tiny, questions[:1], decoding=QUICK, reuse=Reuse(k=1, layers="middle"), trace=Trace())]
    assert repr(plain) == repr(wrapped)      # repr: nan equals nan, every bit of a float shows
    traced = fastdllm.generate(tiny, questions[:1], decoding=QUICK, reuse=Reuse(k=1, layers="middle"), trace=True)
    assert set(traced.trace.decision) == {"recompute"}


def test_layers_are_never_patched(tiny, questions):
    """Not while a forward runs, not between two steps, and not after an error in the middle of one."""
    layers = [dict(vars(layer)) for layer in tiny.network.model.layers]
    reuse = Reuse(k=2, layers="last")

    def look(*_):
        assert [dict(vars(layer)) for layer in tiny.network.model.layers] == layers

    with tiny.network.hooks({"layers.*.output": look}):
        for count, _ in enumerate(fastdllm.denoise(tiny, questions[:1], decoding=QUICK, reuse=reuse)):
            look()
            if count == 4:
                break
    for error in (RuntimeError, KeyboardInterrupt):
        def explode(*_, error=error):
            raise error("in the middle of a forward")
        with (tiny.network.hooks({"layers.20.mlp": explode}), pytest.raises(error),
              closing(fastdllm.denoise(tiny, questions[:1], decoding=QUICK, reuse=reuse)) as steps):
            list(steps)
        look()


def test_a_policy_works_on_any_decoder_with_layers():
    """A transformers Qwen2: outputs are served on the reuse step and the model is restored."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from fastdllm.decode.policies import OutputPolicy, ReusePlan
    from fastdllm.decode.revisions import REVISIONS
    from fastdllm.decode.step import Forward
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=6, vocab_size=64,
                                         num_attention_heads=2, num_key_value_heads=1)).eval()
    policy = OutputPolicy(Reuse(k=2, layers="2-3"), REVISIONS["fixed"], (2, 3), 1, 8)
    trace = Trace()
    ids = torch.randint(0, 64, (1, 8))
    forward = Forward(row=0, slot=0, index=0, kind="full", block=0, small_block=0, step=0, start=0,
                      tokens=tuple(ids[0].tolist()), end=8, read=(0,), masked=(True,), replace_position=None)
    with torch.inference_mode():
        plain = model(ids, use_cache=False).logits
        with patched(model.model.layers, LayerReuse(policy, trace, [forward], [ReusePlan("recompute", "")])):
            first = model(ids, use_cache=False).logits
        with patched(model.model.layers, LayerReuse(policy, trace, [forward], [ReusePlan("reuse", "")])):
            second = model(ids.flip(1), use_cache=False).logits
    assert torch.equal(plain, first) and torch.equal(plain, second)
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)
    with pytest.raises(KeyboardInterrupt), patched(model.model.layers, LayerReuse(policy, None, [forward], [])):
        raise KeyboardInterrupt
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)
    assert trace.frame().decision.tolist() == ["recompute"] * 2 + ["reuse"] * 2


@pytest.mark.parametrize("k", [2, 3])
def test_subset_does_not_matter_to_output_reuse(tiny, questions, k):
    outputs = [fastdllm.generate(tiny, questions, decoding=QUICK, reuse=Reuse(k=k, layers=layers), revision="26d6179")
               for layers in ("first", "middle", "last")]
    assert outputs[0].tokens == outputs[1].tokens == outputs[2].tokens
    counts = [[row.decisions for row in output.rows] for output in outputs]
    assert counts[0] == counts[1] == counts[2]
    assert sum(row["reuse"] for row in counts[0]) > 0


def assert_same_alone_and_in_batches(lm, prompts, decoding, reuse):
    """Alone, all together, and through two slots: the same tokens and the same forwards."""
    alone = fastdllm.generate(lm, prompts, decoding=decoding, reuse=reuse, batch_size=1)
    together = fastdllm.generate(lm, prompts, decoding=decoding, reuse=reuse)
    queued = fastdllm.generate(lm, prompts, decoding=decoding, reuse=reuse, batch_size=2)
    assert alone.tokens == together.tokens == queued.tokens
    assert alone.nfe == together.nfe == queued.nfe
    assert [row.decisions for row in alone.rows] == [row.decisions for row in together.rows]
    assert reuse.active == (sum(row.decisions["reuse"] + row.nfe["replay"] for row in alone.rows) > 0)


@pytest.mark.parametrize("reuse", [Reuse(), Reuse(k=2, layers="1-2"), Reuse(k=2, layers="1", policy="residual"),
                                   Reuse(k=3, layers="2-3", policy="token"),
                                   Reuse(k=3, layers="1-2", policy="adaptive", similarity=0.9),
                                   Reuse(k=2, layers="1-2", policy="replay")], ids=lambda reuse: reuse.policy)
def test_row_does_not_depend_on_its_batch(shallow, golden_prompts, reuse):
    prompts = [golden_prompts[name] for name in ("p5", "p33", "p40", "p64")]
    assert_same_alone_and_in_batches(shallow, prompts, QUICK.model_copy(update={"mask_id": 511, "stop_ids": ()}), reuse)


@pytest.mark.parametrize("reuse", [Reuse(), Reuse(k=3, layers="middle", policy="adaptive", similarity=0.9)],
                         ids=lambda reuse: reuse.policy)
def test_a_row_of_the_trained_checkpoint_does_not_depend_on_its_batch(tiny, questions, reuse):
    """Rows that stop, each at its time."""
    assert_same_alone_and_in_batches(tiny, questions[::2], QUICK, reuse)


def test_longer_limit_changes_nothing_until_the_stop(tiny, questions):
    short = fastdllm.generate(tiny, questions[:2], decoding=Decoding(max_new_tokens=20))
    long = fastdllm.generate(tiny, questions[:2], decoding=Decoding(max_new_tokens=100))
    assert [tokens[:20] for tokens in long.tokens] == short.tokens
    assert all(row.finish == "stop" for row in long.rows)


def test_block_cache_changes_nothing_when_the_small_block_is_the_block(tiny, questions):
    on, off = (fastdllm.generate(tiny, questions[:3], decoding=Decoding(small_block=32, block_cache=cache,
                                                                        max_new_tokens=48)) for cache in (True, False))
    assert on.tokens == off.tokens


def test_replay_gives_the_tokens_of_output(tiny, questions):
    output, replay = (fastdllm.generate(tiny, questions[:3], decoding=QUICK, revision="26d6179",
                                        reuse=Reuse(k=2, layers="middle", policy=policy))
                      for policy in ("output", "replay"))
    assert output.tokens == replay.tokens
    for ours, theirs in zip(replay.nfe, output.nfe, strict=True):
        assert ours["small"] + ours["replay"] == theirs["small"] and ours["full"] == theirs["full"]
    assert sum(row["replay"] for row in replay.nfe) > 0


def test_one_call_that_reuses_nothing_is_flagged(golden, golden_prompts):
    greedy = Decoding(threshold=0.0, max_new_tokens=16, mask_id=511, stop_ids=())
    assert fastdllm.generate(golden, [golden_prompts["p33"]], decoding=greedy,
                             reuse=Reuse(k=2, layers="middle")).reused_nothing
    steady = Decoding(threshold=1.0, max_new_tokens=16, mask_id=511, stop_ids=())
    assert not fastdllm.generate(golden, [golden_prompts["p33"]], decoding=steady,
                                 reuse=Reuse(k=2, layers="middle")).reused_nothing
    assert not fastdllm.generate(golden, [golden_prompts["p33"]], decoding=greedy).reused_nothing


def test_revision_6d2a9a8_ends_in_a_clear_error(golden, golden_prompts):
    from fastdllm.model.cache import MissingBlockCache
    decoding = Decoding(mask_id=511, max_new_tokens=64, stop_ids=())
    with pytest.raises(MissingBlockCache, match=r"layer 8 has no block-cache entry.*skipped.*replace_position"):
        fastdllm.generate(golden, [golden_prompts["p40"]], decoding=decoding, reuse=Reuse(k=2, layers="middle"),
                          revision="6d2a9a8")
