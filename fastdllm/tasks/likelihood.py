"""Scoring choices by likelihood, as the published evaluation of Fast-dLLM v2 does: one forward per choice.

Where the masks stand. With p context tokens, t choice tokens and blocks of B, the forward reads

    context (p)   MASK   choice tokens 2 to t, clean   END   MASK up to the next multiple of B

that is: the first choice token alone is masked, the others are shown; the stop token follows, then masks to
the end of the block (a whole block of END and masks, if p + t is a multiple of B). The attention is
block-causal. The score is the log-probability of the first choice token at its own mask, read one position
earlier (the token shift). So "A" is scored by itself, but of "(A)" only "(" is scored, with "A" and ")" in
view. It is no likelihood of the whole choice; it is what the published figures of MMLU and GPQA are.

A causal checkpoint (engine autoregressive) is scored in the usual way: the sum over all choice tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fastdllm.decode.autoregressive import causal
from fastdllm.decode.step import DECISIONS, KINDS, RowResult
from fastdllm.model.errors import NonFiniteLogits
from fastdllm.model.lm import LM
from fastdllm.model.tokenizer import render as render_messages
from fastdllm.tasks.base import Problem


@dataclass(frozen=True)
class ChoiceForward:
    """One forward: a context and a choice as token ids. `problem`, `index`: which problem, which of its choices."""

    problem: int
    index: int
    context: list[int]
    choice: list[int]


@dataclass(frozen=True)
class Likelihood:
    """What a forward said: the sum of the scored tokens' log-probabilities, and whether each was the argmax."""

    value: float
    greedy: bool
    tokens: int          # scored


def encode_pair(lm: LM, context: str, choice: str) -> tuple[list[int], list[int]]:
    """Token ids of both, split where the context alone ends.

    Raises ValueError if the checkpoint has no tokenizer or no token is left for the choice.
    """
    if lm.tokenizer is None:
        raise ValueError(f"model: {lm.name} has no tokenizer files; allowed: a checkpoint with a tokenizer")
    ids = list(lm.tokenizer.encode(context, add_special_tokens=False))
    whole = list(lm.tokenizer.encode(context + choice, add_special_tokens=False))
    if len(whole) <= len(ids):
        raise ValueError(f"choice={choice!r}: it adds no token to its context; allowed: a text that does")
    return ids, whole[len(ids):]


def masked_sequence(context: Sequence[int], choice: Sequence[int], block: int, mask_id: int, stop_id: int) -> list[int]:
    """What a forward reads; its length is a multiple of `block` (see the module)."""
    tokens = [*context, mask_id, *choice[1:], stop_id]
    return tokens + [mask_id] * (-len(tokens) % block)


@torch.inference_mode()
def score_batch(lm: LM, pairs: Sequence[ChoiceForward], engine: str = "diffusion") -> list[Likelihood]:
    """One forward over all pairs; shorter rows are padded with blocks that no scored position can see."""
    network = lm.network if engine == "diffusion" else causal(lm.network)
    if engine == "diffusion":
        if lm.mask_id is None or not lm.stop_ids:
            raise ValueError(f"model: {lm.name} names no mask or stop token; allowed: a checkpoint that does")
        mask_id, stop_id = lm.mask_id, lm.stop_ids[0]
        rows = [masked_sequence(p.context, p.choice, lm.config.bd_size, mask_id, stop_id) for p in pairs]
        scored = [p.choice[:1] for p in pairs]
    else:
        rows = [[*p.context, *p.choice[:-1]] for p in pairs]
        scored = [p.choice for p in pairs]
    width = max(map(len, rows))
    if width > lm.config.max_position_embeddings:
        raise ValueError(f"prompt: {width} positions; allowed: {lm.config.max_position_embeddings}")
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=network.device)
    cache = network.new_cache(len(rows), width)
    context = network.context(cache, "prefill", tuple(range(len(rows))), [0] * len(rows), width, [width] * len(rows))
    hidden = network(tokens, context, cache)                                            # [R, width, hidden]
    likelihoods = []
    for row, pair in enumerate(pairs):
        first = max(0, len(pair.context) - 1)           # position p is predicted at p - 1
        wanted = torch.tensor(scored[row], device=network.device)
        logits = network.logits(hidden[row:row + 1, first:first + len(wanted)])[0]      # [t, vocab]
        chosen = logits.log_softmax(-1).gather(1, wanted[:, None]).sum().item()
        if chosen != chosen:
            raise NonFiniteLogits(f"problem {pair.problem}, choice {pair.index}: logits are not finite")
        likelihoods.append(Likelihood(chosen, bool((logits.argmax(-1) == wanted).all()), len(wanted)))
    return likelihoods


def score_pairs(lm: LM, pairs: Sequence[ChoiceForward], batch_size: int, engine: str = "diffusion") -> Iterator[tuple[
        int, Likelihood, float]]:
    """Index, likelihood and seconds of every pair, batches of like length first (longest first: memory fails early)."""
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i].context) - len(pairs[i].choice))
    for start in range(0, len(order), batch_size):
        part, began = order[start:start + batch_size], time.perf_counter()
        scores = score_batch(lm, [pairs[i] for i in part], engine)
        seconds = (time.perf_counter() - began) / len(part)
        yield from ((index, score, seconds) for index, score in zip(part, scores, strict=True))


def score_rows(lm: LM, problems: Sequence[Problem], *, batch_size: int = 1, engine: str = "diffusion",
               numbers: Sequence[int] | None = None) -> Iterator[RowResult]:
    """Problems as their last choice is scored: the counterpart of `generate_rows` for likelihood tasks.

    `text` is JSON, {"choices": [...], "loglikelihood": [...]}, which the task's `score` reads; `tokens`
    holds the scored token ids, one or more per choice; `nfe` counts the forwards as prefill, one a choice.
    `numbers` are the rows' own numbers (None: 0, 1, 2 ...).
    """
    pairs = []
    for number, problem in enumerate(problems):
        context = render(lm, problem)
        pairs += [ChoiceForward(number, i, *encode_pair(lm, context, choice))
                  for i, choice in enumerate(problem.meta["choices"])]
    open_rows: dict[int, dict[int, tuple[Likelihood, float, ChoiceForward]]] = {}
    for index, score, seconds in score_pairs(lm, pairs, batch_size, engine):
        pair = pairs[index]
        row = open_rows.setdefault(pair.problem, {})
        row[pair.index] = (score, seconds, pair)
        choices = problems[pair.problem].meta["choices"]
        if len(row) == len(choices):
            done = [row[i] for i in range(len(choices))]
            yield RowResult(
                row=pair.problem if numbers is None else numbers[pair.problem],
                tokens=[token for likelihood, _, scored in done for token in scored.choice[:likelihood.tokens]],
                text=json.dumps({"choices": choices, "loglikelihood": [likelihood.value for likelihood, _, _ in done]}),
                nfe={**dict.fromkeys((*KINDS, "replay"), 0), "prefill": len(choices)},
                decisions=dict.fromkeys(DECISIONS, 0), finish="scored", reused_nothing=False,
                seconds=sum(taken for _, taken, _ in done))
            del open_rows[pair.problem]


def render(lm: LM, problem: Problem) -> str:
    """A problem's prompt through the checkpoint's chat template, as text."""
    if lm.tokenizer is None:
        raise ValueError(f"model: {lm.name} has no tokenizer files; allowed: a checkpoint with a tokenizer")
    messages = problem.prompt if isinstance(problem.prompt, list) else [{"role": "user", "content": problem.prompt}]
    return render_messages(lm.tokenizer, lm.path, messages)
