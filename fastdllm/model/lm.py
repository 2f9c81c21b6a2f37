"""What `fastdllm.load` returns: a network with its tokenizer, its special ids and its fingerprint."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastdllm.model.checkpoint import load_network
from fastdllm.model.config import ModelConfig
from fastdllm.model.files import find, fingerprint
from fastdllm.model.network import Network

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LM:
    """A loaded checkpoint. `tokenizer` is None where the checkpoint has none: token ids only, then."""

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

    def encode(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Token ids of a user message, or of a conversation, in the checkpoint's chat template."""
        if self.tokenizer is None:
            raise ValueError(f"prompt: {type(prompt).__name__} for {self.name}, which has no tokenizer files; "
                             "allowed: a list of token ids")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer.encode(str(text), add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of token ids without special tokens; ids as text where there is no tokenizer."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def load(name: str | Path, *, revision: str | None = None, device: str | torch.device = "auto",
         dtype: str = "auto") -> LM:
    """Load a checkpoint: "tiny" (embedded), a directory, or a hub id.

    Only safetensors are read and no code of the checkpoint is run. dtype "auto" is float32 on a CPU,
    bfloat16 from SM 8.0 on, float16 before. Raises ValueError that names what is wrong with the files.
    """
    began = time.perf_counter()
    target = choose_device(device)
    path = find(str(name), revision)
    network = load_network(path, target, choose_dtype(dtype, target))
    tokenizer = load_tokenizer(path)
    mask, stop = network.config.mask_token_id, network.config.eos_token_id
    if tokenizer is not None:
        mask, stop = (tokenizer.convert_tokens_to_ids(str(token)) if token else None
                      for token in (tokenizer.mask_token, tokenizer.eos_token))
    return LM(name=str(name), path=path, network=network, tokenizer=tokenizer,
              mask_id=mask if isinstance(mask, int) else None,
              stop_ids=(stop,) if isinstance(stop, int) else (), fingerprint=fingerprint(path),
              load_seconds=time.perf_counter() - began)


def choose_device(device: str | torch.device) -> torch.device:
    """The device asked for, or the first GPU, or the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: this machine has no usable GPU; allowed: 'auto' or 'cpu'")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype asked for; "auto" follows the device (Turing, SM 7.x, has no bfloat16)."""
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; allowed: 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[dtype]


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase | None:
    """The checkpoint's tokenizer, or None if it has no tokenizer files."""
    if not ((path / "tokenizer.json").exists() or (path / "vocab.json").exists()):
        return None
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    said = path / "tokenizer_config.json"
    plain = said.exists() and json.loads(said.read_text()).get("tokenizer_class") == "PreTrainedTokenizerFast"
    # AutoTokenizer also looks at config.json and warns of a model type that transformers doesn't know.
    loader = PreTrainedTokenizerFast if plain else AutoTokenizer
    tokenizer = loader.from_pretrained(str(path), trust_remote_code=False)
    vocabulary = ModelConfig.from_file(path / "config.json").vocab_size
    if len(tokenizer) > vocabulary:
        raise ValueError(f"{path}: the tokenizer has {len(tokenizer)} entries; "
                         f"allowed: at most vocab_size={vocabulary} of config.json")
    return tokenizer
