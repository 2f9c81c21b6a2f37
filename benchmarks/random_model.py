"""A network of the published 7B's shape with random weights: what speed depends on, without the download."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.plain_network import PlainNetwork
from fastdllm.investigation.speed import random_weights
from fastdllm.investigation.speed.random_weights import MASK
from fastdllm.model.checkpoint import tensor_locations
from fastdllm.model.config import ModelConfig
from fastdllm.model.lm import LM

GEOMETRY = Path(__file__).parent / "data" / "fast_dllm_v2_7b.config.json"
PAD = 151643


def geometry() -> ModelConfig:
    """The published checkpoint's config."""
    return ModelConfig.from_dict(json.loads(GEOMETRY.read_text()))


def small_geometry() -> ModelConfig:
    """The same with thin layers and few words: to try a benchmark on a CPU."""
    return replace(geometry(), hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
                   vocab_size=2048)


def random_lm(dtype: torch.dtype, device: str = "cuda", config: ModelConfig | None = None) -> LM:
    """Random weights of the published shape, or of another one."""
    config = config or geometry()
    return random_weights.random_lm(dtype, device, config, min(MASK, config.vocab_size - 1))


def plain(lm: LM) -> PlainNetwork:
    """The same weights in the plain network: views, no second copy."""
    parameters = dict(lm.network.named_parameters())
    locations = tensor_locations(lm.config)
    return PlainNetwork(lm.config, {name: location.of(parameters) for name, location in locations.items()})


def device_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of the device's own time for a call."""
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]
