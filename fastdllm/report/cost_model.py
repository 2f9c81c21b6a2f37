"""What a forward must cost: bytes read, floating-point operations and launches, for a card and a shape.

A forward of few tokens is bound by reading the weights, one of many tokens by arithmetic; to either
comes a fixed time per kernel (ramp up, drain, launch) and, once per step, the host. Three constants
describe a card and an executor; `benchmarks/bench_gpu.py` measures them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastdllm.decode import revisions
from fastdllm.model.config import ModelConfig

SHAPE_7B = ModelConfig(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                       num_key_value_heads=4, vocab_size=152064, max_position_embeddings=32768)
LAYERS = 12                 # of the named subsets
SHAPE = "the 7B's shape on an H200, batch 1"      # what `predicted_seconds` predicts for
LAYER_KERNELS = 7           # norm, qkv, attention, o, norm, gate-up, down


@dataclass(frozen=True)
class Card:
    """A GPU and what drives it. Times in seconds, rates per second."""

    name: str
    bandwidth: float             # bytes/s of a large copy, read and written bytes counted
    flops: float                 # half-precision matrix products
    kernel_seconds: float        # lost per kernel, whatever it does
    host_seconds: float          # per step: bookkeeping, launch, one synchronisation


# Both fitted to benchmarks/results/h200_2026-11-21.json: kernel_seconds to one forward, host_seconds to one step.
H200 = Card("H200, captured graphs", 4.27e12, 700e12, 3.8e-6, 0.06e-3)
RTX_6000 = Card("Quadro RTX 6000 (Turing, float16)", 0.672e12 * 0.9, 90e12, 3.8e-6, 0.06e-3)
# Policies that compute a layer at some positions only, and so read all of its weights; files by their stem.
READ_ALL_WEIGHTS = ("token", "topk_tokens", "refresh_least_similar")
REPLAY_SECONDS = 0.03e-3      # a replayed step: bookkeeping on the host alone


def layer_parameters(config: ModelConfig) -> int:
    """Weights of one layer's products (norms and biases are negligible)."""
    size, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    query = config.num_attention_heads * config.head_dim
    return size * (query + 2 * kv) + query * size + 3 * size * config.intermediate_size


def forward_bytes(config: ModelConfig, layers: int, *, head: bool = True, rows: int = 1, visible: int = 0,
                  item: int = 2) -> int:
    """Bytes a forward must read: `layers` layers, the head, and each row's keys and values."""
    weights = layers * layer_parameters(config) + (config.vocab_size * config.hidden_size if head else 0)
    cached = 2 * layers * rows * visible * config.num_key_value_heads * config.head_dim
    return (weights + cached) * item


def forward_flops(config: ModelConfig, layers: int, positions: int, read: int) -> float:
    """Multiply-adds, counted as two, of `positions` tokens in `layers` layers and `read` predictions."""
    return 2.0 * (layers * layer_parameters(config) * positions + config.vocab_size * config.hidden_size * read)


@dataclass(frozen=True)
class Need:
    """What one row's forward can't do without: tokens through the layers, positions whose prediction is wanted, and
    keys and values of so many positions that stand in the cache."""

    tokens: int
    read: int
    cached: int

    @classmethod
    def of(cls, kind: str, start: int, tokens: int = 0, carried: bool = False, block: int = 32, small: int = 8) -> Need:
        """Of a forward by its kind, in the block that begins at position `start`: a full one, a small one, a commit, or
        a prefill of `tokens` tokens, behind which a first token is predicted if one is `carried` into the next block.
        """
        if kind == "prefill":
            return cls(tokens, int(carried), 0)
        width, read, cached = {"full": (block, small, start), "commit": (block, 1, start),
                               "small": (small, small, start + block - small)}[kind]
        return cls(width, read, cached)


def least_seconds(config: ModelConfig, needs: Sequence[Need], bandwidth: float, flops: float, *, item: int = 2
                  ) -> float:
    """Seconds that forwards which run together take at least: the weights and their caches read once (bytes/s), or
    the arithmetic of their products (operations/s), whichever is more. Attention's own arithmetic is not counted."""
    layers, read = config.num_hidden_layers, sum(need.read for need in needs)
    moved = forward_bytes(config, layers, head=read > 0, visible=sum(need.cached for need in needs), item=item)
    counted = forward_flops(config, layers, sum(need.tokens for need in needs), read)
    return max(moved / bandwidth, counted / flops)


def forward_seconds(card: Card, config: ModelConfig, *, layers: int | None = None, rows: int = 1, width: int = 32,
                    read: int = 8, visible: int = 288, item: int = 2) -> float:
    """Predicted time of one forward on the device, without the host."""
    count = config.num_hidden_layers if layers is None else layers
    moved = forward_bytes(config, count, head=read > 0, rows=rows, visible=visible, item=item) / card.bandwidth
    counted = forward_flops(config, count, rows * width, rows * read) / card.flops
    return max(moved, counted) + card.kernel_seconds * (LAYER_KERNELS * count + 8)


@dataclass(frozen=True)
class Mix:
    """Forwards of a run by kind; `reused` of the full and small ones skip layers or, under replay, do not run."""

    full: Any            # numbers, or arrays [n] of one run each
    small: Any
    commit: Any
    reused_full: Any = 0.0
    reused_small: Any = 0.0

    @property
    def steps(self) -> Any:
        return self.full + self.small


def run_seconds(card: Card, config: ModelConfig, mix: Mix, *, skipped: int = 12, replay: bool = False,
                visible: int = 288) -> Any:
    """Predicted time of a run at batch 1; `skipped` layers do not run in reused forwards (none, under replay)."""
    def cost(width: int, layers: int | None = None) -> float:
        return forward_seconds(card, config, layers=layers, width=width, visible=visible) + card.host_seconds
    left = config.num_hidden_layers - skipped
    whole = ((mix.full - mix.reused_full) * cost(32) + (mix.small - mix.reused_small) * cost(8)
             + mix.commit * cost(32))
    if replay:
        return whole + (mix.reused_full + mix.reused_small) * REPLAY_SECONDS
    return whole + mix.reused_full * cost(32, left) + mix.reused_small * cost(8, left)


def predicted_seconds(nfe: Mapping[str, ArrayLike], reused: ArrayLike, policy: str, revision: str, *,
                      full_forwards: bool = False, card: Card = H200) -> np.ndarray:
    """Seconds that the 7B's shape would need at batch 1 for forwards that were counted here; numbers or arrays [n].

    nfe: forwards by kind (prefill, full, small, commit, replay); reused: layer calls that were reused. Nothing is
    saved by READ_ALL_WEIGHTS (`token` and its like) nor by a revision that runs the layers it skips. Counts do not
    depend on the machine, so neither does this.
    """
    count: dict[str, Any] = {kind: np.asarray(value, float) for kind, value in nfe.items()}
    full, small, replayed = (count.pop(kind, np.zeros(())) for kind in ("full", "small", "replay"))
    saves = Path(policy).stem not in READ_ALL_WEIGHTS and not revisions.get(revision).run_skipped
    forwards = np.asarray(reused, float) / LAYERS * saves
    share = full / np.maximum(1.0, full + small) if full_forwards else 0.0
    mix = Mix(full, small, sum(count.values()), share * forwards, (1 - share) * forwards)
    return np.asarray(run_seconds(card, SHAPE_7B, mix, skipped=LAYERS) + replayed * REPLAY_SECONDS)


def ceiling(config: ModelConfig, reused_share: float, skipped: int = 12) -> float:
    """Largest speed-up that reuse can give if only bytes count and `reused_share` of the forwards reuse."""
    whole = forward_bytes(config, config.num_hidden_layers)
    part = forward_bytes(config, config.num_hidden_layers - skipped)
    return 1.0 / (1.0 - reused_share * (1.0 - part / whole))


def memory_bytes(config: ModelConfig, slots: int, positions: int, *, graphs: int = 0, stored_runs: int = 0,
                 block: int = 32, item: int = 2) -> int:
    """Weights (with embedding), caches of `slots` rows, stored outputs, rotary tables, and about 8 MB a graph."""
    weights = config.num_hidden_layers * layer_parameters(config) + (
        1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    caches = 2 * config.num_hidden_layers * slots * positions * config.num_key_value_heads * config.head_dim
    stored = stored_runs * slots * block * config.hidden_size
    tables = 2 * config.max_position_embeddings * config.head_dim * (4 + item) // item
    return (weights + caches + stored + tables) * item + graphs * 8_000_000
