"""The tokenizer that a GGUF file carries (byte-level BPE, digits one by one), in the form that checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from fastdllm.train.tokenizer import CHAT_TEMPLATE

CONTROL = 3   # llama.cpp's token type of special tokens


def tokenizer_of(path: Path) -> Tokenizer:
    """Vocabulary, merges and special tokens of the file; pre-tokenisation of SmolLM (digits apart, GPT-2's split)."""
    import gguf
    fields = gguf.GGUFReader(path).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type"))
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)
                                  for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path, mask: str, positions: int) -> None:
    """Write tokenizer.json and tokenizer_config.json with the chat template, readable by transformers."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "mask_token": mask, "additional_special_tokens": ["<|im_start|>"], "bos_token": None, "unk_token": None,
        "model_max_length": positions, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
