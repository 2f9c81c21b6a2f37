"""A user's own generation file on our network: golden cases, traces, refusals, and where two loops part."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.decode import Trace, generate_rows
from fastdllm.lab import generation_file as files
from fastdllm.report.inside import side_by_side

HERE = Path(__file__).parent
STANDIN = HERE / "data" / "standin_generation.py"
DATA = json.loads((HERE / "golden" / "golden.json").read_text())
SWITCHES = {"run2": {}, "run1C": {"on_full_block": "bypass"}, "two_tier": {"cache_source": "full"},
            "old": {"run_skipped": True, "full_block_every_k": True, "first_subset": "1-11",
                    "on_full_block": "by_step"}}
# The first reusing case of each variant with one row, and one batch in lockstep.
SINGLE = [c for c in DATA["cases"] if c["k"] > 1 and len(DATA["prompts"][c["prompt"]]["rows"]) == 1]
CASES = [next(c for c in SINGLE if c["variant"] == variant) for variant in SWITCHES]
CASES.append(next(c for c in DATA["cases"] if c["variant"] == "run2" and c["prompt"] == "b3a"))
PROMPT = DATA["prompts"]["p40"]["rows"][0]


@pytest.fixture(scope="module")
def lm():
    return fastdllm.load(HERE / "golden", device="cpu")


@pytest.fixture
def standin():
    file = files.load(STANDIN, allow_code=True)
    file.batch_sample.__wrapped__.__globals__["SWITCHES"].update(
        run_skipped=False, full_block_every_k=False, first_subset="1-12", trim_caches=True, on_full_block="refresh",
        cache_source="latest")
    return file


def settings(case):
    stop = case["stop_token"]
    return Decoding(threshold=case["threshold"], max_new_tokens=case["max_new_tokens"], mask_id=511,
                    small_block=case["small_block_size"], block_cache=case["use_block_cache"],
                    stop_ids=() if stop == 9999 else (stop,)), Reuse(k=case["k"], layers=case["subset"])


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_tokens_through_the_adapter(lm, standin, case):
    """What the published loops gave on the checkpoint's own code, a file in their interface gives on our network."""
    standin.batch_sample.__wrapped__.__globals__["SWITCHES"].update(SWITCHES.get(case["variant"], {}))
    decoding, reuse = settings(case)
    rows = DATA["prompts"][case["prompt"]]["rows"]
    got = files.decoder(standin, lm, decoding, reuse)(rows)
    assert got == [files.cut(row, case["stop_token"], 511) for row in case["generated"]]
    assert got[0]


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


OWN_CODE = '''
import torch
from transformers import PretrainedConfig, PreTrainedModel
from fastdllm.lab.published import PublishedModel
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
    model = files.own_code(there, allow_code=True)
    assert type(model).__name__ == "Standin"
    decoding = Decoding(threshold=0.9, max_new_tokens=32, mask_id=511, stop_ids=())
    [row] = files.generate_rows(there, [[1, 2, 3]], file=standin, decoding=decoding, reuse=Reuse(k=2, layers="first"),
                                model=model)
    assert len(row.tokens) == 30       # the block behind three prompt tokens, and the committed block's extra token
    assert row.decisions["reuse"] == 0      # not our layers: nothing is counted
    assert not row.reused_nothing


def test_the_command_writes_a_record_with_the_files_hash(tmp_path, monkeypatch):
    """--generation-file on the embedded checkpoint: the same task, record and trace; refused without --allow-code."""
    from typer.testing import CliRunner

    from fastdllm.cli import app
    from fastdllm.lab import records
    from fastdllm.lab.identity import identity, payload_of
    for name in ("notebooks", "params"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)      # a project of its own
    command = ["run", "--k", "2", "--layers", "middle", "--limit", "1", "--trace", "1", "--generation-file",
               str(STANDIN), "--set", "max_new_tokens=32", "--experiment", "byo"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code != 0
    done = CliRunner().invoke(app, [*command, "--allow-code", "--force"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [directory] = [path.parent for path in (tmp_path / "executed").rglob("summary.json")]
    record = records.read(directory)
    assert record.code.policy == f"generation file {files.load(STANDIN, allow_code=True).sha256}"
    assert record.identity == identity(payload_of(record))
    assert record.notes["traced_same_output"] == 1
    assert (directory / records.TRACE).exists()
