"""Checkpoint files: safetensors in, safetensors out, every name and shape checked. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastdllm.model.config import ModelConfig
from fastdllm.model.files import INDEX, sharding, weight_files
from fastdllm.model.network import Network

# Kept as a table so that packed parameters and file names meet in one place:
# file name in a layer -> (our parameter, rows of it in units of (query heads, kv heads, intermediate size)).
PACKED = {
    "self_attn.q_proj": ("self_attn.qkv_proj", (0, 0, 0), (1, 0, 0)),
    "self_attn.k_proj": ("self_attn.qkv_proj", (1, 0, 0), (1, 1, 0)),
    "self_attn.v_proj": ("self_attn.qkv_proj", (1, 1, 0), (1, 2, 0)),
    "mlp.gate_proj": ("mlp.gate_up_proj", (0, 0, 0), (0, 0, 1)),
    "mlp.up_proj": ("mlp.gate_up_proj", (0, 0, 1), (0, 0, 2)),
}
PLAIN = ("input_layernorm.weight", "self_attn.o_proj.weight", "post_attention_layernorm.weight",
         "mlp.down_proj.weight")
FLOATS = ("F32", "BF16", "F16", "F64")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IGNORED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")   # computed from rope_theta instead


@dataclass(frozen=True)
class TensorLocation:
    """Where a tensor of the file lives in the network: a parameter, or some rows of one."""

    parameter: str
    first: int | None = None
    last: int | None = None

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The tensor itself, as a view."""
        whole = parameters[self.parameter]
        return whole if self.first is None else whole[self.first:self.last]


def tensor_locations(config: ModelConfig) -> dict[str, TensorLocation]:
    """Every tensor name that a checkpoint of this geometry holds, and where it goes."""
    query = config.num_attention_heads * config.head_dim
    units = (query, config.num_key_value_heads * config.head_dim, config.intermediate_size)
    table = {EMBEDDING: TensorLocation(EMBEDDING), "model.norm.weight": TensorLocation("model.norm.weight")}
    if not config.tie_word_embeddings:
        table[HEAD] = TensorLocation(HEAD)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        for name in PLAIN:
            table[layer + name] = TensorLocation(layer + name)
        for name, (ours, first, last) in PACKED.items():
            rows = [sum(n * unit for n, unit in zip(edge, units, strict=True)) for edge in (first, last)]
            for kind in ("weight", "bias") if ours.endswith("qkv_proj") else ("weight",):
                table[f"{layer}{name}.{kind}"] = TensorLocation(f"{layer}{ours}.{kind}", *rows)
    return table


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped. Raises ValueError that names the file."""
    try:
        with safe_open(path, framework="pt") as handle:
            yield handle
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error}); "
                         f"the file has {path.stat().st_size} bytes, is it truncated?") from error


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file has it; `dtype` in the words of safetensors (F32, BF16, I8 ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, without reading any weight. An index decides which shard a tensor comes from.

    Raises ValueError for a file that is no safetensors, and for a tensor that is not in the shard that the index names.
    """
    shards = sharding(directory)
    stored: dict[str, StoredTensor] = {}
    for path in weight_files(directory):
        with opened(path) as handle:
            inside = set(handle.keys())
            for name in sorted(inside if shards is None else {n for n, shard in shards.items() if shard == path.name}):
                if name not in inside:
                    raise ValueError(f"{directory / INDEX}: {name} is in {path.name}; it is not in that file")
                part = handle.get_slice(name)
                stored[name] = StoredTensor(path, tuple(part.get_shape()), part.get_dtype())
    return stored


def checked_tensors(directory: Path, config: ModelConfig, shapes: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """The tensors to be read, all of them there, in shape and of floating point.

    `shapes` are the network's parameters. Raises ValueError that lists missing, superfluous, misshapen and quantised
    tensors, and for an lm_head that differs from the embedding with which config.json ties it.
    """
    stored, table, problems = stored_tensors(directory), tensor_locations(config), []
    for name, tensor in stored.items():
        if name not in table:
            if not IGNORED.fullmatch(name) and not (config.tie_word_embeddings and name == HEAD):
                problems.append(f"superfluous {name}")
        elif tensor.shape != (want := tuple(table[name].of(shapes).shape)):
            problems.append(f"misshapen {name} {list(tensor.shape)}, config.json wants {list(want)}")
        elif tensor.dtype not in FLOATS:
            problems.append(f"{name} is {tensor.dtype}, allowed: {', '.join(FLOATS)} (no quantised weights)")
    tied = " (config.json does not say tie_word_embeddings: true)"
    problems += [f"missing {name}{tied if name == HEAD else ''}" for name in table if name not in stored]
    if problems:
        more = f" and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise ValueError(f"{directory}: tensors do not fit config.json: {'; '.join(problems[:12])}{more}")
    if config.tie_word_embeddings and HEAD in stored:
        head, embedding = (read_tensor(stored, name) for name in (HEAD, EMBEDDING))
        if not torch.equal(head, embedding):
            raise ValueError(f"{directory}: config.json has tie_word_embeddings=true, but {HEAD} of "
                             f"{stored[HEAD].file.name} differs from {EMBEDDING}; allowed: one of them right: the flag "
                             "false, or equal tensors")
    return {name: tensor for name, tensor in stored.items() if name in table}


def read_tensor(stored: Mapping[str, StoredTensor], name: str) -> Tensor:
    with opened(stored[name].file) as handle:
        return handle.get_tensor(name)


class Undrawn(TorchFunctionMode):
    """Leaves out the random initial values of modules: on meta tensors they make torch import its compiler (2 s)."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))


def blueprint(directory: Path) -> tuple[Network, dict[str, StoredTensor]]:
    """The network of a checkpoint without weights (on the meta device), and the tensors that will fill it.

    Reads config.json and the heads of the weight files. Raises ValueError for what is wrong with them.
    """
    config_file = directory / "config.json"
    if not config_file.exists():
        raise ValueError(f"{directory}: config.json is missing; allowed: a checkpoint directory")
    config = ModelConfig.from_file(config_file)
    with torch.device("meta"), Undrawn():
        network = Network(config)
    return network, checked_tensors(directory, config, dict(network.state_dict(keep_vars=True)))


def empty_network(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Network:
    """A network whose weights hold whatever the memory held: for those who fill them all."""
    with torch.device("meta"), Undrawn():
        network = Network(config)
    network = network._apply(lambda tensor: torch.empty(tensor.shape, dtype=dtype, device=device))
    network.reset_tables()
    network.tie()
    return network


def load_network(directory: str | Path, device: torch.device, dtype: torch.dtype) -> Network:
    """Build the network of `directory` and fill it, one tensor at a time.

    The weights are never twice in host memory: files are mapped, and each tensor is copied straight
    to its place on `device`. Raises ValueError that lists missing, superfluous and misshapen tensors.
    """
    network, stored = blueprint(Path(directory))
    network = network._apply(lambda tensor: torch.empty(tensor.shape, dtype=dtype, device=device))
    network.reset_tables()
    network.tie()
    table, parameters = tensor_locations(network.config), dict(network.named_parameters())
    with torch.no_grad():
        for path in sorted({tensor.file for tensor in stored.values()}):
            with opened(path) as handle:
                for name in [name for name, tensor in stored.items() if tensor.file == path]:
                    table[name].of(parameters).copy_(handle.get_tensor(name))
    return network.requires_grad_(False).eval()


def save(network: Network, directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config.json and model.safetensors under the names of the published checkpoint, atomically.

    config.json names `dtype`, whatever the network was loaded from.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = dict(network.named_parameters())
    weights = {name: location.of(parameters).detach().to("cpu", dtype).contiguous()
               for name, location in tensor_locations(network.config).items()}
    part = directory / "model.safetensors.part"
    save_file(weights, part, metadata={"format": "pt"})
    os.replace(part, directory / "model.safetensors")
    part = directory / "config.json.part"
    named = {key: value for key, value in network.config.to_dict().items() if key != "dtype"}     # transformers 5's key
    named["torch_dtype"] = str(dtype).removeprefix("torch.")
    part.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, directory / "config.json")
