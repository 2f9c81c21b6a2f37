"""Code blocks in outputs, fenced as models write them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = ("python", "py", "ipython")         # python3, Python, {.python}, py: as well; python-repl is no program
MARKDOWN = ("markdown", "md")                # a whole answer in a fence, with its blocks inside
_OPENING = re.compile(r"(?P<quote>(?:[ \t]*>)*)[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
# Behind a sentence, where Markdown has no fence, a model opens one all the same; only if it names the language.
_INLINE = re.compile(r"(?P<quote>).*[^\s`][ \t]*(?P<fence>`{3,})(?P<info>[{.]*[A-Za-z][^\s`]*)[ \t]*$")
_LINE_END = re.compile(r"\r\n|\r|\n")        # and nothing else: U+2028 may stand in a string of the program


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block; `language` is the first word behind the opening fence, in small letters, without a version."""

    language: str
    code: str


def code_blocks(output: str) -> Iterator[CodeBlock]:
    """The blocks of an output in order; one that is never closed runs to the end.

    A block ends at a line of the fence's character, at least as many of them as opened it, or at a line of code that
    ends in them. A block that is indented (in a list) or quoted (behind `>`) is taken without what marks it.
    """
    lines = iter(_LINE_END.split(output))
    for line in lines:
        opening = _OPENING.match(line) or _INLINE.match(line)
        if opening is None:
            continue
        fence, code = opening["fence"], []
        mark = re.compile(rf"(?:[ \t]*>){{0,{opening['quote'].count('>')}}}")
        closing = re.compile(rf"(?P<code>.*?){re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        for inside in (mark.sub("", quoted, count=1) for quoted in lines):
            if end := closing.match(inside):
                if end["code"].strip():
                    code.append(end["code"])
                break
            code.append(inside)
        language = re.match(r"[\W_]*([A-Za-z]*(?:[-+#][A-Za-z+#]+)*)", opening["info"])
        yield CodeBlock(language[1].lower() if language else "", unindented(code))


def unindented(lines: list[str]) -> str:
    """The code, without the indentation that all of its lines share."""
    text = "\n".join(lines)
    return textwrap.dedent(text) if next(filter(str.strip, lines), "")[:1] in (" ", "\t") else text


def python_code(output: str) -> str | None:
    """The first block that says it is Python, else the first that says nothing; empty ones and others don't count.

    Of a block of Markdown it is the blocks inside that count.
    """
    blocks = [block for block in code_blocks(output) if block.code.strip()]
    blocks = [inner for block in blocks for inner in
              (code_blocks(block.code) if block.language in MARKDOWN else [block]) if inner.code.strip()]
    for languages in (PYTHON, ("",)):
        for block in blocks:
            if block.language in languages:
                return block.code
    return None


def with_future_first(program: str) -> str:
    """The program with its `from __future__` imports at the top, where alone Python takes them."""
    future = re.compile(r"^from __future__ import (?:\([^)]*\)|[^\n]*)\n?", re.MULTILINE)
    return "".join(f"{line.rstrip()}\n" for line in future.findall(program)) + future.sub("", program)
