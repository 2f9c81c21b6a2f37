"""Generated arithmetic word problems: the task of the embedded checkpoint.

Five families (chain, compare, shop, rate, box), two to five steps, every number and result in 1..999, a worked
answer that ends in `#### N`. Three splits:

- `train` and `test` share their wordings and are apart by a hash of the question: one in eight is held out.
- `wordings` is written in sentences that neither of the other two ever uses (`fastdllm.tasks.wordings`).

A problem depends on (split, seed, index) only: the generator draws nothing but `random.Random.random()`, the one
method that Python promises to keep, and no built-in hash is used.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from fastdllm.tasks.wordings import ANSWER, DAYS, NAMES, QUESTION, THINGS

SPLITS = ("train", "test", "wordings")
LARGEST = 999  # every number in a problem lies in 1..LARGEST
HELD_OUT_IN = 8  # one question in so many belongs to the test split
SHORTEST_QUESTION = 85  # characters: with the chat template a prompt fills one block of 32 tokens, and
LONGEST_PROBLEM = 310   # characters of the question and 1.5 times those of the answer: all fits in five blocks
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """One word problem. `answer` is the worked text, whose last line is `#### target`."""

    id: str
    question: str
    answer: str
    target: str


class _Unfit(Exception):
    """A draw that left the range of numbers; another one is drawn."""


class _Draft:
    """A problem being written: the question's sentences and the answer's lines."""

    def __init__(self, rng: random.Random, held_out_wordings: bool, steps: int) -> None:
        self.rng = rng
        self.held_out_wordings = held_out_wordings
        self.steps = steps
        self.sentences: list[str] = []
        self.lines: list[str] = []
        self.result = 0

    def integer(self, low: int, high: int) -> int:
        if high < low:
            raise _Unfit
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
            raise _Unfit
        return self.pick(divisors)

    def say(self, step: str, **words: object) -> None:
        """Add one sentence of the question."""
        wordings = QUESTION[step].held_out if self.held_out_wordings else QUESTION[step].trained
        self.sentences.append(self.pick(wordings).format_map(words))

    def work(self, way: str, left: int, sign: str, right: int, **words: object) -> int:
        """Add one line of the worked answer and return its result; the order of + and * operands is random."""
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
        if not 1 <= result <= LARGEST or (sign == "/" and left % right):
            raise _Unfit
        if sign in "+*" and self.rng.random() < 0.5:
            left, right = right, left
        self.lines.append(self.pick(ANSWER[way]).format_map({**words, "e": f"{left}{sign}{right}={result}"}))
        self.result = result
        return result

    def way(self, long: str, short: str) -> str:
        return long if self.steps <= 3 else short


def _change(draft: _Draft, value: int, way: str, gain: str, lose: str, **words: object) -> int:
    """One sentence and one line that add to `value` or take from it."""
    if draft.rng.random() < 0.5 or value < 4:
        amount = draft.size(LARGEST - value)
        draft.say(gain, b=amount, **words)
        return draft.work(way, value, "+", amount, **words)
    amount = draft.size(value - 1)
    draft.say(lose, b=amount, **words)
    return draft.work(way, value, "-", amount, **words)


def _chain(draft: _Draft) -> None:
    """One person's things: gained, lost, multiplied, shared."""
    words = {"n": draft.pick(NAMES), "x": draft.pick(THINGS)}
    way = draft.way("own", "short")
    value = draft.size()
    draft.say("has", a=value, **words)
    for _ in range(draft.steps):
        kind = draft.rng.random()
        if kind < 0.6:
            value = _change(draft, value, way, "gain", "lose", **words)
        elif kind < 0.8:
            factor = draft.integer(2, min(9, LARGEST // value))
            draft.say("multiply", b=factor, **words)
            value = draft.work(way, value, "*", factor, **words)
        else:
            divisor = draft.divisor(value)
            draft.say("share", b=divisor, **words)
            value = draft.work(way, value, "/", divisor, **words)
    draft.say("ask_has", **words)


def _compare(draft: _Draft) -> None:
    """Several people, each compared with one named before: a problem of looking names up."""
    ends = {2: ((3, "one"), (2, "all")), 3: ((4, "one"), (3, "two"), (3, "gap")),
            4: ((3, "all"), (4, "two"), (4, "gap"))}
    if draft.steps not in ends:
        raise _Unfit
    people, end = draft.pick(ends[draft.steps])
    names, thing = draft.several(NAMES, people), draft.pick(THINGS)
    way = draft.way("person", "person_short")
    values = [draft.size()]
    draft.say("has", n=names[0], a=values[0], x=thing)
    for name in names[1:]:
        other = draft.integer(0, len(values) - 1)
        words = {"n": name, "m": names[other], "x": thing}
        kind, value = draft.rng.random(), values[other]
        if kind < 0.4:
            amount, step, sign = draft.size(LARGEST - value), "more", "+"
        elif kind < 0.7:
            amount, step, sign = draft.size(value - 1), "fewer", "-"
        else:
            amount, step, sign = draft.integer(2, min(9, LARGEST // value)), "times", "*"
        draft.say(step, b=amount, **words)
        values.append(draft.work(way, value, sign, amount, **words))
    if end == "one":
        draft.say("ask_one", n=names[-1], x=thing)
    elif end == "all":
        draft.say("ask_all", x=thing)
        total = values[0]
        for value in values[1:]:
            total = draft.work("sum", total, "+", value)
    else:
        first, second = draft.several(range(people), 2)
        if end == "gap" and values[first] < values[second]:
            first, second = second, first
        draft.say(f"ask_{end}", n=names[first], m=names[second], x=thing)
        sign = "-" if end == "gap" else "+"
        draft.work("gap" if end == "gap" else "sum", values[first], sign, values[second])


def _shop(draft: _Draft) -> None:
    """Prices, a fee or a coupon, and change."""
    name = draft.pick(NAMES)
    things = draft.several(THINGS, 1 if draft.steps == 2 else draft.pick((1, 2)) if draft.steps == 3 else 2)
    costs = []
    for thing in things:
        count, price = draft.factors()
        draft.say("buy", n=name, a=count, b=price, x=thing)
        costs.append(draft.work(draft.way("cost", "cost_short"), count, "*", price, n=name, x=thing))
    total = costs[0] if len(costs) == 1 else draft.work("sum", costs[0], "+", costs[1])
    way = draft.way("money", "short")
    extra = draft.steps - len(draft.lines)
    for index in range(extra):
        if index == extra - 1 and (extra > 1 or draft.rng.random() < 0.5):
            paid = draft.integer(total + 1, min(LARGEST, total + draft.pick((20, 99, 500))))
            draft.say("ask_change", n=name, b=paid)
            draft.work("money", paid, "-", total)
            return
        total = _change(draft, total, way, "fee", "coupon", n=name)
    draft.say("ask_cost", n=name)


def _rate(draft: _Draft) -> None:
    """So many things an hour: how many, or how long."""
    name, thing = draft.pick(NAMES), draft.pick(THINGS)
    words = {"n": name, "x": thing}
    way = draft.way("things", "short")
    if draft.steps <= 3 and draft.rng.random() < 0.5:  # backwards: hours to a goal
        speed = draft.integer(2, 9)
        rest = speed * draft.integer(2, min(99, LARGEST // speed))
        done = [draft.size() for _ in range(draft.steps - 1)]
        goal = rest + sum(done)
        if goal > LARGEST:
            raise _Unfit
        draft.say("goal", a=goal, **words)
        for amount in done:
            draft.say("ready", b=amount, **words)
            goal = draft.work(way, goal, "-", amount, **words)
        draft.say("ask_hours", b=speed, **words)
        draft.work("time", goal, "/", speed)
        return
    days = draft.several(DAYS, 1 if draft.steps == 2 else 2)
    made = []
    for day in days:
        speed, hours = draft.factors()
        draft.say("rate", a=speed, b=hours, d=day, **words)
        made.append(draft.work(draft.way("day", "day_short"), speed, "*", hours, d=day, **words))
    total = made[0] if len(made) == 1 else draft.work("sum", made[0], "+", made[1])
    for _ in range(draft.steps - len(draft.lines)):
        total = _change(draft, total, way, "added", "broken", **words)
    draft.say("ask_made", **words)


def _box(draft: _Draft) -> None:
    """Boxes filled, some things added or broken, the rest packed in bags, the bags sold."""
    words = {"n": draft.pick(NAMES), "x": draft.pick(THINGS)}
    boxes, each = draft.factors()
    draft.say("boxes", a=boxes, b=each, **words)
    way = draft.way("things", "short")
    total = draft.work(way, boxes, "*", each, **words)
    ends = draft.pick(((), ("pack",), ("pack", "price")) if draft.steps > 2 else ((), ("pack",)))
    for index in range(draft.steps - 1 - len(ends)):
        last = index == draft.steps - 2 - len(ends)
        if last and ends:  # the amount is chosen so that the rest fills the bags
            size = draft.integer(2, 9)
            step, sign = draft.pick((("added", "+"), ("broken", "-")))
            target = size * draft.integer(2, LARGEST // size)
            amount = target - total if sign == "+" else total - target
            if not 2 <= amount <= 500:
                raise _Unfit
            draft.say(step, b=amount, **words)
            total = draft.work(way, total, sign, amount, **words)
        else:
            total = _change(draft, total, way, "added", "broken", **words)
    if not ends:
        draft.say("ask_left", **words)
        return
    size = draft.divisor(total)
    draft.say("pack", b=size, **words)
    bags = draft.work("bags", total, "/", size)
    if "price" not in ends:
        draft.say("ask_bags", **words)
        return
    price = draft.integer(2, min(9, LARGEST // bags))
    draft.say("ask_price", b=price, **words)
    draft.work("money", bags, "*", price)


FAMILIES: tuple[Callable[[_Draft], None], ...] = (_chain, _compare, _compare, _shop, _rate, _box)


def held_out(question: str) -> bool:
    """Whether a question written in the trained wordings belongs to the test split."""
    return zlib.crc32(question.encode()) % HELD_OUT_IN == 0


def stream(split: str, seed: int) -> Iterator[Problem]:
    """Endlessly many different problems of a split; the same ones for the same seed, everywhere."""
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    rng = random.Random(f"fastdllm arithmetic {split} {seed}")
    seen: set[str] = set()
    while True:
        draft = _Draft(rng, split == "wordings", 2 + int(rng.random() * 4))
        try:
            draft.pick(FAMILIES)(draft)
        except _Unfit:
            continue
        question = " ".join(sentence[0].upper() + sentence[1:] for sentence in draft.sentences)
        answer = "\n".join([*draft.lines, f"#### {draft.result}"])
        fits = len(question) >= SHORTEST_QUESTION and len(question) + 1.5 * len(answer) <= LONGEST_PROBLEM
        if not fits or question in seen or (split != "wordings" and held_out(question) != (split == "test")):
            continue
        seen.add(question)
        yield Problem(f"{split}-{seed}-{len(seen) - 1:05d}", question, answer, str(draft.result))


def generate(split: str, n: int, seed: int = 0) -> list[Problem]:
    """The first `n` problems of `stream(split, seed)`."""
    if n < 0:
        raise ValueError(f"n: {n} is not a number of problems; it must be 0 or more")
    return list(islice(stream(split, seed), n))
