"""Numbers as word problems write them, and exact arithmetic on written expressions."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d*\.\d+|\d+")
PLACES = 2   # decimals that an answer may have

_SIGNS = str.maketrans({"x": "*", "X": "*", "×": "*", "÷": "/", "−": "-", ",": None, "$": None, " ": None})
_PERCENT = re.compile(r"(\d*\.?\d+)%")
_EXPRESSION = re.compile(r"[\d.+\-*/()]+")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value(text: str) -> Fraction:
    """The number that `text` writes: "1,200", "$3.50". ValueError if it is none."""
    return Fraction(text.replace(",", "").replace("$", "").strip())


def written(number: Fraction, like: str = "") -> str | None:
    """`number` in the style of `like` (decimals, thousands separators); None beyond two decimals."""
    decimals = len(like.split(".")[1]) if "." in like else 0
    if number.denominator == 1 and decimals != PLACES and not (decimals and value(like).denominator != 1):
        text = str(number.numerator)
    else:
        places = max(decimals, PLACES)
        if (number * 10 ** places).denominator != 1:
            return None
        text = f"{float(number):.{places}f}"
        if decimals != PLACES or places != PLACES:
            text = text.rstrip("0").rstrip(".")
    if "," in like and number >= 1000:
        whole, _, rest = text.partition(".")
        text = f"{int(whole):,}" + (f".{rest}" if rest else "")
    return text


def evaluate(expression: str) -> Fraction:
    """The exact value of a written expression: "15/100*2", "20% x $40".

    Raises ValueError for anything but numbers, + - * / and brackets, and for a division by zero.
    """
    plain = _PERCENT.sub(r"(\1/100)", expression.translate(_SIGNS))
    if not _EXPRESSION.fullmatch(plain) or "**" in plain or "//" in plain:
        raise ValueError(f"expression: {expression!r}; allowed: numbers, + - * / and brackets")
    try:
        return _value_of(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"expression: {expression!r} has no value ({error})") from error


def _value_of(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value_of(operand)
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATIONS[type(sign)](_value_of(left), _value_of(right))
    raise ValueError(f"expression: {ast.dump(node)}; allowed: numbers, + - * / and brackets")
