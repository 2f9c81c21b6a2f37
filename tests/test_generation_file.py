"""A user's own generation file on our network: golden cases, traces, refusals, and where two loops part."""

import json
import re
from dataclasses import replace
from pathlib import Path

import golden_support
import pytest
import torch
from golden_support import DATA
from lab_support import command
from safetensors.torch import save_file

import fastdllm
from fastdllm import Decoding, Reuse, tasks
from fastdllm.decode.generate import generate_rows
from fastdllm.decode.trace import Trace
from fastdllm.investigation.collapse.inspection import side_by_side
from fastdllm.lab.instrument import generation_file as files
from fastdllm.model.errors import NothingUnmasked

HERE = Path(__file__).parent
STANDIN = HERE / "data" / "standin_generation.py"
SWITCHES = {"run2": {}, "run1C": {"on_full_block": "bypass"}, "two_tier": {"cache_source": "full"},
            "old": {"run_skipped": True, "full_block_every_k": True, "first_subset": "1-11",
                    "on_full_block": "by_step"}}
# The first reusing case of each variant with one row, and one batch in lockstep.
SINGLE = [c for c in DATA["cases"] if c["k"] > 1 and len(golden_support.rows(c)) == 1]
CASES = [next(c for c in SINGLE if c["variant"] == variant) for variant in SWITCHES]
CASES.append(next(c for c in DATA["cases"] if c["variant"] == "run2" and c["prompt"] == "b3a"))
PROMPT = DATA["prompts"]["p40"]["rows"][0]


@pytest.fixture
def standin():
    file = files.load(STANDIN, allow_code=True)
    file.batch_sample.__wrapped__.__globals__["SWITCHES"].update(
        run_skipped=False, full_block_every_k=False, first_subset="1-12", trim_caches=True, on_full_block="refresh",
        cache_source="latest")
    return file


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_tokens_through_the_adapter(lm, standin, case):
    """What the published loops gave on the checkpoint's own code, a file in their interface gives on our network."""
    standin.batch_sample.__wrapped__.__globals__["SWITCHES"].update(SWITCHES.get(case["variant"], {}))
    reuse = Reuse(k=case["k"], layers=case["subset"])
    [got] = files.decoder(standin, lm, golden_support.decoding(case), reuse)(golden_support.rows(case))
    assert case["stop_token"] == 9999      # it never stops, so that nothing is cut
    assert got == case["generated"]
    assert got[0]


def test_a_file_at_k_1_counts_the_layers_that_are_named_as_a_revision_does(lm, standin):
    decoding = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=())
    how = {"decoding": decoding, "reuse": Reuse(layers="last")}
    traces, ours = [], Trace()
    [theirs] = files.generate_rows(lm, [PROMPT], file=standin, traces=traces, **how)
    [row] = generate_rows(lm, [PROMPT], revision="26d6179", trace=ours, **how)
    assert theirs.decisions == row.decisions
    assert len(traces[0]) == len(ours.frame()) > 0


def test_rows_and_trace_agree_with_the_emulated_revision(lm, standin):
    decoding = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=())
    reuse, prompt = Reuse(k=2, layers="middle"), PROMPT
    traces, ours = [], Trace()
    [theirs] = files.generate_rows(lm, [prompt], file=standin, decoding=decoding, reuse=reuse, traces=traces)
    [row] = generate_rows(lm, [prompt], decoding=decoding, reuse=reuse, revision="26d6179", trace=ours)
    assert (theirs.tokens, theirs.nfe, theirs.finish) == (row.tokens, row.nfe, row.finish)
    assert theirs.decisions == row.decisions
    assert theirs.decisions["reuse"] > 0
    columns = ["forward", "block", "small_block", "step", "kind", "layer", "decision", "served_forward", "slice_start",
               "changed"]
    a, b = (frame[columns].astype("string").fillna("") for frame in (traces[0], ours.frame()))
    assert a.to_dict("list") == b.to_dict("list")


# Every revision's way with a layer that is not needed: off in full forwards or not, run and discarded or not.
WAYS = {"refresh": {}, "bypass": {"on_full_block": "bypass"}, "stored by full forwards": {"cache_source": "full"},
        "discarded": {"run_skipped": True}, "8e18baac": SWITCHES["old"],
        "nothing": {"on_full_block": "bypass", "full_block_every_k": True}}


@pytest.mark.parametrize(("layers", "k", "way"), [      # every way at every k; every subset with each of both
    (("first", "middle", "last")[(k + at) % 3], k, way) for at, way in enumerate(WAYS) for k in (1, 2, 3)])
def test_decisions_counted_as_a_file_decodes_are_those_of_the_trace(lm, standin, layers, k, way):
    standin.batch_sample.__wrapped__.__globals__["SWITCHES"].update(WAYS[way])
    traces = []
    [row] = files.generate_rows(lm, [PROMPT], file=standin, traces=traces, reuse=Reuse(k=k, layers=layers),
                                decoding=Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=()))
    [trace] = traces
    assert {name: n for name, n in row.decisions.items() if n} == dict(trace.decision.value_counts())
    assert row.reused_nothing == (k > 1 and not (trace.decision == "reuse").any())
    discarded = trace.reason.str.contains("discarded")
    assert (trace.decision[discarded] == "reuse").all()
    assert discarded.any() or k == 1 or way != "8e18baac"      # the layers that it reuses ran, and that changed nothing
    assert row.reused_nothing or (way, k) != ("nothing", 2)


TWICE = '''
"""Every layer of `first` runs; in a second forward on the same tokens ANSWER goes on."""
import torch

def batch_sample(self, input_ids, **_):
    stored = {}
    def wrap(index, original):
        def forward(*args, **kwargs):
            output = original(*args, **kwargs)[0]
            stored.setdefault(index, output)
            return (ANSWER,)
        return forward
    layers = self.model.layers
    for index in range(1, 13):
        layers[index].forward = wrap(index, layers[index].forward)
    try:
        for _ in range(2):
            self.forward(input_ids=torch.cat([input_ids, torch.full_like(input_ids[:, :1], 511)], 1))
    finally:
        for index in range(1, 13):
            del layers[index].forward
    return {0: input_ids[0]}
'''


@pytest.mark.parametrize(("answer", "reused"), [("output", 0), ("stored[index]", 12), ("stored[index].clone()", 12),
                                                ("output + 1", 24), ("output[:, :1].expand_as(output).clone()", 24)])
def test_a_discarded_result_is_told_from_one_that_goes_on_also_where_both_have_the_same_values(
        lm, tmp_path, answer, reused):
    """In the second forward a layer computes what it computed before: its stored output has the same values."""
    (tmp_path / "twice.py").write_text(TWICE.replace("ANSWER", answer))
    traces = []
    [row] = files.generate_rows(lm, [PROMPT[:7]], file=files.load(tmp_path / "twice.py", allow_code=True),
                                reuse=Reuse(k=2, layers="first"), traces=traces,
                                decoding=Decoding(mask_id=511, stop_ids=(), max_new_tokens=32))
    assert (row.decisions["reuse"], row.decisions["recompute"]) == (reused, 24 - reused)
    assert dict(traces[0].decision.value_counts()) == {name: n for name, n in row.decisions.items() if n}


def test_a_copy_of_what_a_layer_computed_is_no_reuse(lm, tmp_path):
    (tmp_path / "copying.py").write_text(STANDIN.read_text().replace(
        "return original(hidden, *args, **kwargs)", "return (original(hidden, *args, **kwargs)[0].clone(),)").replace(
        "                return output\n", "                return (output[0].clone(),)\n"))
    file, traces = files.load(tmp_path / "copying.py", allow_code=True), []
    settings = {"decoding": Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=()),
                "reuse": Reuse(k=2, layers="middle")}
    [row] = files.generate_rows(lm, [PROMPT], file=file, traces=traces, **settings)
    [plain] = files.generate_rows(lm, [PROMPT], file=files.load(STANDIN, allow_code=True), **settings)
    assert row.decisions == plain.decisions
    assert row.decisions["recompute"] and row.decisions["reuse"]
    assert {name: n for name, n in row.decisions.items() if n} == dict(traces[0].decision.value_counts())


def test_nobody_listens_at_the_networks_points_unless_a_trace_is_asked_for(lm, tmp_path):
    """The seconds of a file contain no looking: they compare with those of a revision on the eager executor."""
    (tmp_path / "listeners.py").write_text(
        "def batch_sample(self, input_ids, **_):\n"
        "    LISTENERS.append(len(self.network.hook_points.listeners))\n    return {0: input_ids[0]}\n"
        "LISTENERS = []\n")
    file = files.load(tmp_path / "listeners.py", allow_code=True)
    for traces in (None, []):
        list(files.generate_rows(lm, [PROMPT], file=file, traces=traces,
                                 decoding=Decoding(mask_id=511, stop_ids=(), max_new_tokens=32)))
    quiet, traced = file.batch_sample.__globals__["LISTENERS"]
    assert quiet == 0 < traced


def test_a_file_that_unmasks_nothing_ends_with_an_error(lm, standin):
    """The mask token is the argmax everywhere: the published loop would run for ever."""
    decoding = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=())

    def predict_mask(logits, _point):
        return torch.nn.functional.one_hot(torch.full(logits.shape[:2], 511), 512).float()

    with lm.network.hooks({"logits": predict_mask}), pytest.raises(NothingUnmasked, match=r"block 1: .* full forwards"):
        list(files.generate_rows(lm, [PROMPT], file=standin, decoding=decoding))


PUBLISHED = STANDIN.read_text().replace("reuse_k=1, layer_subset=None", "*, reuse_k, layer_subset=None")


@pytest.fixture
def published(tmp_path):
    """As the published files: `reuse_k` has no default."""
    (tmp_path / "published.py").write_text(PUBLISHED)
    return files.load(tmp_path / "published.py", allow_code=True)


def rows_of_both(lm, file, revision="26d6179", prompts=(PROMPT,), reuse=Reuse(), seed=0, **decoding):
    settings = Decoding(**{"threshold": 0.9, "max_new_tokens": 32, "mask_id": 511, "stop_ids": ()} | decoding)
    theirs = list(files.generate_rows(lm, list(prompts), file=file, decoding=settings, reuse=reuse, seed=seed))
    ours = list(generate_rows(lm, list(prompts), decoding=settings, reuse=reuse, revision=revision, batch_size=1,
                              seed=seed))
    return theirs, ours


def test_without_reuse_a_file_that_asks_for_k_is_told_1(lm, published):
    """The baseline with one's own file, also where `reuse_k` has no default."""
    [theirs], [ours] = rows_of_both(lm, published)
    assert (theirs.tokens, theirs.nfe, theirs.finish) == (ours.tokens, ours.nfe, ours.finish)
    assert not theirs.reused_nothing


def test_a_stop_token_that_a_commit_carries_over_is_counted_as_by_the_revision(lm, published):
    """The published loop doesn't notice it, and what it goes on to decode is its output; one it notices ends it."""
    [plain], _ = rows_of_both(lm, published, max_new_tokens=96)
    carried = 32 - len(PROMPT) % 32
    for stop, finish in ((plain.tokens[carried], "length"), (plain.tokens[3], "stop")):
        [theirs], [ours] = rows_of_both(lm, published, max_new_tokens=96, stop_ids=(stop,))
        assert (theirs.tokens, theirs.nfe, theirs.finish) == (ours.tokens, ours.nfe, finish)
        assert theirs.tokens.index(stop) + 1 == len(theirs.tokens) or finish == "length"


@pytest.mark.parametrize(("row", "padding", "answer"), [
    ([1] * 4 + [5, 6, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], None, [5, 6, 9]),            # noticed: whole blocks of 8
    ([1] * 4 + [5, 6, 7, 4, 9, 2, 3, 2, 3, 2, 3, 2, 2], None, [5, 6, 7, 4, 9, 2, 3, 2, 3, 2, 3, 2, 2]),   # ran on
    ([1] * 4 + [5, 6, 7, 4, 9, 0, 0, 0, 0, 0, 0, 0, 0], None, [5, 6, 7, 4, 9, 0, 0, 0, 0, 0, 0, 0, 0]),   # into padding
    ([1] * 4 + [5, 6, 7, 9, 0], 0, [5, 6, 7, 9]),                                 # waited for other rows
    ([1] * 4 + [5, 6, 9], None, [5, 6, 9]), ([1] * 4 + [5, 6, 8, 8], None, [5, 6]), ([1] * 4, None, [])])
def test_what_a_returned_row_answers(row, padding, answer):
    assert files.answer(row, length=4, block=8, stop=9, mask=8, padding=padding) == answer


def test_a_seed_acts_on_what_the_model_and_the_file_draw(lm, published, tmp_path):
    first, again, other = (rows_of_both(lm, published, temperature=0.8, seed=seed)[0][0].tokens for seed in (1, 1, 2))
    assert first == again != other
    assert first == rows_of_both(lm, published, temperature=0.8, seed=1)[1][0].tokens      # the revision's draws
    (tmp_path / "own.py").write_text(
        "import torch\ndef batch_sample(self, input_ids, **_):\n"
        "    return {0: torch.cat([input_ids[0], torch.randint(0, 500, (5,))])}\n")
    own, state = files.load(tmp_path / "own.py", allow_code=True), torch.get_rng_state()
    drawn = [[row.tokens for row in files.generate_rows(lm, [PROMPT, PROMPT], file=own, seed=seed,
                                                        decoding=Decoding(mask_id=511, stop_ids=(), max_new_tokens=32))]
             for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]                         # rows are drawn from seeds of their own
    assert torch.equal(torch.get_rng_state(), state)          # and nobody else's draws are touched


def test_stop_strings_end_the_text_as_under_a_revision(tiny, published):
    [problem] = tasks.get("arithmetic").problems(limit=1)
    own = {"mask_id": None, "stop_ids": None, "prompts": [problem.prompt]}
    [[plain], _] = rows_of_both(tiny, published, **own)
    for strings in ((plain.text[5:8],), ("never said",)):
        [theirs], [ours] = rows_of_both(tiny, published, stop_strings=strings, **own)
        assert theirs.text == ours.text == plain.text.partition(strings[0])[0]
    special = tiny.tokenizer.convert_ids_to_tokens(tiny.stop_ids[0])      # a stop string that is a token
    [theirs], [ours] = rows_of_both(tiny, published, max_new_tokens=96, stop_strings=(special,),
                                    **own | {"stop_ids": ()})
    assert (theirs.tokens, theirs.finish) == (ours.tokens, ours.finish)
    assert theirs.finish == "stop"
    with pytest.raises(ValueError, match="at most one"):
        rows_of_both(tiny, published, stop_strings=(special,), **own | {"stop_ids": (5,)})


def test_side_by_side_says_where_a_file_parts(lm, standin):
    decoding, reuse = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=()), Reuse(k=2, layers="middle")
    prompts = [PROMPT]
    same = side_by_side(lm, standin, prompts, decoding, reuse, "26d6179")
    assert same["same tokens"].all()
    assert same["first parting"].tolist() == [""]
    other = side_by_side(lm, standin, prompts, decoding, reuse, "6c8822f")
    assert "served from" in other["differs in"].iloc[0] or "decisions" in other["differs in"].iloc[0]
    assert other["first parting"].iloc[0].startswith("forward ")


def test_layers_are_whole_again_after_a_failure(lm, standin):
    network, before = lm.network, [dict(vars(layer)) for layer in lm.network.model.layers]
    decoding = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, block_size=16, small_block=8)
    with pytest.raises(ValueError, match="block_size=16; allowed: 32"):
        files.call(standin, files.PublishedModel(network), lm, [[1] * 40], decoding, Reuse(k=2, layers="last"))
    assert [dict(vars(layer)) for layer in network.model.layers] == before
    assert all("forward" not in vars(layer) for layer in network.model.layers)


def test_refusals(lm, standin, tmp_path):
    with pytest.raises(ValueError, match="allow-code"):
        files.load(STANDIN)
    with pytest.raises(ValueError, match="allow-code"):
        files.own_code(lm)
    with pytest.raises(ValueError, match="no such file"):
        files.load(tmp_path / "none.py", allow_code=True)
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="0 classes with batch_sample"):
        files.load(tmp_path / "empty.py", allow_code=True)
    (tmp_path / "plain.py").write_text("def batch_sample(self, input_ids, tokenizer, block_size, max_new_tokens,\n"
                                       "                 small_block_size, min_len, seq_len, mask_id, threshold,\n"
                                       "                 stop_token, use_block_cache, top_p, temperature): ...\n")
    plain = files.load(tmp_path / "plain.py", allow_code=True)
    model = files.PublishedModel(lm.network)
    with pytest.raises(ValueError, match="has no parameter layer_subset, reuse_k"):
        files.call(plain, model, lm, [[1, 2]], Decoding(mask_id=511), Reuse(k=2, layers="first"))
    with pytest.raises(ValueError, match=r"allowed with a generation file: first, middle, last"):
        files.call(standin, model, lm, [[1, 2]], Decoding(mask_id=511), Reuse(k=2, layers="8-19"))


@pytest.mark.parametrize(("body", "said"), [
    ("return None", "returned a NoneType without row 0"), ("return {1: input_ids[0]}", "returned a dict without row 0"),
    ("return {0: input_ids}", r"returned \[\[1, 2, 3\]\] as row 0"),
    ("return {0: input_ids[0] + 1}", r"returned \[2, 3, 4\] as row 0"),
    ("return {0: input_ids[0].float()}", r"returned \[1.0, 2.0, 3.0\] as row 0"),
    ("return {0: input_ids[0][:1]}", r"returned \[1\] as row 0"), ("raise SystemExit(0)", "ends the process"),
    ("return [input_ids[0].tolist()]", None), ("return input_ids", None)])
def test_what_a_file_returns_is_rows_or_is_refused(lm, tmp_path, body, said):
    (tmp_path / "odd.py").write_text(f"def batch_sample(self, input_ids, **_):\n    {body}\n")
    run = files.generate_rows(lm, [[1, 2, 3]], file=files.load(tmp_path / "odd.py", allow_code=True),
                              decoding=Decoding(mask_id=511, stop_ids=(), max_new_tokens=32))
    if said is None:
        assert [row.tokens for row in run] == [[]]
        return
    with pytest.raises(ValueError, match=rf"odd\.py: batch_sample .*{said}"):
        list(run)


@pytest.mark.parametrize("text", ["batch_sample = 3\n",
                                  "class A:\n    @classmethod\n    def batch_sample(cls, **_): ...\n"])
def test_a_batch_sample_that_can_not_be_given_the_model_is_refused(tmp_path, text):
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.py: batch_sample is a (int|classmethod); allowed: a function"):
        files.load(tmp_path / "odd.py", allow_code=True)


OWN_CODE = '''
import torch
from transformers import PretrainedConfig, PreTrainedModel
from fastdllm.lab.instrument.published_model import PublishedModel
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network

class Config(PretrainedConfig):
    model_type = "standin"

class Standin(PreTrainedModel):
    """Modelling code of a checkpoint of its own, with the published interface."""
    config_class = Config
    _tied_weights_keys = {}

    def __init__(self, config):
        super().__init__(config)
        values = {name: getattr(config, name) for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "max_position_embeddings", "bd_size")}
        self.published = PublishedModel(Network(ModelConfig(**values)))
        self.model = self.published.model
        self.sample_with_top_p = self.published.sample_with_top_p
        self.post_init()

    def forward(self, **values):
        return self.published(**values)
'''


def test_the_checkpoints_own_code_takes_the_networks_place(lm, standin, tmp_path):
    """On request only; the class above stands in for a checkpoint's modelling.py, its weights are random."""
    (tmp_path / "modeling_standin.py").write_text(OWN_CODE)
    geometry = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 13, "num_attention_heads": 2,
                "num_key_value_heads": 1, "vocab_size": 512, "max_position_embeddings": 128, "bd_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(
        geometry | {"model_type": "standin", "architectures": ["Standin"],
                    "auto_map": {"AutoConfig": "modeling_standin.Config",
                                 "AutoModelForCausalLM": "modeling_standin.Standin"}}))
    save_file({"unused": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    there = replace(lm, path=tmp_path)
    ready = replace(standin, own_code=True).on(there)
    assert type(ready.model).__name__ == "Standin"
    decoding = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=())
    [row] = files.generate_rows(there, [[1, 2, 3]], file=ready, decoding=decoding,
                                reuse=Reuse(k=2, layers="first"))
    assert len(row.tokens) == 30       # the block behind three prompt tokens, and the committed block's extra token
    assert row.decisions["reuse"] == 0      # not our layers: nothing is counted
    assert row.executor == "own code"       # nor is it our eager executor
    assert not row.reused_nothing


THEIRS = OWN_CODE + '''
    @classmethod
    def from_pretrained(cls, path, config, **_):
        """Weights that the published modelling code would read itself."""
        import fastdllm
        model = cls(config)
        model.published = PublishedModel(fastdllm.load(path, device="cpu").network)
        model.model, model.sample_with_top_p = model.published.model, model.published.sample_with_top_p
        return model
'''


@pytest.fixture
def project(tmp_path, monkeypatch, warm_workers):
    """A project of its own with a grid of one configuration, the user's file, and a checkpoint with modelling code."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "byo.yml").write_text("experiment: byo\nlimit: 1\naxes: {k: [2], layers: [middle]}\n")
    (tmp_path / "old.py").write_text(STANDIN.read_text())
    (tmp_path / "theirs").mkdir()
    for path in (files_of := Path(fastdllm.__file__).parent / "checkpoints" / "tiny").iterdir():
        if path.name != "config.json":
            (tmp_path / "theirs" / path.name).symlink_to(path)
    (tmp_path / "theirs" / "modeling_standin.py").write_text(THEIRS)
    config = json.loads((files_of / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | {
        "model_type": "standin", "auto_map": {"AutoConfig": "modeling_standin.Config",
                                              "AutoModelForCausalLM": "modeling_standin.Standin"}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_file(*words, file="old.py", code=0):
    return command("run", "--k", "2", "--layers", "middle", "--limit", "1", "--set", "max_new_tokens=32",
                   "--experiment", "byo", "--generation-file", file, *words, code=code)


def test_the_command_writes_a_record_with_the_files_hash(project):
    """--generation-file on the embedded checkpoint: the same task, record, trace and status; only with --allow-code."""
    from fastdllm.lab import records
    from fastdllm.lab.records.identity import identity, payload_of
    assert "--allow-code" in run_file("--trace", "1", code=1)
    run_file("--trace", "1", "--allow-code", "--force")
    [directory] = [path.parent for path in (project / "executed").rglob("summary.json")]
    record = records.read(directory)
    assert record.code.policy.startswith(f"generation file {files.load(STANDIN, allow_code=True).sha256}, instrument ")
    assert record.identity == identity(payload_of(record))
    assert record.notes["traced_same_output"] == 1
    assert (directory / records.TRACE).exists()
    assert "complete already" in run_file("--allow-code")
    shown = command("grid", "status", "byo", code=1)
    assert "✗ k2_middle (pending)" in shown and "Completed: 0 / 1" in shown      # our own loop: not yet
    assert "✓ k2_middle_b1_max32_old\n" in shown
    file = project / "old.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert re.search(r"✗ k2_middle_b1_max32_old \(stale; changed: generation file [0-9a-f]{8} -> [0-9a-f]{8}\)",
                     command("grid", "status", "byo", code=1))
    file.unlink()      # the copy beside the record is what ran
    assert "✓ k2_middle_b1_max32_old\n" in command("grid", "status", "byo", code=1)


@pytest.mark.parametrize(("words", "why"), [
    (("--revision", "26d6179"), "--revision 26d6179 beside --generation-file"),
    (("--set", "revision=6c8822f"), "revision='6c8822f' with --generation-file"),
    (("--set", "batch_size=8"), "batch_size=8 with --generation-file"),
    (("--set", "engine=autoregressive", "--k", "1"), "engine='autoregressive' with --generation-file"),
    (("--set", "executor=fast"), "executor='fast' with --generation-file"),
    (("--task", "arc_easy", "--k", "1"), "task='arc_easy' with --generation-file: it is scored by likelihood"),
    (("--policy", "residual"), "policy='residual'"), (("--layers", "8-19"), "Reuse.layers='8-19'"),
    (("--set", "full_forwards=true"), "full_forwards=True")])
def test_what_a_file_knows_nothing_of_is_refused_before_it_is_loaded(project, words, why):
    (project / "old.py").write_text("raise SystemExit('loaded')")
    assert why in " ".join(run_file("--allow-code", *words, code=1).split())
    assert not (project / "executed").exists()


def test_the_baseline_by_command_counts_tokens_as_the_revision_does(project):
    from fastdllm.lab import records
    from fastdllm.lab.config import single
    from fastdllm.lab.evaluation.evaluate import evaluate
    from fastdllm.lab.evaluation.prepare import PreparedRun
    (project / "old.py").write_text(PUBLISHED)
    run_file("--allow-code", "--k", "1", "--set", "max_new_tokens=96")
    file = records.read(next((project / "executed").rglob("summary.json")))
    [planned] = single.grid_of({"k": 1, "limit": 1, "max_new_tokens": 96, "batch_size": 1, "revision": "26d6179"},
                               "byo").configurations()
    revision = evaluate(PreparedRun(planned))
    assert (file.parameters.reuse.k, file.tokens, file.nfe, file.finish) == (1, revision.tokens, revision.nfe,
                                                                             revision.finish)


def test_a_file_names_its_executor_as_a_revision_does_and_a_comparison_says_which_differ(project):
    """The file's record names its executor; so does the run of a revision that asks for one."""
    from fastdllm.report.comparison import sides
    from fastdllm.report.comparison.pairs import Pair
    (project / "old.py").write_text(PUBLISHED)
    run_file("--allow-code", "--trace", "1")
    for executor in ("eager", "fast"):
        command("run", "--k", "2", "--layers", "middle", "--limit", "1", "--revision", "26d6179", "--experiment", "byo",
                "--set", "max_new_tokens=32", "--set", "batch_size=1", "--set", f"executor={executor}")
    folder = project / "executed" / "byo" / "arithmetic_limit_1"
    file, eager, fast = (sides.find(str(next(folder.glob(f"k2_middle*_{end}/summary.json")).parent))
                         for end in ("old", "eager", "fast"))
    assert [side.record.executor for side in (file, eager, fast)] == ["eager", "eager", "fast"]
    assert file.record.tokens == eager.record.tokens == fast.record.tokens
    # Where nobody else computes: on a CPU no clock is taken for a measure.
    file, eager, fast = (replace(side, record=side.record.model_copy(update={
        "parameters": side.record.parameters.model_copy(update={"device": "cuda"})})) for side in (file, eager, fast))
    together, apart = Pair(eager, file), Pair(fast, file)
    assert list(together.why_no_speed()) == ["one run each"]
    assert list(apart.why_no_speed()) == ["one run each", "different executors (fast and eager)"]
    shown = command("compare", eager.name, file.name)
    assert "different executors" not in shown


def test_a_file_that_raises_marks_its_cell_failed(project):
    (project / "bad.py").write_text("def batch_sample(self, **values):\n    raise RuntimeError('no such op')\n")
    assert "no such op" in run_file("--allow-code", file="bad.py", code=1)
    assert "✗ k2_middle_b1_max32_bad (failed; RuntimeError: no such op)" in command("grid", "status", "byo", code=1)


def test_own_code_from_the_command(project):
    """The checkpoint's modelling code, which enters the identity, gives what our network gives with the same file."""
    from fastdllm.lab import records
    own = ("--allow-code", "--own-code")
    assert "--allow-code" in run_file("--own-code", "--model", "theirs", code=1)
    assert "the layers are not ours" in run_file(*own, "--model", "theirs", "--trace", "1", code=1)
    assert "has no modelling code" in run_file(*own, code=1)
    run_file(*own, "--model", "theirs")
    directory, name = project / "executed" / "byo" / "arithmetic_limit_1", "k2_middle_b1_max32_model-theirs_old"
    record = records.read(directory / f"{name}_own_code")
    assert record.code.policy.startswith("generation file ") and ", modelling code " in record.code.policy
    assert record.nfe["full"] == 0 and record.decisions["reuse"] == 0      # seen from outside, it has none
    assert record.executor == "own code"
    assert f"✓ {name}_own_code\n" in command("grid", "status", "byo", code=1)
    run_file("--allow-code", "--model", "theirs")
    ours = records.samples(directory / name)
    assert list(records.samples(directory / f"{name}_own_code").token_ids) == list(ours.token_ids)
    code = project / "theirs" / "modeling_standin.py"
    code.write_text(code.read_text() + "\n# changed\n")
    shown = command("grid", "status", "byo", code=1)
    assert re.search(rf"✗ {name}_own_code \(stale; changed: modelling code [0-9a-f]{{8}} -> [0-9a-f]{{8}}\)", shown)
