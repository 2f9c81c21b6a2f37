"""Bad input gets a ValueError that names field, value and what is allowed, before any work starts."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fastdllm
from fastdllm import Decoding, Execution, Reuse
from fastdllm.model.errors import NonFiniteLogits

HERE = {"mask_id": 511}


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Decoding(threshold=1.5), ["threshold", "1.5", "allowed"]),
    (lambda: Decoding(threshold=-0.1), ["threshold", "-0.1", "allowed"]),
    (lambda: Decoding(treshold=0.5), ["treshold", "unknown", "threshold"]),
    (lambda: Decoding(max_new_tokens=0), ["max_new_tokens", "0", "allowed"]),
    (lambda: Decoding(block_size=32, small_block=5), ["small_block", "5", "32"]),
    (lambda: Decoding(stop_ids=[-1]), ["stop_ids", "-1", "allowed"]),
    (lambda: Decoding(temperature=-1), ["temperature", "-1", "allowed"]),
    (lambda: Decoding(mask_id=511.0), ["mask_id=511.0", "whole number"]),
    (lambda: Decoding(stop_ids=[1.0]), ["stop_ids", "1.0", "whole number"]),
    (lambda: Decoding(stop_ids=[True]), ["stop_ids", "True", "whole number"]),
    (lambda: Decoding(mask_id=True), ["mask_id=True", "whole number"]),
    (lambda: Decoding(block_cache=0), ["block_cache=0", "true or false"]),
    (lambda: Decoding(block_cache=np.int64(1)), ["block_cache=np.int64(1)", "true or false"]),
    (lambda: Reuse(k=2, layers="first", full_forwards=1.0), ["full_forwards=1.0", "true or false"]),
    (lambda: Decoding(stop_ids=5), ["stop_ids=5", "a list"]),
    (lambda: Decoding(stop_strings="END"), ["stop_strings='END'", "a list"]),
    (lambda: Decoding(stop_strings=[b"END", 5]), ["stop_strings", "text"]),
    (lambda: Reuse(k=2, layers=np.array([[1, 2]])), ["layers", "list of indices"]),
    (lambda: Reuse(k=2, layers=range(0)), ["layers", "one or more"]),
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
    ("text", HERE, {}, "fixed", ["prompts='text'", "list of prompts"]),
    (b"text", HERE, {}, "fixed", ["prompts=b'text'", "list of prompts"]),
    (None, HERE, {}, "fixed", ["prompts=None", "list of prompts"]),
    (5, HERE, {}, "fixed", ["prompts=5", "list of prompts"]),
    (Path("text"), HERE, {}, "fixed", ["prompts=", "list of prompts"]),
    ({"role": "user", "content": "x"}, HERE, {}, "fixed", ["prompts={", "list of prompts"]),
    ([{"role": "user", "content": "x"}], HERE, {}, "fixed", ["prompts[0]={", "list of messages"]),
    ([[{"role": "user"}]], HERE, {}, "fixed", ["prompts[0][0]={", "role and content"]),
    ([[{"role": "user", "content": 5}]], HERE, {}, "fixed", ["prompts[0][0]={", "both texts"]),
    ([[{"role": "user", "content": "x"}, "y"]], HERE, {}, "fixed", ["prompts[0][1]='y'", "role and content"]),
    ([1, 2, 3], HERE, {}, "fixed", ["prompts[0]=1", "list of token ids"]),
    (range(3), HERE, {}, "fixed", ["prompts[0]=0", "list of token ids"]),
    (torch.tensor([1, 2]), HERE, {}, "fixed", ["prompts[0]=1", "list of token ids"]),
    ([[1], b"abc"], HERE, {}, "fixed", ["prompts[1]=b'abc'", "list of token ids"]),
    ([[1, 2.0]], HERE, {}, "fixed", ["prompts[0][1]=2.0", "whole numbers"]),
    ([[1, True]], HERE, {}, "fixed", ["prompts[0][1]=True", "whole numbers"]),
    ([[1, "2"]], HERE, {}, "fixed", ["prompts[0][1]='2'", "whole numbers"]),
    ([torch.tensor([1.0])], HERE, {}, "fixed", ["prompts[0][0]=1.0", "whole numbers"]),
    ([torch.tensor([[1, 2]])], HERE, {}, "fixed", ["prompts[0][0]=[1, 2]", "whole numbers"]),
    ([[1, 511, 2]], HERE, {}, "fixed", ["prompts[0][1]=511", "mask token"]),
    ([Path("text")], HERE, {}, "fixed", ["prompts[0]=PosixPath('text')", "allowed: a text"]),
    ({"text"}, HERE, {}, "fixed", ["prompts={'text'}", "allowed: a list of prompts"]),
    ([[1]], HERE, {"k": 2, "layers": "middle", "policy": "nowhere.py"}, "fixed", ["policy", "nowhere.py"]),
])
def test_requests_refused_before_any_work(golden, monkeypatch, prompts, decoding, reuse, revision, words):
    def run(*_):
        raise AssertionError("a forward ran")
    monkeypatch.setattr(type(golden.network), "forward", run)
    with pytest.raises(ValueError) as error:
        fastdllm.generate(golden, prompts, decoding=Decoding(**decoding), reuse=Reuse(**reuse), revision=revision)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_can_be_meant_is_taken(golden):
    kinds = [[[3, 4, 5]], ((3, 4, 5),), [range(3, 6)], [np.arange(3, 6)], np.array([[3, 4, 5]], np.int16),
             [torch.tensor([3, 4, 5])], torch.tensor([[3, 4, 5]]), [list(torch.tensor([3, 4, 5]))],
             [[np.int64(3), 4, np.uint8(5)]], iter([[3, 4, 5]])]
    decoding = Decoding(max_new_tokens=4, **HERE)
    [tokens] = {str(fastdllm.generate(golden, prompts, decoding=decoding).tokens) for prompts in kinds}
    for nothing in ({"decoding": decoding, "reuse": None, "trace": None}, {"decoding": decoding, "trace": False}):
        assert str(fastdllm.generate(golden, [[3, 4, 5]], **nothing).tokens) == tokens
    assert (Decoding(mask_id=np.int64(511), stop_ids=torch.tensor([510]), threshold=np.float32(0.5))
            == Decoding(mask_id=511, stop_ids=[510], threshold=0.5))
    assert Reuse(k=np.int8(2), layers=range(8, 12), policy=Path("output")) == Reuse(k=2, layers=[8, 9, 10, 11])
    for layers in (np.arange(8, 12), torch.arange(8, 12), range(8, 12)):
        assert Reuse(k=2, layers=layers).layers == (8, 9, 10, 11)


@pytest.mark.parametrize("value", [0, 1, 1.0, "0", "1", "maybe", None, np.int64(1)])
def test_a_switch_is_no_number_in_whatever_notation(value):
    for switch, settings in (("block_cache", Decoding), ("full_forwards", Reuse)):
        with pytest.raises(ValueError, match=f"{switch}=.*; allowed: true or false"):
            settings(**{switch: value})
    assert [Decoding(block_cache=word).block_cache for word in ("no", "off", "false", np.False_)] == [False] * 4


@pytest.mark.parametrize(("argument", "words"), [
    ({"trace": 1}, "trace=1; allowed: a Trace"), ({"trace": "yes"}, "trace='yes'"), ({"trace": 0}, "trace=0"),
    ({"decoding": {"threshold": 0.9}}, "decoding={'threshold': 0.9}; allowed: a Decoding"), ({"reuse": 2}, "reuse=2"),
    ({"revision": None}, "revision=None; allowed: upstream"), ({"revision": 26}, "revision=26; allowed: upstream"),
    ({"lm": "tiny"}, "lm='tiny'; allowed: a LM")])
def test_other_arguments_are_refused_before_any_work(golden, monkeypatch, argument, words):
    def run(*_):
        raise AssertionError("a forward ran")
    monkeypatch.setattr(type(golden.network), "forward", run)
    arguments = {"lm": golden, "decoding": Decoding(**HERE)} | argument
    with pytest.raises(ValueError, match=words):
        fastdllm.generate(arguments.pop("lm"), [[1]], **arguments)


def test_the_autoregressive_engine_takes_and_refuses_the_same(golden):
    from fastdllm.decode.autoregressive import generate_rows
    short = Decoding(max_new_tokens=2)
    [ids, array] = [[row.tokens for row in generate_rows(golden, prompts, decoding=short)]
                    for prompts in ([[3, 4]], np.array([[3, 4]]))]
    assert ids == array
    for prompts, words in (("text", "prompts='text'"), ([[1.5]], r"prompts\[0\]\[0\]=1.5"), ([], "at least one")):
        with pytest.raises(ValueError, match=words):
            next(generate_rows(golden, prompts, decoding=short))


def test_an_empty_list_of_stops_means_none_and_none_means_the_checkpoints(tiny):
    question = "Leo needs 461 cards. Leo finds 29 of them. At 8 per hour, how many hours does Leo need?"

    def finish(**decoding):
        return fastdllm.generate(tiny, [question], decoding=Decoding(max_new_tokens=96, **decoding)).rows[0].finish
    assert finish() == finish(stop_ids=None) == finish(stop_strings=[]) == "stop"
    assert finish(stop_ids=[]) == finish(stop_ids=(), stop_strings=()) == "length"
    # A special token never stands in decoded text; as a stop string it works all the same.
    assert finish(stop_ids=[], stop_strings=["<|im_end|>"]) == "stop"
    assert finish(stop_ids=[], stop_strings=["</s>", "####"]) == "stop_string"


@pytest.mark.parametrize("string", ["<|im_end|>\n", "a<|im_start|>", "|<MASK>|"])
def test_a_stop_string_around_a_special_token_is_refused(tiny, string):
    with pytest.raises(ValueError, match=r"Decoding.stop_strings: .*special token"):
        fastdllm.generate(tiny, ["2 + 3"], decoding=Decoding(stop_strings=[string]))


def test_text_that_is_no_unicode_and_a_mask_in_a_text_are_refused(tiny):
    with pytest.raises(ValueError, match=r"prompt: '\\udcff' is no character.*UTF-8"):
        fastdllm.generate(tiny, ["2 + \udcff"])
    with pytest.raises(ValueError, match=r"prompts\[0\]\[\d+\]=511, the mask token"):
        fastdllm.generate(tiny, ["2 + |<MASK>|"])


def test_chat_says_which_line_it_can_not_read(programs):
    for encoding in ("utf-8:strict", "utf-8:surrogateescape"):
        done = programs.fastdllm("chat", "--device", "cpu", "--max-new-tokens", "8", cwd=Path.cwd(),
                                       typed=b"\xff\xfe 2 + 3\nexit\n", PYTHONIOENCODING=encoding)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert "(the line is not UTF-8" in done.stdout


def test_explore_refuses_a_frame_that_is_no_trace():
    import pandas as pd

    from fastdllm.decode.trace import COLUMNS
    for frame in (pd.DataFrame(), pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame({"row": [0]})):
        with pytest.raises(ValueError, match=r"run: a frame of \d rows.*allowed: a trace"):
            fastdllm.explore(frame)


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


LONG = "...: too long for a file's name; allowed: "


@pytest.mark.parametrize(("words", "says"), [
    (("run", "--limit", "1", "--model"), LONG), (("grid", "status"), LONG), (("report",), LONG),
    (("chat", "--model"), " is no directory; allowed: "), (("bench", "--model"), "model='xxx"),
    (("fetch",), "name='xxx"), (("bench",), LONG), (("grid", "run", "demo", "--data"), "allowed: --set data=..."),
    (("grid", "run", "demo", "--k"), "allowed: --set axes.k=[...]"), (("run", "--data"), "allowed: --set data=..."),
    (("bench", "--device"), "device='xxx"), (("bench", "--dtype"), "dtype='xxx")])
def test_a_value_of_any_length_is_shortened(programs, tmp_path, words, says):
    done = programs.fastdllm(*words, "x" * 5000, cwd=tmp_path)
    [line] = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("fastdllm: ") and says in line and len(line) < 300


def test_a_config_of_brackets_in_brackets_is_no_valid_json(programs, tmp_path):
    (tmp_path / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = programs.fastdllm("chat", "--model", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1 and "config.json: not valid JSON (" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
