"""YAML files whose errors name file, key, value and line."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastdllm.errors import Key, SettingsError, with_location

try:
    from yaml import CSafeLoader as Loader  # the safe loader, in C where PyYAML was built with it
except ImportError:
    from yaml import SafeLoader as Loader

@dataclass(frozen=True)
class YamlFile:
    """Values of a YAML file and the line of every key. `overrides` are keys that `--set` changed."""

    path: Path
    values: dict[str, Any]
    lines: dict[Key, int]
    overrides: frozenset[Key] = field(default_factory=frozenset)

    def where(self, key: Key) -> str:
        """`file, line N, key` of the innermost part of `key` that the file holds; `--set key` where that changed it."""
        for size in range(len(key), 0, -1):
            if key[:size] in self.overrides:
                return f"--set {'.'.join(map(str, key))}"
        for size in range(len(key), 0, -1):
            if key[:size] in self.lines:
                return f"{self.path}, line {self.lines[key[:size]]}, {'.'.join(map(str, key))}"
        return f"{self.path}, {'.'.join(map(str, key))}" if key else str(self.path)

    def set(self, assignments: list[str]) -> YamlFile:
        """The file with `key=value` changes (dotted keys, YAML values). Raises ValueError for another form."""
        values, overrides = copy.deepcopy(self.values), set(self.overrides)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            key = tuple(name.strip().split("."))
            if not equals or not all(key):
                raise ValueError(f"--set {assignment!r}; allowed: key=value, like decoding.threshold=0.8, axes.k=[1,2]")
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(f"--set {assignment!r}: not a YAML value ({error})") from error
            place = values
            for part in key[:-1]:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise ValueError(f"--set {assignment!r}: {part} holds {place!r}; allowed: a key of a section")
            place[key[-1]] = value
            overrides.add(key)
        return YamlFile(self.path, values, self.lines, frozenset(overrides))

    def explain(self, error: SettingsError) -> str:
        """One line per problem: file, line, key, value, what is allowed."""
        return "\n".join(with_location(self.where(key), text) for key, text in error.problems)


def read(path: str | Path) -> YamlFile:
    """Read a YAML mapping. Raises ValueError for a missing file, bad YAML, a key given twice, or another top level."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; allowed: a YAML file")
    text = path.read_text(encoding="utf-8")
    lines: dict[Key, int] = {}
    try:
        root = yaml.compose(text, Loader=Loader)
        if root is not None:
            _walk(path, root, (), lines)
        values = yaml.load(text, Loader=Loader)      # a safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{path}, line {line}: not valid YAML ({error.problem})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: {type(values).__name__}; allowed: a mapping of keys to values")
    return YamlFile(path, values, lines)


def _walk(path: Path, node: yaml.Node, key: Key, lines: dict[Key, int]) -> None:
    lines[key] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            if inner in lines:
                raise ValueError(f"{path}, line {name.start_mark.line + 1}, {'.'.join(map(str, inner))}: "
                                 f"given twice (first in line {lines[inner]})")
            _walk(path, value, inner, lines)
            lines[inner] = name.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(path, value, (*key, index), lines)
