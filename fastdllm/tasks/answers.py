"""Answers in outputs: named rules, each a pure function of the text, so that all can be shown side by side.

| rule | what it takes | made for |
| --- | --- | --- |
| strict | the number behind the first `####` | GSM8K as its reference answers are written |
| flexible | the last number anywhere | outputs in any form |
| boxed | the content of the last `\\boxed{}`, nested braces and all | the boxed instruction, MATH |
| choice | the first choice letter that stands alone | multiple choice |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from fastdllm.tasks.base import Score

# What the log's evaluation put in the place of "Answer:".
BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

NUMBER = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\$?\.\d+"


def strict(text: str) -> str | None:
    """The number behind the first `####`."""
    found = re.search(rf"####\s*({NUMBER})", text)
    return found.group(1) if found else None


def flexible(text: str) -> str | None:
    """The last number of the text."""
    found = re.findall(NUMBER, text)
    return found[-1] if found else None


def boxed(text: str) -> str | None:
    """What the last `\\boxed{}` holds."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin + 1:place].strip()
    return None


def choice(text: str) -> str | None:
    """The first letter A to J that stands alone."""
    found = re.search(r"(?<![A-Za-z'])([A-J])(?![A-Za-z'])", text)
    return found.group(1) if found else None


RULES: dict[str, Callable[[str], str | None]] = {"strict": strict, "flexible": flexible, "boxed": boxed,
                                                 "choice": choice}


def number(text: str | None) -> Fraction | None:
    """The value of a written number, or None if it isn't one."""
    if text is None:
        return None
    plain = text.replace(",", "").replace("$", "").strip().rstrip(".")
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


def score_number(text: str, target: str, rules: Sequence[str]) -> dict[str, Score]:
    """Each rule's extraction and whether its value is the target's."""
    want = number(target)
    found = {rule: RULES[rule](text) for rule in rules}
    return {rule: Score(value, want is not None and number(value) == want) for rule, value in found.items()}
