"""The ways in which an interval is not written: pages have one, `5.5 (2.0 to 8.9)`, from `stats.span`."""

from __future__ import annotations

import ast
import re

_END = r"[-+\u2212]?\d[\d.]*%?"
_SHOWN = re.compile(rf"\d[%x]? [\[(]{_END}, {_END}[\])]|interval \[?{_END}, {_END}|±\s?\d|\d\.\d+%?\s?–\s?\d")
_WRITTEN = re.compile(r"#[%x]? [\[(]#%?, #%?[\])]|±\s?#|#%?\s?–\s?#")
_PLACE = re.compile(r"\{[^{}:]*:[^{}]*\}")        # of a number: it says how many digits


_FILLED = re.compile(r"[\[(](\$?\{\{?[^{}]*\}\}?%?), (\$?\{\{?[^{}]*\}\}?%?)[\])]")


def in_page(template: str) -> list[str]:
    """Places of a page's template, or of its script, that would make an interval of another form."""
    return [match.group() for match in _FILLED.finditer(template) if "format" in match[1] or "toFixed" in match[1]]


def in_text(text: str) -> list[str]:
    """Intervals of another form in a text."""
    return _SHOWN.findall(text)


def in_source(code: str) -> list[str]:
    """Texts with places to fill in, f-strings or formats, that would make an interval of another form."""
    found, inside = [], set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else
                           "#" if isinstance(part, ast.FormattedValue) and part.format_spec else ""
                           for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = _PLACE.sub("#", node.value)
        else:
            continue
        found += _WRITTEN.findall(text)
    return found
