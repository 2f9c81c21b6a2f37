"""What leaves this machine names no host, no user, no path and no secret.

Nodes become stable pseudonyms, so that effects of the node stay visible: the same node has the same name in all that
one project publishes. The key behind them is a random file beside the records, which is never published; without it
nobody can try host names until one fits.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.config.paths import root
from fastdllm.lab.records.record import Record

KEY = ".redaction-key"
NOBODY = {"root", "user", "runner", "ubuntu", "debian", "jovyan", "localhost", "node", "nobody",
          "unknown"}      # names of no one
SECRET = "<secret>"
TOKENS = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|"
                    r"sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,})")
# The value of a variable with a telling name, as a print of the environment or a shell line shows it.
TELLING = "TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY"
ASSIGNED = re.compile(rf"(\b[A-Z0-9_]*(?:{TELLING})[A-Z0-9_]*['\"]?\s*[:=]\s*['\"]?)(?![\d.]+\b)[^\s'\",;}}<>]{{6,}}")
SECRET_NAMES = re.compile(TELLING, re.IGNORECASE)
# An absolute path; the character before it tells it from a URL, a fraction or a closing tag.
BEFORE, PART = r"(?<![\w./<+~\\-])(?:file://)?/", r"[\w.@+~-]"
PATH = re.compile(rf"{BEFORE}(?:{PART}+/)+{PART}*")
PLACES = re.compile(rf"{BEFORE}(?:home|root|Users|scratch|work|tmp|var|opt|usr|mnt|data|gpfs|lustre|nfs|srv|media|"
                    rf"private|beegfs|ceph|projects?|cluster|storage|nobackup)/(?:{PART}+/)*{PART}*")
# Base64: a data URI, or a long run that is no path (few slashes). Inside it nothing is a word.
DATA_URI = re.compile(r"(data:[\w/+.;=-]*base64,[A-Za-z0-9+/=]*(?:(?:\\n|\n)[A-Za-z0-9+/=]{40,})*)")
RUN = re.compile(r"((?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/]{100,}|(?:(?:[A-Za-z0-9+/]{76}|[A-Za-z0-9+/]{64})(?:\\n|\r?\n))+"
                 r"[A-Za-z0-9+/]{1,76})={0,2}(?![A-Za-z0-9+/]))")      # in one line, or wrapped at 76 or 64
SLASHES = 20                # base64 has a slash in 64 characters, a path one in fewer than this
# A string or a comment in code: the only places of it where a name can be somebody's.
QUOTED = re.compile(r"""(\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|"""
                    r"""`(?:[^`\\]|\\.)*`|(?:\#|//)[^\n]*)""", re.DOTALL)
# The same in JavaScript and CSS, where # begins a selector, a colour or a private name.
QUOTED_IN_PAGES = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`|/\*.*?\*/|//[^\n]*)""",
                             re.DOTALL)
SCRIPTS = re.compile(r"(<(?:script|style)\b.*?</(?:script|style)>)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Redactor:
    """Replaces names in text. `project` is the directory that becomes ".", `places` are others that only end names."""

    key: bytes
    project: re.Pattern[str] | None = None
    places: tuple[re.Pattern[str], ...] = ()
    hosts: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    _pattern: re.Pattern[str] | None = field(default=None, compare=False)

    def node(self, name: str) -> str:
        """The pseudonym of a node, always the same; of the nodes of shards, one for each."""
        if ", " in name:
            return ", ".join(map(self.node, name.split(", ")))
        if name == "unknown" or re.fullmatch(r"node-[0-9a-f]{6}", name):
            return name
        return f"node-{hmac.new(self.key, name.split('.')[0].encode(), hashlib.sha256).hexdigest()[:6]}"

    def plain(self, text: str) -> str:
        """Text that people or programs wrote: secrets, known names and places go, other slashes stay."""
        return _outside_base64(self._secrets(text), lambda part: self._names(self._places(part)))

    def code(self, text: str, quoted: re.Pattern[str] = QUOTED) -> str:
        """Code: as `plain`, but what may be a variable (`vm = 3`) goes from what is `quoted`, strings and comments."""
        def change(part: str) -> str:
            pieces = quoted.split(self._places(part))
            return "".join(self._names(piece, variables=index % 2 == 0) for index, piece in enumerate(pieces))
        return _outside_base64(self._secrets(text), change)

    def output(self, text: str) -> str:
        """What a program printed: every absolute path goes."""
        return _outside_base64(self._secrets(text), lambda part: PATH.sub(_shortened, self._names(self._places(part))))

    def html(self, text: str) -> str:
        """HTML: paths in what is shown; in scripts and styles only known names and places."""
        parts = SCRIPTS.split(text)
        return "".join(self.code(part, QUOTED_IN_PAGES) if index % 2 else self.output(part)
                       for index, part in enumerate(parts))

    def values(self, value: Any) -> Any:
        """Every string in a JSON value."""
        return _mapped(value, self.output)

    def record(self, record: Record) -> Record:
        """A record without names, sealed anew and marked as redacted; its numbers and identity are untouched."""
        node = self.node(record.environment.node)
        content = record.model_dump(mode="json", by_alias=True)
        values = {name: _mapped(value, self.output, keys=name == "notes") for name, value in content.items()}
        values["environment"]["node"], values["redacted"] = node, True
        return Record(**values).sealed()

    def notebook(self, notebook: dict[str, Any]) -> dict[str, Any]:
        """A notebook (parsed JSON): sources, outputs, tracebacks and widget state."""
        rest = {name: value for name, value in notebook.items() if name not in ("cells", "metadata")}
        metadata = {name: _mapped(value, self.plain if name == "widgets" else self.output)
                    for name, value in notebook["metadata"].items()}
        return {**self.values(rest), "metadata": metadata, "cells": [self._cell(cell) for cell in notebook["cells"]]}

    def _cell(self, cell: dict[str, Any]) -> dict[str, Any]:
        source = "".join(cell["source"])
        injected = {"parameters", "injected-parameters"} & set(cell["metadata"].get("tags", []))
        written = self.code if cell["cell_type"] == "code" else self.plain
        redacted = {**cell, "source": (self.output if injected else written)(source),
                    "metadata": self.values(cell["metadata"])}
        if "outputs" in cell:
            redacted["outputs"] = [self._output(output) for output in cell["outputs"]]
        return redacted

    def _output(self, output: dict[str, Any]) -> dict[str, Any]:
        if "data" not in output:
            return self.values(output)
        data = {kind: self._data(kind, content) for kind, content in output["data"].items()}
        return {**self.values({key: value for key, value in output.items() if key != "data"}), "data": data}

    def _data(self, kind: str, content: Any) -> Any:
        if kind.startswith(("image/", "audio/", "video/", "application/pdf")) and kind != "image/svg+xml":
            return content       # base64: no text
        if isinstance(content, (dict, list)) and kind.endswith("json"):
            return self.values(content)
        text = "".join(content) if isinstance(content, list) else str(content)
        if kind.endswith("javascript"):
            return self.code(text, QUOTED_IN_PAGES)
        return self.html(text) if kind in ("text/html", "image/svg+xml") else self.output(text)

    def _secrets(self, text: str) -> str:
        for token in self.tokens:
            text = text.replace(token, SECRET)
        return ASSIGNED.sub(rf"\g<1>{SECRET}", TOKENS.sub(SECRET, text))

    def _places(self, text: str) -> str:
        if self.project is not None:
            text = self.project.sub(".", text)
        for directory in (*self.places, PLACES):
            text = directory.sub(_shortened, text)
        return text

    def _names(self, text: str, variables: bool = False) -> str:
        """Whole words only; where `variables` stand too, a name that can be one is left alone."""
        def renamed(match: re.Match[str]) -> str:
            if variables and match[0].isidentifier():
                return match[0]
            return self.node(match[0]) if match[0] in self.hosts else "<user>"
        return text if self._pattern is None else self._pattern.sub(renamed, text)


def redactor(executed: Path, nodes: Iterable[str] = ()) -> Redactor:
    """What knows this machine, this user, the nodes of some records, and every secret of the environment."""
    hosts = {socket.gethostname(), socket.gethostname().split(".")[0], os.environ.get("SLURMD_NODENAME", ""),
             *(name for node in nodes for name in node.split(", "))}      # a run in shards names several
    hosts |= {host.split(".")[0] for host in hosts}
    users = {getpass.getuser(), Path.home().name, *(os.environ.get(name, "") for name in ("USER", "LOGNAME"))}
    tokens = [value for name, value in os.environ.items() if SECRET_NAMES.search(name) and len(value) >= 8]
    return build(key(executed), hosts - {""}, users - {""}, root().resolve(),
                 (sys.prefix, str(Path.home()), tempfile.gettempdir()), tokens)


def build(secret: bytes, hosts: Iterable[str] = (), users: Iterable[str] = (), project: Path | None = None,
          places: Iterable[str] = (), tokens: Iterable[str] = ()) -> Redactor:
    """A redactor for these names. Words that name nobody (root, localhost) and pseudonyms are left alone."""
    hosts = tuple(sorted({host for host in hosts if host not in NOBODY and not host.startswith("node-")}))
    words = tuple(sorted({*hosts, *(user for user in users if user not in NOBODY and len(user) > 1)}, key=len,
                         reverse=True))
    pattern = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, words)) + r")(?![\w-])") if words else None
    inside = rf"(?:/{PART}+)*/?"
    return Redactor(
        secret, _directory(str(project)) if project is not None else None,
        tuple(_directory(path, inside) for path in sorted(places, key=len, reverse=True) if len(path) > 1),
        hosts, tuple(sorted(tokens, key=len, reverse=True)), pattern)


def key(executed: Path) -> bytes:
    """The project's own random key, made on first use and readable by its owner only."""
    path = executed / KEY
    if not path.exists():
        atomic.write(path, secrets.token_hex(32))
        path.chmod(0o600)
    return path.read_text(encoding="ascii").encode()


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as JSON. Raises ValueError naming the file."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return {**notebook, "cells": list(notebook["cells"]), "metadata": dict(notebook["metadata"])}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a notebook ({error}); allowed: an executed .ipynb") from error


def _outside_base64(text: str, change: Callable[[str], str]) -> str:
    """Change a text but for the base64 in it."""
    pieces: list[str] = [""]                # text and base64 by turns
    for uri, part in enumerate(DATA_URI.split(text)):
        for run, piece in enumerate([part] if uri % 2 else RUN.split(part)):
            is_base64 = uri % 2 or (run % 2 and piece.count("/") * SLASHES <= len(piece))
            if is_base64:
                pieces += [piece, ""]
            else:
                pieces[-1] += piece
    return "".join(piece if index % 2 else change(piece) for index, piece in enumerate(pieces))


def _directory(path: str, inside: str = "") -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.~-])(?:file://)?{re.escape(path)}(?![\w-]){inside}")


def _mapped(value: Any, change: Callable[[str], str], keys: bool = True) -> Any:
    """Every string in a JSON value changed; `keys=False`: the names of fields are ours and stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        if value.get("encoding") == "base64" and isinstance(value.get("data"), str):      # a buffer of a widget
            return value
        return {change(str(name)) if keys else name: _mapped(item, change, keys) for name, item in value.items()}
    return [_mapped(item, change, keys) for item in value] if isinstance(value, list) else value


def _shortened(match: re.Match[str]) -> str:
    """`/a/b/c.py` becomes `…/c.py`: the name is worth keeping, where it lay is nobody's business."""
    return f"…/{match[0].rstrip('/').rsplit('/', 1)[-1]}"
