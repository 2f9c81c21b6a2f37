"""What is trained on top of frozen weights: low-rank changes of the matrices, biases, norms, the mask's embedding.

Low-rank adaptation as in arXiv 2106.09685, without a scale: a matrix W [out, in] becomes W + b @ a, with `a`
[rank, in] drawn and `b` [out, rank] zero at first. The sum is made anew at every step, so that a step costs what full
fine-tuning costs, and what is learned is a file of a seventh of the size (see `fastdllm.model.delta`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fastdllm.model.config import token_ids
from fastdllm.model.delta import MASK_ROW, A, B
from fastdllm.model.network import DecoderLayer, Network

MATRICES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
VECTORS = ("self_attn.qkv_proj.bias", "input_layernorm.weight", "post_attention_layernorm.weight")
FINAL_NORM = "model.norm.weight"


class Adapter:
    """The trained parameters over a frozen network in float32; both on one device.

    `ranks` holds the rank of every matrix of a layer, by name (see MATRICES). Raises ValueError for other names, and
    for a network without a mask token.
    """

    def __init__(self, network: Network, ranks: Mapping[str, int], seed: int) -> None:
        if set(ranks) != set(MATRICES):
            raise ValueError(f"ranks: {sorted(ranks)}; allowed: a rank for each of {', '.join(MATRICES)}")
        masks = token_ids("mask_token_id", network.config.mask_token_id)
        if len(masks) != 1:
            raise ValueError(f"config.json: mask_token_id={network.config.mask_token_id!r}; allowed: the id of a token "
                             "that text never has")
        self.network, self.mask = network.requires_grad_(False), masks[0]
        self.frozen = {name: parameter.detach() for name, parameter in network.named_parameters()}
        generator = torch.Generator().manual_seed(seed)
        self.parameters: dict[str, nn.Parameter] = {}
        for index in range(network.config.num_hidden_layers):
            layer = f"model.layers.{index}."
            for name in MATRICES:
                out, inner = self.frozen[f"{layer}{name}.weight"].shape
                rank = min(ranks[name], out, inner)
                drawn = torch.randn(rank, inner, generator=generator) / math.sqrt(inner)
                self._add(f"{layer}{name}.weight{A}", drawn)
                self._add(f"{layer}{name}.weight{B}", torch.zeros(out, rank))
            for name in VECTORS:
                self._add(layer + name, self.frozen[layer + name].clone())
        self._add(FINAL_NORM, self.frozen[FINAL_NORM].clone())
        self._add(MASK_ROW, self.frozen["model.embed_tokens.weight"].mean(0))

    def _add(self, name: str, start: Tensor) -> None:
        self.parameters[name] = nn.Parameter(start.to(self.network.device, torch.float32))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter, as a module has them."""
        yield from self.parameters.items()

    def load(self, delta: Mapping[str, Tensor]) -> None:
        """Take the values of a delta with the same ranks. Raises ValueError where names or shapes differ."""
        different = set(delta) ^ set(self.parameters) or {
            name for name, parameter in self.parameters.items() if delta[name].shape != parameter.shape}
        if different:
            raise ValueError(f"delta: {len(different)} tensors differ, {sorted(different)[0]} the first; "
                             "allowed: a delta of the same network and ranks")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(delta[name])

    def delta(self) -> dict[str, Tensor]:
        """What `fastdllm.model.delta` writes and applies."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def matrix(self, name: str) -> Tensor:
        """A matrix with its change, [out, in] float32."""
        return torch.addmm(self.frozen[name], self.parameters[name + B], self.parameters[name + A])

    def layer(self, index: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """First norm, qkv and its bias, o, second norm, gate_up, down: norms in float32, the others in `dtype`."""
        layer = f"model.layers.{index}."
        qkv, out, gate_up, down = (self.matrix(f"{layer}{name}.weight").to(dtype) for name in MATRICES)
        bias, first, second = (self.parameters[layer + name] for name in VECTORS)
        return first, qkv, bias.to(dtype), out, second, gate_up, down

    def embedding(self, dtype: torch.dtype) -> Tensor:
        """The embedding [vocab, hidden] with the mask's own row."""
        table = self.frozen["model.embed_tokens.weight"].to(dtype)
        row = torch.tensor([self.mask], device=table.device)
        return table.index_copy(0, row, self.parameters[MASK_ROW][None].to(dtype))

    def head(self, embedding: Tensor) -> Tensor:
        """The head [vocab, hidden]: the embedding itself where the two are tied."""
        tied = self.network.config.tie_word_embeddings
        return embedding if tied else self.frozen["lm_head.weight"].to(embedding.dtype)

    def layers(self) -> list[DecoderLayer]:
        """The frozen layers, for their geometry."""
        return list(cast("list[DecoderLayer]", self.network.model.layers))
