"""README's drawn pictures are those that their command draws today."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools import pictures

ROOT = Path(__file__).parent.parent
TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


@pytest.fixture(scope="module")
def played() -> str:
    return pictures.played(*pictures.run())


def test_the_explaining_picture_is_todays():
    assert (ROOT / pictures.EXPLAINED).read_text() == pictures.explained()


def test_the_played_run_is_todays(played: str):
    """Its words and forwards; colours are of confidences, which differ in their last digits from machine to machine."""
    assert TEXT.findall((ROOT / pictures.PLAYED).read_text()) == TEXT.findall(played)


def test_the_played_run_shows_every_forward_once_and_stands_still_where_asked(played: str):
    ElementTree.fromstring(played)
    said = [word for word in TEXT.findall(played) if word.startswith("forward ")]
    assert [int(word.split()[1]) for word in said] == list(range(1, len(said) + 1))
    assert "prefers-reduced-motion" in played and "<script" not in played
    assert "comes out wrong" in played, "README says that reuse loses this problem"
