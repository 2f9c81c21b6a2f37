"""The published batch loop with its layer reuse, written plainly from its description.

For two things: the oracle of the parity tests (it reproduces every golden case) and the baseline of
the benchmarks. All rows march in lockstep: the choice between a full and a small forward, the step
counter and the prefill are shared. Its quirks are kept (docs/decoding.md). `fastdllm.decode` shares no
code with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.plain_network import Caches, Layer, PlainNetwork


@dataclass(frozen=True)
class Variant:
    """The switches of a historical revision (docs/decoding.md)."""

    run_skipped: bool = False            # a reused layer also runs, its result is discarded
    full_block_every_k: bool = False     # k <= 1 or step % k == 0 forces a full forward
    first_from_1_to_11: bool = False
    on_full_block: str = "refresh"       # refresh | bypass | by_step
    cache_source: str = "latest"         # latest | full


VARIANTS = {
    "upstream": Variant(),
    "old": Variant(run_skipped=True, full_block_every_k=True, first_from_1_to_11=True, on_full_block="by_step"),
    "run1C": Variant(on_full_block="bypass"),
    "run2": Variant(),
    "two_tier": Variant(cache_source="full"),
}
REVISIONS = {"upstream": "upstream", "8e18baac": "old", "6c8822f": "run1C", "26d6179": "run2"}
SUBSETS = {"first": range(1, 13), "middle": range(8, 20), "last": range(16, 28)}


class Event(NamedTuple):
    """One forward, in the fields of golden.json."""

    kind: str                            # prefill, full, small, nocache or commit
    block: int | None
    small_block: int | None
    replace_position: int | None
    unmasked: int | None                 # positions revealed, summed over rows
    recompute: int
    reuse: int
    fallback: int
    disabled: int
    served_length: int | None            # width of the stored output that was served
    served_event: int | None             # the forward that stored it


@dataclass
class LayerReuse:
    """Stored layer outputs and what to do with them in the forward at hand."""

    variant: Variant
    k: int
    layers: frozenset[int]
    stored: dict[int, tuple[Tensor, int]] = field(default_factory=dict)   # output and its event
    counts: Counter[str] = field(default_factory=Counter)
    served: tuple[int, int] | None = None
    kind: str = "prefill"
    event: int = 0
    step: int = 0
    replace_position: int = 0

    def begin(self, kind: str, event: int, step: int = 0, replace_position: int | None = None) -> None:
        """Before each forward."""
        self.kind, self.event, self.step, self.replace_position = kind, event, step, replace_position or 0
        self.counts, self.served = Counter(), None

    def __call__(self, index: int, layer: Layer, hidden: Tensor) -> Tensor:
        if index not in self.layers:
            return layer(hidden)
        bypass = self.kind in ("prefill", "commit") or (self.kind != "small"
                                                        and self.variant.on_full_block == "bypass")
        if bypass:
            self.counts["disabled"] += 1
            return layer(hidden)
        refresh = self.kind != "small" and self.variant.on_full_block == "refresh"
        if refresh or self.step % self.k == 0:
            self.counts["recompute"] += 1
            output = layer(hidden)
            if self.variant.cache_source == "latest" or self.kind != "small":
                self.stored[index] = (output, self.event)
            return output
        cached, event = self.stored.get(index, (None, 0))
        if cached is not None and cached.shape[1] != hidden.shape[1]:
            end = self.replace_position + hidden.shape[1]
            cut = cached[:, self.replace_position:end] if end <= cached.shape[1] else None
        else:
            cut = cached
        if cached is None or cut is None:
            self.counts["fallback"] += 1
            return layer(hidden)
        if self.variant.run_skipped:
            layer(hidden)
        self.counts["reuse"] += 1
        self.served = (cached.shape[1], event)
        return cut

    def keep(self, rows: Tensor) -> None:
        """Drop the rows that leave the batch, [R] bool."""
        self.stored = {index: (output[rows], event) for index, (output, event) in self.stored.items()}


@dataclass
class Result:
    """What the published loop returns, per prompt, and what it did."""

    generated: list[list[int]]
    events: list[Event]

    @property
    def nfe(self) -> dict[str, int]:
        """Forwards by kind."""
        return dict(Counter(event.kind for event in self.events))


class Loop:
    """One call of the published loop. `run` does it all; the parts follow its order."""

    def __init__(self, network: PlainNetwork, prompts: list[list[int]], *, variant: str = "upstream", k: int = 1,
                 subset: str | None = None, threshold: float = 0.9, max_new_tokens: int = 96, stop_token: int = -1,
                 mask_id: int = 511, pad_id: int = 509, small_block: int = 8, use_block_cache: bool = True,
                 limits: list[int] | None = None, watch: Callable[[str], AbstractContextManager[None]] | None = None):
        self.network, self.variant, self.k = network, VARIANTS[variant], k
        layers = frozenset(SUBSETS[subset] if subset and k > 1 else ())
        if self.variant.first_from_1_to_11 and subset == "first":
            layers -= {12}
        self.reuse = LayerReuse(self.variant, k, layers)
        self.threshold, self.stop, self.mask, self.pad = threshold, stop_token, mask_id, pad_id
        self.width, self.small, self.use_block_cache = network.config.bd_size, small_block, use_block_cache
        self.caches, self.events = Caches(), []
        device = network.head.device
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.longest, self.shortest = max(map(len, prompts)), min(map(len, prompts))
        self.blocks = max_new_tokens // self.width + self.longest // self.width
        self.tokens = torch.full((len(prompts), (self.blocks + 1) * self.width + 1), mask_id, device=device)
        for row, prompt in enumerate(prompts):
            self.tokens[row, :len(prompt)] = torch.tensor(prompt, device=device)
        self.rows = list(range(len(prompts)))                       # original index of each living row
        self.finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self.generated: list[list[int]] = [[] for _ in prompts]
        # For random weights, which never stop: row r counts as stopped once limits[r] tokens are there.
        self.limits = None if limits is None else torch.tensor(limits, device=device)
        self.watch = watch or (lambda kind: nullcontext())      # around each forward, for timing

    @torch.inference_mode()
    def run(self) -> Result:
        """Denoise block after block until all rows finished or the block budget is spent."""
        self.prefill()
        end = 0
        for block in range(self.shortest // self.width, self.blocks):
            end = self.block(block)
            if self.finished.any():
                self.leave(end)
            if not self.rows:
                break
        self.finished[:] = True
        self.leave(end)
        return Result(self.generated, self.events)

    def forward(self, kind: str, tokens: Tensor, block: int | None = None, small_block: int | None = None,
                step: int = 0, replace_position: int | None = None) -> Tensor:
        """One forward of all rows, logged; `unmasked` is filled in by `unmask`."""
        self.reuse.begin(kind, len(self.events), step, replace_position)
        store = {"prefill": "prefix", "commit": "prefix", "full": "block"}.get(kind)
        with self.watch(kind):
            logits = self.network.forward(tokens, self.caches, store=store, replace_position=replace_position,
                                          wrap=self.reuse if self.reuse.layers else None)
        counts, served = self.reuse.counts, self.reuse.served or (None, None)
        self.events.append(Event(kind, block, small_block, replace_position, None, counts["recompute"],
                                 counts["reuse"], counts["fallback"], counts["disabled"], *served))
        return logits

    def prefill(self) -> None:
        """Cache the whole blocks that every prompt has. Quirk: none if the shortest is one block or less."""
        if self.shortest <= self.width:
            return
        end = self.shortest // self.width * self.width
        following = self.forward("prefill", self.tokens[:, :end])[:, -1].argmax(-1)
        if self.shortest == end:
            opens = self.lengths == end
            self.tokens[opens, end] = following[opens]

    def block(self, block: int) -> int:
        """Denoise one block and commit it. Returns the end of what the rows now hold."""
        start, end = block * self.width, (block + 1) * self.width
        self.caches.block = {}
        step, begun = 0, False
        for small_block in range(self.width // self.small):
            first = start + small_block * self.small
            last = first + self.small
            while (self.tokens[:, first:last] == self.mask).any():
                where = (block, small_block, step)
                every_k = self.variant.full_block_every_k and (self.k <= 1 or step % self.k == 0)
                if not self.use_block_cache:
                    logits = self.forward("nocache", self.tokens[:, start:end], *where)
                elif not begun or every_k or (self.tokens[:, first] == self.mask).any():
                    logits = self.forward("full", self.tokens[:, start:end], *where)
                    begun = True
                else:
                    logits = self.forward("small", self.tokens[:, first:last], *where, first - start)
                logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)      # the token shift
                if logits.shape[1] != self.small:
                    logits = logits[:, first - start:last - start]
                self.unmask(logits, first, last)
                step += 1
        for row in (self.finished & (self.lengths < end)).nonzero().flatten().tolist():
            length = int(self.lengths[row])
            stop = length + int((self.tokens[row, length:end] == self.stop).nonzero()[0])
            self.tokens[row, stop + 1:end] = self.pad
        if self.limits is not None:
            self.finished |= end - self.lengths >= self.limits
        if self.finished.all():
            return end
        following = self.forward("commit", self.tokens[:, start:end], block)[:, -1].argmax(-1)
        following = torch.where(self.finished, self.pad, following)
        carries = (self.lengths // self.width <= block) | (self.longest <= end)
        self.tokens[carries, end] = following[carries]
        return end + 1

    def unmask(self, logits: Tensor, first: int, last: int) -> None:
        """Reveal what is confident enough in positions first..last, at least one position a row that has any."""
        masked = self.tokens[:, first:last] == self.mask
        probability = torch.softmax(logits, dim=-1)
        candidate = probability.argmax(-1)
        confidence = probability.gather(-1, candidate[..., None])[..., 0].masked_fill(~masked, -torch.inf)
        reveal = confidence > self.threshold
        reveal[torch.arange(len(reveal), device=reveal.device), confidence.argmax(-1)] = True
        reveal &= masked
        self.tokens[:, first:last][reveal] = candidate[reveal]
        self.finished |= ((candidate == self.stop) & reveal).any(1)
        self.events[-1] = self.events[-1]._replace(unmasked=int(reveal.sum()))

    def leave(self, end: int) -> None:
        """Take finished rows out of the batch: their tokens up to `end` are final, the others are copied together."""
        for row in self.finished.nonzero().flatten().tolist():
            self.generated[self.rows[row]] = self.tokens[row, int(self.lengths[row]):end].tolist()
        stays = ~self.finished
        self.rows = [row for row, stay in zip(self.rows, stays.tolist(), strict=True) if stay]
        self.tokens, self.lengths, self.finished = self.tokens[stays], self.lengths[stays], self.finished[stays]
        if self.limits is not None:
            self.limits = self.limits[stays]
        self.caches.keep(stays)
        self.reuse.keep(stays)
