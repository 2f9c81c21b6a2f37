"""Weights out of a GGUF file of the Llama architecture, under the names that checkpoints have.

The `gguf` package (of the llama.cpp project) reads and dequantises; nothing in the file is run. What is left is one
difference: llama.cpp keeps the rows of q and k as interleaved rotary pairs, checkpoints as two halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdllm.model.checkpoint import empty_network, tensor_locations
from fastdllm.model.config import ModelConfig
from fastdllm.model.network import Network

ARCHITECTURE = "llama"
# Ours and the file's name of every number that must agree.
GEOMETRY = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
            "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
            "num_key_value_heads": "attention.head_count_kv", "rope_theta": "rope.freq_base"}
TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_TENSORS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
                 "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
                 "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
                 "ffn_down": "mlp.down_proj"}


def checkpoint_name(name: str) -> str | None:
    """The checkpoint's name of a GGUF tensor; None for one that checkpoints don't have."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.{parts[3]}"
    return f"{TENSORS[parts[0]]}.{parts[1]}" if parts[0] in TENSORS else None


def unpermuted(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k [heads * d, in] from llama.cpp's order (interleaved pairs) to that of rotate-half."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def tensors(path: Path, config: ModelConfig) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every weight of the file, dequantised, under its checkpoint's name.

    Raises ValueError if the file is no GGUF, or of another architecture or geometry than `config`.
    """
    import gguf
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: not a GGUF file ({error}); allowed: GGUF of the Llama architecture") from error

    def field(name: str) -> object:
        found = reader.fields.get(name)
        return None if found is None else found.contents()
    if field("general.architecture") != ARCHITECTURE:
        raise ValueError(f"{path}: architecture {field('general.architecture')!r}; allowed: {ARCHITECTURE!r}")
    for ours, theirs in GEOMETRY.items():
        have, want = field(f"{ARCHITECTURE}.{theirs}"), getattr(config, ours)
        if have != want:
            raise ValueError(f"{path}: {ARCHITECTURE}.{theirs}={have!r}; allowed: {ours}={want} of config.json")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for tensor in reader.tensors:
        name = checkpoint_name(tensor.name)
        if name is None:
            continue
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        module = name.split(".")[-2]
        yield name, unpermuted(weight, heads[module]) if module in heads else weight


@torch.no_grad()
def load_network(path: Path, config: ModelConfig) -> Network:
    """The file's network in float32 on the CPU; biases of q, k and v, which Llama has none of, are zero.

    Raises ValueError as `tensors` does, and if the file lacks a weight or has one of another shape.
    """
    network = empty_network(config, torch.device("cpu"), torch.float32)
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    table = tensor_locations(config)
    missing = {name for name in table if not name.endswith(".bias")}
    for name in set(table) - missing:
        table[name].of(parameters).zero_()
    for name, weight in tensors(path, config):
        if name not in missing:
            raise ValueError(f"{path}: superfluous tensor {name}; allowed: those of config.json's geometry")
        target = table[name].of(parameters)
        if target.shape != weight.shape:
            raise ValueError(f"{path}: {name} {list(weight.shape)}; allowed: {list(target.shape)} as in config.json")
        target.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        missing.remove(name)
    if missing:
        raise ValueError(f"{path}: tensor {sorted(missing)[0]} is missing ({len(missing)} are); "
                         "allowed: all of config.json's geometry")
    return network.requires_grad_(False).eval()
