"""Arithmetic without a story: lists of expressions to work out, and chains of instructions.

Most wrong answers of a small model are wrong arithmetic. A drill asks for the same steps in the same forms as a
GSM8K answer, as often as wanted, and can be in no test set: everything is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from fastdllm.train.delta.gsm8k import WordProblem
from fastdllm.train.delta.perturb import PERCENTAGES
from fastdllm.train.delta.written import written

Rng = np.random.Generator
Expression = tuple[str, Fraction]

LARGEST = 10 ** 7
CHAIN_LARGEST = 99_999
CHAIN_SHARE = 0.35           # of the drills
THINGS = ("apples", "pages", "hours", "dollars", "books", "miles", "students", "eggs", "cards", "minutes", "boxes",
          "cookies", "points", "days", "trees", "pounds", "marbles", "tickets", "pencils", "people")
HALVES = {2: ("Halve it.", "Take half of it."), 3: ("Take a third of it.",), 4: ("Take a quarter of it.",)}
DOUBLES = {2: ("Double it.", "Make it twice as many."), 3: ("Triple it.",)}


def pick(rng: Rng, options: tuple) -> object:
    """One of `options`."""
    return options[int(rng.integers(len(options)))]


def number(rng: Rng, digits: int = 4) -> int:
    """A whole number from 2 up with at most `digits` digits, often a round one."""
    length = min(digits, 1 + int(np.searchsorted((0.25, 0.70, 0.92), rng.random())))
    drawn = int(rng.integers(2 if length == 1 else 10 ** (length - 1), 10 ** length))
    if length > 1 and rng.random() < 0.45:
        units = (5, 10, 10, 50, 100) if length == 2 else (10, 50, 100, 100, 500, 1000)
        unit = units[int(rng.integers(len(units)))]
        drawn = max(unit, drawn // unit * unit)
    return drawn


def _sum(rng: Rng) -> Expression:
    terms = [number(rng) for _ in range(2 + int(rng.random() < 0.2) + int(rng.random() < 0.08))]
    return "+".join(map(str, terms)), Fraction(sum(terms))


def _difference(rng: Rng) -> Expression:
    small, large = sorted((number(rng), number(rng)))
    if rng.random() < 0.12:
        third = number(rng, 2)
        return f"{large + third}-{small}-{third}", Fraction(large - small)
    return f"{large}-{small}", Fraction(large - small)


def _product(rng: Rng) -> Expression:
    first = number(rng)
    second = int(rng.integers(2, 13)) if first > 99 or rng.random() < 0.6 else number(rng, 2)
    factors = [first, second] if rng.random() < 0.5 else [second, first]
    if rng.random() < 0.08:
        factors.append(int(rng.integers(2, 7)))
    return "*".join(map(str, factors)), Fraction(int(np.prod(factors)))


def _quotient(rng: Rng) -> Expression:
    divisor = int(rng.integers(2, 13)) if rng.random() < 0.75 else number(rng, 2)
    result = number(rng, 3)
    return f"{divisor * result}/{divisor}", Fraction(result)


def _decimal_quotient(rng: Rng) -> Expression:
    divisor, dividend = int(rng.choice((2, 4, 5, 8, 10, 20, 50, 100))), number(rng, 3)
    return f"{dividend}/{divisor}", Fraction(dividend, divisor)


def _percentage(rng: Rng) -> Expression:
    percent, whole = int(rng.choice(PERCENTAGES)), number(rng)
    part = f"{percent / 100:g}"
    forms = (f"{percent}/100*{whole}", f"{whole}*{percent}/100", f"{part}*{whole}", f"{whole}*{part}",
             f"{whole}*{part.lstrip('0')}")
    return forms[int(rng.integers(len(forms)))], Fraction(percent * whole, 100)


def _fraction(rng: Rng) -> Expression:
    below = int(rng.choice((2, 3, 4, 5, 6, 8)))
    above, whole = int(rng.integers(1, below)), below * number(rng, 2)
    forms = (f"{above}/{below}*{whole}", f"{whole}*{above}/{below}", f"({above}/{below})*{whole}")
    return forms[int(rng.integers(len(forms)))], Fraction(above * whole, below)


def _price_product(rng: Rng) -> Expression:
    price, count = Fraction(5 * int(rng.integers(5, 2000)), 100), int(rng.integers(2, 21))
    text = written(price)
    return (f"{text}*{count}" if rng.random() < 0.5 else f"{count}*{text}"), price * count


def _price_sum(rng: Rng) -> Expression:
    small, large = sorted(Fraction(5 * int(rng.integers(5, 4000)), 100) for _ in range(2))
    if rng.random() < 0.5:
        return f"{written(large)}+{written(small)}", large + small
    return f"{written(large)}-{written(small)}", large - small


KINDS: tuple[tuple[float, Callable[[Rng], Expression]], ...] = (
    (0.20, _sum), (0.17, _difference), (0.27, _product), (0.16, _quotient), (0.05, _decimal_quotient),
    (0.05, _percentage), (0.04, _fraction), (0.04, _price_product), (0.02, _price_sum))
_SHARES = np.cumsum([share for share, _ in KINDS])[:-1]


def expression(rng: Rng) -> tuple[str, str]:
    """An expression and its value as an answer writes it, with at most two decimals."""
    while True:
        text, result = KINDS[int(np.searchsorted(_SHARES, rng.random()))][1](rng)
        shown = written(result)
        if shown is not None and 0 < result < LARGEST:
            return text, shown


def spaced(rng: Rng, text: str) -> str:
    """An expression as a sentence has it: blanks around signs, now and then x for * and a dollar sign."""
    signs = {"+": " + ", "-": " - ", "*": " * " if rng.random() < 0.65 else " x ",
             "/": "/" if rng.random() < 0.3 else " / "}
    money = "$" if rng.random() < 0.2 and "(" not in text else ""
    return money + "".join(signs.get(sign, sign) for sign in text)


def line(rng: Rng, text: str, result: str) -> str:
    """One step of an answer, its annotation included."""
    shown = spaced(rng, text) if rng.random() < 0.65 else text
    return f"{shown}{' = ' if shown != text else '='}<<{text}={result}>>{result}"


def listed(rng: Rng) -> WordProblem:
    """Three to six expressions to work out."""
    drawn = [expression(rng) for _ in range(int(rng.integers(3, 7)))]
    question = ", ".join(spaced(rng, text) if rng.random() < 0.5 else text for text, _ in drawn)
    steps = "\n".join(line(rng, text, result) for text, result in drawn)
    return WordProblem(f"Work out {question}.", f"{steps}\n#### {drawn[-1][1]}")


def _instruction(rng: Rng, value: int) -> tuple[tuple[str, ...], str, int] | None:
    """Ways to say one step from `value` on, the expression, and what it gives; None where the draw does not fit."""
    other, kind = number(rng, 2), int(rng.integers(5))
    if kind == 0:
        ways = (f"Add {other}.", f"Then {other} more come.", f"It goes up by {other}.")
        return ways, f"{value}+{other}", value + other
    if kind == 1 and value > other:
        ways = (f"Take away {other}.", f"Then {other} are lost.", f"It goes down by {other}.")
        return ways, f"{value}-{other}", value - other
    if kind == 2 and value < 2000:
        factor = int(rng.integers(2, 13))
        ways = (f"Multiply by {factor}.", f"Make it {factor} times as many.", *DOUBLES.get(factor, ()))
        return ways, f"{value}*{factor}", value * factor
    if kind == 3:
        divisors = tuple(divisor for divisor in range(2, 13) if value % divisor == 0)
        if divisors:
            divisor = divisors[int(rng.integers(len(divisors)))]
            ways = (f"Divide by {divisor}.", f"Share it among {divisor}.", *HALVES.get(divisor, ()))
            return ways, f"{value}/{divisor}", value // divisor
    if kind == 4:
        percents = tuple(percent for percent in PERCENTAGES if percent > 5 and value * percent % 100 == 0)
        if percents:
            percent = percents[int(rng.integers(len(percents)))]
            return (f"Take {percent}% of it.", f"Keep {percent}%."), f"{value}*{percent}/100", value * percent // 100
    return None


def chain(rng: Rng) -> WordProblem:
    """A number changed up to five times."""
    value, thing = number(rng, 3), pick(rng, THINGS)
    said, steps = [f"Start with {value} {thing}."], []
    wanted = int(rng.integers(2, 6))
    while len(steps) < wanted:
        drawn = _instruction(rng, value)
        if drawn is None or not 0 < drawn[2] <= CHAIN_LARGEST:
            continue
        ways, text, value = drawn
        said.append(str(pick(rng, ways)))
        steps.append(line(rng, text, str(value)))
    return WordProblem(f"{' '.join(said)} How many {thing} is that?", "\n".join(steps) + f"\n#### {value}")


def drill(rng: Rng) -> WordProblem:
    """One drill of either kind."""
    return chain(rng) if rng.random() < CHAIN_SHARE else listed(rng)
