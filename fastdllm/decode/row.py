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
        target = self.length // rules.block * rules.block
        if prefix >= target and self.length % rules.block:
            self._open_block()

    def _open_block(self) -> None:
        """Start denoising behind the prefix: clean tokens that are not in it open the block, the rest is masked."""
        self.start = self.prefix
        tail = self.tokens[self.start:]
        self.block = tail + [self.rules.mask_id] * (self.rules.block - len(tail))
        self.step = 0
        self.has_cache = False

    def next(self) -> Forward:
        """The forward this row needs now. Not to be called once `finish` is set."""
        rules = self.rules
        if not self.block:
            last = self.length // rules.block * rules.block
            carried = self.length % rules.block == 0
            part = tuple(self.tokens[self.prefix:last])
            return self._forward("prefill", self.prefix, part, last, (len(part) - 1,) if carried else ())
        end = self.start + rules.block
        if rules.mask_id not in self.block:
            return self._forward("commit", self.start, tuple(self.block), end, (rules.block - 1,))
        small_block = self.block.index(rules.mask_id) // rules.small
        offset = small_block * rules.small
        part = self.block[offset:offset + rules.small]
        masked = tuple([token == rules.mask_id for token in part])
        every_k = rules.revision.full_block_every_k and (rules.k <= 1 or self.step % rules.k == 0)
        if not rules.block_cache or not self.has_cache or masked[0] or every_k:
            return self._forward("full", self.start, tuple(self.block), end, predicting(offset, rules.small), masked,
                                 small_block)
        return self._forward("small", self.start + offset, tuple(part), end, predicting(0, rules.small), masked,
                             small_block)

    def _forward(self, kind: str, start: int, tokens: tuple[int, ...], end: int, read: tuple[int, ...],
                 masked: tuple[bool, ...] = (), small_block: int | None = None) -> Forward:
        offset = 0 if small_block is None else small_block * self.rules.small
        return Forward(row=self.index, slot=self.slot, index=self.forwards, kind=kind,
                       block=start // self.rules.block, small_block=small_block,
                       step=None if small_block is None else self.step, start=start, tokens=tokens, end=end,
                       read=read, masked=masked, replace_position=offset if kind == "small" else None,
                       offset=offset, block_cache=bool(self.block) and self.has_cache)

    def apply(self, forward: Forward, prediction: Prediction, replayed: bool = False) -> Step:
        """Take in what a forward predicted; sets `finish` when the row is done.

        Raises NothingUnmasked for a step that leaves its small block as it was.
        """
        size = self.rules.block
        self.forwards += 1
        self.nfe["replay" if replayed else forward.kind] += 1
        for decision in prediction.decisions:
            self.decisions[decision] += 1
        unmasked, confidence, revealed = [False] * size, [NAN] * size, False
        if denoised := forward.small_block is not None:
            mask = self.rules.mask_id
            said = zip(forward.masked, prediction.tokens, prediction.confidence, prediction.unmask, strict=False)
            for position, (masked, token, sure, reveal) in enumerate(said, forward.offset):
                if masked:
                    confidence[position] = sure
                if reveal and token != mask:      # what is predicted to be masked stays masked
                    self.block[position], unmasked[position], revealed = token, True, True
                    self.saw_stop |= token in self.rules.stop_ids
            if not revealed:
                raise NothingUnmasked(self._stuck(forward, prediction))
            self.step += 1
            self.steps += 1
            self.has_cache |= forward.kind == "full" and self.rules.block_cache
        start, tokens = (self.start, tuple(self.block)) if self.block else (forward.start, forward.tokens[-size:])
        if not denoised:
            self._advance(forward, prediction)
        if self.rules.revision.termination == "exact":
            self._stop_exactly()
        else:
            self._stop_as_upstream(forward)
        if self.finish:
            self.seconds = time.perf_counter() - self.began
        return Step(row=self.index, block=start // size, small_block=forward.small_block, step=forward.step,
                    kind="replay" if replayed else forward.kind, start=start, tokens=tokens,
                    unmasked=tuple(unmasked), confidence=tuple(confidence), nfe=dict(self.nfe))

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

    def _final(self) -> list[int]:
        """Generated tokens whose predecessors are all unmasked."""
        text = self._text()[self.length:]
        return text[:text.index(self.rules.mask_id)] if self.rules.mask_id in text else text

    def _stop_exactly(self) -> None:
        mask, block = self.rules.mask_id, self.block
        clean = self.start + (block.index(mask) if mask in block else len(block)) if block else len(self.tokens)
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
        if self.saw_stop and rules.mask_id not in self.block:
            text = self._final()
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
