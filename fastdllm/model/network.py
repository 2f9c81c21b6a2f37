"""A Qwen2.5-style decoder, written for block diffusion: any positions of many rows in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastdllm.model.cache import Cache, Context
from fastdllm.model.config import ModelConfig
from fastdllm.model.hooks import Hook, Hooks


class RMSNorm(nn.Module):
    """x / rms(x) * weight, over the last dimension."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; query, key and value share one packed GEMM.

    Rows of `qkv_proj`: the query heads, then the key heads, then the value heads (the order of
    q_proj, k_proj, v_proj in the checkpoint).
    """

    weights: tuple[Tensor, Tensor, Tensor]     # see `Network.bind`

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = (config.num_attention_heads, config.num_key_value_heads,
                                                    config.head_dim)
        self.split = (self.heads, self.kv_heads, self.kv_heads)
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.split) * self.head_dim, bias=True)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def project(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Rotated queries [R, w, heads, d], rotated keys and plain values [R, w, kv_heads, d].

        cos and sin are [R, w, 1, d], or [R, w, heads + 2 kv_heads, d] with 1 and 0 for the values: then
        all heads are turned at once.
        """
        weight, bias, _ = self.weights
        packed = F.linear(hidden, weight, bias).view(*hidden.shape[:2], sum(self.split), self.head_dim)
        if cos.shape[2] > 1:
            return rotate(packed, cos, sin).split_with_sizes(self.split, 2)
        turned = rotate(packed[:, :, :self.heads + self.kv_heads], cos, sin)
        return turned[:, :, :self.heads], turned[:, :, self.heads:], packed[:, :, self.heads + self.kv_heads:]

    def forward(self, hidden: Tensor, context: Context, cache: Cache, residual: Tensor | None = None) -> Tensor:
        """Attention of hidden [R, w, D] over the context's visible keys, plus `residual` where one is given."""
        query, key, value = self.project(hidden, context.cos, context.sin)
        cache.write(self.index, context, key, value)
        keys, values = cache.read(self.index, context)
        out = F.scaled_dot_product_attention(query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2),
                                             attn_mask=context.mask, enable_gqa=True)
        return product(out.transpose(1, 2).reshape(*hidden.shape[:2], -1), self.weights[2], residual)


class MLP(nn.Module):
    """SwiGLU; gate and up share one packed GEMM (rows of gate_proj, then of up_proj)."""

    weights: tuple[Tensor, Tensor]

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> Tensor:
        gate, up = F.linear(hidden, self.weights[0]).chunk(2, -1)
        return product(F.silu(gate) * up, self.weights[1], residual)


class DecoderLayer(nn.Module):
    """One transformer layer: hidden [R, w, hidden_size] in, the same shape out."""

    def __init__(self, config: ModelConfig, index: int, hook_points: Hooks):
        super().__init__()
        self.index, self.hook_points = index, hook_points
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, context: Context, cache: Cache) -> Tensor:
        hidden = self.self_attn(self.input_layernorm(hidden), context, cache, hidden)
        if self.hook_points.listeners:
            hidden = self.hook_points.at(f"layers.{self.index}.attention", hidden, self.index, context, cache)
        hidden = self.mlp(self.post_attention_layernorm(hidden), hidden)
        if self.hook_points.listeners:
            hidden = self.hook_points.at(f"layers.{self.index}.mlp", hidden, self.index, context, cache)
        return hidden


# How a forward calls layer `index` (a DecoderLayer) on hidden [R, w, hidden_size]; what it returns goes on.
RunLayer = Callable[[int, nn.Module, Tensor, Context, Cache], Tensor]


def run_plainly(index: int, layer: nn.Module, hidden: Tensor, context: Context, cache: Cache) -> Tensor:
    """The layer itself."""
    return layer(hidden, context, cache)


class Decoder(nn.Module):
    """Embedding, layers, final norm: what Hugging Face calls `model.model`."""

    def __init__(self, config: ModelConfig, hook_points: Hooks):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i, hook_points) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Network(nn.Module):
    """The whole network. Its layers stand in `network.model.layers`, as in Hugging Face's modelling code."""

    cos: Tensor   # [max_position_embeddings, head_dim] float32
    sin: Tensor   # the same, first half negated
    prepared: tuple[tuple[tuple[int, int], ...], list[list[Tensor]]] | None = None      # see `cpu.columns`

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.hook_points = Hooks(config.num_hidden_layers)
        self.model = Decoder(config, self.hook_points)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie()
        self.register_buffer("cos", None, persistent=False)
        self.register_buffer("sin", None, persistent=False)
        self.reset_tables()
        self.bind()

    def bind(self) -> None:
        """Hand attention and MLP their weights as plain tensors.

        Looking up a parameter through two modules costs two microseconds, a third of a small operation.
        Views of the parameters themselves: changes in place are seen, and moving the network binds anew.
        """
        for layer in cast(Iterable[DecoderLayer], self.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            attention.weights = (attention.qkv_proj.weight, attention.qkv_proj.bias, attention.o_proj.weight)
            mlp.weights = (mlp.gate_up_proj.weight, mlp.down_proj.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Network:
        super()._apply(fn, recurse)
        self.prepared = None
        self.bind()
        return self

    def hooks(self, hooks: Mapping[str, Hook]) -> AbstractContextManager[None]:
        """`with network.hooks({"layers.8.output": hook}):` calls `hook(value, point)` there; see model/hooks.py.

        Whoever decodes with hooks needs the eager executor: the fast one has no points to call them at.
        """
        return self.hook_points.attached(hooks)

    def reset_tables(self) -> None:
        """Compute the rotary tables on the network's device, in float32 whatever its dtype."""
        self.cos, self.sin = (table.to(self.device) for table in rotary_table(self.config))

    def tie(self) -> None:
        """Let head and embedding share their weight where the config says so (the 1.5B does)."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def new_cache(self, slots: int, positions: int) -> Cache:
        """An empty cache for `slots` rows of at most `positions` positions each."""
        return Cache(self.config, slots, positions, self.device, self.dtype)

    def context(self, cache: Cache, kind: str, slots: tuple[int, ...], starts: list[int], width: int,
                ends: list[int], replace_position: tuple[int | None, ...] | None = None) -> Context:
        """Describe a forward over positions starts[r] .. starts[r] + width, keys below ends[r] visible.

        For prefill the mask is block-causal (a query sees its own and earlier blocks); the other kinds
        see everything below `ends`. Slots must ascend.
        """
        device = self.device
        visible = max(ends)
        slot_index = torch.tensor(slots, device=device)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)
        mask = None
        if kind == "prefill":
            block = positions // self.config.bd_size                                   # [R, w]
            keys = torch.arange(visible, device=device) // self.config.bd_size         # [L]
            mask = (keys <= block[:, :, None])[:, None]                                 # [R, 1, w, L]
        elif min(ends) < visible:
            mask = (torch.arange(visible, device=device) < torch.tensor(ends, device=device)[:, None])[:, None, None]
        cos, sin = self.rotary_tables(positions)
        return Context(kind=kind, slots=slots, slot_index=slot_index, positions=positions,
                       flat=(slot_index[:, None] * cache.positions + positions).reshape(-1),
                       cos=cos, sin=sin, visible=visible, mask=mask,
                       replace_position=replace_position or (None,) * len(slots))

    def rotary_tables(self, positions: Int[Tensor, "R w"]) -> tuple[Tensor, Tensor]:
        """cos and sin for every head of the packed projection, 1 and 0 for the values: [R, w, heads + 2 kv, d]."""
        return self._for_heads(self.cos, positions, 1.0), self._for_heads(self.sin, positions, 0.0)

    def _for_heads(self, table: Tensor, positions: Tensor, neutral: float) -> Tensor:
        """A rotary table at some positions, once for each rotated head, and `neutral` for the values' heads."""
        one = table[positions].to(self.dtype)[:, :, None]
        rotated, values = (self.config.num_attention_heads + self.config.num_key_value_heads,
                           self.config.num_key_value_heads)
        same = one.new_full((), neutral).expand(*one.shape[:2], values, one.shape[3])
        return torch.cat([one.expand(-1, -1, rotated, -1), same], dim=2)

    def forward(self, tokens: Int[Tensor, "R w"], context: Context, cache: Cache,
                run_layer: RunLayer = run_plainly) -> Float[Tensor, "R w hidden"]:
        """Hidden states behind the last layer, before the final norm (see `logits`).

        Every layer is called through `run_layer`, which may put something else in its place.
        """
        points = self.hook_points
        if points.listeners:
            tokens = points.at("tokens", tokens, None, context, cache)
        hidden = self.model.embed_tokens(tokens)
        for index, layer in enumerate(self.model.layers):
            if points.listeners:
                hidden = points.at(f"layers.{index}.input", hidden, index, context, cache)
            hidden = run_layer(index, layer, hidden, context, cache)
            if points.listeners:
                hidden = points.at(f"layers.{index}.output", hidden, index, context, cache)
        return hidden

    def logits(self, hidden: Float[Tensor, "R n hidden"]) -> Float[Tensor, "R n vocab"]:
        """Final norm and head, in float32."""
        return self.hook_points.at("logits", self.lm_head(self.model.norm(hidden)).float())


def rotary_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sign-folded sin of the rotary embedding (rotate-half layout), [positions, head_dim] float32."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    angle = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float32, device="cpu"),
                        1.0 / config.rope_theta ** exponent)
    return torch.cat([angle.cos(), angle.cos()], -1), torch.cat([-angle.sin(), angle.sin()], -1)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension: one kernel on a GPU, five small operations on a CPU (torch's own are ten)."""
    if hidden.is_cuda or hidden.dtype != torch.float32:
        return F.rms_norm(hidden, weight.shape, weight, eps)
    length = torch.linalg.vector_norm(hidden, 2, -1, True)
    scale = torch.addcmul(length.new_full((), eps), length, length, value=1 / hidden.shape[-1]).rsqrt_()
    return (hidden * scale).mul_(weight)


def product(inner: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
    """inner [R, w, in] times weight [out, in] transposed, plus residual [R, w, out] in the same operation."""
    if residual is None:
        return F.linear(inner, weight)
    return torch.addmm(residual.view(-1, residual.shape[-1]), inner.view(-1, inner.shape[-1]),
                       weight.t()).view(residual.shape)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to heads [R, w, n, d]; with the sign in `sin`, rotate-half is a roll."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
