"""The denoising loop: one generator that serves generation, the player, chat and the trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch

from fastdllm.decode.executor import Eager, Executor
from fastdllm.decode.fast import Fast, supported
from fastdllm.decode.policies import OutputPolicy, ReusePlan, policy_class
from fastdllm.decode.revisions import Revision
from fastdllm.decode.revisions import get as get_revision
from fastdllm.decode.row import Row, Rules
from fastdllm.decode.step import Forward, Prediction, Step
from fastdllm.decode.trace import Trace
from fastdllm.model.lm import LM
from fastdllm.settings import Decoding, Reuse, fit

PLAIN = ReusePlan("bypass", "no policy")
EXECUTORS = ("auto", "eager", "fast")      # auto: fast wherever it can do what is asked and nobody listens in


def resolve(lm: LM, decoding: Decoding, reuse: Reuse, revision: str | Revision = "fixed") -> Rules:
    """Check a request against a checkpoint and fill in what it leaves open.

    Raises ValueError naming field, value and what is allowed, before any work starts.
    """
    chosen = get_revision(revision)
    vocabulary = lm.config.vocab_size
    block = lm.config.bd_size if decoding.block_size is None else decoding.block_size
    fit(decoding.small_block, block)
    mask = lm.mask_id if decoding.mask_id is None else decoding.mask_id
    if mask is None:
        raise ValueError(f"Decoding.mask_id=None: {lm.name} names no mask token; allowed: an id below {vocabulary}")
    stop_ids, find_stop = stops(lm, decoding)
    for field, token in [("mask_id", mask), *(("stop_ids", stop) for stop in stop_ids)]:
        if not 0 <= token < vocabulary:
            raise ValueError(f"Decoding.{field}={token}; allowed: an id from 0 to {vocabulary - 1}")
    reuse.layer_indices(lm.config.num_hidden_layers, chosen.first_subset)
    if reuse.active and not decoding.block_cache:
        raise ValueError("Decoding.block_cache=False with Reuse.k>1: every step would be a full forward and nothing "
                         "could be reused; allowed: block_cache=True, or k=1")
    if chosen.termination == "upstream" and decoding.max_new_tokens < block:
        raise ValueError(f"Decoding.max_new_tokens={decoding.max_new_tokens} with upstream termination; allowed: "
                         f"{block} (one block) or more")
    return Rules(block=block, small=decoding.small_block, mask_id=mask, stop_ids=stop_ids,
                 threshold=decoding.threshold, max_new_tokens=decoding.max_new_tokens,
                 block_cache=decoding.block_cache, k=reuse.k, revision=chosen, find_stop=find_stop)


def stops(lm: LM, decoding: Decoding) -> tuple[frozenset[int], StopStrings | None]:
    """The token ids that end an answer, and the finder of the texts that do.

    A stop string that is a special token never stands in decoded text: its id stops instead. Raises ValueError for one
    that holds a special token and more, or the mask token.
    """
    ids = set(lm.stop_ids if decoding.stop_ids is None else decoding.stop_ids)
    strings = []
    special = special_tokens(lm)
    for string in decoding.stop_strings:
        inside = next((token for token in special if token in string), None)
        if inside is None:
            strings.append(string)
        elif string != inside or special[inside] == lm.mask_id:
            raise ValueError(f"Decoding.stop_strings: {string!r} holds the special token {inside!r}, which no decoded "
                             "text shows; allowed: text without it, or another special token alone")
        else:
            ids.add(special[inside])
    return frozenset(ids), StopStrings(lm, tuple(strings)) if strings else None


def special_tokens(lm: LM) -> dict[str, int]:
    """The tokens that decoding leaves out, with their ids; the longer ones first."""
    added = {} if lm.tokenizer is None else lm.tokenizer.added_tokens_decoder
    texts = {token.content: index for index, token in added.items() if token.special}
    return dict(sorted(texts.items(), key=lambda item: -len(item[0])))


class StopStrings:
    """Finds the text that ends an answer in the tokens that are final so far."""

    def __init__(self, lm: LM, strings: tuple[str, ...]):
        if lm.tokenizer is None:
            raise ValueError(f"Decoding.stop_strings={strings}: {lm.name} has no tokenizer; allowed: ()")
        self.lm, self.strings = lm, strings

    def __call__(self, tokens: list[int]) -> int | None:
        """How many tokens it takes for a stop string to appear in the text, or None."""
        text = self.lm.decode(tokens)
        if not any(string in text for string in self.strings):
            return None
        low, high = 1, len(tokens)      # the text grows with the tokens: the first hit by bisection
        while low < high:
            middle = (low + high) // 2
            if any(string in self.lm.decode(tokens[:middle]) for string in self.strings):
                high = middle
            else:
                low = middle + 1
        return low

    def cut(self, text: str) -> str:
        """The text before the first stop string."""
        return text[:min((text.index(string) for string in self.strings if string in text), default=len(text))]


def positions_needed(length: int, rules: Rules) -> int:
    """Cache positions that a prompt of `length` tokens can come to use: whole blocks."""
    return -(-(length + rules.max_new_tokens) // rules.block) * rules.block


def check_prompt(lm: LM, index: int, prompt: Sequence[int], rules: Rules) -> None:
    """ValueError for an empty or too long prompt, or an id outside the vocabulary."""
    if not prompt:
        raise ValueError(f"prompts[{index}]=[]; allowed: at least one token")
    if min(prompt) < 0 or max(prompt) >= lm.config.vocab_size:
        bad = next(token for token in prompt if not 0 <= token < lm.config.vocab_size)
        raise ValueError(f"prompts[{index}]: token id {bad}; allowed: 0 to {lm.config.vocab_size - 1}")
    if rules.mask_id in prompt:
        raise ValueError(f"prompts[{index}][{prompt.index(rules.mask_id)}]={rules.mask_id}, the mask token; "
                         "allowed: prompts without it, only what is to be generated is masked")
    if (need := positions_needed(len(prompt), rules)) > lm.config.max_position_embeddings:
        raise ValueError(f"prompts[{index}]: {len(prompt)} tokens + max_new_tokens={rules.max_new_tokens} need {need} "
                         f"positions; allowed: max_position_embeddings={lm.config.max_position_embeddings}")


class Engine:
    """Rows in slots over one cache: a row that finishes leaves, the next prompt takes its place.

    Rows are independent: in each tick every row runs one forward, batched with the rows whose forward
    has the same key (`Executor.key`): the same kind, and layers that run alike. `finished` collects rows as they end.
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
        if executor not in EXECUTORS:
            raise ValueError(f"executor={executor!r}; allowed: {', '.join(EXECUTORS)}")
        use_fast = ((lm.device.type == "cuda" or lm.dtype == torch.float32) and not lm.network.has_hooks
                 and supported(lm.network, decoding, self.policy, trace is not None) is None)
        self.executor: Executor = (
            Fast(lm.network, slots, positions, decoding, self.policy)
            if executor == "fast" or (executor == "auto" and use_fast)
            else Eager(lm.network, slots, positions, decoding, self.policy, trace, self.generators))
        self.slots: list[Row | None] = [None] * slots
        self.resident: list[list[int]] = [[] for _ in range(slots)]   # tokens whose keys lie in the slot's prefix
        self.finished: list[Row] = []

    def steps(self, prompts: Iterator[tuple[int, list[int]]]) -> Iterator[Step]:
        """Denoise all prompts (index, token ids); yields every forward of every row."""
        while True:
            self._admit(prompts)
            rows = {row.index: row for row in self.slots if row is not None}
            if not rows:
                return
            groups: dict[tuple[object, ...], tuple[list[Forward], list[ReusePlan]]] = {}
            for row in rows.values():
                forward = row.next()
                plan = self.policy.plan(forward) if self.policy and forward.small_block is not None else PLAIN
                members = groups.setdefault(self.executor.key(forward, plan), ([], []))
                members[0].append(forward)
                members[1].append(plan)
            for forwards, plans in groups.values():
                predictions = self.executor.run(forwards, plans)
                yield from self._apply(rows, forwards, plans, predictions)
            self._retire()

    def _apply(self, rows: dict[int, Row], forwards: list[Forward], plans: list[ReusePlan],
               predictions: list[Prediction]) -> Iterator[Step]:
        for column, (forward, plan, prediction) in enumerate(zip(forwards, plans, predictions, strict=True)):
            row = rows[forward.row]
            for decisions in self.executor.decisions:
                row.decisions[decisions[column]] += 1
            yield row.apply(forward, prediction, replayed=plan.skip)

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
        for ours, theirs in zip(self.resident[slot], prompt, strict=False):
            if ours != theirs:
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
