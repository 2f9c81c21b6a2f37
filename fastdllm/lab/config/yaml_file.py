"""YAML files (1.2, read by ruamel.yaml's safe loader) whose errors name file, line, key and value."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from fastdllm.errors import Key, SettingsError, with_location

TEXT, WHOLE, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge"
MOST_VALUES = 100_000      # of a parameter file, aliases written out: more is a mistake, or meant to fill the memory
LONG_NUMBER = re.compile(r"\d{4300}")
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")      # eight for YAML 1.1, ten for 1.2, and nobody knows who wrote it


class Constructor(SafeConstructor):
    """The safe one, but a date is text, as in YAML 1.2's core schema."""


Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


@dataclass(frozen=True)
class YamlFile:
    """Values of a YAML file and, as `node`, where they stand. `overrides` are keys that `--set` changed."""

    path: Path
    values: dict[str, Any]
    node: Node | None = None
    overrides: frozenset[Key] = field(default_factory=frozenset)

    def where(self, key: Key) -> str:
        """`file, line N, key` of the innermost part of `key` that the file holds; `--set key` where that changed it."""
        name = ".".join(map(str, key))
        if any(key[:size] in self.overrides for size in range(1, len(key) + 1)):
            return f"--set {name}"
        lines = list(_lines(self.node, key))
        return f"{self.path}{f', line {lines[-1]}' if key and lines else ''}{f', {name}' if key else ''}"

    def set(self, assignments: list[str]) -> YamlFile:
        """The file with `key=value` changes (dotted keys, YAML values). Raises ValueError for another form."""
        values, overrides = copy.deepcopy(self.values), set(self.overrides)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            key = tuple(name.strip().split("."))
            if not equals or not all(key):
                raise ValueError(f"--set {assignment!r}; allowed: key=value, like decoding.threshold=0.8, axes.k=[1,2]")
            try:
                value = _load(text)[0]
                set_path(values, key, value)
            except ValueError as error:
                raise ValueError(f"--set {assignment!r}: {error}") from error
            overrides.add(key)
        return YamlFile(self.path, values, self.node, frozenset(overrides))

    def explain(self, error: SettingsError) -> str:
        """One line per problem: file, line, key, value, what is allowed."""
        return "\n".join(with_location(self.where(key), text) for key, text in error.problems)


def read(path: str | Path) -> YamlFile:
    """Read a YAML mapping.

    Raises ValueError that names file and line for a missing file, another encoding than UTF-8, bad YAML, a key given
    twice, a key that is no text, a value that holds itself or is not what its tag says, a number with a leading zero,
    anchors that make too many values, or another top level.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; allowed: a YAML file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: byte {data[error.start]:#x} is not UTF-8; "
                         "allowed: a file saved as UTF-8") from error
    try:
        values, node = _load(text)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if not isinstance(values, dict):
        what = "empty" if values is None else f"a {type(values).__name__}"
        line = node.start_mark.line + 1 if node else 1
        raise ValueError(f"{path}, line {line}: {what}; allowed: a mapping of keys to values")
    return YamlFile(path, values, node)


def of_options(flag: str = "options") -> YamlFile:
    """No file: where all values come from a command's options and from `--set`."""
    return YamlFile(Path(flag), {})


def set_path(values: dict[str, Any], key: Sequence[str], value: Any) -> None:
    """Set one value of nested mappings in place: `("decoding", "threshold")`. Missing sections are made.

    Raises ValueError if a part of the key but its last holds something else than a section.
    """
    *sections, last = key
    for part in sections:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{part} holds {inner!r}; allowed: a key of a section")
        values = inner
    values[last] = value


def dump(values: dict[str, Any]) -> str:
    """Values as YAML text that `read` reads back as they are."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False     # pyright: ignore
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def _load(text: str) -> tuple[Any, Node | None]:
    """Values and nodes of a YAML text. Raises ValueError: `line N: what is wrong`."""
    try:
        reader = YAML(typ="safe", pure=True)
        reader.Constructor = Constructor
        node = reader.compose(text)
        for key, part, inside in _nodes(node, (), (), set()):
            _check(key, part, inside)
            if isinstance(part, ScalarNode) and part.tag not in (TEXT, MERGE):
                meant = reader.resolver.resolve(ScalarNode, part.value, (True, False))
                if part.tag != meant:
                    raise ValueError(f"line {part.start_mark.line + 1}, {'.'.join(map(str, key))}={part.value!r} is no "
                                     f"{_short(part.tag)}; allowed: {_short(meant)}, which it is without a tag")
        if (count := _count(node, {})) > MOST_VALUES:
            raise ValueError(f"line 1: {count} values, aliases written out; allowed: {MOST_VALUES}")
        return reader.load(text), node
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        problem = (error.problem or error.context or "").splitlines()
        raise ValueError(f"line {line}: not valid YAML ({problem[0] if problem else 'unknown'})") from error
    except ReaderError as error:
        line = text[:error.position].count("\n") + 1
        raise ValueError(f"line {line}: not valid YAML (the control character U+{error.character:04X})") from error
    except ValueError as error:      # a number of thousands of digits
        if str(error).startswith("line "):
            raise
        line = next((number for number, row in enumerate(text.split("\n"), 1) if LONG_NUMBER.search(row)), "?")
        raise ValueError(f"line {line}: not valid YAML ({error})") from error
    except RecursionError as error:
        raise ValueError("line 1: not valid YAML (nested too deeply)") from error


def _short(tag: object) -> str:
    return str(tag).replace("tag:yaml.org,2002:", "!!")


def _count(node: Node | None, known: dict[int, int]) -> int:
    """How many values a node holds; one that is an alias of another holds as many."""
    if node is None:
        return 0
    if id(node) not in known:
        parts = ([part for pair in node.value for part in pair] if isinstance(node, MappingNode) else
                 node.value if isinstance(node, SequenceNode) else [])
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def _nodes(node: Node | None, key: Key, inside: tuple[Node, ...],
           seen: set[int]) -> Iterator[tuple[Key, Node, tuple[Node, ...]]]:
    """Every node once, with its key and the nodes that it lies in; one that lies in itself is not entered again."""
    if node is None:
        return
    yield key, node, inside
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        for name, value in node.value:
            yield from _nodes(name, key, (*inside, node), seen)
            yield from _nodes(value, (*key, str(name.value)), (*inside, node), seen)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield from _nodes(value, (*key, index), (*inside, node), seen)


def _check(key: Key, node: Node, inside: tuple[Node, ...]) -> None:
    """What is YAML, and no parameter file. Raises ValueError with line and key."""
    here = f"line {node.start_mark.line + 1}, {'.'.join(map(str, key))}"
    if any(node is outer for outer in inside):
        raise ValueError(f"{here}: an anchor that holds itself; allowed: values that end")
    if isinstance(node, ScalarNode) and node.tag == WHOLE and LEADING_ZERO.fullmatch(node.value):
        raise ValueError(f"{here}={node.value}; allowed: a number without a leading zero, or text in quotes")
    if isinstance(node, MappingNode):
        for name, _ in node.value:
            if not isinstance(name, ScalarNode) or name.tag not in (TEXT, MERGE):
                what = name.value if isinstance(name, ScalarNode) else f"a {name.id}"
                raise ValueError(f"line {name.start_mark.line + 1}: the key is {what}; allowed: keys that are text")


def _lines(node: Node | None, key: Key) -> Iterator[int]:
    """The line of each part of a key, from the outside in, as far as the file holds them."""
    for part in key:
        if isinstance(node, MappingNode):
            name, node = next((pair for pair in node.value if pair[0].value == part), (None, None))
            if name is None:
                return
            yield name.start_mark.line + 1
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            yield node.start_mark.line + 1      # pyright: ignore[reportOptionalMemberAccess]
        else:
            return
