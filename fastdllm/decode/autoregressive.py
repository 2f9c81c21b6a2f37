"""Greedy decoding one token at a time: the baseline that block diffusion is measured against.

A causal checkpoint is a block-diffusion checkpoint with blocks of one token: a prefill over the prompt is
causal, nothing is ever masked, and every forward is a commit, whose argmax opens the next block. So one
network and one cache serve both, and `nfe` counts one prefill and a commit for every further token.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Unpack

import torch

from fastdllm.decode.executor import NonFiniteLogits
from fastdllm.decode.generate import Prompt, token_ids
from fastdllm.decode.loop import StopStrings
from fastdllm.decode.step import DECISIONS, KINDS, RowResult
from fastdllm.model.cache import Cache
from fastdllm.model.lm import LM
from fastdllm.model.network import Network
from fastdllm.settings import Decoding, Execution, ExecutionKeywords


def causal(network: Network) -> Network:
    """The same weights, read with blocks of one token; the network itself if that is how it is read already."""
    if network.config.bd_size == 1:
        return network
    view = copy.copy(network)     # shares every module and parameter
    view.config = dataclasses.replace(network.config, bd_size=1)
    return view


class _Row:
    """A prompt on its way, in a slot of the cache."""

    def __init__(self, index: int, slot: int, prompt: list[int]):
        self.index, self.slot, self.prompt = index, slot, prompt
        self.generated: list[int] = []
        self.finish = ""
        self.began = time.perf_counter()

    @property
    def length(self) -> int:
        """Positions whose keys are in the cache before the next forward."""
        return len(self.prompt) + len(self.generated) - 1


class _Rules:
    """When a row is done."""

    def __init__(self, lm: LM, decoding: Decoding):
        self.lm, self.limit = lm, decoding.max_new_tokens
        self.stop_ids = frozenset(lm.stop_ids if decoding.stop_ids is None else decoding.stop_ids)
        self.strings = StopStrings(lm, decoding.stop_strings) if decoding.stop_strings else None

    def judge(self, row: _Row) -> None:
        """Set `finish` after a new token."""
        if row.generated[-1] in self.stop_ids:
            row.finish = "stop"
        elif self.strings is not None and (count := self.strings(row.generated)) is not None:
            row.generated, row.finish = row.generated[:count], "stop_string"
        elif len(row.generated) == self.limit:
            row.finish = "length"

    def result(self, row: _Row) -> RowResult:
        """The row's outcome, its text cut before a stop string."""
        text = self.lm.decode(row.generated)
        nfe = {**dict.fromkeys((*KINDS, "replay"), 0), "prefill": 1, "commit": len(row.generated) - 1}
        text = self.strings.cut(text) if self.strings else text
        return RowResult(row=row.index, tokens=list(row.generated), text=text, nfe=nfe,
                         decisions=dict.fromkeys(DECISIONS, 0), finish=row.finish, reused_nothing=False,
                         seconds=time.perf_counter() - row.began)


def generate_rows(lm: LM, prompts: Sequence[Prompt], *, decoding: Decoding = Decoding(),
                  execution: Execution = Execution(), numbers: Sequence[int] | None = None,
                  **keywords: Unpack[ExecutionKeywords]) -> Iterator[RowResult]:
    """Rows as they finish, `execution.batch_size` at a time; the next prompt takes a free slot.

    Of `decoding`, max_new_tokens, stop_ids and stop_strings count; of `execution` (or its fields as keywords), the
    batch size. `numbers` are the rows' own numbers (None:
    0, 1, 2 ...). Raises ValueError for bad input before any work (temperature > 0 among it), NonFiniteLogits
    during it.
    """
    if decoding.temperature > 0:
        raise ValueError(f"Decoding.temperature={decoding.temperature} with engine autoregressive; allowed: 0 (greedy)")
    batch_size = execution.given(keywords).batch_size
    if not prompts:
        raise ValueError("prompts=[]; allowed: at least one prompt")
    ids = [token_ids(lm, index, prompt) for index, prompt in enumerate(prompts)]
    for index, prompt in enumerate(ids):
        _check(lm, index, prompt, decoding.max_new_tokens)
    return _rows(causal(lm.network), ids, _Rules(lm, decoding), min(len(ids), batch_size or len(ids)),
                 numbers or range(len(ids)))


def _check(lm: LM, index: int, prompt: list[int], new: int) -> None:
    vocabulary, positions = lm.config.vocab_size, lm.config.max_position_embeddings
    if not prompt or min(prompt) < 0 or max(prompt) >= vocabulary:
        raise ValueError(f"prompts[{index}]: {len(prompt)} token ids; allowed: one or more from 0 to {vocabulary - 1}")
    if len(prompt) + new > positions:
        raise ValueError(f"prompts[{index}]: {len(prompt)} tokens + max_new_tokens={new}; "
                         f"allowed: max_position_embeddings={positions} in all")


def _rows(network: Network, ids: list[list[int]], rules: _Rules, slots: int,
          numbers: Sequence[int]) -> Iterator[RowResult]:
    cache = network.new_cache(slots, max(map(len, ids)) + rules.limit)
    waiting = iter(zip(numbers, ids, strict=True))
    active: dict[int, _Row] = {}
    while True:
        for slot in [slot for slot in range(slots) if slot not in active]:
            if (entry := next(waiting, None)) is not None:
                row = active[slot] = _Row(entry[0], slot, entry[1])
                _step(network, cache, [row], "prefill", [row.prompt], [0], rules)
        rows = [active[slot] for slot in sorted(active) if not active[slot].finish]
        if rows:
            _step(network, cache, rows, "commit", [[row.generated[-1]] for row in rows],
                  [row.length for row in rows], rules)
        done = [row for row in active.values() if row.finish]
        for row in done:
            del active[row.slot]
            yield rules.result(row)
        if not active and not done:
            return


@torch.inference_mode()
def _step(network: Network, cache: Cache, rows: list[_Row], kind: str, tokens: list[list[int]], starts: list[int],
          rules: _Rules) -> None:
    """One forward of `rows`; appends the argmax behind the last token of each."""
    width = len(tokens[0])
    context = network.context(cache, kind, tuple(row.slot for row in rows), starts, width,
                              [start + width for start in starts])
    hidden = network(torch.tensor(tokens, device=network.device), context, cache)
    best, token = network.logits(hidden[:, -1:]).max(-1)                    # [R, 1]
    values, chosen = best[:, 0].tolist(), token[:, 0].tolist()
    for row, value, choice in zip(rows, values, chosen, strict=True):
        if value != value:
            raise NonFiniteLogits(f"row {row.index}, token {len(row.generated)}: logits are not finite in {kind}")
        row.generated.append(choice)
        rules.judge(row)
