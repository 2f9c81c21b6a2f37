"""Word problems with other numbers: redrawn in the question, recomputed along the answer's annotations.

A problem becomes a `Template` if every annotation can be recomputed exactly, the result is the last of them that it
needs, and it is clear which numbers of the answer are which of the question. Whatever is ambiguous stays as it is: a
number that is also written as a word, is also a result, or belongs to a date, a clock or a fraction. A draw that
would need a negative number, a fraction of a thing, or more than two decimals is thrown away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fastdllm.train.delta.gsm8k import ANNOTATION, WordProblem
from fastdllm.train.delta.written import NUMBER, evaluate, value, written

# Words that may stand for a number: where one occurs, the number is not redrawn.
IN_WORDS = {
    1: ".", 2: "two|twice|half|double|couple|pair|second|both", 3: "three|thrice|triple|third",
    4: "four|quarter|quadruple", 5: "five|fifth", 6: "six|dozen", 7: "seven|week", 8: "eight", 9: "nine",
    10: "ten|decade", 11: "eleven", 12: "twelve|dozen|year|month|feet|foot|inch", 15: "fifteen",
    16: "pound|ounce|sixteen", 20: "twenty|score", 24: "day|hour", 30: "thirty|month", 50: "fifty|half",
    52: "week|year", 60: "hour|minute|sixty", 100: "hundred|percent|%|cent|dollar", 365: "year|day",
    1000: "thousand|kilo|kg|km|liter",
}
# Numbers that an answer may use without the question having them.
CONSTANTS = {Fraction(n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 30, 50, 52, 60, 100, 365, 1000)} | {
    Fraction(1, 2), Fraction(1, 4), Fraction(3, 4), Fraction(1, 10), Fraction(1, 100)}
PERCENTAGES = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)
YEARS = range(1900, 2101)
TRIES = 20

_UNIT = re.compile(r"lb|kg|g\b|m\b|k|cm|ml|mm|oz|ft|in|am|pm")
_ORDINAL_OR_NAME = re.compile(r"(st|nd|rd|th)\b|[A-Za-z]")
_CLOCK = re.compile(r"\s*(am|pm|a\.m|p\.m|AM|PM|o'clock)")


class Ambiguous(ValueError):
    """The numbers cannot be changed without a guess."""


@dataclass(frozen=True)
class Span:
    """A number of the question."""

    begin: int
    end: int
    text: str
    value: Fraction
    fixed: bool      # must stay
    percent: bool


@dataclass(frozen=True)
class Piece:
    """A stretch of the answer: text (expression "") or an annotation."""

    text: str
    expression: str = ""

    @property
    def result(self) -> Fraction:
        """What the annotation says it is."""
        return value(self.text.replace("%", ""))


@dataclass(frozen=True)
class Template:
    """A problem whose numbers `free` can be redrawn."""

    problem: WordProblem
    spans: tuple[Span, ...]
    pieces: tuple[Piece, ...]
    free: tuple[Fraction, ...]

    def redraw(self, rng: np.random.Generator) -> WordProblem | None:
        """The problem with other numbers, or None if no draw of twenty works out."""
        for _ in range(TRIES):
            try:
                return self._with({number: self._draw(number, rng) for number in self.free})
            except ValueError:
                continue
        return None

    def _draw(self, number: Fraction, rng: np.random.Generator) -> Fraction:
        span = next(span for span in self.spans if span.value == number)
        return draw(number, span, rng)

    def _with(self, new: dict[Fraction, Fraction]) -> WordProblem:
        """The problem with `new` numbers in the place of the old ones. ValueError where that makes no sense."""
        if all(old == number for old, number in new.items()):
            raise ValueError("nothing changes")
        percents = {span.value for span in self.spans if span.percent}
        table = new | {old / 100: number / 100 for old, number in new.items() if old in percents}
        kept = {span.value for span in self.spans} - set(self.free)
        annotations = []
        for piece in self.pieces:
            if piece.expression:
                expression = _replaced(piece.expression, table)
                result = _sensible(evaluate(expression), piece.result)
                if table.get(piece.result, result) != result or (
                        piece.result in CONSTANTS & kept and result != piece.result):
                    raise ValueError("one number would become two")
                table[piece.result] = result
                annotations.append(f"<<{expression}={_text(result, piece.text.replace('%', ''))}>>")
        everything = (self.problem.question + self.problem.answer).lower()
        for old in {piece.result for piece in self.pieces if piece.expression}:
            if 1 < old < 12 and table[old] != old and _in_words(old, everything):
                raise ValueError("a result that is also written as a word changes")
        told = iter(annotations)
        body = "".join(next(told) if piece.expression else _replaced(piece.text, table) for piece in self.pieces)
        result = _text(table[value(self.problem.result)], self.problem.result.replace("$", ""))
        return WordProblem(self._question(new), f"{body}\n#### {result}")

    def _question(self, new: dict[Fraction, Fraction]) -> str:
        parts, end = [], 0
        for span in self.spans:
            parts += [self.problem.question[end:span.begin], _text(new.get(span.value, span.value), span.text)]
            end = span.end
        return "".join([*parts, self.problem.question[end:]])


def template(problem: WordProblem) -> Template:
    """The template of a problem. Raises Ambiguous where its numbers cannot be told apart."""
    spans = tuple(_span(problem.question, match) for match in NUMBER.finditer(problem.question))
    pieces = _pieces(problem.answer.rpartition("\n#### ")[0])
    annotations = [piece for piece in pieces if piece.expression]
    try:
        wrong = [piece for piece in annotations if evaluate(piece.expression) != piece.result]
        results = {piece.result for piece in annotations}
        final = value(problem.result)
    except ValueError as error:
        raise Ambiguous(str(error)) from error
    if wrong or final not in results:
        raise Ambiguous("an annotation is wrong, or the result has none")
    stated = {span.value for span in spans}
    percents = {span.value / 100 for span in spans if span.percent}
    used, known = set[Fraction](), stated | CONSTANTS | percents
    for piece in annotations:
        used |= {value(match[0]) for match in NUMBER.finditer(piece.expression)}
        if not used <= known:
            raise Ambiguous("an expression uses a number that comes from nowhere")
        known.add(piece.result)
    free = stated - {span.value for span in spans if span.fixed} - results
    free = {number for number in free if number in used or number / 100 in used}
    if percents & (results | CONSTANTS):
        free -= {span.value for span in spans if span.percent}
    free -= {number for number in free & CONSTANTS if number >= 12 and _in_words(number, problem.answer.lower())}
    if not free:
        raise Ambiguous("no number is free")
    return Template(problem, spans, pieces, tuple(sorted(free)))


def draw(old: Fraction, span: Span, rng: np.random.Generator) -> Fraction:
    """Another number of about the same size and roundness."""
    if span.percent:
        return Fraction(int(rng.choice(PERCENTAGES)))
    if old.denominator != 1:
        unit = 10 ** len(span.text.split(".")[1])
        return Fraction(round(float(old) * rng.uniform(0.5, 2) * unit), unit)
    number = int(old)
    if number <= 12:
        return Fraction(int(rng.integers(2, max(12, number + 6) + 1)))
    digits, zeros = len(str(number)), len(str(number)) - len(str(number).rstrip("0"))
    unit = 10 ** max(0, zeros - int(zeros > 0 and rng.random() < 0.5))
    if digits > 3:
        unit = max(unit, 10 ** (digits - 3)) if zeros else 1
    return Fraction(max(1, round(number * rng.uniform(0.4, 2.2) / unit)) * unit)


def _span(question: str, match: re.Match[str]) -> Span:
    begin, end = match.span()
    before, after, rest = question[max(0, begin - 1):begin], question[end:end + 1], question[end:]
    number = value(match[0])
    whole = number.denominator == 1
    others = question[:begin].lower() + rest.lower()
    fixed = (
        before in ("/", ":") or (after in ("/", ":") and rest[1:2].isdigit())
        or (whole and int(number) in YEARS and "," not in match[0])
        or bool(_ORDINAL_OR_NAME.match(rest) and not _UNIT.match(rest))
        or bool(_CLOCK.match(rest))
        or (whole and _in_words(number, others))
    )
    return Span(begin, end, match[0], number, fixed, after == "%" or rest.startswith(" percent"))


def _pieces(body: str) -> tuple[Piece, ...]:
    pieces, end = [], 0
    for match in ANNOTATION.finditer(body):
        pieces += [Piece(body[end:match.start()]), Piece(match[2], match[1])]
        end = match.end()
    return (*pieces, Piece(body[end:]))


def _in_words(number: Fraction, text: str) -> bool:
    words = IN_WORDS.get(int(number)) if number.denominator == 1 else None
    return words is not None and re.search(words, text) is not None


def _text(number: Fraction, like: str) -> str:
    text = written(number, like)
    if text is None:
        raise ValueError(f"{number} has more than two decimals")
    return text


def _replaced(text: str, table: dict[Fraction, Fraction]) -> str:
    return NUMBER.sub(lambda match: _text(table.get(value(match[0]), value(match[0])), match[0]), text)


def _sensible(new: Fraction, old: Fraction) -> Fraction:
    """A result in the place of `old`: positive, whole where that was, not of another size altogether."""
    if new <= 0 or (old.denominator == 1 and new.denominator != 1) or (new * 100).denominator != 1:
        raise ValueError(f"{new} in the place of {old}")
    if new > 12 * old + 20 or new * 12 + 20 < old:
        raise ValueError(f"{new} in the place of {old}: another size")
    return new
