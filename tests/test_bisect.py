"""The bisection against planted faults: historical ones and others, on two random networks each.

The networks are the same to the last bit on every machine. Where a test needs a certain behaviour, like a fault that
shows in the tokens, it searches prompts, thresholds or networks for it, and fails if there is none.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fastdllm import Decoding, Reuse
from fastdllm.decode import executor, loop
from fastdllm.decode.revisions import CHOICES
from fastdllm.decode.row import Row
from fastdllm.decode.sampling import choose
from fastdllm.display.claim import MOST_WORDS, words_before_fold
from fastdllm.investigation.collapse import verdict_bisection
from fastdllm.investigation.collapse.bisection import bisect, bisect_subsets, row_decoder
from fastdllm.lab.instrument.generation_file import decoder, load
from fastdllm.lab.instrument.probe import Run
from fastdllm.model import network
from fastdllm.model.cache import Cache
from fastdllm.model.config import ModelConfig
from fastdllm.model.lm import LM
from fastdllm.model.network import Network
from fastdllm.report import shipped

SEEDS, MORE = range(2), range(5)        # what each fault is planted in; where a rarer behaviour is looked for
MASK, STOP = 63, 62
DECODING = Decoding(threshold=1.0, max_new_tokens=13, small_block=8)      # to the end of the first block
REUSE = Reuse(k=2, layers="first")
PROMPT = [5, 17, 40]
PROMPTS = [PROMPT, [8, 9, 10], [30, 2, 44], [50, 33, 21], [11, 12, 13], [7, 47, 1]]


@pytest.fixture(scope="module")
def networks():
    """One small random network a seed: 13 layers (so that `first` is 1..12), block 16."""
    return [random_lm(seed) for seed in MORE]


def random_lm(seed):
    config = ModelConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=13, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=64, max_position_embeddings=64, bd_size=16)
    net, draw = Network(config), np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" not in name:      # integers: torch's own random numbers differ from one kind of CPU to the next
                parameter.copy_(torch.from_numpy(draw.integers(-111, 112, parameter.shape)) / 256)
        net.lm_head.weight[[MASK, STOP]] = net.lm_head.weight[:STOP].mean(0)      # never above the best of the others
    return LM("random", Path("."), net.eval(), None, MASK, (STOP,))


def output(decoder, prompts):
    return Run(decoder, prompts).finish().tokens


def find(lm, bad, decoding=DECODING, reuse=REUSE, good="fixed", prompt=PROMPT, tabulate=False):
    return bisect(row_decoder(lm, good, reuse, decoding), bad,
                  lambda revision: row_decoder(lm, revision, reuse, decoding), [prompt], lm.network, tabulate=tabulate)


@pytest.mark.parametrize(("switch", "value"), [("run_skipped", True), ("full_block_every_k", True),
                                               ("first_subset", "1-11"), ("on_full_block", "bypass"),
                                               ("cache_source", "full")])
@pytest.mark.parametrize("seed", SEEDS)
def test_names_a_historical_fault(networks, seed, switch, value):
    lm = networks[seed]
    for prompt in PROMPTS:      # the first on which it shows
        verdict = find(lm, row_decoder(lm, f"fixed+{switch}={value}", REUSE, DECODING), prompt=prompt)
        if verdict.parting is not None:
            break
    assert verdict.changes == {switch: (CHOICES[switch][0], value)}, verdict
    if switch in ("run_skipped", "first_subset"):      # faults 1 and 3 change no token
        assert "output tokens" not in verdict.separates
        assert "layer calls" in verdict.separates
    if switch == "run_skipped":
        assert "block cache" in verdict.separates


class ShiftedRow(Row):
    """Reads the prediction for a position at the position itself, in small forwards."""

    def next(self):
        forward = super().next()
        return forward if forward.kind != "small" else forward._replace(read=tuple(range(forward.width)))


def misplaced(confidence, masked, threshold):
    """Compares the threshold with the confidence of the position to the left."""
    return choose(confidence, masked, 1.0) | ((confidence.roll(1, -1) > threshold) & masked)


class StalePrefix(Cache):
    """Keeps what the last denoising step left in the block cache as the prefix of the next block."""

    def write(self, layer, context, keys, values):
        if context.kind != "commit":
            super().write(layer, context, keys, values)


def planted(patch, target, name, fault, decoder):
    def decode(prompts):
        with patch.context() as patched:
            patched.setattr(target, name, fault)
            yield from decoder(prompts)
    return decode


@pytest.mark.parametrize("fault", ["token shift", "threshold position"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_unknown_fault_is_none_of_the_switches(networks, monkeypatch, seed, fault):
    lm = networks[seed]
    target, name, planted_fault = {"token shift": (loop, "Row", ShiftedRow),
                                   "threshold position": (executor, "choose", misplaced)}[fault]
    for threshold, prompt in itertools.product((0.2, 0.25, 0.3, 0.4, 0.15, 0.1, 0.5), PROMPTS):
        decoding = DECODING.model_copy(update={"threshold": threshold})
        good = row_decoder(lm, "fixed", REUSE, decoding)
        bad = planted(monkeypatch, target, name, planted_fault, good)
        if output(good, [prompt]) != output(bad, [prompt]):
            break
    else:
        pytest.fail(f"{fault} changes no token of any prompt at any threshold")
    verdict = find(lm, bad, decoding, prompt=prompt)
    assert verdict.changes is None, verdict
    told = verdict_bisection.known_switches_explain("x", verdict)
    assert told.state is False and "none of the known switches does" in told.text
    assert verdict.tried > verdict.combinations     # all of them, for the bad decoder, and one for the good one
    assert verdict.parting is not None
    assert {"forwards", "input tokens", "output tokens"} & set(verdict.parting.observables)


def test_stale_prefix_parts_at_the_commit(networks, monkeypatch):
    lm, decoding = networks[0], DECODING.model_copy(update={"max_new_tokens": 29})
    good = row_decoder(lm, "fixed", REUSE, decoding)
    verdict = find(lm, planted(monkeypatch, network, "Cache", StalePrefix, good), decoding)
    assert verdict.changes is None
    assert verdict.parting.bad.kind == "commit"
    assert verdict.parting.observables == ("block cache",)


def test_names_the_interaction_and_gives_a_table(networks):
    """From 8e18baac to 6c8822f four visible switches change; two of them together change the tokens."""
    decoding, reuse = Decoding(threshold=1.0, max_new_tokens=29, small_block=4), Reuse(k=2, layers="first")
    for lm in networks:      # the first in which all four show, and more than one is needed for the tokens
        bad = row_decoder(lm, "6c8822f", reuse, decoding)
        verdict = find(lm, bad, decoding, reuse, "8e18baac", tabulate=True)
        assert set(verdict.changes) <= {"run_skipped", "full_block_every_k", "first_subset", "on_full_block"}
        if len(verdict.changes) == 4 and len(verdict.tokens_by) > 1:
            break
    else:
        pytest.fail("no network needs two of the four switches")

    def tokens(switches):
        changed = "".join(f"+{switch}={verdict.changes[switch][1]}" for switch in switches)
        return output(row_decoder(lm, f"8e18baac{changed}", reuse, decoding), [PROMPT])

    assert tokens(verdict.tokens_by) == output(bad, [PROMPT])
    for fewer in itertools.combinations(verdict.tokens_by, len(verdict.tokens_by) - 1):
        assert tokens(fewer) != output(bad, [PROMPT]), fewer
    told = verdict_bisection.tokens_have_a_cause("x", verdict)
    idle = verdict_bisection.idle(verdict)
    assert told.state is idle.empty, "an interaction is named where every candidate of the table reused something"
    assert len(verdict.table) == 10        # the two, and each with one of four taken from the other
    assert verdict.table["tokens of bad"].sum() >= 2        # the bad one itself, and it without fault 1
    assert not verdict.table["tokens of good"].all()


def test_nothing_separates_equal_decoders(networks):
    lm = networks[0]
    verdict = find(lm, row_decoder(lm, "fixed+trim_caches=false", REUSE, DECODING))
    assert verdict.parting is None
    told = verdict_bisection.known_switches_explain("x", verdict)
    assert told.state is None and "no observable separates" in told.text


def test_bypass_with_periodic_full_forwards_reuses_nothing_at_k_2_and_no_interaction_is_named(tmp_path):
    """Under bypass only small forwards store, and with a full forward on every second step each of them may reuse."""
    decoding = Decoding(threshold=1.0, max_new_tokens=29, small_block=4)
    bypass, refresh = "6c8822f", "6c8822f+on_full_block=refresh"
    lm = next((lm for lm in map(random_lm, range(20)) if output(row_decoder(lm, bypass, REUSE, decoding), [PROMPT])
               != output(row_decoder(lm, refresh, REUSE, decoding), [PROMPT])), None)
    assert lm is not None, "no network tells bypass from refresh"
    (_, result), = bisect_subsets(lm, [PROMPT], "8e18baac", bypass, decoding, 2, ["first"])
    assert len(result.tokens_by) > 1 and result.tokens_by["on_full_block"][1] == "bypass", "it needs both switches"
    both = result.table[(result.table["full_block_every_k"].astype(bool)) & (result.table["on_full_block"] == "bypass")]
    assert len(both) and (both[verdict_bisection.REUSED] == 0).all()
    text = verdict_bisection.bisection([("first", result)], pd.DataFrame(), shipped.read(tmp_path))
    assert "reuses nothing at this k" in text and "interaction of" not in text
    assert "Bug 4 by itself: not run on the real model." in text.split("<details")[0]
    assert words_before_fold(text) <= MOST_WORDS


def test_fault_4_in_lockstep_and_a_combination_that_raises(networks):
    """Untrimmed layer caches show in batches only, and with bypass only: there a decoder raises."""
    lm = networks[1]
    file = load(Path(__file__).parent / "data" / "standin_generation.py", allow_code=True)
    switches = file.batch_sample.__wrapped__.__globals__["SWITCHES"]
    decode = row_decoder(lm, "fixed+on_full_block=bypass", REUSE, DECODING)
    answers = dict(zip(map(tuple, PROMPTS), output(decode, PROMPTS), strict=True))
    decoding = DECODING.model_copy(update={"max_new_tokens": 32})

    def lockstep(**values):
        def decode(prompts):
            switches.update(values)
            yield from decoder(file, lm, decoding, REUSE)(prompts)
        return decode

    def candidate(revision):
        return lockstep(**{name: value for name, value in revision.switches().items() if name in switches})

    untrimmed = {"run_skipped": False, "full_block_every_k": False, "first_subset": "1-12", "cache_source": "latest",
                 "trim_caches": False, "on_full_block": "bypass"}
    for a, b, c in itertools.permutations(answers, 3):      # row 0 stops in its first block, and two rows go on
        prompts, stops = [list(a), list(b), list(c)], set(answers[a]) - set(answers[b] + answers[c])
        decoding = decoding.model_copy(update={"stop_ids": (min(stops, default=STOP),)})
        if Run(lockstep(**untrimmed), prompts).finish().outcome == "RuntimeError":
            break
    choices = {"trim_caches": (True, False), "on_full_block": ("refresh", "bypass"), "run_skipped": (False, True)}
    trimmed = untrimmed | {"trim_caches": True}
    verdict = bisect(lockstep(**trimmed), lockstep(**untrimmed), candidate, prompts, lm.network,
                     choices=choices, together=True)
    assert verdict.changes == {"trim_caches": (True, False)}, verdict
    assert "outcome" in verdict.separates
    assert "RuntimeError" in set(verdict.table.outcome)
