"""One prompt on its way: which forward comes next, and what a prediction does to the block.

Pure bookkeeping on Python lists; no tensors. `termination="exact"` is step 5 of docs/decoding.md.
`"upstream"` keeps the published loop's rules: at most max_new_tokens // B blocks, a stop token is
noticed only when it is unmasked (not when carried over), the block is denoised to its end all the
same, and the last block is committed for one extra token.
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from functools import cache

from fastdllm.decode.rules import Rules
from fastdllm.decode.step import DECISIONS, KINDS, DraftCount, Forward, Prediction, RowResult, Step
from fastdllm.model.errors import NothingUnmasked

NAN = float("nan")


@cache
def predicting(offset: int, small: int) -> tuple[int, ...]:
    """Where a small block at this offset of a forward is predicted: each position by the one before it."""
    return tuple(max(0, offset + i - 1) for i in range(small))


class Row:
    """State of one row. `next()` names the forward to run, `apply()` takes its prediction."""

    def __init__(self, index: int, slot: int, prompt: list[int], rules: Rules, prefix: int = 0):
        self.index, self.slot, self.rules = index, slot, rules
        self.length = len(prompt)
        self.tokens = list(prompt)           # prompt and all clean tokens, without the open block
        self.prefix = prefix                 # positions whose keys are in the cache already
        self.nfe = dict.fromkeys((*KINDS, "replay"), 0)
        self.decisions = dict.fromkeys(DECISIONS, 0)
        self.finish: str | None = None
        self.generated: list[int] = []
        self.forwards = self.steps = self.forwards_run = 0
        self.drafts: dict[tuple[int, str], list[int]] = {}      # depth and kind -> offered, accepted
        self.began = time.perf_counter()
        self.seconds = 0.0
        self.saw_stop = False
        self.looked_to = -1                  # how far the tokens were final when the end was last looked for
        self.block: list[int] = []
        self.clean = 0                       # of the open block, see `_clean`: looked up once a step
        target = self.length // rules.block * rules.block
        if prefix >= target and self.length % rules.block:
            self._open_block()

    def _open_block(self) -> None:
        """Start denoising behind the prefix: clean tokens that are not in it open the block, the rest is masked."""
        self.start = self.prefix
        tail = self.tokens[self.start:]
        self.block = tail + [self.rules.mask_id] * (self.rules.block - len(tail))
        self.clean = self._clean()
        self.step = 0
        self.has_cache = False

    def _clean(self) -> int:
        """How many tokens of the block stand before its first masked position."""
        mask = self.rules.mask_id
        return self.block.index(mask) if mask in self.block else len(self.block)

    def next(self) -> Forward:
        """The forward this row needs now. Not to be called once `finish` is set."""
        rules = self.rules
        if not self.block:
            last = self.length // rules.block * rules.block
            carried = self.length % rules.block == 0
            part = tuple(self.tokens[self.prefix:last])
            return self._forward("prefill", self.prefix, part, last, (len(part) - 1,) if carried else ())
        end = self.start + rules.block
        if self.clean == rules.block:
            return self._forward("commit", self.start, tuple(self.block), end, (rules.block - 1,))
        small_block = self.clean // rules.small
        offset = small_block * rules.small
        part = self.block[offset:offset + rules.small]
        masked = tuple([token == rules.mask_id for token in part])
        every_k = rules.revision.full_block_every_k and (rules.k <= 1 or self.step % rules.k == 0)
        if not rules.block_cache or not self.has_cache or masked[0] or every_k:
            return self._forward("full", self.start, tuple(self.block), end, predicting(offset, rules.small), masked,
                                 small_block, offset)
        return self._forward("small", self.start + offset, tuple(part), end, predicting(0, rules.small), masked,
                             small_block, offset)

    def _forward(self, kind: str, start: int, tokens: tuple[int, ...], end: int, read: tuple[int, ...],
                 masked: tuple[bool, ...] = (), small_block: int | None = None, offset: int = 0) -> Forward:
        return Forward(self.index, self.slot, self.forwards, kind, start // self.rules.block, small_block,
                       None if small_block is None else self.step, start, tokens, end, read, masked,
                       offset if kind == "small" else None, offset, bool(self.block) and self.has_cache)

    def apply(self, forward: Forward, prediction: Prediction, replayed: bool = False) -> Step:
        """`take` and tell of it."""
        self.take(forward, prediction, replayed)
        return self.told(forward, prediction, replayed)

    def take(self, forward: Forward, prediction: Prediction, replayed: bool = False) -> None:
        """Take in what a forward predicted; sets `finish` when the row is done.

        Raises NothingUnmasked for a step that leaves its small block as it was.
        """
        self.forwards += 1
        self.nfe["replay" if replayed else forward.kind] += 1
        for decision in prediction.decisions:
            self.decisions[decision] += 1
        if forward.small_block is None:
            self._advance(forward, prediction)
        else:
            self._unmask(forward, prediction)
        if self.rules.revision.termination == "exact":
            self._stop_exactly()
        else:
            self._stop_as_upstream(forward)
        if self.finish:
            self.seconds = time.perf_counter() - self.began

    def told(self, forward: Forward, prediction: Prediction, replayed: bool = False) -> Step:
        """The step that `take` just took; to be called before it takes the next one."""
        rules = self.rules
        unmasked, confidence, denoised = [False] * rules.block, [NAN] * rules.block, forward.small_block is not None
        said = zip(forward.masked, prediction.tokens, prediction.confidence, prediction.unmask, strict=False)
        for position, (masked, token, sure, reveal) in enumerate(said, forward.offset):
            if masked:
                confidence[position] = sure
            unmasked[position] = reveal and token != rules.mask_id
        start, tokens = (self.start, tuple(self.block)) if denoised else (forward.start, forward.tokens[-rules.block:])
        return Step(row=self.index, block=start // rules.block, small_block=forward.small_block, step=forward.step,
                    kind="replay" if replayed else forward.kind, start=start, tokens=tokens,
                    unmasked=tuple(unmasked), confidence=tuple(confidence), nfe=dict(self.nfe))

    def _unmask(self, forward: Forward, prediction: Prediction) -> None:
        """After a denoising forward: what it unmasks stands in the block; what is predicted to be masked stays so."""
        rules, revealed = self.rules, False
        for i, reveal in enumerate(prediction.unmask):
            if reveal and (token := prediction.tokens[i]) != rules.mask_id:
                self.block[forward.offset + i], revealed = token, True
                self.saw_stop |= token in rules.stop_ids
        if not revealed:
            raise NothingUnmasked(self._stuck(forward, prediction))
        self.clean = self._clean()
        self.step += 1
        self.steps += 1
        self.has_cache |= forward.kind == "full" and rules.block_cache

    def _stuck(self, forward: Forward, prediction: Prediction) -> str:
        """What is wrong where a step unmasked nothing; the next would be the same again, without end."""
        chosen = [self.start + forward.offset + i for i, reveal in enumerate(prediction.unmask) if reveal]
        return (f"row {self.index}, block {forward.block}, step {forward.step} ({forward.kind} forward, small block "
                f"{forward.small_block}): nothing is unmasked, because the prediction at position "
                f"{', '.join(map(str, chosen))} is the mask token {self.rules.mask_id} itself; allowed: a checkpoint "
                "that predicts other tokens, or the mask_id that it was trained with")

    def _advance(self, forward: Forward, prediction: Prediction) -> None:
        """After a prefill or commit: its tokens are prefix now, the argmax behind them opens the next block."""
        if forward.kind == "commit":
            self.tokens[self.start:] = self.block
        self.prefix = forward.end
        if prediction.tokens:
            self.tokens.append(prediction.tokens[0])
        self._open_block()

    def _text(self) -> list[int]:
        """The prompt, clean tokens, and the open block as it stands."""
        return self.tokens[:self.start] + self.block if self.block else self.tokens

    def _stop_exactly(self) -> None:
        clean = self.start + self.clean if self.block else len(self.tokens)
        if clean == self.looked_to:      # what was unmasked lies behind a mask: nothing new is final
            return
        seen, self.looked_to = max(0, self.looked_to - self.length), clean
        final, stop_ids = self._text()[self.length:clean][:self.rules.max_new_tokens], self.rules.stop_ids
        stop = next((i for i in range(seen, len(final)) if final[i] in stop_ids), None)
        if stop is not None:
            final, self.finish = final[:stop + 1], "stop"
        elif len(final) == self.rules.max_new_tokens:
            self.finish = "length"
        if self.rules.find_stop is not None and (count := self.rules.find_stop(final)) is not None:
            final, self.finish = final[:count], "stop_string"
        self.generated = final

    def _stop_as_upstream(self, forward: Forward) -> None:
        rules = self.rules
        if self.saw_stop and self.clean == len(self.block):
            text = self._text()[self.length:]
            stop = next(i for i, token in enumerate(text) if token in rules.stop_ids)
            self.generated, self.finish = text[:stop + 1], "stop"
        elif forward.kind == "commit":
            blocks = rules.max_new_tokens // rules.block + self.length // rules.block
            if len(self.tokens) // rules.block >= blocks:
                self.generated, self.finish = self.tokens[self.length:], "length"

    def count_draft(self, depth: int, kind: str, offered: int = 0, accepted: int = 0) -> None:
        """Book drafts of policy `verify`."""
        counts = self.drafts.setdefault((depth, kind), [0, 0])
        counts[0] += offered
        counts[1] += accepted

    def fork(self) -> Row:
        """A copy to look ahead with: what is applied to it leaves this row as it is. It looks for no stop strings."""
        twin = copy(self)
        twin.tokens, twin.block = list(self.tokens), list(self.block)
        twin.nfe, twin.decisions = dict(self.nfe), dict(self.decisions)
        if self.rules.find_stop is not None:
            twin.rules = replace(self.rules, find_stop=None)
        return twin

    def result(self, text: str) -> RowResult:
        """The row's outcome; call when `finish` is set."""
        if self.finish is None:
            raise RuntimeError(f"row {self.index} is not finished")
        nothing = self.rules.k > 1 and self.decisions["reuse"] == 0 and self.nfe["replay"] == 0
        return RowResult(row=self.index, tokens=list(self.generated), text=text, nfe=dict(self.nfe),
                         decisions=dict(self.decisions), finish=self.finish, reused_nothing=nothing,
                         seconds=self.seconds, steps=self.steps, forwards_run=self.forwards_run,
                         drafts=tuple(DraftCount(*key, *counts) for key, counts in sorted(self.drafts.items())))
