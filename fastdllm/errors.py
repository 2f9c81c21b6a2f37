"""What pydantic finds wrong, in the project's words: `field=value; allowed: ...`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

Key = tuple[str | int, ...]

WHOLE, NUMBER, SWITCH, TEXT, LIST, SECTION = ("a whole number", "a number", "true or false", "text", "a list",
                                              "keys with values")
ALLOWED = {                   # pydantic's type of problem -> what is allowed, with its context filled in
    "greater_than_equal": "{ge:g} or more", "greater_than": "more than {gt:g}", "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}", "literal_error": "{expected}", "string_pattern_mismatch": "text like {pattern}",
    "string_too_short": "text that is not empty", "int_type": WHOLE, "int_parsing": WHOLE, "int_from_float": WHOLE,
    "float_type": NUMBER, "float_parsing": NUMBER, "finite_number": NUMBER, "bool_type": SWITCH,
    "bool_parsing": SWITCH, "string_type": TEXT, "list_type": LIST, "tuple_type": LIST, "dict_type": SECTION,
    "model_type": SECTION, "model_attributes_type": SECTION}


class SettingsError(ValueError):
    """Settings that can't be.

    `problems` has (key, message) of every problem, those of nested settings included; a message begins with
    `field=value` where one field is at fault. As text: one sentence a problem, `Class.field=value; allowed: ...`.
    """

    def __init__(self, model: type[BaseModel], error: ValidationError):
        self.problems = list(_problems(model, error))
        super().__init__("; ".join(with_location(".".join(map(str, (model.__name__, *key))), text) if key
                                   else f"{model.__name__}.{text}" for key, text in self.problems))


def message(error: ValueError) -> str:
    """The message of an error, without the class's name where it is a refusal."""
    if not isinstance(error, SettingsError):
        return str(error)
    return "; ".join(with_location(".".join(map(str, key)), text) for key, text in error.problems)


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[tuple[Key, str]]:
    fields = model.model_fields
    for problem in error.errors():
        key = tuple(part for part in problem["loc"] if part != "[key]")
        name = next((part for part in reversed(key) if isinstance(part, str)), "")
        inner = problem.get("ctx", {}).get("error")
        if isinstance(inner, SettingsError):
            yield from (((*key, *deeper), text) for deeper, text in inner.problems)
        elif isinstance(inner, ValueError):
            yield key, str(inner)
        elif problem["type"] == "extra_forbidden":
            near = did_you_mean(name, fields)
            yield key, f"{name}={problem['input']!r}; unknown key; {near}allowed: {', '.join(fields)}"
        elif problem["type"] == "missing":
            yield key, "missing"
        else:
            field = fields.get(str(key[0])) if key else None
            yield key, field_message(name, problem, field.description if field else None)


def field_message(name: str, problem: Any, description: str | None) -> str:
    """`name=value; allowed: ...` of one problem; a field's description says more than a pattern."""
    if problem["type"] == "string_pattern_mismatch" and description:
        return f"{name}={problem['input']!r}; allowed: {description}"
    # A kind of problem that no field here has had so far keeps pydantic's words, without its opening.
    form = ALLOWED.get(problem["type"])
    allowed = form.format(**problem.get("ctx", {})) if form else problem["msg"].removeprefix("Input should be ")
    allowed = allowed.replace("'", "") + (f" ({description})" if description else "")
    return f"{name}={problem['input']!r}; allowed: {allowed}"


def with_location(where: str, text: str) -> str:
    """The message at its place: `where` stands for the bare field at its head (`--set axes.k=0; allowed: ...`)."""
    name, equals, rest = text.partition("=")
    if equals and name in re.split(r"[ .]", where)[-2:]:      # the last is a number in a list
        return f"{where}={rest}"
    return f"{where}: {text}" if where else text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean demo? `, to stand before what is allowed; "" where no known name is near."""
    near = nearest(name, known)
    return f"did you mean {near}? " if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like this one; None where none is near."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)
