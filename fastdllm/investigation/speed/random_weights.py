"""Networks of a given shape with random weights: what speed depends on, without the download."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from fastdllm.model.config import ModelConfig
from fastdllm.model.lm import LM
from fastdllm.model.network import Network

MASK = 151665      # of the published 7B


def random_lm(dtype: torch.dtype, device: str, config: ModelConfig, mask: int = MASK) -> LM:
    """Random weights, scaled to keep activations in range; the mask token is never predicted, nothing stops."""
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
    network.lm_head.weight[mask].zero_()
    return LM("random weights", Path(), network, None, mask, ())


def random_prompts(count: int, low: int, high: int, seed: int = 0, vocabulary: int = 100_000) -> list[list[int]]:
    """Random prompts of `low` to `high` tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(vocabulary // 100, vocabulary) for _ in range(draw.randint(low, high))]
            for _ in range(count)]
