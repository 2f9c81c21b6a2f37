"""`fastdllm train --recipe smol`: on small random checkpoints, on a CPU; stopped and taken up again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import fastdllm
from fastdllm.model import checkpoint, delta
from fastdllm.model.config import ModelConfig
from fastdllm.model.files import EMBEDDED
from fastdllm.model.network import Network
from fastdllm.train.delta import gsm8k, perturb, run
from fastdllm.train.delta.drills import drill
from fastdllm.train.delta.recipe import DELTA_SMOKE, SMOL
from fastdllm.train.delta.written import evaluate, value
from fastdllm.train.forward import initialise
from fastdllm.train.loop import TrainingCall
from fastdllm.train.tokenizer import MASK

CAUSAL = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48,
          "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
          "rope_theta": 1e4, "eos_token_id": 510, "pad_token_id": 508}
LLAMA_LIKE = CAUSAL | {"architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 32, "mask_token_id": 511,
                       "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
SHORT = replace(DELTA_SMOKE, length=1024, phases=tuple(replace(phase, steps=2) for phase in DELTA_SMOKE.phases))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A training file in GSM8K's format: drills."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = [vars(drill(rng)) for _ in range(gsm8k.HELD_OUT + 40)]
    (folder / gsm8k.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start_from(folder: Path, values: dict) -> Path:
    """A random checkpoint with the embedded one's tokenizer; a causal one's has no mask token."""
    network = Network(ModelConfig.from_dict(values))
    initialise(network, seed=1)
    checkpoint.save(network, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EMBEDDED / "tiny" / name, folder / name)
    if values is CAUSAL:
        tokens = json.loads((folder / "tokenizer.json").read_text())
        tokens["added_tokens"] = [token for token in tokens["added_tokens"] if token["content"] != MASK]
        (folder / "tokenizer.json").write_text(json.dumps(tokens))
    return folder


def call(root: Path, **limits) -> TrainingCall:
    return TrainingCall(out=root / "out", state=root / "state", device=torch.device("cpu"), workers=0,
                        compile_layers=False, measure_every=1, save_every=1, log=lambda _: None, **limits)


@pytest.mark.parametrize("values", [CAUSAL, LLAMA_LIKE], ids=["Qwen2.5-like, causal", "Llama-like, tied head"])
def test_a_delta_is_trained_and_makes_a_checkpoint(values, data, tmp_path):
    start = start_from(tmp_path / "start", values)
    progress = run.run(SHORT, call(tmp_path), data, start)
    assert [(row["phase"], row["step"]) for row in progress.curve] == [
        (phase.name, step) for phase in SHORT.phases for step in (1, 2)]
    lm = fastdllm.load(tmp_path / "out", device="cpu")
    assert lm.config.bd_size == 32 and lm.mask_id == 511 and lm.stop_ids == (510,)
    assert lm.encode("1+1") == lm.encode([{"role": "user", "content": "1+1"}]), "no system prompt"
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in changed) and "model.norm.weight" in changed
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(1).nonzero().flatten()
    assert rows.tolist() == [511], "of the embedding only the mask's row is trained"


def test_a_stopped_run_gives_the_same_delta(data, tmp_path):
    start = start_from(tmp_path / "start", LLAMA_LIKE)
    run.run(SHORT, call(tmp_path / "whole"), data, start)
    for _ in range(4):
        run.run(SHORT, call(tmp_path / "parts", max_steps=1), data, start)
    whole, parts = (load_file(tmp_path / name / "out/delta.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_is_not_mixed_with_other_data(data, tmp_path):
    start = start_from(tmp_path / "start", LLAMA_LIKE)
    run.run(SHORT, call(tmp_path, max_steps=1), data, start)
    other = tmp_path / "other"
    other.mkdir()
    (other / gsm8k.FILE).write_text("".join(reversed((data / gsm8k.FILE).read_text().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=r"saved with another recipe \(data differ\)"):
        run.run(SHORT, call(tmp_path), other, start)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--recipe", "smol"], "--recipe smol with --data None"),
    (["--recipe", "smoke", "--data", "x"], "--recipe smoke with --data x"),
    (["--recipe", "smol-smoke", "--data", "nowhere"], "nowhere/train.jsonl does not exist"),
    (["--recipe", "smol-smoke", "--data", "DATA", "--start", "nowhere"], "--start nowhere: no such directory")])
def test_what_is_missing_is_one_sentence(arguments, said, data, tmp_path):
    from typer.testing import CliRunner

    from fastdllm.cli import app
    given = [str(data) if argument == "DATA" else argument for argument in arguments]
    error = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "out"), "--device", "cpu", *given]).exception
    assert isinstance(error, ValueError) and said in str(error)


def test_the_shipped_recipe_is_the_one_of_the_card():
    card = (EMBEDDED / "smol/README.md").read_text()
    for phase in SMOL.phases:
        assert f"| {phase.name} | {phase.steps} | {phase.peak_rate:g} | {phase.warmup_steps} |" in card


def test_a_delta_of_another_geometry_is_refused(golden, tmp_path):
    delta.write(tmp_path / "d.safetensors", {"model.norm.weight": torch.ones(7)})
    with pytest.raises(ValueError, match=r"d.safetensors: 1 tensors do not fit the network, model.norm.weight \[7\]"):
        delta.apply(golden.network, delta.read(tmp_path / "d.safetensors"), str(tmp_path / "d.safetensors"))


def test_redrawn_numbers_are_recomputed_along_the_answer():
    problem = gsm8k.WordProblem("Mia has 14 pens and buys 23 more. She gives away 9. How many are left?",
                                "She has 14+23=<<14+23=37>>37 pens.\nThen 37-9=<<37-9=28>>28.\n#### 28")
    form, rng = perturb.template(problem), np.random.default_rng(3)
    drawn = {form.redraw(rng) for _ in range(20)} - {None}
    assert len(drawn) > 10 and all(other.question != problem.question for other in drawn)
    for other in drawn:
        assert all(evaluate(expression) == value(result) for expression, result in other.steps)
        assert other.steps[-1][1] == other.result


def test_tokenizers_of_both_kinds_hold_the_mask():
    assert Tokenizer.from_file(str(EMBEDDED / "smol/tokenizer.json")).id_to_token(16) == "<empty_output>"
