"""A word problem being written: draws of numbers and wordings, sentences of the question, lines of the answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from fastdllm.tasks.templates import ANSWER, QUESTION

LARGEST = 999  # every number in a problem lies in 1..LARGEST
STEPS = (2, 3, 3, 4, 4, 5, 5)  # how many steps a problem has, before its length is checked
T = TypeVar("T")


class Unfit(Exception):
    """A draw that left the range of numbers; another one is drawn."""


class ProblemDraft:
    """A problem being written: the question's sentences and the answer's lines."""

    def __init__(self, rng: random.Random, held_out_wordings: bool) -> None:
        self.rng = rng
        self.held_out_wordings = held_out_wordings
        self.steps = self.pick(STEPS)
        self.sentences: list[str] = []
        self.lines: list[str] = []
        self.result = 0

    def integer(self, low: int, high: int) -> int:
        if high < low:
            raise Unfit
        return low + int(self.rng.random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.random() * len(items))]

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        rest = list(items)
        return [rest.pop(int(self.rng.random() * len(rest))) for _ in range(count)]

    def size(self, high: int = LARGEST) -> int:
        """A number from 2 to `high`: often small, sometimes three digits long."""
        return self.integer(2, min(high, self.pick((20, 99, 99, 500))))

    def factors(self) -> tuple[int, int]:
        """Two numbers whose product is at most LARGEST: the smaller has one digit, one time in six two digits."""
        first = self.integer(11, 31) if self.rng.random() < 1 / 6 else self.integer(2, 9)
        second = self.integer(2, min(99, LARGEST // first))
        return (first, second) if self.rng.random() < 0.5 else (second, first)

    def divisor(self, value: int) -> int:
        """A divisor of `value` from 2 to 9 that is smaller than it."""
        divisors = [d for d in range(2, 10) if value % d == 0 and value > d]
        if not divisors:
            raise Unfit
        return self.pick(divisors)

    def write(self, step: str, **words: object) -> None:
        """Add one sentence of the question."""
        wordings = QUESTION[step].held_out if self.held_out_wordings else QUESTION[step].trained
        self.sentences.append(self.pick(wordings).format_map(words))

    def work(self, way: str, left: int, sign: str, right: int, **words: object) -> int:
        """Add one line of the worked answer and return its result; the order of + and * operands is random."""
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
        if not 1 <= result <= LARGEST or (sign == "/" and left % right):
            raise Unfit
        if sign in "+*" and self.rng.random() < 0.5:
            left, right = right, left
        self.lines.append(self.pick(ANSWER[way]).format_map({**words, "e": f"{left}{sign}{right}={result}"}))
        self.result = result
        return result

    def way(self, long: str, short: str) -> str:
        return long if self.steps <= 3 else short
