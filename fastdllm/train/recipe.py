"""What a training run consists of: geometry, phases, seeds. Everything that shapes the result is in a Recipe."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

OBJECTIVES = ("next_token", "block_diffusion")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own objective, optimizer state and learning-rate schedule."""

    name: str
    objective: str
    steps: int
    batch_size: int  # problems a step
    peak_rate: float
    final_rate: float
    warmup_steps: int

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"Phase.objective={self.objective!r}; allowed: {', '.join(OBJECTIVES)}")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"Phase.warmup_steps={self.warmup_steps}; allowed: 0 to steps-1={self.steps - 1}")

    def rate(self, step: int) -> float:
        """Learning rate of `step` (from 0): linear warm-up, then half a cosine from peak to final."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.final_rate + (self.peak_rate - self.final_rate) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Recipe:
    """A whole training run. `window` tokens hold a problem and its answer: a whole number of blocks."""

    geometry: dict[str, Any]  # keys of config.json, see fastdllm.model.config
    phases: tuple[Phase, ...]
    window: int = 160
    first_block: int = 1  # blocks before it hold nothing but prompt in every problem: they get no noised copy
    small_block: int = 8
    seed: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    prompt_weight: float = 0.2   # loss weight of prompt tokens, next-token phase only
    paper_share: float = 0.4     # of the rows with the paper's noise; the others are noised as decoding sees them
    right_weight: float = 0.3    # of masked tokens right of the small block being decoded
    padding_weight: float = 0.1  # of padding between the stop token and the end of its block
    tokenizer_problems: int = 20_000
    start: str = ""  # checkpoint directory whose weights and tokenizer the run starts from; empty: random weights

    def __post_init__(self) -> None:
        block = self.geometry["bd_size"]
        if self.window % block:
            raise ValueError(f"Recipe.window={self.window}; allowed: a multiple of bd_size={block}")
        if block % self.small_block:
            raise ValueError(f"Recipe.small_block={self.small_block}; allowed: a divisor of bd_size={block}")

    @property
    def block(self) -> int:
        """Tokens of a block (bd_size)."""
        return self.geometry["bd_size"]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; two runs are the same run if these agree."""
        return asdict(self)


TINY_GEOMETRY: dict[str, Any] = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"], "model_type": "Fast_dLLM_Qwen",
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 28,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6, "bd_size": 32, "tie_word_embeddings": False, "hidden_act": "silu",
    "bos_token_id": 508, "pad_token_id": 508, "eos_token_id": 510, "mask_token_id": 511,
}

# A checkpoint like the embedded one: next-token training stands in for the pretrained model of the paper.
TINY = Recipe(
    geometry=TINY_GEOMETRY,
    phases=(
        Phase("pretrain", "next_token", steps=1000, batch_size=1024, peak_rate=2e-3, final_rate=3e-4, warmup_steps=200),
        Phase("diffusion", "block_diffusion", steps=5000, batch_size=512, peak_rate=1e-3, final_rate=0.0,
              warmup_steps=300),
    ),
)

# What the embedded checkpoint's second run was: from an earlier checkpoint in the directory `start`.
CONTINUED = replace(TINY, start="start", seed=1, phases=(
    Phase("pretrain", "next_token", steps=500, batch_size=1024, peak_rate=1.5e-3, final_rate=3e-4, warmup_steps=100),
    Phase("diffusion", "block_diffusion", steps=3400, batch_size=512, peak_rate=1e-3, final_rate=0.0, warmup_steps=200),
))

# A minute on a CPU: shows that everything runs, learns next to nothing.
SMOKE = Recipe(
    geometry={**TINY_GEOMETRY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    phases=(
        Phase("pretrain", "next_token", steps=10, batch_size=8, peak_rate=2e-3, final_rate=2e-4, warmup_steps=2),
        Phase("diffusion", "block_diffusion", steps=10, batch_size=8, peak_rate=1e-3, final_rate=0.0, warmup_steps=2),
    ),
    tokenizer_problems=4000,
)
RECIPES = {"tiny": TINY, "continued": CONTINUED, "smoke": SMOKE}
