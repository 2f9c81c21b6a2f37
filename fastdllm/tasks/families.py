"""The five families of arithmetic word problems: each writes question and worked answer into a draft."""

from __future__ import annotations

from collections.abc import Callable

from fastdllm.tasks.problem_writer import LARGEST, ProblemDraft, Unfit
from fastdllm.tasks.templates import DAYS, NAMES, THINGS


def _change(draft: ProblemDraft, value: int, way: str, gain: str, lose: str, **words: object) -> int:
    """One sentence and one line that add to `value` or take from it."""
    if draft.rng.random() < 0.5 or value < 4:
        amount = draft.size(LARGEST - value)
        draft.write(gain, b=amount, **words)
        return draft.work(way, value, "+", amount, **words)
    amount = draft.size(value - 1)
    draft.write(lose, b=amount, **words)
    return draft.work(way, value, "-", amount, **words)


def _chain(draft: ProblemDraft) -> None:
    """One person's things: gained, lost, multiplied, shared."""
    words = {"n": draft.pick(NAMES), "x": draft.pick(THINGS)}
    way = draft.way("own", "short")
    value = draft.size()
    draft.write("has", a=value, **words)
    for _ in range(draft.steps):
        kind = draft.rng.random()
        if kind < 0.6:
            value = _change(draft, value, way, "gain", "lose", **words)
        elif kind < 0.8:
            factor = draft.integer(2, min(9, LARGEST // value))
            draft.write("multiply", b=factor, **words)
            value = draft.work(way, value, "*", factor, **words)
        else:
            divisor = draft.divisor(value)
            draft.write("share", b=divisor, **words)
            value = draft.work(way, value, "/", divisor, **words)
    draft.write("ask_has", **words)


def _compare(draft: ProblemDraft) -> None:
    """Several people, each compared with one named before: a problem of looking names up."""
    ends = {2: ((3, "one"), (2, "all")), 3: ((4, "one"), (3, "two"), (3, "gap")),
            4: ((3, "all"), (4, "two"), (4, "gap"))}
    if draft.steps not in ends:
        raise Unfit
    people, end = draft.pick(ends[draft.steps])
    names, thing = draft.several(NAMES, people), draft.pick(THINGS)
    way = draft.way("person", "person_short")
    values = [draft.size()]
    draft.write("first", n=names[0], a=values[0], x=thing)
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
        draft.write(step, b=amount, **words)
        values.append(draft.work(way, value, sign, amount, **words))
    if end == "one":
        draft.write("ask_one", n=names[-1], x=thing)
    elif end == "all":
        draft.write("ask_all", x=thing)
        total = draft.work("sum_two", values[0], "+", values[1], n=names[0], m=names[1])
        for name, value in zip(names[2:], values[2:], strict=True):
            total = draft.work("sum_next", total, "+", value, n=name)
    else:
        first, second = draft.several(range(people), 2)
        if end == "gap" and values[first] < values[second]:
            first, second = second, first
        two = {"n": names[first], "m": names[second]}
        draft.write(f"ask_{end}", x=thing, **two)
        if end == "gap":
            draft.work("person_short", values[first], "-", values[second], **two)
        else:
            draft.work("sum_two", values[first], "+", values[second], **two)


def _shop(draft: ProblemDraft) -> None:
    """Prices, a fee or a coupon, and change."""
    name = draft.pick(NAMES)
    things = draft.several(THINGS, 1 if draft.steps == 2 else draft.pick((1, 2)) if draft.steps == 3 else 2)
    costs = []
    for thing in things:
        count, price = draft.factors()
        draft.write("buy", n=name, a=count, b=price, x=thing)
        costs.append(draft.work(draft.way("cost", "cost_short"), count, "*", price, n=name, x=thing))
    total = costs[0] if len(costs) == 1 else draft.work("sum", costs[0], "+", costs[1])
    way = draft.way("money", "short")
    extra = draft.steps - len(draft.lines)
    for index in range(extra):
        if index == extra - 1 and (extra > 1 or draft.rng.random() < 0.5):
            paid = draft.integer(total + 1, min(LARGEST, total + draft.pick((20, 99, 500))))
            draft.write("ask_change", n=name, b=paid)
            draft.work("money", paid, "-", total)
            return
        total = _change(draft, total, way, "fee", "coupon", n=name)
    draft.write("ask_cost", n=name)


def _rate(draft: ProblemDraft) -> None:
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
            raise Unfit
        draft.write("goal", a=goal, **words)
        for amount in done:
            draft.write("ready", b=amount, **words)
            goal = draft.work(way, goal, "-", amount, **words)
        draft.write("ask_hours", b=speed, **words)
        draft.work("time", goal, "/", speed)
        return
    days = draft.several(DAYS, 1 if draft.steps == 2 else 2)
    made = []
    for day in days:
        speed, hours = draft.factors()
        draft.write("rate", a=speed, b=hours, d=day, **words)
        made.append(draft.work(draft.way("day", "day_short"), speed, "*", hours, d=day, **words))
    total = made[0] if len(made) == 1 else draft.work("sum", made[0], "+", made[1])
    for _ in range(draft.steps - len(draft.lines)):
        total = _change(draft, total, way, "added", "broken", **words)
    draft.write("ask_made", **words)


def _box(draft: ProblemDraft) -> None:
    """Boxes filled, some things added or broken, the rest packed in bags, the bags sold."""
    words = {"n": draft.pick(NAMES), "x": draft.pick(THINGS)}
    boxes, each = draft.factors()
    draft.write("boxes", a=boxes, b=each, **words)
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
                raise Unfit
            draft.write(step, b=amount, **words)
            total = draft.work(way, total, sign, amount, **words)
        else:
            total = _change(draft, total, way, "added", "broken", **words)
    if not ends:
        draft.write("ask_left", **words)
        return
    size = draft.divisor(total)
    draft.write("pack", b=size, **words)
    bags = draft.work("bags", total, "/", size)
    if "price" not in ends:
        draft.write("ask_bags", **words)
        return
    price = draft.integer(2, min(9, LARGEST // bags))
    draft.write("ask_price", b=price, **words)
    draft.work("money", bags, "*", price)


FAMILIES: dict[str, Callable[[ProblemDraft], None]] = {
    "chain": _chain, "compare": _compare, "shop": _shop, "rate": _rate, "box": _box}
# What the embedded checkpoint has learned, and what its tasks ask. Comparisons, where a number must be looked up
# by a person's name, are in its training mixture too, but it guesses between the people: a task of their own.
SOLVED = ("chain", "shop", "rate", "box")
MIXTURE = ("chain", "compare", "compare", "compare", "shop", "rate", "box")
