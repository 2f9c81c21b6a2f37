"""Greedy decoding one token at a time: the baseline that block diffusion is measured against.

A causal checkpoint is a block-diffusion checkpoint with blocks of one token: a prefill over the prompt is
causal, nothing is ever masked, and every forward is a commit, whose argmax opens the next block. So one
network, one cache and one loop serve both, and `nfe` counts one prefill and a commit for every further token.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Unpack

from fastdllm.decode.generate import rows_of
from fastdllm.decode.loop import Engine
from fastdllm.decode.prompts import Prompt, prompt_list, token_ids
from fastdllm.decode.revisions import REVISIONS
from fastdllm.decode.rules import Rules, check_prompt, positions_needed, stops
from fastdllm.decode.step import RowResult
from fastdllm.model.lm import LM
from fastdllm.model.network import Network
from fastdllm.settings import Decoding, Execution, ExecutionKeywords, Reuse

NEVER = -1      # a mask id that no token is


def causal(network: Network) -> Network:
    """The same weights, read with blocks of one token; the network itself if that is how it is read already."""
    if network.config.bd_size == 1:
        return network
    view = copy.copy(network)     # shares every module and parameter
    view.config = dataclasses.replace(network.config, bd_size=1)
    return view


def resolve(lm: LM, decoding: Decoding) -> Rules:
    """What a request comes to with blocks of one token. Of `decoding`, max_new_tokens, stop_ids and stop_strings count.

    Raises ValueError for temperature > 0.
    """
    if decoding.temperature > 0:
        raise ValueError(f"Decoding.temperature={decoding.temperature} with engine autoregressive; allowed: 0 (greedy)")
    stop_ids, find_stop = stops(lm, decoding)
    return Rules(block=1, small=1, mask_id=NEVER, stop_ids=stop_ids, threshold=decoding.threshold,
                 max_new_tokens=decoding.max_new_tokens, block_cache=False, k=1, revision=REVISIONS["fixed"],
                 find_stop=find_stop)


def generate_rows(lm: LM, prompts: Sequence[Prompt], *, decoding: Decoding = Decoding(),
                  execution: Execution = Execution(), numbers: Sequence[int] | None = None,
                  **keywords: Unpack[ExecutionKeywords]) -> Iterator[RowResult]:
    """Rows as they finish, `execution.batch_size` at a time; the next prompt takes a free slot.

    Of `execution` (or its fields as keywords) the batch size counts. `numbers` are the rows' own numbers (None:
    0, 1, 2 ...). Raises ValueError for bad input before any work, NonFiniteLogits during it.
    """
    rules = resolve(lm, decoding)
    batch_size = execution.given(keywords).batch_size
    prompts = prompt_list(prompts)
    ids = [token_ids(lm, index, prompt) for index, prompt in enumerate(prompts)]
    for index, prompt in enumerate(ids):
        check_prompt(lm, index, prompt, rules)
    view = dataclasses.replace(lm, network=causal(lm.network))
    engine = Engine(view, rules, decoding, Reuse(), min(len(ids), batch_size or len(ids)),
                    max(positions_needed(len(prompt), rules) for prompt in ids), executor="eager")
    return rows_of(engine, iter(zip(numbers or range(len(ids)), ids, strict=True)))
