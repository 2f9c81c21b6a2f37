"""The recipe of the small real model: next-token fine-tuning of the pretrained weights, then block diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fastdllm.train.delta.mixture import Shares
from fastdllm.train.recipe import Phase

RANKS = {"self_attn.qkv_proj": 64, "self_attn.o_proj": 48, "mlp.gate_up_proj": 80, "mlp.down_proj": 72}


@dataclass(frozen=True)
class PackedPhase(Phase):
    """A phase over packed rows: `batch_size` rows a step."""

    shares: Shares = field(default_factory=lambda: Shares(drills=0.0))


@dataclass(frozen=True)
class DeltaRecipe:
    """A training run that makes a delta. `start` and `data` are filled in by the run: fingerprints of what it read."""

    phases: tuple[PackedPhase, ...]
    ranks: Mapping[str, int] = field(default_factory=lambda: dict(RANKS))
    length: int = 4096           # places of a packed row
    window: int = 512            # tokens of a prompt with its answer; longer ones are left out
    small_block: int = 8
    seed: int = 0
    weight_decay: float = 0.01   # on the low-rank factors
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    prompt_weight: float = 0.1   # loss weight of prompt tokens, next-token phase only
    paper_share: float = 0.4     # of the documents with the paper's noise; the others as decoding sees them
    right_weight: float = 0.3    # of masked tokens right of the small block being decoded
    padding_weight: float = 0.1  # of padding between the stop token and the end of its block
    start: str = ""
    data: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; two runs are the same run if these agree."""
        return asdict(self)


SMOL = DeltaRecipe(phases=(
    PackedPhase("next token", "next_token", steps=450, batch_size=16, peak_rate=1.5e-3, final_rate=0.0,
                warmup_steps=37, shares=Shares(drills=0.5)),
    PackedPhase("block diffusion", "block_diffusion", steps=1500, batch_size=16, peak_rate=1e-3, final_rate=0.0,
                warmup_steps=60, shares=Shares(drills=0.3)),
))

# Seconds on a CPU, on any checkpoint: shows that everything runs, learns next to nothing.
DELTA_SMOKE = replace(SMOL, length=2048, ranks=dict.fromkeys(RANKS, 4), phases=tuple(
    replace(phase, steps=4, batch_size=1, warmup_steps=1) for phase in SMOL.phases))
DELTA_RECIPES = {"smol": SMOL, "smol-smoke": DELTA_SMOKE}
