"""Greedy causal decoding: against a plain loop without cache, in batches, with every way to stop."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

import fastdllm
from fastdllm import Decoding
from fastdllm.decode import autoregressive

GOLDEN = Path(__file__).parent / "golden"
LENGTHS = (1, 5, 32, 33)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(500) for _ in range(length)] for length in LENGTHS]


def plainly(network, prompt: list[int], count: int) -> list[int]:
    """Argmax after argmax, the whole text through the network each time."""
    tokens = list(prompt)
    for _ in range(count):
        cache = network.new_cache(1, len(tokens))
        context = network.context(cache, "prefill", (0,), [0], len(tokens), [len(tokens)])
        with torch.inference_mode():
            tokens.append(int(network.logits(network(torch.tensor([tokens]), context, cache)[:, -1:]).argmax()))
    return tokens[len(prompt):]


def run(lm, prompts, **settings):
    batch_size = settings.pop("batch_size", None)
    rows = autoregressive.generate_rows(lm, prompts, decoding=Decoding(**{"max_new_tokens": 8, **settings}),
                                        batch_size=batch_size)
    return sorted(rows, key=lambda row: row.row)


def test_equals_a_loop_without_cache(lm, prompts):
    network = autoregressive.causal(lm.network)
    assert [row.tokens for row in run(lm, prompts, stop_ids=())] == [plainly(network, p, 8) for p in prompts]


def test_a_row_is_the_same_alone_and_in_any_batch(lm, prompts):
    together = run(lm, prompts, stop_ids=())
    for size in (1, 2):
        assert [row.tokens for row in run(lm, prompts, stop_ids=(), batch_size=size)] == [r.tokens for r in together]
    assert all(row.nfe == {"prefill": 1, "full": 0, "small": 0, "commit": 7, "replay": 0} for row in together)


def test_the_network_itself_stays_as_it_was(lm):
    view = autoregressive.causal(lm.network)
    assert (view.config.bd_size, lm.network.config.bd_size) == (1, 32)
    assert view.lm_head is lm.network.lm_head
    assert autoregressive.causal(view) is view


def test_a_prompt_is_read_causally(lm):
    """The second token must not see the third: other endings, same first prediction."""
    network = autoregressive.causal(lm.network)
    seen = []
    for last in (7, 8):
        cache = network.new_cache(1, 3)
        context = network.context(cache, "prefill", (0,), [0], 3, [3])
        with torch.inference_mode():
            seen.append(network.logits(network(torch.tensor([[3, 4, last]]), context, cache)))
    assert torch.equal(seen[0][:, :2], seen[1][:, :2])
    assert not torch.equal(seen[0][:, 2], seen[1][:, 2])


def test_stops(lm, prompts):
    free = run(lm, prompts[1:2], stop_ids=())[0].tokens
    stopped = run(lm, prompts[1:2], stop_ids=(free[3],))[0]
    assert (stopped.tokens, stopped.finish) == (free[:free.index(free[3]) + 1], "stop")
    assert run(lm, prompts[1:2], stop_ids=())[0].finish == "length"


def test_stop_strings_end_a_row_at_once(tiny):
    question = ["There are 18 boxes with 6 stones each. 91 of them are sold. How many is that?"]
    free = run(tiny, question, max_new_tokens=24)[0]
    assert "\n" in free.text
    row = run(tiny, question, max_new_tokens=24, stop_strings=("\n",))[0]
    assert (row.finish, row.text) == ("stop_string", free.text.split("\n")[0])
    assert row.tokens == free.tokens[:len(row.tokens)]
    assert "\n" in tiny.decode(row.tokens) and "\n" not in tiny.decode(row.tokens[:-1])


@pytest.mark.parametrize(("settings", "field"), [
    ({"temperature": 0.5}, "Decoding.temperature=0.5"), ({"batch_size": 0}, "batch_size=0"),
    ({"max_new_tokens": 100_000}, "max_position_embeddings")])
def test_bad_settings(lm, prompts, settings, field):
    with pytest.raises(ValueError, match=field):
        run(lm, prompts, **settings)


@pytest.mark.parametrize("prompts", [[], [[]], [[10**6]]])
def test_bad_prompts(lm, prompts):
    with pytest.raises(ValueError, match="prompts"):
        run(lm, prompts)


def test_a_plain_causal_checkpoint_loads_and_reads_the_same(tmp_path, golden, prompts):
    """Qwen2's own configuration names no block size and no mask: every token is its own block."""
    config = json.loads((GOLDEN / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("bd_size", "mask_token_id")}
    config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(GOLDEN / "model.safetensors", tmp_path)
    plain = fastdllm.load(tmp_path, device="cpu")
    assert plain.config.bd_size == 1
    assert autoregressive.causal(plain.network) is plain.network
    assert [r.tokens for r in run(plain, prompts, stop_ids=())] == [r.tokens for r in run(golden, prompts, stop_ids=())]
