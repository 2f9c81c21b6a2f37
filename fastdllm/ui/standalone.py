"""The player as one HTML file that works by itself: no kernel, no network, no notebook around it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastdllm.characters import visible
from fastdllm.lab import atomic
from fastdllm.ui.player import Player, image
from fastdllm.ui.recording import Recording

BYTES = "base64:"       # before the text of what a widget gets as bytes


def write(path: Path, title: str, facts: Sequence[tuple[str, str]], *runs: Recording, step: int = 0) -> Path:
    """Write the page: a title, facts (name, value) and the player of one run or two; returns its path."""
    player = Player(*runs, step=step)
    state = {name: getattr(player, name) for name in ("runs", "step", "layer", "playing", "driver", "rate", "anchor")}
    environment = Environment(loader=PackageLoader("fastdllm.ui", "."), autoescape=True, undefined=StrictUndefined)
    body = environment.get_template("player_page.html.j2").render(
        title=visible(title), facts=[(name, visible(value, lines=True)) for name, value in facts],
        css=str(player._css), module=encoded(str(player._esm)),
        state=encoded(json.dumps(plain(state))), anchor=player.anchor, figure=image(*runs))
    atomic.write(path, body)
    return path


def encoded(text: str) -> str:
    """Text in base64: nothing in it can end the script that holds it."""
    return base64.b64encode(text.encode()).decode()


def plain(value: Any) -> Any:
    """Values for JSON; bytes become text that the page turns back."""
    if isinstance(value, bytes):
        return BYTES + base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
