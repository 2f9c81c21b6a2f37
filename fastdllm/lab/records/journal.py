"""A run under way: its finished samples, on disk one by one, in a file named after the identity.

Another configuration has another identity and so another file: nothing can be mixed, and going back to
an earlier configuration goes on where it was left.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.config.parameters import Parameters


def path_of(directory: Path, identity: str) -> Path:
    """Where the unfinished samples of a run lie."""
    return directory / f"partial-{identity[:12]}.jsonl"


@dataclass
class Journal:
    """`done` maps a problem's index to its sample; `seconds` is decoding time over all sessions so far."""

    path: Path
    n: int
    done: dict[int, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    sessions: int = 1

    def add(self, sample: dict[str, Any]) -> None:
        """Keep one sample; it is on disk when this returns. Raises OSError that names the file."""
        atomic.append(self.path, atomic.canonical(sample))
        self.done[sample["index"]] = sample
        self.seconds = sample["elapsed"]

    def samples(self) -> list[dict[str, Any]]:
        """All samples in the order of the problems."""
        return [self.done[index] for index in sorted(self.done)]


def begin(directory: Path, identity: str, parameters: Parameters, n: int) -> Journal:
    """Open the samples of a run, or start them. A last line cut off by a crash is dropped.

    Raises ValueError naming file and line if the file is damaged elsewhere.
    """
    path = path_of(directory, identity)
    header = {"identity": identity, "n": n, "parameters": parameters.model_dump(mode="json")}
    if not path.exists():
        atomic.write(path, atomic.canonical(header) + "\n")
        return Journal(path, n)
    text = path.read_bytes()
    whole = text[:text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with path.open("rb+") as handle:
            handle.truncate(len(whole))
            os.fsync(handle.fileno())
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: damaged ({error}); allowed: remove the file, "
                             "the configuration then starts again") from error
    if not rows or rows[0].get("identity") != identity or rows[0].get("n") != n:
        raise ValueError(f"{path}: not the samples of this run; allowed: remove the file")
    partial = Journal(path, n, {row["index"]: row for row in rows[1:]})
    if rows[1:]:
        partial.seconds, partial.sessions = rows[-1]["elapsed"], max(row["session"] for row in rows[1:]) + 1
    return partial


def progress(path: Path) -> tuple[int, int]:
    """(finished, all) problems of a run under way, for people to look at; (0, 0) if there is none."""
    try:
        with path.open("rb") as handle:
            header = handle.readline()
            done = sum(chunk.count(b"\n") for chunk in iter(lambda: handle.read(1 << 20), b""))
        return done, json.loads(header)["n"]
    except (FileNotFoundError, json.JSONDecodeError):
        return 0, 0
