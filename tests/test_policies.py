"""What every policy owes (docs/decoding.md): k=1 is exact; nothing changed since the cache was filled means the exact
output. That `replay` gives the tokens of `output` stands in tests/test_invariances.py."""

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastdllm
from fastdllm import Decoding, Reuse, Trace
from fastdllm.decode.executor import Eager
from fastdllm.decode.policies import BUILT_IN, ReusePlan
from fastdllm.decode.revisions import REVISIONS
from fastdllm.decode.step import Forward

BLOCK, SMALL, PREFIX = 32, 8, 32
PLAIN = Decoding(threshold=1.0, mask_id=511, stop_ids=(), max_new_tokens=20)


@pytest.mark.parametrize("policy", BUILT_IN)
def test_k1_is_exact(shallow, golden_prompts, policy):
    """Every token and every bit of every confidence, with the policy in its layers."""
    prompts = [golden_prompts["p33"], golden_prompts["p40"]]
    plain = [(step.tokens, step.confidence) for step in
             fastdllm.denoise(shallow, prompts, decoding=PLAIN, executor="eager")]
    wrapped = [(step.tokens, step.confidence) for step in
               fastdllm.denoise(shallow, prompts, decoding=PLAIN, reuse=Reuse(k=1, layers="1-2", policy=policy),
                                trace=Trace())]
    assert repr(plain) == repr(wrapped)


def test_a_policy_s_file_may_import_modules_beside_it(shallow, golden_prompts, tmp_path):
    """Two files whose helpers have one name get their own each, and a helper that has changed is read anew."""
    def tokens(folder, kept):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "helper.py").write_text(f"KEPT = {kept!r}\n")
        (tmp_path / folder / "mine.py").write_text(
            "from helper import KEPT\nfrom fastdllm.decode.policies import BUILT_IN\n"
            "class Policy(BUILT_IN[KEPT]):\n    pass\n")
        reuse = Reuse(k=3, layers="1-2", policy=str(tmp_path / folder / "mine.py"))
        return fastdllm.generate(shallow, [golden_prompts["p33"]], decoding=PLAIN, reuse=reuse).rows[0]

    def built_in(name):
        reuse = Reuse(k=3, layers="1-2", policy=name)
        return fastdllm.generate(shallow, [golden_prompts["p33"]], decoding=PLAIN, reuse=reuse).rows[0]

    output, token = built_in("output"), built_in("token")
    assert (output.tokens, output.decisions) != (token.tokens, token.decisions)
    for folder, kept in (("a", "output"), ("b", "token"), ("a", "token")):
        assert tokens(folder, kept).decisions == {"output": output, "token": token}[kept].decisions
    assert "helper" not in sys.modules and str(tmp_path / "a") not in sys.path


def prefill(prompt):
    return Forward(row=0, slot=0, index=0, kind="prefill", block=0, small_block=None, step=None, start=0,
                   tokens=tuple(prompt), end=PREFIX, read=(), masked=(), replace_position=None)


def denoising(tokens, kind, small_block, step):
    """A forward over the block after the prefix; it reads the positions of the small block."""
    offset, full = small_block * SMALL, kind == "full"
    return Forward(row=0, slot=0, index=step + 1, kind=kind, block=1, small_block=small_block, step=step,
                   start=PREFIX + (0 if full else offset),
                   tokens=tuple(tokens if full else tokens[offset:offset + SMALL]), end=PREFIX + BLOCK,
                   read=tuple(range(offset, offset + SMALL) if full else range(SMALL)), masked=(True,) * SMALL,
                   replace_position=None if full else offset, offset=offset)


def first_full_of_each_small_block(kinds):
    """(kind, small block) of the steps: a block begins with a full forward, and so does each of its small blocks."""
    at = 0
    for number, (kind, further) in enumerate(kinds):
        at = min(at + further, BLOCK // SMALL - 1)
        yield "full" if number == 0 or further else kind, at


@pytest.mark.parametrize("policy", BUILT_IN)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.tuples(st.sampled_from(["full", "small"]), st.booleans()), min_size=2, max_size=6),
       k=st.integers(2, 3), layers=st.sampled_from(["1", "1-2", "2-3", "0", "0-3"]), full=st.booleans(),
       tokens=st.lists(st.integers(0, 509), min_size=PREFIX + BLOCK, max_size=PREFIX + BLOCK))
def test_nothing_changed_means_the_exact_output(shallow, policy, kinds, k, layers, full, tokens):
    """The same tokens step after step: what is served must be what the layers would have computed."""
    reuse = Reuse(k=k, layers=layers, policy=policy, full_forwards=full)
    acting = BUILT_IN[policy](reuse, REVISIONS["fixed"], reuse.layer_indices(4), 1, BLOCK)
    eager = Eager(shallow.network, 1, 128, PLAIN, acting)
    plain = Eager(shallow.network, 1, 128, PLAIN, None)
    forwards = [denoising(tokens[PREFIX:], kind, at, step)
                for step, (kind, at) in enumerate(first_full_of_each_small_block(kinds))]
    for forward in (prefill(tokens[:PREFIX]), *forwards):
        plan = acting.plan(forward)
        [served], [computed] = eager.run([forward], [plan]), plain.run([forward], [ReusePlan("bypass", "")])
        assert len(served.decisions) == (len(acting.layers) if forward.step is not None and not plan.skip else 0)
        reused = forward.step is not None and forward.step % k != 0 and (full or forward.kind == "small")
        assert (plan.decision in ("reuse", "ask")) == reused
        assert set(served.decisions) <= {"reuse"} or not reused
        assert served.tokens == computed.tokens
        assert served.confidence == pytest.approx(computed.confidence, rel=1e-4)
