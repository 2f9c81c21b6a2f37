"""The embedded checkpoint's tokenizer: byte-level BPE with Qwen's pre-tokenisation, one token per digit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, START, STOP, MASK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "|<MASK>|"
SPECIALS = (PAD, START, STOP, MASK)  # the last ids of the vocabulary, in this order

# Qwen2's pre-tokenisation: words with the character before them, digits one by one, runs of signs, white space.
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
              r"\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def chat_prompt(question: str) -> str:
    """The chat template's text for one user message, ready for the answer."""
    return f"{START}user\n{question}{STOP}\n{START}assistant\n"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> Tokenizer:
    """Learn the merges from `texts`; all 256 bytes are in the vocabulary, the specials are its last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if tokenizer.get_vocab_size() != vocab_size - len(SPECIALS):
        raise ValueError(f"texts: they yield {tokenizer.get_vocab_size()} entries, not {vocab_size - len(SPECIALS)}; "
                         "allowed: more varied texts or a smaller vocab_size")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, readable by transformers' AutoTokenizer 4.57 and 5.x."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": STOP,
        "pad_token": PAD,
        "mask_token": MASK,
        "additional_special_tokens": [START],
        "bos_token": None,
        "unk_token": None,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory, without transformers."""
    return Tokenizer.from_file(str(directory / "tokenizer.json"))
