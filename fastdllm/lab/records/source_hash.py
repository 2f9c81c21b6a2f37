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
from functools import cached_property
from pathlib import Path

from fastdllm.lab.atomic import sha256

LOGS = {"log", "logger", "logging", "warnings"}                   # whose methods write a message ...
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log", "warn"}
LOG_FUNCTIONS = {"print", "log", "warn"}                          # ... and plain functions that do
NAMES = re.compile(r"\bName\(id='(\w+)'")                       # as ast.dump writes them
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


def tree_hash(source: str, texts: bool = False) -> str:
    """SHA-256 of what Python source does: comments, docstrings and layout don't count; error and log texts as asked.

    Raises SyntaxError for what is not Python.
    """
    return sha256(ast.dump(_Doing(texts=texts).visit(ast.parse(source))))


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
    def read(cls, path: Path, name: str, package: str, texts: bool) -> Module:
        tree, module = ast.parse(path.read_text(encoding="utf-8")), cls(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
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
        texts = {name: "".join(map(ast.dump, nodes)) for name, nodes in self.definitions.items() if nodes}
        return texts | ({"": "".join(map(ast.dump, self.statements))} if self.statements else {})

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of `dumps`."""
        return {name: sha256(text) for name, text in self.dumps.items()}

    def used(self, name: str) -> dict[str, tuple[str, str] | str]:
        """The names of the module that a definition mentions, and where they come from."""
        known: dict[str, tuple[str, str] | str] = {own: (self.name, own) for own in self.definitions}
        known |= self.origins
        return {match: known[match] for match in NAMES.findall(self.dumps[name]) if match in known}


@dataclass
class Sources:
    """All files of some rooms of a package (files or folders, relative to it); `texts` as for `tree_hash`."""

    package: Path
    rooms: Iterable[str]
    texts: bool = False

    @cached_property
    def modules(self) -> dict[str, Module]:
        """By dotted name."""
        return {name: Module.read(path, name, self.package.name, self.texts) for path, name in self._files()}

    def _files(self) -> Iterator[tuple[Path, str]]:
        for room in self.rooms:
            for path in sorted((self.package / room).rglob("*.py")) or [self.package / room]:
                parts = path.relative_to(self.package.parent).with_suffix("").parts
                yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

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
