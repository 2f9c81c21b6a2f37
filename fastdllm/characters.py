"""Texts of a model as they are shown: no character is left out, and none is drawn as nothing."""

from __future__ import annotations

from collections.abc import Container

SIGNS = {"\n": "¶", "\t": "→"}      # what stands for a line's end and a tab where a text has to stay on one line


def visible(text: str, *, lines: bool = False, drawn: Container[int] | None = None) -> str:
    r"""A text in which every character can be seen: what is unprintable becomes an escape, like \x10 or \u2028.

    A model may write any character, also those that a page shows as nothing and a font has no glyph for: control and
    format characters, separators other than the plain space, code points that mean nothing.
    Letters of any script and emoji stay as they are, and so does U+FFFD, which stands for a part of a character.

    lines: the text is a block of lines, whose ends and tabs stay; else they become `SIGNS`.
    drawn: the code points that the font has (of a figure; a page takes other fonts); all others become escapes too.
    """
    keep = dict.fromkeys(SIGNS) if lines else {}
    return "".join(sign if sign in keep else SIGNS.get(sign) or shown(sign, drawn) for sign in text)


def shown(sign: str, drawn: Container[int] | None = None) -> str:
    """One character as it is, or as an escape."""
    seen = sign.isprintable() and (drawn is None or ord(sign) in drawn)
    return sign if seen else sign.encode("unicode_escape").decode("ascii")
