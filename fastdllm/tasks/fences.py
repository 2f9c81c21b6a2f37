"""Code blocks in outputs, fenced as models write them."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = ("python", "py")                    # python3, Python, {.python}, py: as well; python-repl is no program
DIALECTS = ("ipython", "jupyter", "jupyter-python", "sage", "sagemath", "cython", "pyx")   # Python, or nearly
MARKDOWN = ("markdown", "md")                # a whole answer in a fence, with its blocks inside
DIRECTIVES = ("code", "code-block", "code-cell")                # ```{code-cell} ipython3: the language stands behind
_OPENING = re.compile(r"(?P<quote>(?:[ \t]*>)*)[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
# Behind a sentence, where Markdown has no fence, a model opens one all the same; only if it names the language.
_INLINE = re.compile(r"(?P<quote>).*[^\s`][ \t]*(?P<fence>`{3,})(?P<info>[{.]*[A-Za-z][^\s`]*)[ \t]*$")
_LINE_END = re.compile(r"\r\n|\r|\n")        # and nothing else: U+2028 may stand in a string of the program
_WORD = re.compile(r"[A-Za-z]+(?:[-+#][A-Za-z+#]+)*")
_FILE = re.compile(r"[ \t]*[\w./-]+\.py[ \t]*$")
End = tuple[int, str]                        # how many lines a block has, and what the next one says before its fence


class NotPython(ValueError):
    """A block in a dialect of Python that is no plain Python: it names the language, the line and what is wrong."""


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block; `language` is the first word behind the opening fence, in small letters, without a version."""

    language: str
    code: str


def code_blocks(output: str) -> Iterator[CodeBlock]:
    """The blocks of an output in order; one that is never closed runs to the end.

    A block ends at a line of the fence's character, at least as many of them as opened it, or at a line of code that
    ends in them; of several such lines at the first before which a block of Python is whole, so that a fence in a
    docstring or in a comment ends nothing. A block that is indented (in a list) or quoted (behind `>`) is taken
    without what marks it.
    """
    lines, at = _LINE_END.split(output), 0
    while at < len(lines):
        opening = _opening(lines[at])
        at += 1
        if opening is not None:
            block, at = _block(opening, lines, at)
            yield block


def _opening(line: str) -> re.Match[str] | None:
    return _OPENING.match(line) or _INLINE.match(line)


def _block(opening: re.Match[str], lines: list[str], begin: int) -> tuple[CodeBlock, int]:
    """The block whose first line is `begin`, and the line behind its closing fence."""
    language, depth = _language(opening["info"]), opening["quote"].count(">")
    mark = re.compile(rf"(?:[ \t]*>){{0,{depth}}}")
    inside = [mark.sub("", line, count=1) for line in lines[begin:]] if depth else lines[begin:]
    ends = _ends(opening["fence"], inside)
    if language in MARKDOWN:
        end = _end_of_markdown(inside, dict(ends))
    elif language in ("", *PYTHON, *DIALECTS):
        end = _end_of_program(inside, ends)
    else:
        end = next(ends)
    return CodeBlock(language, _code(inside, end)), begin + end[0] + 1


def _ends(fence: str, inside: list[str]) -> Iterator[End]:
    closing = re.compile(rf"(?P<code>.*?){re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    for count, line in enumerate(inside):
        if match := closing.match(line):
            yield count, match["code"]
    yield len(inside), ""


def _end_of_program(inside: list[str], ends: Iterator[End]) -> End:
    """The first end before which a program is whole; the first of all if there is none.

    A comment that is a fence ends the program only if nothing later does. Later ends are asked as long as a string in
    triple quotes is open: no other error goes away by what follows.
    """
    asked = []
    for end in ends:
        asked.append(end)
        if not end[1].lstrip().startswith("#"):
            error = error_in(_code(inside, end))
            if error is None:
                return end
            if "unterminated triple-quoted" not in error:
                break
    return next((end for end in asked if error_in(_code(inside, end)) is None), asked[0])


def _end_of_markdown(inside: list[str], ends: dict[int, str]) -> End:
    """The first of the ends that lies in no block inside."""
    at = 0
    while at < len(inside) and at not in ends:
        opening = _opening(inside[at])
        if opening is None or _language(opening["info"]) in MARKDOWN:
            at += 1
        else:
            at = _block(opening, inside, at + 1)[1]
    at = min(at, len(inside))
    return at, ends[at]


def _code(inside: list[str], end: End) -> str:
    count, last = end
    return unindented([*inside[:count], *([last] if last.strip() else [])])


def _language(info: str) -> str:
    if _FILE.match(info):                    # ```solution.py
        return "python"
    return next((word for word in map(str.lower, _WORD.findall(info)) if word not in DIRECTIVES), "")


def unindented(lines: list[str]) -> str:
    """The code, without the indentation that all of its lines share."""
    text = "\n".join(lines)
    return textwrap.dedent(text) if next(filter(str.strip, lines), "")[:1] in (" ", "\t") else text


def error_in(code: str) -> str | None:
    """Why a text is no Python, None if it is."""
    try:
        with warnings.catch_warnings(action="ignore"):      # of escapes in strings
            ast.parse(code)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, MemoryError, RecursionError) as error:      # null bytes, brackets in brackets in ...
        return f"{type(error).__name__}: {error}"
    return None


def python_code(output: str) -> str | None:
    """The first block that says it is Python, else the first that says nothing; empty ones and others don't count.

    A block in a dialect of Python counts where it is plain Python. Of a block of Markdown it is the blocks inside that
    count. Raises NotPython if there is no other block than one in a dialect that is no plain Python.
    """
    blocks = [block for block in code_blocks(output) if block.code.strip()]
    blocks = [inner for block in blocks for inner in
              (code_blocks(block.code) if block.language in MARKDOWN else [block]) if inner.code.strip()]
    errors = {block: error_in(block.code) for block in blocks if block.language in DIALECTS}
    for languages in ((*PYTHON, *DIALECTS), ("",)):
        for block in blocks:
            if block.language in languages and errors.get(block) is None:
                return block.code
    for block, error in errors.items():
        raise NotPython(f"a {block.language} block that is no plain Python: {error}")
    return None


def with_future_first(program: str) -> str:
    """The program with its `from __future__` imports at the top, where alone Python takes them."""
    future = re.compile(r"^from __future__ import (?:\([^)]*\)|[^\n]*)\n?", re.MULTILINE)
    return "".join(f"{line.rstrip()}\n" for line in future.findall(program)) + future.sub("", program)
