"""What pydantic finds wrong, in the project's words: `field=value; allowed: ...`."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from fastdllm.settings import Settings, allowed

Key = tuple[str | int, ...]


def said(error: ValueError) -> str:
    """The message of an error, rewritten where pydantic is behind it."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    return "; ".join(placed(".".join(map(str, key)), text) for key, text in problems(error.__cause__))


def problems(error: ValidationError, prefix: Key = ()) -> list[tuple[Key, str]]:
    """(key, message) of every problem, the ones of nested settings included; a message begins with `field=value`
    where one field is at fault.
    """
    fields = next((model.model_fields for model in Settings.__subclasses__() if model.__name__ == error.title), {})
    found: list[tuple[Key, str]] = []
    for problem in error.errors():
        path = tuple(part for part in problem["loc"] if part != "[key]")
        key = (*prefix, *path)
        name = next((part for part in reversed(path) if isinstance(part, str)), "")
        inner = problem.get("ctx", {}).get("error")
        if isinstance(inner, ValueError) and isinstance(inner.__cause__, ValidationError):
            found += problems(inner.__cause__, key)
        elif problem["type"] == "extra_forbidden":
            found.append((key, f"{name}={problem['input']!r}; unknown key"))
        elif problem["type"] == "missing":
            found.append((key, "missing"))
        elif isinstance(inner, ValueError):
            found.append((key, str(inner)))
        else:
            field = fields.get(str(path[0])) if path else None
            found.append((key, refusal(name, problem, field.description if field else None)))
    return found


def refusal(name: str, problem: Any, description: str | None) -> str:
    """`name=value; allowed: ...` of one problem; a field's description says more than a pattern."""
    if problem["type"] == "string_pattern_mismatch" and description:
        return f"{name}={problem['input']!r}; allowed: {description}"
    hint = f" ({description})" if description else ""
    return f"{name}={problem['input']!r}; allowed: {allowed(problem)}{hint}"


def placed(where: str, text: str) -> str:
    """The message at its place: `where` stands for the bare field at its head (`--set axes.k=0; allowed: ...`)."""
    name, equals, rest = text.partition("=")
    if equals and name in re.split(r"[ .]", where)[-2:]:      # the last is a number in a list
        return f"{where}={rest}"
    return f"{where}: {text}" if where else text
