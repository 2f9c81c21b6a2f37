"""Prompts as Python calls hand them over: texts, conversations and token ids of any kind, or our error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any

from fastdllm.model.lm import LM
from fastdllm.settings import plain_value

Prompt = str | Sequence[int] | Sequence[dict[str, str]]
ALLOWED = "a text, a conversation (a list of messages, each with role and content), or a list of token ids"


def check_types(**values: tuple[Any, type]) -> None:
    """Raise ValueError for an argument that is no instance of its type: `name=(value, type)`."""
    for name, (value, kind) in values.items():
        if not isinstance(value, kind):
            raise ValueError(f"{name}={shown(value)}; allowed: a {kind.__name__}, see help(fastdllm.{kind.__name__})")


def prompt_list(prompts: Any) -> list[Any]:
    """The prompts of a call, one by one; an array or a tensor of two dimensions is a list of its rows.

    Raises ValueError for what is no collection of prompts: a plain text (one prompt is `[text]`), bytes, None, a set
    (which has no order) ...
    """
    if isinstance(prompts, (str, bytes, bytearray, Mapping, Set, PurePath)) or not isinstance(prompts, Iterable):
        raise ValueError(f"prompts={shown(prompts)}; allowed: a list of prompts, each {ALLOWED}")
    listed = prompts if isinstance(prompts, (list, tuple)) else plain_value(prompts)      # a path in it stays one
    listed = list(listed) if isinstance(listed, Iterable) else [listed]
    if not listed:
        raise ValueError("prompts=[]; allowed: at least one prompt")
    return listed


def token_ids(lm: LM, index: int, prompt: Any) -> list[int]:
    """A prompt as token ids: a user message or conversation goes through the chat template.

    Taken as ids: lists, tuples, ranges, arrays and tensors of whole numbers. Raises ValueError that names the prompt by
    its `index` for anything else: bytes, floats, booleans, an empty text, a message without role or content.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ValueError(f"prompts[{index}]={prompt!r}; allowed: a text that is not empty")
        return lm.encode(prompt)
    items = plain_value(prompt)
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"prompts[{index}]={shown(prompt)}; allowed: {ALLOWED}")
    if any(isinstance(item, Mapping) for item in items):
        return lm.encode([message(item, f"prompts[{index}][{number}]") for number, item in enumerate(items)])
    for position, item in enumerate(items):
        if type(item) is not int:
            raise ValueError(f"prompts[{index}][{position}]={shown(item)}; allowed: token ids, which are whole numbers")
    return list(items)


def message(item: Any, where: str) -> dict[str, str]:
    """One message of a conversation, checked."""
    if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in ("role", "content")):
        raise ValueError(f"{where}={shown(item)}; allowed: a message with role and content, both texts")
    return dict(item)


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
