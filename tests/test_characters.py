"""Whatever a model writes can be seen, and every sign that a page uses: in figures, and in pages without fonts."""

import ast
import base64
import io
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fontTools.ttLib import TTFont

from fastdllm import Decoding
from fastdllm.characters import visible
from fastdllm.decode.output import Output
from fastdllm.decode.step import RowResult
from fastdllm.display.figures import MONO, drawn_characters, token_label
from fastdllm.display.notebook_html import SIGNS
from fastdllm.display.tables import Html
from fastdllm.ui import chat_page, player, recording, standalone, strip

# What tokens hold: as it is shown on a page on one line, and in a figure.
SHOWN = {
    "plain $5": ("plain $5", r"plain \$5"),
    "\x10": (r"\x10", r"\x10"),
    "\x00": (r"\x00", r"\x00"),
    "\x1b[31m": (r"\x1b[31m", r"\x1b[31m"),
    "\r": (r"\r", r"\r"),
    "\n": ("¶", "¶"),
    "\t": ("→", "→"),
    "\x7f": (r"\x7f", r"\x7f"),
    "\xa0": (r"\xa0", r"\xa0"),
    "\u200b": (r"\u200b", r"\u200b"),
    "\u2028": (r"\u2028", r"\u2028"),
    "\u202e": (r"\u202e", r"\u202e"),
    "\ufffd": ("\ufffd", "\ufffd"),
    "\u4e2d": ("\u4e2d", r"\u4e2d"),
    "\U0001f600": ("\U0001f600", r"\U0001f600"),
    "\u00e9": ("\u00e9", "\u00e9"),
}
UNPRINTABLE = [text for text in SHOWN if not text.isprintable() and text not in "\n\t"]


@pytest.fixture(scope="module")
def odd(lm):
    """A run whose every token reads as one of SHOWN."""
    run = recording.record(lm, [5, 6, 7, 8] * 10, decoding=Decoding(max_new_tokens=64, mask_id=511))
    texts = dict(zip(run.meta["pieces"], list(SHOWN) * 99, strict=False))
    return replace(run, meta={**run.meta, "pieces": texts})


@pytest.mark.parametrize("text", SHOWN)
def test_every_character_is_seen_on_pages_and_in_figures(text):
    page, figure = SHOWN[text]
    assert visible(text) == page
    assert token_label(text, 18) == figure
    assert set(map(ord, token_label(text, 18))) <= drawn_characters(MONO)


@pytest.mark.parametrize("text", SHOWN)
def test_a_block_of_lines_keeps_its_lines(text):
    shown = visible(f"one{text}two", lines=True)
    kept = text if text in ("\n", "\t") else SHOWN[text][0]
    assert shown == f"one{kept}two"
    assert len(shown.splitlines()) == 1 + (text == "\n")


def test_a_strip_of_such_tokens_warns_of_no_missing_glyph(odd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = strip.figure(odd)
        figure.draw_without_rendering()
    labels = [label.get_text().removeprefix("> ") for label in figure.axes[0].get_yticklabels()]
    assert len({shown for _, shown in SHOWN.values()} & set(labels)) > 3


def answered(text):
    """One answer as `generate` returns it."""
    row = RowResult(0, [1], text, {"full": 1}, {}, "stop", False, 1.0)
    return Output([text], [[1]], [row.nfe], None, [row], 1.0, False)


PAGES = {
    "player": lambda said, run, path: standalone.write(path, said, [("problem", said)], run).read_text("utf-8"),
    "widget": lambda said, run, path: "".join(player.payload(run)["pieces"].values()),
    "chat": lambda said, run, path: chat_page.line({"role": "assistant", "content": said}),
    "output": lambda said, run, path: answered(said)._repr_html_(),
    "output as text": lambda said, run, path: repr(answered(said)),
    "table": lambda said, run, path: Html(pd.DataFrame({"answer": [said]}))._repr_html_(),
}


@pytest.mark.parametrize("page", PAGES)
def test_pages_hold_no_character_that_is_not_seen(page, odd, tmp_path):
    body = PAGES[page]("".join(UNPRINTABLE), odd, tmp_path / "page.html")
    assert r"\x10" in body and r"\u2028" in body
    unseen = {sign for sign in body if not sign.isprintable()} - {"\n", "\t"}
    assert not unseen, unseen


ROOT = Path(__file__).parent.parent / "fastdllm"
MAKERS = ("characters.py", "ui", "display", "report", "share", "lab/jobs/status.py")      # of what a page shows


def signs_of(path):
    """The characters beyond ASCII that a source puts on a page: its texts, escapes in scripts and style sheets."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        nodes = ast.walk(ast.parse(source))
        source = "".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    else:
        source += "".join(chr(int(code, 16)) for code in re.findall(r"\\u?([0-9a-f]{4})\b", source))
    return {sign for sign in source if ord(sign) > 127}


def sources():
    for maker in MAKERS:
        found = [ROOT / maker] if maker.endswith(".py") else (ROOT / maker).rglob("*")
        yield from (path for path in found if path.suffix in (".py", ".js", ".css", ".j2") and ".min" not in path.name)


def test_pages_bring_a_glyph_for_every_sign_that_they_use():
    style = SIGNS.read_text(encoding="utf-8")
    font = TTFont(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]+)", style)[1])))
    glyphs = set(font.getBestCmap())
    named = {int(code, 16) for code in re.findall(r"U\+([0-9A-F]{4})", style)}
    assert glyphs >= named, "the font lacks a glyph that the style sheet promises"
    used = {sign: path.name for path in sources() for sign in signs_of(path)}
    assert used.keys() >= set("≠►■")
    missing = {sign: name for sign, name in used.items() if ord(sign) not in named and ord(sign) > 0xff}
    assert not missing, f"{missing}: add them to CHARACTERS in tools/signs.py and run it"


@pytest.mark.parametrize("page", ["ui/player_page.html.j2", "ui/player.css", "share/static/gallery.css",
                                  "report/comparison/page.html.j2", "display/templates/report/index.html.j2"])
def test_pages_name_the_signs_font_first(page):
    body = (ROOT / page).read_text(encoding="utf-8")
    stacks = re.findall(r"(?:font(?:-family)?|--jp-[a-z]+-font-family): ?([^;}]*(?:sans-serif|monospace)[^;}]*)", body)
    assert stacks and all('"fd signs"' in stack for stack in stacks), stacks
