"""Bad input gets a ValueError that names field, value and what is allowed, before any work starts."""

import pytest
import torch

import fastdllm
from fastdllm import Decoding, Execution, Reuse
from fastdllm.decode.executor import NonFiniteLogits

HERE = {"mask_id": 511}


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Decoding(threshold=1.5), ["threshold", "1.5", "allowed"]),
    (lambda: Decoding(threshold=-0.1), ["threshold", "-0.1", "allowed"]),
    (lambda: Decoding(treshold=0.5), ["treshold", "unknown", "threshold"]),
    (lambda: Decoding(max_new_tokens=0), ["max_new_tokens", "0", "allowed"]),
    (lambda: Decoding(block_size=32, small_block=5), ["small_block", "5", "32"]),
    (lambda: Decoding(stop_ids=[-1]), ["stop_ids", "-1", "allowed"]),
    (lambda: Decoding(temperature=-1), ["temperature", "-1", "allowed"]),
    (lambda: Reuse(k=0), ["k", "0", "allowed"]),
    (lambda: Reuse(k=2), ["layers", "k=2", "allowed"]),
    (lambda: Reuse(k=2, layers="center"), ["layers", "center", "first, middle, last"]),
    (lambda: Reuse(k=2, layers=[3, 3]), ["layers", "[3, 3]", "different"]),
    (lambda: Reuse(k=2, layers="1-5,4-8"), ["layers", "1-5,4-8", "different"]),
    (lambda: Reuse(k=2, layers="8-19", policy="magic"), ["policy", "magic", "output"]),
    (lambda: Reuse(k=2, layer="8-19"), ["layer", "unknown", "layers"]),
    (lambda: Reuse(k=2, layers="20-40").layer_indices(28), ["layers", "20-40", "0 to 27"]),
])
def test_settings_refuse(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(("prompts", "decoding", "reuse", "revision", "words"), [
    ([[]], HERE, {}, "fixed", ["prompts[0]", "at least one token"]),
    ([], HERE, {}, "fixed", ["prompts", "at least one"]),
    ([[1, 2], [700]], HERE, {}, "fixed", ["prompts[1]", "700", "511"]),
    ([[1] * 5000], HERE, {}, "fixed", ["prompts[0]", "5000", "4096"]),
    ([[1]], {**HERE, "max_new_tokens": 4096}, {}, "fixed", ["max_new_tokens", "4096"]),
    ([[1]], {}, {}, "fixed", ["mask_id", "None", "allowed"]),
    ([[1]], {"mask_id": 512}, {}, "fixed", ["mask_id", "512", "511"]),
    ([[1]], {**HERE, "stop_ids": [512]}, {}, "fixed", ["stop_ids", "512"]),
    ([[1]], {**HERE, "small_block": 5}, {}, "fixed", ["small_block", "5", "32"]),
    ([[1]], {**HERE, "block_cache": False}, {"k": 2, "layers": "middle"}, "fixed", ["block_cache", "k"]),
    ([[1]], HERE, {"k": 2, "layers": "20-30"}, "fixed", ["layers", "20-30", "27"]),
    ([[1]], HERE, {}, "8e18", ["revision", "8e18", "8e18baac"]),
    ([[1]], HERE, {}, "fixed+bug=on", ["bug", "run_skipped"]),
    ([[1]], HERE, {}, "fixed+on_full_block=off", ["on_full_block", "off", "refresh"]),
    ([[1]], {**HERE, "max_new_tokens": 16}, {}, "upstream", ["max_new_tokens", "16", "32"]),
    (["text"], HERE, {}, "fixed", ["prompt", "tokenizer", "token ids"]),
    ([[1]], HERE, {"k": 2, "layers": "middle", "policy": "nowhere.py"}, "fixed", ["policy", "nowhere.py"]),
])
def test_requests_refused_before_any_work(golden, monkeypatch, prompts, decoding, reuse, revision, words):
    def run(*_):
        raise AssertionError("a forward ran")
    monkeypatch.setattr(type(golden.network), "forward", run)
    with pytest.raises(ValueError) as error:
        fastdllm.generate(golden, prompts, decoding=Decoding(**decoding), reuse=Reuse(**reuse), revision=revision)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_empty_text_is_refused(tiny):
    with pytest.raises(ValueError, match=r"prompts\[0\].*not empty"):
        fastdllm.generate(tiny, ["  "])


@pytest.mark.parametrize(("keyword", "value", "allowed"), [
    ("batch_size", 0, "1 or more"), ("threads", 0, "1 or more"), ("seed", -1, "0 or more"),
    ("executor", "quick", "auto, eager or fast"), ("batchsize", 4, "seed, batch_size, threads, executor")])
def test_wrong_execution_is_refused_as_settings_and_as_a_keyword(golden, keyword, value, allowed):
    with pytest.raises(ValueError, match=rf"Execution.{keyword}={value!r}; .*{allowed}"):
        Execution(**{keyword: value})
    with pytest.raises(ValueError, match=rf"Execution.{keyword}={value!r}; .*{allowed}"):
        fastdllm.generate(golden, [[1]], decoding=Decoding(**HERE), **{keyword: value})


def test_keywords_of_a_call_replace_single_fields_of_its_execution(golden):
    def tokens(**how):
        decoding = Decoding(max_new_tokens=16, temperature=1.0, **HERE)
        return fastdllm.generate(golden, [[1, 2, 3], [4, 5]], decoding=decoding, **how).tokens

    assert tokens(execution=Execution(seed=3)) == tokens(seed=3) != tokens(seed=4)
    assert tokens(execution=Execution(seed=4, batch_size=1), seed=3) == tokens(seed=3)


@pytest.mark.parametrize("reuse", [Reuse(), Reuse(k=2, layers="middle")])
def test_non_finite_logits_name_layer_and_step(golden, reuse):
    weight = golden.network.model.layers[5].mlp.down_proj.weight
    before = weight.clone()
    with torch.no_grad():
        weight[0, 0] = float("nan")
    try:
        with pytest.raises(NonFiniteLogits, match=r"layer 5.*step 0"):
            fastdllm.generate(golden, [[1, 2, 3]], decoding=Decoding(max_new_tokens=8, **HERE), reuse=reuse)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert all("forward" not in layer.__dict__ for layer in golden.network.model.layers)
