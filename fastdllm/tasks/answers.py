r"""Answers in outputs: named rules, each a pure function of the text, all shown side by side.

| rule | what it takes | made for |
| --- | --- | --- |
| strict | the number behind the first `####` | GSM8K as its reference answers are written |
| flexible | the last number anywhere | outputs in any form |
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
from typing import Any

from fastdllm.tasks.base import Score

# What the published evaluation put in the place of "Answer:" (gsm8k) and "Solution:" (minerva_math). The
# doubled braces are what the model was shown: the line was meant for str.format and never went through it.
BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{{}}."

# A minus sign counts if nothing that could be subtracted from stands before it; a dollar sign may follow it.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)"
_NUMBER = (r"(?:(?<![\w)\]}])-)?(?:\\[dt]?frac\{-?\d+\}\{\d+\}"
           rf"|(?:\$-?)?(?:(?<![\d/])\d+/\d+(?![\d/])|{_DIGITS}(?:\.\d+)?|\.\d+))")
_LAST = re.compile(_NUMBER)
_STRICT = re.compile(rf"####\s*({_NUMBER})?")
_CHOICE = (re.compile(r"[Aa]nswer(?:\s+is)?\s*:?\s*\**\s*\(?([A-J])(?![A-Za-z'])"),
           re.compile(r"\(([A-J])\)"),
           re.compile(r"^\W*([A-J])(?=[.):,]|\s*$)", re.MULTILINE),
           re.compile(r"(?<![A-Za-z'])([B-HJ]|A(?!\s+[a-z]))(?![A-Za-z'])"))


def plain(text: str) -> str:
    """Typeset numbers in plain form: LaTeX thousands separators and spaces, dollar signs, the typographic minus."""
    for typeset, simple in (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\$", "$"), ("\u2212", "-"), ("\u202f", "")):
        text = text.replace(typeset, simple)
    return text


def strict(text: str) -> str | None:
    """The number behind the first `####`, if one follows it directly."""
    found = _STRICT.search(plain(text))
    return found.group(1) if found else None


def flexible(text: str) -> str | None:
    """The last number of the text."""
    found = _LAST.findall(plain(text))
    return found[-1] if found else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` holds; None if its braces never close."""
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return None
    begin, depth = begin + len("\\boxed"), 0
    for place in range(begin, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
        if depth == 0:
            content = text[begin + 1:place].strip()
            if content[:1] == "{" and content.find("}") == len(content) - 1:   # the instruction's doubled braces
                content = content[1:-1].strip()
            return content
    return None


def choice(text: str) -> str | None:
    """The letter behind "answer is"; else the first in parentheses, at a line's start, or standing alone."""
    for pattern in _CHOICE:
        found = pattern.search(text)
        if found:
            return found.group(1)
    return None


RULES: dict[str, Callable[[str], str | None]] = {"strict": strict, "flexible": flexible, "boxed": boxed,
                                                 "choice": choice}


def number(text: str | None) -> Fraction | None:
    """The value of a written number (also a fraction), or None if it isn't one."""
    if text is None:
        return None
    text = re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", plain(text))
    try:
        return Fraction(text.replace(",", "").replace("$", "").strip().rstrip("."))
    except (ValueError, ZeroDivisionError):
        return None


def score_number(text: str, target: str, rules: Sequence[str]) -> dict[str, Score]:
    """Each rule's extraction, and whether its value is the target's (units and words around it aside)."""
    want = number(target)
    scores = {}
    for rule in rules:
        found = RULES[rule](text)
        value = number(flexible(found)) if found is not None else None
        scores[rule] = Score(found, want is not None and value == want)
    return scores


def harness_filters(filter_list: Sequence[dict[str, Any]]) -> dict[str, Callable[[str], str]]:
    """The filters of a harness task's configuration as functions of one output.

    The harness itself does the work; it marks an output without an answer with "[invalid]".
    """
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    def applied(name: str, steps: list[dict[str, Any]]) -> Callable[[str], str]:
        parts: list[Any] = [[step["function"], {k: v for k, v in step.items() if k != "function"} or None]
                            for step in steps]
        ensemble = build_filter_ensemble(name, parts)

        def take(text: str) -> str:
            instance = Instance("generate_until", {}, ("", {}), 0)
            instance.resps = [text]
            ensemble.apply([instance])
            return instance.filtered_resps[name]
        return take
    return {entry["name"]: applied(entry["name"], entry["filter"]) for entry in filter_list}


def stopped_by(text: str, stop_strings: Sequence[str]) -> str | None:
    """The stop string that stands first in `text` (the longer one where two begin together)."""
    found = [(text.index(stop), -len(stop), stop) for stop in stop_strings if stop in text]
    return min(found)[2] if found else None
