r"""Numbers as people write them: where they stand in a text, and their values.

Taken: digits of any script; thousands behind commas, apostrophes, underscores or any Unicode space (`1 234`,
`1,00,000`, `1{,}234`); decimals; `3/4`, `\frac{3}{4}`, `\frac34`, `½`; mixed fractions (`3 1/2`, `3½`, `3\frac12`);
exponents (`1.5e3`, `3 \times 10^4`, `2^{10}`, `10⁶`); a minus of any kind, a plus and a currency sign before it.
Not taken: the exponent of a unit or a name (`25 cm^2`, `x^2`), and a decimal comma (`3,5` may be two numbers).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

CURRENCY = "$€£¥₹"
SPACES = " \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"            # category Zs
TYPESET = {"{,}": ",", "\\$": "$", "\\%": "%", "\\,": "\u2009", "\\!": "", "\\;": "\u2009", "\\:": "\u2009",
           "\\ ": " ", "~": "\u00a0", "\u2044": "/", "\u2215": "/", "\uff0f": "/", "\u066b": ".", "\u066c": ",",
           "\uff0c": ",", "\uff0e": ".", "\uff04": "$", "\u2019": "'", "\uff0b": "+",
           **dict.fromkeys("\u2010\u2011\u2013\u2212\u2796\ufe63\uff0d", "-")}      # hyphens, a dash, minus signs
SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
LARGEST_EXPONENT = 400      # a power beyond is not computed: it would take for ever

# A group of three behind the same separator, and no digit, slash or decimal mark that would make it something else.
_THOUSANDS = re.compile(rf"(?<![\d.,/^])(\d{{1,3}})(?:(?P<mark>[{SPACES}'_])\d{{3}}(?:(?P=mark)\d{{3}})*)(?![\d/])")
_EXPONENT = r"\^\s*(?:\{\s*[+-]?\d{1,3}\s*\}|[+-]?\d{1,3}(?!\d))"
_PLUS = re.compile(rf"(?<![\w)\]}}])(?<![\w)\]}}][{SPACES}])\+(?=[{CURRENCY}]?[\d.])")       # nothing is added to
_UNIT = re.compile(rf"(?:(?<=[^\W\d_])|(?<=[^\W\d_]\}}))\s*{_EXPONENT}")

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d{1,3}(?:,\d{2})+,\d{3}(?![\d,]*\d)|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"
_PART = rf"(?:\{{\s*-?{_DECIMAL}\s*\}}|\d)"
_LATEX = rf"\\[dtc]?frac\s*{_PART}\s*{_PART}"
_SLASH = r"(?<![\d/])\d+/\d+(?![\d/])"
_TIMES_TEN = rf"\s*(?:\\times|\\cdot|[×·*x])\s*10\s*{_EXPONENT}"
_UNSIGNED = (rf"{_WHOLE}(?:\ *(?:and\ )?\ *{_LATEX}|\ +(?:and\ +)?{_SLASH})|{_LATEX}|{_SLASH}"
             rf"|{_DECIMAL}(?:[eE][+-]?\d{{1,3}}(?!\w)|{_TIMES_TEN}|\s*{_EXPONENT})?")
# A minus sign counts if nothing that could be subtracted from stands before it; a currency sign may follow it.
NUMBER = rf"(?:(?<![\w)\]}}])-)?(?:[{CURRENCY}]-?(?=[\d.]))?(?:{_UNSIGNED})"
_NUMBER = re.compile(NUMBER)
_MIXED = re.compile(rf"(?P<whole>{_WHOLE})\ *(?:and\ )?\ *(?P<fraction>{_LATEX}|(?<=\ ){_SLASH})")
_POWER = re.compile(rf"(?P<base>{_DECIMAL})(?:[eE](?P<e>[+-]?\d+)|(?P<ten>{_TIMES_TEN})|\s*(?P<power>{_EXPONENT}))?")


def plain(text: str) -> str:
    """The text with its numbers in one typography: ASCII digits, `-`, `/`, `$`, `^{n}`, no spaces between thousands."""
    for typeset, simple in TYPESET.items():
        text = text.replace(typeset, simple)
    if not text.isascii():
        text = re.sub("[⁺⁻]?[⁰¹²³⁴-⁹]{1,3}", lambda power: f"^{{{power[0].translate(SUPERSCRIPT)}}}", text)
        text = re.sub(r"(\d?)([¼-¾⅐-⅞])", lambda part: f"{part[1]}{' ' if part[1] else ''}{vulgar(part[2])}", text)
        text = "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)
    text = _UNIT.sub("", text)
    text = _PLUS.sub("", _THOUSANDS.sub(lambda number: number[0].replace(number["mark"], ""), text))
    return text if text.isascii() else re.sub(f"[{SPACES}]", " ", text)


def vulgar(sign: str) -> str:
    """`½` as `1/2`."""
    return unicodedata.normalize("NFKD", sign).replace("\u2044", "/")


def numbers(text: str) -> list[str]:
    """The numbers of a text, in order, as `plain` writes them."""
    return [trimmed(match[0]) for match in _NUMBER.finditer(plain(text))]


def trimmed(written: str) -> str:
    """Without what only looks like the whole part of a mixed fraction: `5 16/2` is 5 and 16/2."""
    mixed = _MIXED.search(written)
    if mixed and not 0 <= (fraction(mixed["fraction"]) or Fraction(2)) < 1:
        return mixed["fraction"]
    return written


def value(written: str | None) -> Fraction | None:
    """The value of a text that is one number and nothing else, or None."""
    if written is None:
        return None
    text = plain(written).strip().rstrip(".")
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    size = unsigned(re.sub(rf"^-?[{CURRENCY}]?-?", "", text).replace(",", ""))
    negative = re.match(rf"[{CURRENCY}]?-", text) is not None
    return -size if size is not None and negative else size


def unsigned(text: str) -> Fraction | None:
    mixed = _MIXED.fullmatch(text)
    if mixed:
        part = fraction(mixed["fraction"])
        return None if part is None or not 0 <= part < 1 else int(mixed["whole"]) + part
    if "frac" in text or "/" in text:
        return fraction(text)
    power = _POWER.fullmatch(text)
    if power is None:
        return None
    base = Fraction(power["base"])
    if not (power["e"] or power["ten"] or power["power"]):
        return base
    exponent = int(power["e"] or re.sub(r".*\^|[\s{}]", "", power["ten"] or power["power"], flags=re.DOTALL))
    if abs(exponent) > LARGEST_EXPONENT or (base == 0 and exponent < 0):
        return None
    return base ** exponent if power["power"] else base * Fraction(10) ** exponent


def fraction(text: str) -> Fraction | None:
    """`3/4` or a LaTeX fraction; None with a denominator of zero."""
    above, below = re.findall(_PART, text.partition("frac")[2]) if "frac" in text else text.split("/")
    top, bottom = (Fraction(part.strip("{} \t\n").replace(",", "")) for part in (above, below))
    return top / bottom if bottom else None
