"""papermill with care: parameters checked first, a temporary name while it runs, the failing cell named."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.errors import did_you_mean
from fastdllm.lab import atomic
from fastdllm.lab.config.paths import listed, look_up, root
from fastdllm.lab.records.locks import Locked

TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "str": (str,),
                                      "list": (list, tuple), "dict": (dict,)}


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised: `error` is its last line, `where` the cell's name, `ename` the exception's."""

    def __init__(self, error: str, where: str, ename: str):
        super().__init__(f"{error} [in cell {where}]")
        self.error, self.where, self.ename = error, where, ename


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

    Read from the syntax tree, which strictness needs anyway: `papermill.inspect_notebook` (2.7) matches a pattern line
    by line, gives defaults as source, joins other statements to the line above, cuts a text at its first `#`, and
    leaves out a parameter whose type holds a `|` (`int | None`) or, with a warning, whose line holds a second `=`.

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
                kind = ast.unparse(annotation)
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


def execute(notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path | None = None) -> None:
    """Run a notebook with papermill; `output` appears whole when it has succeeded.

    A failed notebook is kept as `NAME.failed.ipynb`, with its traceback, and NotebookFailed is raised; Locked if it
    failed because another process works on its configuration. Raises ValueError before anything starts for parameters
    that the notebook doesn't have.
    """
    values = check(notebook, parameters)
    from papermill.exceptions import PapermillExecutionError
    part = output.with_name(f"{output.stem}.{os.getpid()}.part.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run(notebook, part, values, cwd or root())
    except PapermillExecutionError as error:
        atomic.move(part, failed)
        if error.ename == Locked.__name__:
            raise Locked(error.evalue) from error
        raise NotebookFailed(_last_line(error), _cell_name(notebook, failed), error.ename) from error
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    atomic.move(part, output)
    failed.unlink(missing_ok=True)


def _run(notebook: Path, part: Path, values: dict[str, Any], cwd: Path, tries: int = 3) -> None:
    import papermill
    import zmq
    from traitlets.config import Config
    # ipc kernels of two processes mix up their sockets; tcp is encrypted where the kernel can be
    kernel = {"transport": "tcp", "transport_encryption": "auto" if zmq.has("curve") else "disabled"}
    try:
        papermill.execute_notebook(
            str(notebook), str(part), parameters=values, cwd=str(cwd), progress_bar=False, log_output=True,
            config=Config(KernelManager=kernel))
    except RuntimeError as error:       # the kernel is dead: out of memory, or another process was faster at its port
        if "before replying" not in str(error) or tries == 1:
            raise NotebookFailed(str(error).strip(), "(the kernel)", type(error).__name__) from error
        _run(notebook, part, values, cwd, tries - 1)


def printed(executed: Path, name: str) -> str:
    """What the cell of this name printed in an executed notebook; ValueError if there is no such cell."""
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        if cell["metadata"].get("name") == name:
            return "".join(line for output in cell["outputs"] if output.get("name") == "stdout"
                           for line in output["text"]).rstrip()
    raise ValueError(f"{executed}: no cell is named {name!r}")


def _last_line(error: Any) -> str:
    text = f"{error.ename}: {error.evalue}".strip()
    return re.sub(r"\x1b\[[0-9;]*m", "", text.splitlines()[0] if text else "unknown error")


def _cell_name(notebook: Path, failed: Path) -> str:
    """The name of the cell that failed: its `name` in the metadata, else its first line."""
    for cell in json.loads(failed.read_text(encoding="utf-8"))["cells"]:
        if any(output.get("output_type") == "error" for output in cell.get("outputs", [])):
            first = next(iter("".join(cell["source"]).strip().splitlines()), "")
            return cell["metadata"].get("name") or first[:60] or str(cell.get("id"))
    return f"{notebook.stem}: unknown"
