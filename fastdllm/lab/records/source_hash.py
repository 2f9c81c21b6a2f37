"""Python source by what it does: a hash that comments, docstrings and a file's place don't enter, nor (unless asked
for) the texts of errors and logs.

Code is taken definition by definition. Each counts with its syntax tree and with what the names in it stand for: an
own name with the definition that it leads to, wherever that lies, others by their full name. So moving or renaming
a module changes nothing, and exchanging one function for another of the same name does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from fastdllm.lab.atomic import sha256

LOGS = {"log", "logger", "logging", "warnings"}                   # whose methods write a message ...
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log", "warn"}
LOG_FUNCTIONS = {"print", "log", "warn"}                          # ... and plain functions that do
NAMES = re.compile(r"\bName\(id='(\w+)'")                       # as `dump` writes them
WITH_BODY = (ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.For | ast.AsyncFor | ast.While
             | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.ExceptHandler | ast.match_case)


class _Doing(ast.NodeTransformer):
    """Leaves of a tree what it does: no docstrings, no places of our own modules; without `texts` also no texts of
    errors, and no log calls.
    """

    def __init__(self, package: str | None = None, texts: bool = False):
        self.package, self.texts = package, texts

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest
        if isinstance(node, WITH_BODY) and not node.body:
            node.body = [ast.Pass()]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if self.texts:
            return self.generic_visit(node)
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=kind, cause=None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        node.msg = node.msg if self.texts else None
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        match node.value:
            case ast.Call(func=ast.Name(id=name)) if name in LOG_FUNCTIONS and not self.texts:
                return None
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=method)) \
                    if owner in LOGS and method in LOG_METHODS and not self.texts:
                return None
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            if self.package and alias.name.split(".")[0] == self.package:
                alias.name, alias.asname = alias.name.rpartition(".")[2], alias.asname
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level or (self.package and (node.module or "").split(".")[0] == self.package):
            return ast.ImportFrom(module=self.package, names=node.names, level=0)
        return node


def dump(node: object) -> str:
    """A syntax tree as text, the same in every version of Python: newer ones have fields that are empty here."""
    if isinstance(node, ast.AST):
        fields = (f"{name}={dump(value)}" for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(dump, node))}]" if isinstance(node, list) else repr(node)


def tree_hash(source: str, texts: bool = False) -> str:
    """SHA-256 of what Python source does: comments, docstrings and layout don't count; error and log texts as asked.

    Raises SyntaxError for what is not Python.
    """
    return sha256(dump(_Doing(texts=texts).visit(ast.parse(source))))


@dataclass
class Module:
    """One file: its definitions by name, its other statements in their order, and where its imported names come from.

    `origins` maps a local name to (module, name) of ours, or to a dotted name of others.
    """

    name: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    statements: list[ast.stmt] = field(default_factory=list)
    origins: dict[str, tuple[str, str] | str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str, name: str, is_package: bool, package: str, texts: bool) -> Module:
        """A file's source; `is_package`: it is an `__init__.py`."""
        tree, module = ast.parse(source), cls(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = name.split(".") if is_package else name.split(".")[:-1]
                    base = ".".join([*parts[:len(parts) - node.level + 1], *filter(None, [node.module])])
                ours = base.split(".")[0] == package
                module.origins |= {a.asname or a.name: (base, a.name) if ours else f"{base}.{a.name}"
                                   for a in node.names}
            elif isinstance(node, ast.Import):
                module.origins |= {a.asname or a.name.split(".")[0]: a.name for a in node.names
                                   if a.name.split(".")[0] != package}
        for node in _Doing(package, texts).visit(tree).body:
            module._take(node)
        return module

    def _take(self, node: ast.stmt) -> None:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Pass():
                return
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) \
                    | ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if name != "__all__":
                    self.definitions.setdefault(name, []).append(node)
            case _:
                self.statements.append(node)
                for inner in ast.walk(node):
                    if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                        self.definitions.setdefault(inner.name, [])      # there, and counted with the statements

    @cached_property
    def dumps(self) -> dict[str, str]:
        """Each definition as text, without what its names stand for; "" is all other statements."""
        texts = {name: "".join(map(dump, nodes)) for name, nodes in self.definitions.items() if nodes}
        return texts | ({"": "".join(map(dump, self.statements))} if self.statements else {})

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of `dumps`."""
        return {name: sha256(text) for name, text in self.dumps.items()}

    def used(self, name: str) -> dict[str, tuple[str, str] | str]:
        """The names of the module that a definition mentions, and where they come from."""
        known: dict[str, tuple[str, str] | str] = {own: (self.name, own) for own in self.definitions}
        known |= self.origins
        return {match: known[match] for match in NAMES.findall(self.dumps[name]) if match in known}


def rooms_hash(package: Path, rooms: Iterable[str], texts: bool = False) -> str:
    """SHA-256 over all definitions of some rooms of a package (files or folders in it), in no order of files.

    `texts` as for `tree_hash`. The files are read at every call; the same content is gone through once in a process.
    """
    return _hash(tuple(_files(package, rooms)), package.name, texts)


def _files(package: Path, rooms: Iterable[str]) -> Iterator[tuple[str, bool, str]]:
    """Source, whether it is an `__init__.py`, and dotted name of each file."""
    for room in rooms:
        for path in sorted((package / room).rglob("*.py")) or [package / room]:
            parts, is_package = path.relative_to(package.parent).with_suffix("").parts, path.stem == "__init__"
            yield path.read_text(encoding="utf-8"), is_package, ".".join(parts[:-1] if is_package else parts)


@lru_cache(maxsize=8)
def _hash(files: tuple[tuple[str, bool, str], ...], package: str, texts: bool) -> str:
    return Sources({name: Module.of(source, name, is_package, package, texts)
                    for source, is_package, name in files}).hash()


@dataclass
class Sources:
    """All files of some rooms, by dotted name."""

    modules: dict[str, Module]

    def meaning(self, origin: tuple[str, str] | str, seen: frozenset[tuple[str, str]] = frozenset()) -> str:
        """What a name stands for: the hash of the definition that it leads to, or a full name."""
        if isinstance(origin, str):
            return origin
        module, name = self.modules.get(origin[0]), origin[1]
        if module is None or origin in seen:
            return name
        if name in module.definitions:
            return module.hashes.get(name) or module.hashes[""]
        return self.meaning(module.origins[name], seen | {origin}) if name in module.origins else name

    def hash(self) -> str:
        """SHA-256 over all definitions, in no order of files."""
        entries = []
        for module in self.modules.values():
            for name, text in module.hashes.items():
                used = sorted(f"{known} {self.meaning(origin)}" for known, origin in module.used(name).items())
                entries.append(sha256("\n".join([name, text, *used])))
        return sha256("\n".join(sorted(entries)))


def with_helpers(path: Path) -> list[Path]:
    """A user's Python file and the modules beside it that it imports, directly or through one another.

    Raises OSError if there is no file, SyntaxError if it is not Python.
    """
    files = [path]
    for file in files:      # grows while it is gone through
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                     else [node.module] if isinstance(node, ast.ImportFrom) and node.module else [])
            for name in names:
                top = path.parent / name.split(".")[0]
                beside = [top.with_suffix(".py")] if top.with_suffix(".py").is_file() else sorted(top.rglob("*.py"))
                files += [helper for helper in beside if helper not in files]
    return files
