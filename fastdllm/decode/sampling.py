"""From logits to tokens: prediction, confidence, and which positions to unmask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def predict(logits: Float[Tensor, "R n V"]) -> tuple[Int[Tensor, "R n"], Float[Tensor, "R n"]]:
    """Argmax and its probability over the whole vocabulary, in float32.

    The confidence is nan wherever a logit is not finite, so that the loop can refuse to go on.
    """
    top, tokens = logits.max(-1)
    confidence = 1.0 / (logits - top[..., None]).exp_().sum(-1)
    return tokens, torch.where(logits.sum(-1).isfinite(), confidence, torch.nan)


def sample(logits: Float[Tensor, "R n V"], temperature: float, top_p: float,
           generators: list[torch.Generator]) -> tuple[Int[Tensor, "R n"], Float[Tensor, "R n"]]:
    """Nucleus sampling, each row from its own distribution and its own generator.

    Confidence is the renormalised probability of the drawn token. (Upstream draws all rows from row 0's
    distribution; a test shows the difference.)
    """
    ranked, order = torch.softmax(logits / temperature, -1).sort(-1, descending=True)
    outside = ranked.cumsum(-1) - ranked > top_p          # the first token over the edge still belongs
    ranked = ranked.masked_fill(outside, 0.0)
    ranked = ranked / ranked.sum(-1, keepdim=True)
    finite = logits.sum(-1).isfinite()
    ranked = torch.where(finite[..., None], ranked, 1.0 / ranked.shape[-1])
    drawn = torch.stack([torch.multinomial(row, 1, generator=generator)
                         for row, generator in zip(ranked, generators, strict=True)])
    confidence = torch.where(finite, ranked.gather(-1, drawn)[..., 0], torch.nan)
    return order.gather(-1, drawn)[..., 0], confidence


def choose(confidence: Float[Tensor, "R n"], masked: Bool[Tensor, "R n"], threshold: float) -> Bool[Tensor, "R n"]:
    """Positions to unmask: masked ones with confidence above the threshold, and always the most confident one.

    Ties go to the leftmost position (`argmax` returns the first maximum).
    """
    open_ = torch.where(masked, confidence, -torch.inf)
    best = torch.zeros_like(masked).scatter_(1, open_.argmax(1, keepdim=True), True)
    return ((open_ > threshold) | best) & masked
