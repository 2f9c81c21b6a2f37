"""A checkpoint's tokenizer and special ids: what its files say, united; two that contradict each other are refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.model.config import ModelConfig, token_ids
from fastdllm.model.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Saved by transformers 5 and 4: tokenizer.json and nothing else. (Version 4 doesn't know the first name.)
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_tokenizer(path: Path, config: ModelConfig) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer, or None if it has no tokenizer files. Raises ValueError that names the directory."""
    if not ((path / "tokenizer.json").exists() or (path / "vocab.json").exists()):
        return None
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers import __version__ as version
    file = path / "tokenizer_config.json"
    written = read_json(file) if file.exists() else {}
    # AutoTokenizer also looks at config.json and warns of a model type that transformers doesn't know.
    loader: Any = PreTrainedTokenizerFast if written.get("tokenizer_class") in PLAIN else AutoTokenizer
    options: dict[str, Any] = {}
    if version.startswith("4.") and isinstance(written.get("extra_special_tokens"), list):
        # Transformers 5 writes a list under the key in which 4 expects a dictionary.
        options = {"extra_special_tokens": {}, "additional_special_tokens": written["extra_special_tokens"]}
    try:
        tokenizer = loader.from_pretrained(str(path), trust_remote_code=False, **options)
    except Exception as error:      # the tokenizers library raises bare Exception for a file that it can't read
        raise ValueError(f"{path}: transformers {version} can't load the tokenizer ({type(error).__name__}: "
                         f"{' '.join(str(error).split())[:300]}); tokenizer_config.json names tokenizer_class="
                         f"{written.get('tokenizer_class')!r}, written by {writer(path, written)}") from error
    if len(tokenizer) > config.vocab_size:
        raise ValueError(f"{path}: the tokenizer has {len(tokenizer)} entries; "
                         f"allowed: at most vocab_size={config.vocab_size} of config.json")
    return tokenizer


def writer(path: Path, written: dict[str, Any]) -> str:
    """Which version of transformers saved a checkpoint, as far as its files say."""
    if (version := read_json(path / "config.json").get("transformers_version")) is not None:
        return f"transformers {version} (config.json)"
    return "transformers 5" if written.get("tokenizer_class") == PLAIN[0] else "an unknown program"


def mask_id(path: Path, config: ModelConfig, tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    """The mask token of the tokenizer, else of config.json. Raises ValueError where the two differ."""
    sources = {"config.json: mask_token_id": token_ids("mask_token_id", config.mask_token_id)}
    if tokenizer is not None and tokenizer.mask_token_id is not None:
        sources[f"tokenizer: mask_token {tokenizer.mask_token!r}"] = token_ids("mask_token", tokenizer.mask_token_id)
    ids = {token for source in sources.values() for token in source}
    if len(ids) > 1:
        raise ValueError(f"{path}: {listed(sources)} can't all be right; allowed: one mask token")
    check_range(path, sources, config)
    return ids.pop() if ids else None


def stop_ids(path: Path, config: ModelConfig, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    """The end-of-text ids of tokenizer, config.json and generation_config.json united, in this order.

    Raises ValueError where one of them shares no id with the others: they can't all be right.
    """
    sources: dict[str, tuple[int, ...]] = {}
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        sources[f"tokenizer: eos_token {tokenizer.eos_token!r}"] = token_ids("eos_token", tokenizer.eos_token_id)
    sources["config.json: eos_token_id"] = token_ids("eos_token_id", config.eos_token_id)
    generation = path / "generation_config.json"
    if generation.exists():
        try:
            said = token_ids("eos_token_id", read_json(generation).get("eos_token_id"))
        except ValueError as error:
            raise ValueError(f"{generation}: {str(error).removeprefix(f'{generation}: ')}") from error
        sources["generation_config.json: eos_token_id"] = said
    sources = {name: ids for name, ids in sources.items() if ids}
    check_range(path, sources, config)
    for name, ids in sources.items():
        others = {token for other, tokens in sources.items() if other != name for token in tokens}
        if others and not others & set(ids):
            raise ValueError(f"{path}: {listed(sources)} have nothing in common; allowed: lists that share an id")
    return tuple(dict.fromkeys(token for ids in sources.values() for token in ids))


def listed(sources: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}={list(ids)}" for name, ids in sources.items())


def check_range(path: Path, sources: dict[str, tuple[int, ...]], config: ModelConfig) -> None:
    """Raise ValueError for an id outside the vocabulary."""
    for name, ids in sources.items():
        if any(not 0 <= token < config.vocab_size for token in ids):
            raise ValueError(f"{path}: {name}={list(ids)}; allowed: ids from 0 to {config.vocab_size - 1} "
                             "(vocab_size of config.json)")


def render(tokenizer: PreTrainedTokenizerBase, path: Path, messages: list[dict[str, str]], **options: Any) -> str:
    """A conversation in the checkpoint's chat template. Raises ValueError where there is none, or it refuses."""
    from jinja2.exceptions import TemplateError
    if not tokenizer.chat_template:
        raise ValueError(f"{path}: no chat template in tokenizer_config.json or chat_template.jinja; allowed: prompts "
                         "as lists of token ids, or a checkpoint with a template")
    apply: Any = tokenizer.apply_chat_template
    try:
        return str(apply(messages, tokenize=False, **{"add_generation_prompt": True} | options))
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: the chat template can't render the conversation ({type(error).__name__}: "
                         f"{str(error)[:300]})") from error
