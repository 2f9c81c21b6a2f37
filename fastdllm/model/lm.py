"""What `fastdllm.load` returns: a network with its tokenizer, its special ids and its fingerprint."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastdllm.model.checkpoint import blueprint, load_network
from fastdllm.model.config import ModelConfig
from fastdllm.model.files import brief, find, fingerprint
from fastdllm.model.network import Network
from fastdllm.model.tokenizer import load_tokenizer, mask_id, render, stop_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False, repr=False)
class LM:
    """A loaded checkpoint. `tokenizer` is None where the checkpoint has none: token ids only, then.

    Shown by itself it says what it is; `network` and `config` show the rest.
    """

    name: str
    path: Path
    network: Network
    tokenizer: PreTrainedTokenizerBase | None
    mask_id: int | None
    stop_ids: tuple[int, ...]
    fingerprint: str = ""
    load_seconds: float = field(default=0.0, compare=False)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def __repr__(self) -> str:
        config, parameters = self.config, sum(weight.numel() for weight in self.network.parameters())
        heads = f"{config.num_attention_heads} query and {config.num_key_value_heads} key-value heads"
        kind = f"block diffusion, blocks of {config.bd_size} tokens" if config.bd_size > 1 else "autoregressive"
        return "\n".join([
            f"LM {self.name}: {parameters / 1e6:.4g} million parameters, {str(self.dtype).removeprefix('torch.')} on "
            f"{self.device}; {kind}",
            f"    {config.num_hidden_layers} layers of width {config.hidden_size}, {heads}, at most "
            f"{config.max_position_embeddings} positions",
            f"    {config.vocab_size} tokens{'' if self.tokenizer else ', no tokenizer'}; mask token {self.mask_id}, "
            f"stop tokens {', '.join(map(str, self.stop_ids)) or 'none'}",
            f"    {self.path}, fingerprint {self.fingerprint[:12] or 'not taken'}"])

    def encode(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Token ids of a user message, or of a conversation, in the checkpoint's chat template."""
        if self.tokenizer is None:
            raise ValueError(f"prompt: {type(prompt).__name__} for {self.name}, which has no tokenizer files; "
                             "allowed: a list of token ids")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = render(self.tokenizer, self.path, messages)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt: {text[error.start]!r} is no character ({error.reason}); allowed: text that was "
                             "read as UTF-8") from error
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of token ids without special tokens; ids as text where there is no tokenizer."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def load(name: str | Path, *, revision: str | None = None, device: str | torch.device = "auto",
         dtype: str = "auto") -> LM:
    """Load a checkpoint: "tiny" (embedded), a directory ("./tiny" or a Path), or a hub id.

    Only safetensors are read and no code of the checkpoint is run. dtype "auto" is float32 on a CPU,
    bfloat16 from SM 8.0 on, float16 before. Raises ValueError that names what is wrong with the files.
    """
    began = time.perf_counter()
    target = choose_device(device)
    path = find(name, revision)
    network = load_network(path, target, choose_dtype(dtype, target))
    tokenizer = load_tokenizer(path, network.config)
    return LM(name=str(name), path=path, network=network, tokenizer=tokenizer,
              mask_id=mask_id(path, network.config, tokenizer), stop_ids=stop_ids(path, network.config, tokenizer),
              fingerprint=fingerprint(path), load_seconds=time.perf_counter() - began)


def check(path: Path) -> None:
    """Load everything of a checkpoint directory but its weights, as `load` will: for those who ask before a run.

    The configuration is parsed, every tensor's name, shape and dtype compared, the special ids are agreed on, a message
    goes through the chat template and the tokenizer and back. Raises ValueError for what `load` or a prompt would.
    """
    network, _ = blueprint(path)
    tokenizer = load_tokenizer(path, network.config)
    mask_id(path, network.config, tokenizer)
    stop_ids(path, network.config, tokenizer)
    if tokenizer is not None and tokenizer.chat_template:
        text = render(tokenizer, path, [{"role": "user", "content": "12 + 5"}])
        ids = tokenizer.encode(text, add_special_tokens=False)
        if "12 + 5" not in (back := str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))):
            raise ValueError(f"{path}: the tokenizer turns {text!r} into {back!r}; allowed: one that gives back what "
                             "it was given")


def choose_device(device: str | torch.device) -> torch.device:
    """The device asked for, or the first GPU, or the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={brief(device)}; allowed: 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device={brief(device)}; allowed: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={brief(device)}: this machine has no usable GPU; allowed: 'auto' or 'cpu'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={brief(device)}; allowed: cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype asked for; "auto" follows the device (Turing, SM 7.x, has no bfloat16)."""
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if dtype not in DTYPES:
        raise ValueError(f"dtype={brief(dtype)}; allowed: 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[dtype]
