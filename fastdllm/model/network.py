"""A Qwen2.5-style decoder, written for block diffusion: any positions of many rows in one call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastdllm.model.cache import Cache, Context
from fastdllm.model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, over the last dimension."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; query, key and value share one packed GEMM.

    Rows of `qkv_proj`: the query heads, then the key heads, then the value heads (the order of
    q_proj, k_proj, v_proj in the checkpoint).
    """

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = (config.num_attention_heads, config.num_key_value_heads,
                                                    config.head_dim)
        self.qkv_proj = nn.Linear(config.hidden_size, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=True)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def project(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [R, w, heads, d], rotated keys and plain values [R, w, kv_heads, d]."""
        rows, width, _ = hidden.shape
        packed = self.qkv_proj(hidden).view(rows, width, self.heads + 2 * self.kv_heads, self.head_dim)
        turned = rotate(packed[:, :, :self.heads + self.kv_heads], cos, sin)
        return turned[:, :, :self.heads], turned[:, :, self.heads:], packed[:, :, self.heads + self.kv_heads:]

    def forward(self, hidden: Tensor, context: Context, cache: Cache) -> Tensor:
        rows, width, _ = hidden.shape
        query, key, value = self.project(hidden, context.cos, context.sin)
        cache.write(self.index, context, key, value)
        keys, values = cache.read(self.index, context)
        # The queries that share a key head are laid behind one another: attention then has as many
        # heads as keys have, and no key is repeated.
        groups = self.heads // self.kv_heads
        query = (query.view(rows, width, self.kv_heads, groups, self.head_dim).permute(0, 2, 3, 1, 4)
                 .reshape(rows, self.kv_heads, groups * width, self.head_dim))
        out = F.scaled_dot_product_attention(query, keys.transpose(1, 2), values.transpose(1, 2),
                                             attn_mask=context.mask)
        out = (out.view(rows, self.kv_heads, groups, width, self.head_dim).permute(0, 3, 1, 2, 4)
               .reshape(rows, width, self.heads * self.head_dim))
        return self.o_proj(out)


class MLP(nn.Module):
    """SwiGLU; gate and up share one packed GEMM (rows of gate_proj, then of up_proj)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class DecoderLayer(nn.Module):
    """One transformer layer: hidden [R, w, hidden_size] in, the same shape out."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, context: Context, cache: Cache) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), context, cache)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Decoder(nn.Module):
    """Embedding, layers, final norm: what Hugging Face calls `model.model`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Network(nn.Module):
    """The whole network. Its layers stand in `network.model.layers`, as the reuse wrappers expect."""

    cos: Tensor   # [max_position_embeddings, head_dim] float32
    sin: Tensor   # the same, first half negated

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie()
        self.register_buffer("cos", None, persistent=False)
        self.register_buffer("sin", None, persistent=False)
        self.reset_tables()

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
            mask = mask.repeat(1, 1, self.config.num_attention_heads // self.config.num_key_value_heads, 1)
        elif min(ends) < visible:
            mask = (torch.arange(visible, device=device) < torch.tensor(ends, device=device)[:, None])[:, None, None]
        return Context(kind=kind, slots=slots, slot_index=slot_index, positions=positions,
                       flat=(slot_index[:, None] * cache.positions + positions).reshape(-1),
                       cos=self.cos[positions].to(self.dtype)[:, :, None],
                       sin=self.sin[positions].to(self.dtype)[:, :, None],
                       visible=visible, mask=mask, replace_position=replace_position or (None,) * len(slots))

    def forward(self, tokens: Int[Tensor, "R w"], context: Context, cache: Cache) -> Float[Tensor, "R w hidden"]:
        """Hidden states behind the last layer, before the final norm (see `logits`)."""
        hidden = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            hidden = layer(hidden, context, cache)
        return hidden

    def logits(self, hidden: Float[Tensor, "R n hidden"]) -> Float[Tensor, "R n vocab"]:
        """Final norm and head, in float32."""
        return self.lm_head(self.model.norm(hidden)).float()


def rotary_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sign-folded sin of the rotary embedding (rotate-half layout), [positions, head_dim] float32."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    angle = torch.outer(torch.arange(config.max_position_embeddings, dtype=torch.float32, device="cpu"),
                        1.0 / config.rope_theta ** exponent)
    return torch.cat([angle.cos(), angle.cos()], -1), torch.cat([-angle.sin(), angle.sin()], -1)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to heads [R, w, n, d]; with the sign in `sin`, rotate-half is a roll."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
