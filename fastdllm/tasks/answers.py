r"""Answers in outputs: named rules, each a pure function of the text, all shown side by side.

| rule | what it takes | made for |
| --- | --- | --- |
| strict | the number behind the first `####` | GSM8K as its reference answers are written |
| flexible | the last number anywhere, as people write it (`fastdllm.tasks.numbers`) | outputs in any form |
| boxed | the content of the last `\boxed{}`, nested braces and all | the boxed instruction, MATH |
| choice | the first choice letter | multiple choice |
| harness filters | what lm-evaluation-harness's own filter of the task takes | comparison with published numbers |

An output that a rule finds nothing in counts as wrong for that rule and for no other: where one rule
reads 0 % and its neighbour 80 %, the format differs, not the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from fastdllm.tasks.base import Score
from fastdllm.tasks.numbers import NUMBER, numbers, plain, trimmed, value

# What the published evaluation put in the place of "Answer:" (gsm8k) and "Solution:" (minerva_math). The
# doubled braces are what the model was shown: the line was meant for str.format and never went through it.
BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{{}}."

_STRICT = re.compile(rf"####\s*({NUMBER})?")
_SCALE = re.compile(r"\b(?:dozens?|(?:hundred|thousand|(?:m|b|tr)illion)s?)\b", re.IGNORECASE)
_CHOICE = (re.compile(r"[Aa]nswer(?:\s+is)?\s*:?\s*\**\s*\(?([A-J])(?![A-Za-z'])"),
           re.compile(r"\(([A-J])\)"),
           re.compile(r"^\W*([A-J])(?=[.):,]|\s*$)", re.MULTILINE),
           re.compile(r"(?<![A-Za-z'])([B-HJ]|A(?!\s+[a-z]))(?![A-Za-z'])"))


def strict(text: str) -> str | None:
    """The number behind the first `####`, if one follows it directly."""
    match = _STRICT.search(plain(text))
    return trimmed(match.group(1)) if match and match.group(1) else None


def flexible(text: str) -> str | None:
    """The last number of the text."""
    written = numbers(text)
    return written[-1] if written else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` holds; None if its braces never close."""
    begins = list(re.finditer(r"\\boxed\s*(?=\{)", text))
    if not begins:
        return None
    begin, depth = begins[-1].end(), 0
    for position in range(begin, len(text)):
        if text[position] in "{}" and text[position - 1] != "\\":
            depth += 1 if text[position] == "{" else -1
        if depth == 0:
            content = text[begin + 1:position].strip()
            if content[:1] == "{" and content.find("}") == len(content) - 1:   # the instruction's doubled braces
                content = content[1:-1].strip()
            return content
    return None


def choice(text: str) -> str | None:
    """The letter behind "answer is"; else the first in parentheses, at a line's start, or standing alone."""
    for pattern in _CHOICE:
        match = pattern.search(text)
        if match:
            return match.group(1)
    return None


RULES: dict[str, Callable[[str], str | None]] = {"strict": strict, "flexible": flexible, "boxed": boxed,
                                                 "choice": choice}


def target_value(target: str) -> Fraction:
    """The number that a target names, beside units and words ("54 hours").

    Raises ValueError for a target without a number, with several, or with a word that multiplies it ("1.5 million"):
    right answers would count as wrong.
    """
    if word := _SCALE.search(target):
        raise ValueError(f"target={target!r}: {word[0]!r} in it; allowed: one number, written in digits")
    written = numbers(target)
    amount = value(written[0]) if len(written) == 1 else None
    if amount is None:
        raise ValueError(f"target={target!r}: {len(written)} numbers in it; allowed: one number, units and words aside")
    return amount


def score_number(text: str, target: str, rules: Sequence[str]) -> dict[str, Score]:
    """Each rule's extraction, and whether its value is the target's (units and words around it aside).

    An empty target is an answer that nobody knows: none is right. Raises ValueError for a target without one number.
    """
    want = target_value(target) if rules and target else None
    scores = {}
    for rule in rules:
        extracted = RULES[rule](text)
        amount = value(flexible(extracted)) if extracted is not None else None
        scores[rule] = Score(extracted, want is not None and amount == want)
    return scores


def stopped_by(text: str, stop_strings: Sequence[str]) -> str | None:
    """The stop string that stands first in `text` (the longer one where two begin together)."""
    occurrences = [(text.index(stop), -len(stop), stop) for stop in stop_strings if stop in text]
    return min(occurrences)[2] if occurrences else None
