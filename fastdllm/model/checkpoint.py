"""Checkpoint files: safetensors in, safetensors out, every name and shape checked. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastdllm.model.config import ModelConfig
from fastdllm.model.files import weight_files
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


def places(config: ModelConfig) -> dict[str, TensorLocation]:
    """Every tensor name that a checkpoint of this geometry holds, and where it goes."""
    query = config.num_attention_heads * config.head_dim
    units = (query, config.num_key_value_heads * config.head_dim, config.intermediate_size)
    table = {"model.embed_tokens.weight": TensorLocation("model.embed_tokens.weight"),
             "model.norm.weight": TensorLocation("model.norm.weight")}
    if not config.tie_word_embeddings:
        table["lm_head.weight"] = TensorLocation("lm_head.weight")
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}."
        for name in PLAIN:
            table[layer + name] = TensorLocation(layer + name)
        for name, (ours, first, last) in PACKED.items():
            rows = [sum(n * unit for n, unit in zip(edge, units, strict=True)) for edge in (first, last)]
            for kind in ("weight", "bias") if ours.endswith("qkv_proj") else ("weight",):
                table[f"{layer}{name}.{kind}"] = TensorLocation(f"{layer}{ours}.{kind}", *rows)
    return table


def tensors(files: list[Path]) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    """Name, file and shape of every tensor, without reading any weight."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():   # noqa: SIM118 (not a dictionary)
                    yield name, path, tuple(handle.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{path}: cannot be read as safetensors ({error}); "
                             f"the file has {path.stat().st_size} bytes, is it truncated?") from error


class Undrawn(TorchFunctionMode):
    """Leaves out the random initial values of modules: on meta tensors they make torch import its compiler (2 s)."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return (kwargs or {}).get("tensor", *args[:1])
        return func(*args, **(kwargs or {}))


def load_network(directory: str | Path, device: torch.device, dtype: torch.dtype) -> Network:
    """Build the network of `directory` and fill it, one tensor at a time.

    The weights are never twice in host memory: files are mapped, and each tensor is copied straight
    to its place on `device`. Raises ValueError that lists missing, superfluous and misshapen tensors.
    """
    directory = Path(directory)
    config_file = directory / "config.json"
    if not config_file.exists():
        raise ValueError(f"{directory}: config.json is missing; allowed: a checkpoint directory")
    config = ModelConfig.from_file(config_file)
    files = weight_files(directory)
    with torch.device("meta"), Undrawn():
        network = Network(config)
    table, problems, found = places(config), [], {}
    shapes = dict(network.state_dict(keep_vars=True))
    for name, path, shape in tensors(files):
        found[name] = path
        if name not in table:
            if not (config.tie_word_embeddings and name == "lm_head.weight"):
                problems.append(f"superfluous {name}")
        elif shape != (want := tuple(table[name].of(shapes).shape)):
            problems.append(f"misshapen {name} {list(shape)}, config.json wants {list(want)}")
    problems += [f"missing {name}" for name in table if name not in found]
    if problems:
        more = f" and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise ValueError(f"{directory}: tensors do not fit config.json: {'; '.join(problems[:12])}{more}")
    network = network._apply(lambda tensor: torch.empty(tensor.shape, dtype=dtype, device=device))
    network.reset_tables()
    network.tie()
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for path in files:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():   # noqa: SIM118
                    if name in table:
                        table[name].of(parameters).copy_(handle.get_tensor(name))
    return network.requires_grad_(False).eval()


def save(network: Network, directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config.json and model.safetensors under the names of the published checkpoint, atomically."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = dict(network.named_parameters())
    weights = {name: place.of(parameters).detach().to("cpu", dtype).contiguous()
               for name, place in places(network.config).items()}
    part = directory / "model.safetensors.part"
    save_file(weights, part, metadata={"format": "pt"})
    os.replace(part, directory / "model.safetensors")
    part = directory / "config.json.part"
    part.write_text(json.dumps(network.config.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, directory / "config.json")
