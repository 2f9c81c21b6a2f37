"""The denoising loop: one generator that serves generation, the player, chat and the trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol, get_args

import torch

from fastdllm.decode.executor import Eager, Executor
from fastdllm.decode.fast import Fast, supported
from fastdllm.decode.pack_executor import OneByOne, PackExecutor, Together
from fastdllm.decode.packs import Layout
from fastdllm.decode.plain import Plain
from fastdllm.decode.policies import OutputPolicy, policy_class
from fastdllm.decode.row import Row
from fastdllm.decode.rules import Rules
from fastdllm.decode.step import Step
from fastdllm.decode.threads import in_one_thread
from fastdllm.decode.trace import Trace
from fastdllm.decode.verify import Verify, drafts_fit
from fastdllm.model import cpu
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, ExecutorName, Reuse


class Turn(Protocol):
    """What the engine does again and again: run what the live rows need, and let them take in what was predicted."""

    @property
    def executor(self) -> Executor | PackExecutor: ...

    def tick(self, rows: list[Row]) -> Iterator[Step]:
        """One step of every row, or of half of them, or several (`verify`)."""
        ...

    def rest(self) -> Iterator[Step]:
        """Steps that were done and not told of yet, once no row is left."""
        ...


class Engine:
    """Rows in slots over one cache: a row that finishes leaves, the next prompt takes its place.

    Rows are independent of each other. Each turn advances all or half of them; `finished` collects them as they end.
    """

    def __init__(self, lm: LM, rules: Rules, decoding: Decoding, reuse: Reuse, slots: int, positions: int,
                 seed: int = 0, trace: Trace | None = None, keep_prefix: bool = False, executor: str = "auto"):
        self.lm, self.rules, self.seed, self.keep_prefix = lm, rules, seed, keep_prefix
        layers = reuse.layer_indices(lm.config.num_hidden_layers, rules.revision.first_subset)
        self.policy: OutputPolicy | None = None
        if layers and (reuse.active or trace):
            self.policy = policy_class(reuse.policy)(reuse, rules.revision, layers, slots, rules.block)
        self.generators: dict[int, torch.Generator] = {}
        self.temperature = decoding.temperature
        if executor not in get_args(ExecutorName):
            raise ValueError(f"executor={executor!r}; allowed: {', '.join(get_args(ExecutorName))}")
        why_not = supported(lm.network, decoding, self.policy, self.policy is not None and trace is not None)
        if executor == "fast" and why_not is not None:
            raise ValueError(f"executor='fast': {why_not}; allowed: executor='eager'")
        quick_here = lm.device.type == "cuda" or lm.dtype == torch.float32
        fast = executor == "fast" or (executor == "auto" and quick_here and why_not is None)
        if reuse.drafts and drafts_fit(slots, rules.small):
            layout = Layout(rules.block, areas=reuse.k, chunk=lm.config.bd_size)
            self.turn: Turn = Verify(rules, reuse.drafts, (Together if fast else OneByOne)(
                lm.network, slots, positions, layout))
        else:
            self.turn = Plain(Fast(lm.network, slots, positions, decoding, self.policy) if fast else
                              Eager(lm.network, slots, positions, decoding, self.policy, trace, self.generators),
                              self.policy)
        self.executor_name = "fast" if fast else "eager"
        # Its operations are too short to be shared: threads that wait for each other cost more than they do.
        self.small = cpu.usable(lm.network)
        self.slots: list[Row | None] = [None] * slots
        self.resident: list[list[int]] = [[] for _ in range(slots)]   # tokens whose keys lie in the slot's prefix
        self.finished: list[Row] = []

    @property
    def executor(self) -> Executor | PackExecutor:
        """What runs the forwards."""
        return self.turn.executor

    def steps(self, prompts: Iterator[tuple[int, list[int]]]) -> Iterator[Step]:
        """Denoise all prompts (index, token ids); yields every forward of every row.

        On a GPU, rows may be a step further than what was yielded of them, and have finished already.
        Raises DecodingError (model/errors.py) where a row can't go on.
        """
        while True:
            self._admit(prompts)
            rows = [row for row in self.slots if row is not None]
            if not rows:
                yield from self.turn.rest()
                return
            turn = self.turn.tick(rows)
            yield from in_one_thread(turn) if self.small else turn
            self._retire()

    def _admit(self, prompts: Iterator[tuple[int, list[int]]]) -> None:
        for slot, held in enumerate(self.slots):
            if held is not None:
                continue
            entry = next(prompts, None)
            if entry is None:
                return
            index, prompt = entry
            if self.policy:
                self.policy.forget(slot)
            if self.temperature > 0:
                self.generators[index] = row_generator(self.lm.device, self.seed, index)
            self.slots[slot] = Row(index, slot, prompt, self.rules, self._kept(slot, prompt))

    def _kept(self, slot: int, prompt: list[int]) -> int:
        """How much of the prompt's whole blocks is in the slot's prefix already (multi-turn chat)."""
        if not self.keep_prefix:
            return 0
        same = 0
        for held, wanted in zip(self.resident[slot], prompt, strict=False):
            if held != wanted:
                break
            same += 1
        whole = min(same, len(prompt) - 1) // self.rules.block * self.rules.block
        return whole if len(prompt) % self.rules.block else min(whole, len(prompt) - self.rules.block)

    def abandon(self) -> None:
        """Drop the rows that did not finish (an answer was interrupted); what their prefix holds stays of use."""
        for slot, row in enumerate(self.slots):
            if row is not None:
                self.resident[slot] = row.tokens[:row.prefix]
                self.slots[slot] = None
                self.generators.pop(row.index, None)

    def _retire(self) -> None:
        for slot, row in enumerate(self.slots):
            if row is not None and row.finish:
                self.resident[slot] = row.tokens[:row.prefix]
                self.slots[slot] = None
                self.generators.pop(row.index, None)
                self.finished.append(row)


def row_generator(device: torch.device, seed: int, index: int) -> torch.Generator:
    """A generator of a row's own, seeded by (seed, sample id): independent of the batch it is in."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
