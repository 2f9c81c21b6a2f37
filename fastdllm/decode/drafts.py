"""Drafts: what old logits say that the next steps will unmask, as forwards that can run beside the real one.

Nothing here touches a tensor. A draft is what policy `replay` would do without asking; `verify` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fastdllm.decode.packs import Reading
from fastdllm.decode.row import Row
from fastdllm.decode.step import Forward, Prediction

TREE_FROM = 3           # drafts a pass: from here on the last one is a second candidate for the next state
PROMPT_TOKENS = 8       # a pass with a prefill may have so many times the tokens of another


class Memory:
    """The last that was predicted for each position of a row's text: token and confidence."""

    def __init__(self) -> None:
        self.predicted: dict[int, tuple[int, float]] = {}

    def update(self, forward: Forward, reading: Reading) -> None:
        """Note a reading: the logits at position p predict position p + 1."""
        for offset, token, confidence in zip(reading.offsets, reading.tokens, reading.confidence, strict=True):
            self.predicted[forward.start + offset + 1] = token, confidence

    def of(self, positions: Sequence[int]) -> list[tuple[int, float]] | None:
        """Token and confidence for all these positions, None if one was never predicted."""
        if all(position in self.predicted for position in positions):
            return [self.predicted[position] for position in positions]
        return None


class Drafter(Protocol):
    """Says what a forward that has not run yet may predict."""

    def guess(self, forward: Forward, memory: Memory) -> Prediction | None:
        """A whole prediction of the forward, as `Row.apply` takes it; None where there is nothing to go by."""
        ...

    def second(self, forward: Forward, first: Prediction) -> Prediction | None:
        """The next best prediction where `guess` says `first`; None where it is not worth a state."""
        ...


class OldLogits:
    """The next prediction is the last one over again: a step is guessed to unmask what the rule makes of old logits."""

    def __init__(self, threshold: float):
        self.threshold = threshold

    def guess(self, forward: Forward, memory: Memory) -> Prediction | None:
        if forward.kind == "prefill":        # the block behind it is known, unless its first token is carried over
            return None if forward.read else Prediction()
        if forward.kind == "commit":
            carried = memory.of([forward.end])
            return None if carried is None else Prediction((carried[0][0],), (carried[0][1],))
        block = forward.start - (forward.replace_position or 0)
        masked = [i for i, open_ in enumerate(forward.masked) if open_]
        old = memory.of([block + forward.offset + i for i in masked])
        if old is None:
            return None
        tokens, confidence = [0] * len(forward.masked), [0.0] * len(forward.masked)
        for i, (token, value) in zip(masked, old, strict=True):
            tokens[i], confidence[i] = token, value
        return Prediction(tuple(tokens), tuple(confidence), choose(confidence, forward.masked, self.threshold))

    def second(self, forward: Forward, first: Prediction) -> Prediction | None:
        """The surest position that the guess leaves masked, in place of the least sure one that it unmasks.

        Not where a step never unmasks more than one (threshold 1): there a longer chain is right more often.
        """
        if not first.unmask or self.threshold >= 1:
            return None
        order = sorted((i for i, masked in enumerate(forward.masked) if masked), key=lambda i: -first.confidence[i])
        count = sum(first.unmask)
        if count == len(order):
            return None
        chosen = {*order[:count - 1], order[count]}
        return Prediction(first.tokens, first.confidence, tuple(i in chosen for i in range(len(forward.masked))))


def choose(confidence: Sequence[float], masked: Sequence[bool], threshold: float) -> tuple[bool, ...]:
    """The rule of `sampling.choose` for one row on the host: above the threshold, and always the surest, ties left."""
    open_ = [value if is_masked else float("-inf") for value, is_masked in zip(confidence, masked, strict=True)]
    best = open_.index(max(open_))
    return tuple(is_masked and (value > threshold or i == best)
                 for i, (value, is_masked) in enumerate(zip(open_, masked, strict=True)))


@dataclass(frozen=True, slots=True)
class Draft:
    """A forward of a pass: the real one first, then drafts. `parent` is the index of the one that it is behind."""

    forward: Forward
    parent: int = 0
    depth: int = 0
    guess: Prediction | None = None      # what a chain takes it to predict; None where nothing is drafted behind it


def drafted(row: Row, guess: Prediction | None) -> Prediction | None:
    """The guess, if a state can be drafted from it: not where it unmasks a position with the mask token itself."""
    mask = row.rules.mask_id
    if guess and any(chosen and token == mask for token, chosen in zip(guess.tokens, guess.unmask, strict=False)):
        return None
    return guess


def chain(row: Row, drafter: Drafter, memory: Memory, depth: int, most_tokens: int) -> list[Draft]:
    """The row's next forward, and behind it up to `depth` drafted ones, `most_tokens` tokens in all at most (in a pass
    with a prefill PROMPT_TOKENS times as many)."""
    line, twin = [Draft(row.next())], row.fork()
    room = most_tokens * (PROMPT_TOKENS if line[0].forward.kind == "prefill" else 1) - line[0].forward.width
    while len(line) <= depth and (guess := drafted(row, drafter.guess(line[-1].forward, memory))) is not None:
        twin.apply(line[-1].forward, guess)
        if twin.finish or (forward := twin.next()).width > room:
            break
        line[-1] = replace(line[-1], guess=guess)
        line.append(Draft(forward, len(line) - 1, len(line)))
        room -= forward.width
    return line


def tree(row: Row, drafter: Drafter, memory: Memory, drafts: int, most_tokens: int) -> list[Draft]:
    """As `chain`, with up to `drafts` drafts, of which the last may be a second candidate at depth 1 (TREE_FROM)."""
    line = chain(row, drafter, memory, drafts, most_tokens)
    real, first = line[0].forward, line[0].guess
    if drafts < TREE_FROM or first is None or (other := drafted(row, drafter.second(real, first))) is None:
        return line
    twin = row.fork()
    twin.apply(real, other)
    short = line[:drafts]
    if twin.finish or sum(each.forward.width for each in short) + (forward := twin.next()).width > most_tokens:
        return line
    return [*short, Draft(forward, 0, 1)]
