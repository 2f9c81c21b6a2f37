"""The recipe: tokenizer, noise, masks against their definition, agreement with decoding's forwards, resuming."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network
from fastdllm.tasks.arithmetic import generate
from fastdllm.train.data import StepBatches, batches, encode, make_batch, task_tokenizer
from fastdllm.train.forward import initialise, sequence_logits, weighted_loss
from fastdllm.train.loop import Objective, TrainingCall, train
from fastdllm.train.noise import attention_mask, draw_masks, layout
from fastdllm.train.recipe import SMOKE, TINY, Phase
from fastdllm.train.tokenizer import MASK, PAD, SPECIALS, STOP, chat_prompt, save_tokenizer

BLOCK, SMALL = 32, 8


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer(SMOKE)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode(SMOKE, tokenizer, generate("train", 300, 5), 300)


@pytest.fixture(scope="module")
def network():
    made = Network(ModelConfig.from_dict(SMOKE.geometry))
    initialise(made, seed=1)
    with torch.no_grad():
        made.lm_head.weight.mul_(30)
    return made.eval()


def test_tokenizer_round_trip_and_digits(tokenizer):
    for text in ["Emma has 12+5=17 apples.\n#### 17", "Ünïcode 𝛑 and\ttabs\r\n", "  spaces   12345 "]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == 512
    assert [vocabulary[special] for special in SPECIALS] == [508, 509, 510, 511]
    digits = [token for token in vocabulary if any(sign.isdigit() and sign.isascii() for sign in token)]
    assert sorted(digits) == list("0123456789")
    problem = generate("train", 1, 0)[0]
    joined = tokenizer.encode(chat_prompt(problem.question) + problem.answer).ids
    assert joined == tokenizer.encode(chat_prompt(problem.question)).ids + tokenizer.encode(problem.answer).ids


def test_tokenizer_files_load_in_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert (len(theirs), theirs.pad_token, theirs.eos_token, theirs.mask_token) == (512, PAD, STOP, MASK)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.mask_token_id) == (508, 510, 511)
    messages = [{"role": "user", "content": "How many?"}]
    text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == chat_prompt("How many?") == "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    turn = [*messages, {"role": "assistant", "content": "7"}]
    assert theirs.apply_chat_template(turn, tokenize=False) == text + "7<|im_end|>\n"
    ids = theirs.encode(text, add_special_tokens=False)
    assert ids == tokenizer.encode(text).ids
    assert theirs.decode(ids, skip_special_tokens=True) == "user\nHow many?\nassistant\n"


def test_attention_mask_is_its_definition():
    positions, copy = layout(TINY)
    mask = attention_mask(TINY)
    assert len(positions) == 160 + 2 * 128
    for query in range(len(positions)):
        for key in range(len(positions)):
            query_block, key_block = positions[query] // BLOCK, positions[key] // BLOCK
            if copy[query] == 0:
                seen = copy[key] == 0 and key_block <= query_block
            elif copy[key] == 0:
                seen = key_block < query_block
            else:
                seen = copy[key] == copy[query] and key_block == query_block
            assert mask[query, key] == seen


def test_what_is_masked(encoded):
    hidden, weights = draw_masks(TINY, encoded, np.random.default_rng(0))
    assert hidden.shape == weights.shape == (300, 2, 160)
    assert ((weights > 0) == hidden).all()
    position = np.arange(160)
    end = -(-encoded.lengths // BLOCK) * BLOCK
    answer = (position >= encoded.prompts[:, None]) & (position < end[:, None])
    may_hide = answer & (position % BLOCK != 0)
    assert not (hidden & ~may_hide[:, None]).any()          # never the prompt, a block's first token, later blocks
    padding = (position >= encoded.lengths[:, None])[:, None] & hidden
    assert weights[padding].max() == pytest.approx(0.1) and weights[hidden & ~padding].min() == pytest.approx(0.3)

    complementary = (hidden.sum(1) == may_hide).all(1)      # the paper's half: each token hidden in one view
    assert 0.4 < complementary.mean() < 0.6
    for row in np.flatnonzero(~complementary):
        for view in range(2):
            for block in range(5):
                part = np.arange(block * BLOCK, (block + 1) * BLOCK)
                gone, maskable = hidden[row, view, part], may_hide[row, part]
                small = np.arange(BLOCK) // SMALL
                states = [gone[small == s].sum() / max(1, maskable[small == s].sum()) for s in range(4)]
                full = np.isclose(weights[row, view, part], 1) | np.isclose(weights[row, view, part], 0.1)
                assert len(set(small[gone & full])) <= 1    # full weight in the small block being decoded only
                after = [s for s in range(4) if maskable[small == s].any()]
                partly = [s for s in after if 0 < states[s] < 1]
                assert len(partly) <= 1
                assert sorted(states[s] for s in after) == [states[s] for s in after]   # clean, partly, all masked


def test_targets_are_the_next_tokens(tokenizer, encoded):
    phase = dataclasses.replace(TINY.phases[1], batch_size=64)
    positions, copy = layout(TINY)
    batch = make_batch(TINY, phase, tokenizer, "train", 5)
    clean = batch.inputs[:, copy == 0]
    assert (clean == encoded.tokens[:64]).all()
    for row, position in zip(*np.nonzero(batch.weights), strict=True):
        target_position = positions[position] + 1
        assert batch.targets[row, position] == clean[row, target_position]
        if copy[position] == 0:
            assert target_position % BLOCK == 0
        else:
            same = np.flatnonzero((copy == copy[position]) & (positions == target_position))[0]
            assert batch.inputs[row, same] == 511 and positions[same] // BLOCK == positions[position] // BLOCK
    for row in range(64):
        opens = {p for p in range(BLOCK, 160, BLOCK) if encoded.prompts[row] <= p < encoded.lengths[row]}
        assert set(positions[(copy == 0) & (batch.weights[row] > 0)] + 1) == opens
        masked = np.flatnonzero(batch.inputs[row] == 511)
        assert (batch.weights[row, masked - 1] > 0).all()

    plain = make_batch(TINY, dataclasses.replace(phase, objective="next_token"), tokenizer, "train", 5)
    assert (plain.targets[:, :-1] == plain.inputs[:, 1:]).all()
    assert all((plain.weights[row] > 0).sum() == encoded.lengths[row] - 1 for row in range(64))


def test_training_forward_equals_decoding_forwards(network, encoded):
    """Clean copy = prefill and commit; a noised block = the full forward that decoding makes of it."""
    phase = dataclasses.replace(SMOKE.phases[1], batch_size=4)
    batch = make_batch(SMOKE, phase, task_tokenizer(SMOKE), "train", 5)
    positions, copy = layout(SMOKE)
    rows = (0, 1, 2, 3)
    with torch.no_grad():
        ours = sequence_logits(network, torch.from_numpy(batch.inputs).long(), torch.from_numpy(positions),
                               torch.from_numpy(attention_mask(SMOKE)))

        def forward(cache, kind, tokens, start):
            width = tokens.shape[1]
            context = network.context(cache, kind, rows, [start] * 4, width, [start + width] * 4)
            return network.logits(network(torch.from_numpy(tokens).long(), context, cache))

        cache = network.new_cache(4, 160)
        whole = forward(cache, "prefill", batch.inputs[:, :160], 0)
        torch.testing.assert_close(ours[:, :160], whole, atol=1e-3, rtol=1e-4)
        for view in (1, 2):
            cache = network.new_cache(4, 160)
            forward(cache, "prefill", batch.inputs[:, :BLOCK], 0)
            for block in range(1, 5):
                start = block * BLOCK
                here = np.flatnonzero((copy == view) & (positions // BLOCK == block))
                full = forward(cache, "full", batch.inputs[:, here], start)
                torch.testing.assert_close(ours[:, here], full, atol=1e-3, rtol=1e-4)
                forward(cache, "commit", batch.inputs[:, start:start + BLOCK], start)


def test_weighted_loss():
    logits = torch.tensor([[[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]])
    loss, hits = weighted_loss(logits, torch.tensor([[1, 1, 0]]), torch.tensor([[1.0, 1.0, 0.5]]))
    each = [np.log1p(np.exp(-2)), np.log1p(np.exp(1)), np.log(2)]
    assert loss.item() == pytest.approx((each[0] + each[1] + each[2] / 2) / 2.5)
    assert hits.item() == 0.5


def test_batches_depend_on_the_step_only(tokenizer):
    data = StepBatches(SMOKE, SMOKE.phases[1], tokenizer)
    in_order = list(batches(data, 0, workers=0))
    assert len(in_order) == SMOKE.phases[1].steps
    for step, batch in zip((8, 9), batches(data, 8, workers=2), strict=True):
        assert (batch.inputs == in_order[step].inputs).all() and (batch.weights == in_order[step].weights).all()
    assert not (in_order[0].inputs == in_order[1].inputs).all()
    other_phase = StepBatches(SMOKE, SMOKE.phases[0], tokenizer)
    assert not (other_phase[0].inputs == in_order[0].inputs[:, :160]).all()


def test_learning_rate():
    phase = Phase("x", "next_token", steps=110, batch_size=1, peak_rate=2.0, final_rate=0.5, warmup_steps=10)
    assert phase.rate(0) == pytest.approx(0.2) and phase.rate(9) == pytest.approx(2.0) == phase.rate(10)
    assert phase.rate(60) == pytest.approx(1.25) and 0.5 < phase.rate(109) < 0.51
    with pytest.raises(ValueError, match=r"Phase\.objective='mlm'; allowed: next_token, block_diffusion"):
        dataclasses.replace(phase, objective="mlm")


def call(root, **limits):
    return TrainingCall(out=root / "out", state=root / "state", device=torch.device("cpu"), measure_every=5,
                log=lambda line: None, **limits)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = train(SMOKE, call(tmp_path / "whole"))
    for steps in (3, 7, 6):     # a pause inside each phase and one exactly between them
        progress = train(SMOKE, call(tmp_path / "parts", max_steps=steps))
    assert (progress.phase, progress.step) == (1, 6)
    progress = train(SMOKE, call(tmp_path / "parts"))
    assert progress.curve == whole.curve and (progress.phase, progress.step) == (1, 10)
    once, parts = (load_file(tmp_path / name / "state" / "state.safetensors") for name in ("whole", "parts"))
    assert once.keys() == parts.keys()
    assert all(torch.equal(once[name], parts[name]) for name in once)
    files = {path.name for path in (tmp_path / "parts" / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "curve.csv"}
    weights = load_file(tmp_path / "parts" / "out" / "model.safetensors")
    assert torch.equal(weights["model.layers.1.mlp.down_proj.weight"],
                       once["weights.model.layers.1.mlp.down_proj.weight"].bfloat16())
    config = json.loads((tmp_path / "parts" / "out" / "config.json").read_text())
    assert config["bd_size"] == 32 and config["architectures"] == ["Fast_dLLM_QwenForCausalLM"]
    continued = dataclasses.replace(SMOKE, start=str(tmp_path / "whole" / "out"))
    train(continued, call(tmp_path / "continued", max_steps=1))
    started = load_file(tmp_path / "continued" / "out" / "model.safetensors")
    assert (started["lm_head.weight"] - weights["lm_head.weight"]).abs().max() < 0.01   # one small step away
    other = dataclasses.replace(SMOKE, seed=1)
    with pytest.raises(ValueError, match="another recipe"):
        train(other, call(tmp_path / "parts"))


def test_training_lowers_the_loss(tokenizer, network):
    """Twenty steps on one batch of each objective."""
    for phase in SMOKE.phases:
        learner = Network(network.config)
        initialise(learner, 0)
        batch = make_batch(SMOKE, phase, tokenizer, "train", 1)
        objective = Objective(SMOKE, phase, learner, call(Path()))
        optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
        losses = []
        for _ in range(20):
            loss, _ = objective(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]
