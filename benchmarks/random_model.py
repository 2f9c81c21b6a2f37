"""A network of the published 7B's shape with random weights: what speed depends on, without the download."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.plain_network import PlainNetwork
from fastdllm.model.checkpoint import tensor_locations
from fastdllm.model.config import ModelConfig
from fastdllm.model.lm import LM
from fastdllm.model.network import Network

GEOMETRY = Path(__file__).parent / "data" / "fast_dllm_v2_7b.config.json"
MASK, PAD = 151665, 151643


def geometry() -> ModelConfig:
    """The published checkpoint's config."""
    return ModelConfig.from_dict(json.loads(GEOMETRY.read_text()))


def random_lm(dtype: torch.dtype, device: str = "cuda", config: ModelConfig | None = None) -> LM:
    """Random weights, scaled to keep activations in range; the mask token is never predicted, nothing stops."""
    config = config or geometry()
    torch.manual_seed(0)
    with torch.device("meta"):
        network = Network(config)
    network = network.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    network.reset_tables()
    for name, weight in network.named_parameters():
        if "norm" in name:
            weight.fill_(1.0)
        elif name.endswith("bias"):
            weight.normal_(0, 0.1)
        else:
            weight.normal_(0, weight.shape[-1] ** -0.5)
    network.lm_head.weight[MASK].zero_()
    return LM("random-7b", Path(), network, None, MASK, ())


def plain(lm: LM) -> PlainNetwork:
    """The same weights in the plain network: views, no second copy."""
    parameters = dict(lm.network.named_parameters())
    return PlainNetwork(lm.config, {name: place.of(parameters) for name, place in tensor_locations(lm.config).items()})
