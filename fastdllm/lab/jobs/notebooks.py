"""Notebooks by name, and what their parameters cells declare."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.errors import did_you_mean
from fastdllm.lab.config.paths import listed, look_up

TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,),
                                      "list": (list, tuple), "dict": (dict,)}


@dataclass(frozen=True)
class Declared:
    """A parameter as the notebook's parameters cell declares it; `x: int | None` may also be None."""

    name: str
    type: str
    default: Any
    optional: bool = False


def find(name: str | Path) -> Path:
    """A notebook by path, or by name in notebooks/. Raises ValueError listing the known ones."""
    for path in (Path(name), look_up(Path("notebooks", name)), look_up(Path("notebooks", f"{name}.ipynb"))):
        if path is not None and path.is_file() and path.suffix == ".ipynb":
            return path.resolve()
    known = [path.name for path in listed("notebooks", "*.ipynb")]
    raise ValueError(f"notebook {str(name)!r}: no such file; {did_you_mean(Path(name).name, known)}allowed: a .ipynb "
                     f"file, or one of {', '.join(known)}")


def declared(notebook: Path) -> dict[str, Declared]:
    """The parameters of a notebook: literal assignments in the cell tagged `parameters`.

    Read from the syntax tree, which strictness needs anyway; why not by papermill: docs/architecture.md.

    Raises ValueError if there is no such cell, or if it holds anything else.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook}: not a notebook ({error})") from error
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ValueError(f"{notebook}: no cell is tagged 'parameters'")
    try:
        statements = ast.parse("".join(tagged[0]["source"])).body
    except SyntaxError as error:
        raise ValueError(f"{notebook}: parameters cell holds `{(error.text or '').strip()}`; "
                         "allowed: name: type = literal") from error
    parameters: dict[str, Declared] = {}
    for statement in statements:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                kind = _kind(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                kind = ""
            case _:
                raise ValueError(f"{notebook}: parameters cell holds `{ast.unparse(statement)}`; "
                                 "allowed: name: type = literal")
        try:
            default = ast.literal_eval(value)
        except ValueError as error:
            raise ValueError(f"{notebook}: parameter {name} = {ast.unparse(value)}; "
                             "allowed: a literal value") from error
        plain, _, none = kind.partition(" | ")
        parameters[name] = Declared(name, plain.split("[")[0] or type(default).__name__, default, none == "None")
    return parameters


def _kind(annotation: ast.expr) -> str:
    """`int` or `int | None`, quoted or not, also where it is written as `Optional[int]`; others as they are."""
    text = ast.unparse(annotation).strip("'")
    return f"{text.removeprefix('Optional[').removesuffix(']')} | None" if text.startswith("Optional[") else text


def check(notebook: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters as the notebook wants them. Raises ValueError for an unknown name or another type."""
    known = declared(notebook)
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"{notebook.name}: parameter {name}={value!r} is unknown; allowed: {', '.join(known)}")
        if value is None and known[name].optional:
            continue
        kinds = TYPES.get(known[name].type)
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise ValueError(f"{notebook.name}: parameter {name}={value!r}; allowed: {known[name].type}, "
                             f"like {known[name].default!r}")
    return {name: float(value) if known[name].type == "float" and value is not None
            else list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}


def printed(executed: Path, name: str) -> str:
    """What the cell of this name printed in an executed notebook; ValueError if there is no such cell."""
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        if cell["metadata"].get("name") == name:
            return "".join(line for output in cell["outputs"] if output.get("name") == "stdout"
                           for line in output["text"]).rstrip()
    raise ValueError(f"{executed}: no cell is named {name!r}")
