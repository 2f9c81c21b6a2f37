"""A run under way: its finished samples, on disk one by one, in files named after the identity.

Another configuration has another identity and so another file: nothing can be mixed, and going back to
an earlier configuration goes on where it was left. Each shard of a run writes a file of its own and reads all of them:
what was solved counts in whichever split it was solved.

    partial-0123456789ab.jsonl         the whole run's
    partial-0123456789ab.2of4.jsonl    that of the second of four shards
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.lab import atomic
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.shard import WHOLE, Shard, split


def path_of(directory: Path, identity: str, shard: Shard = WHOLE) -> Path:
    """Where the unfinished samples of a run, or of a shard of it, lie."""
    return directory / shard.file(f"partial-{identity[:12]}.jsonl")


def paths(directory: Path, identity: str = "") -> list[Path]:
    """The journals of a run, or of all runs that left one here."""
    return Shard.files(directory, f"partial-{identity[:12]}.jsonl")


def runs(directory: Path, identity: str = "") -> list[list[Path]]:
    """The same, the journals of one run together."""
    by_run: dict[str, list[Path]] = {}
    for path in paths(directory, identity):
        by_run.setdefault(path.name.split(".")[0], []).append(path)
    return list(by_run.values())


def pattern(shard: Shard) -> str:
    """The shell pattern of a shard's journals, whatever the identity; of the whole run, those of its shards too."""
    return "partial-*.jsonl" if shard.whole else f"partial-*.{shard}.jsonl"


@dataclass
class Journal:
    """`done` maps a problem's index to its sample; `seconds` is decoding time over all sessions so far.

    `elsewhere` are indexes whose samples lie in journals of other shards. Of journals that were collected, `nodes` are
    where each was begun, and `split` is the number of shards.
    """

    path: Path
    n: int
    done: dict[int, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    sessions: int = 1
    shard: Shard = WHOLE
    elsewhere: frozenset[int] = frozenset()
    nodes: tuple[str, ...] = ()
    split: int = 1

    def add(self, sample: dict[str, Any]) -> None:
        """Keep one sample; it is on disk when this returns. Raises OSError that names the file."""
        atomic.append(self.path, atomic.canonical(sample))
        self.done[sample["index"]] = sample
        self.seconds = sample["elapsed"]

    def samples(self) -> list[dict[str, Any]]:
        """All samples in the order of the problems."""
        return [self.done[index] for index in sorted(self.done)]

    @property
    def left(self) -> list[int]:
        """The shard's problems that nobody has solved."""
        return [index for index in self.shard.indexes(self.n) if index not in self.done and index not in self.elsewhere]


def begin(directory: Path, identity: str, parameters: Parameters, n: int, shard: Shard = WHOLE,
          node: str = "") -> Journal:
    """Open the journal of a run or of a shard, or start it. A last line cut off by a crash is dropped.

    Raises ValueError naming file and line if a file is damaged elsewhere.
    """
    path = path_of(directory, identity, shard)
    others = [(Shard.of_file(other), _read(other, identity, n)[1]) for other in paths(directory, identity)
              if other != path]
    elsewhere = frozenset(sample["index"] for _, samples in others for sample in samples)
    before = _last_session(sample for other, samples in others if other.count != shard.count for sample in samples)
    if not path.exists():
        header = {"identity": identity, "n": n, "parameters": parameters.model_dump(mode="json"), "node": node}
        atomic.write(path, atomic.canonical(header) + "\n")
        return Journal(path, n, sessions=before + 1, shard=shard, elsewhere=elsewhere)
    whole = _whole_lines(path)
    if len(whole) < path.stat().st_size:
        with path.open("rb+") as handle:
            handle.truncate(len(whole))
            os.fsync(handle.fileno())
    samples = _read(path, identity, n)[1]
    return Journal(path, n, {sample["index"]: sample for sample in samples}, samples[-1]["elapsed"] if samples else 0.0,
                   max(before, _last_session(samples)) + 1, shard, elsewhere)


def collect(directory: Path, identity: str, n: int) -> Journal:
    """The samples of all journals of a run together; `seconds` is the sum, decoding time of one device.

    Raises ValueError naming file and line if one is damaged.
    """
    run = Journal(path_of(directory, identity), n)
    for path in paths(directory, identity):
        header, samples = _read(path, identity, n)
        run.done = {sample["index"]: sample for sample in samples} | run.done
        run.seconds += samples[-1]["elapsed"] if samples else 0.0
        run.nodes += (header.get("node", ""),)
        run.split = max(run.split, Shard.of_file(path).count)
    return run


def discard(directory: Path, identity: str) -> None:
    """Take away what was solved of a run: it starts over."""
    for path in paths(directory, identity):
        path.unlink()


def progress(path: Path) -> tuple[int, int]:
    """(finished, all) problems of a journal, for people to look at; (0, 0) if there is none that can be read."""
    try:
        return _counted(path)
    except (OSError, ValueError):
        return 0, 0


@dataclass(frozen=True)
class Standing:
    """How far a run is: problems, and in which of its shards none is left."""

    done: int = 0
    n: int = 0
    shards: int = 1
    shards_done: int = 0

    def __str__(self) -> str:
        """`812 of 1319`, and of a run in shards `812 of 1319, 2 of 4 shards done`."""
        shards = f", {self.shards_done} of {self.shards} shards done" if self.shards > 1 else ""
        return f"{self.done} of {self.n}{shards}"


def standing(directory: Path, identity: str = "") -> Standing:
    """How far the run of an identity is; without one, of the runs that left a journal here the one that is farthest.

    Raises ValueError naming file and line if a journal is damaged (of the whole run's only the first line is looked
    at), OSError naming the file if it can't be read.
    """
    return max(map(_standing, runs(directory, identity)), key=lambda each: (each.done, each.n), default=Standing())


def _standing(own: list[Path]) -> Standing:
    """Of one run, by its journals: nothing if they go while they are read, for then it ends or starts over."""
    try:
        if all(Shard.of_file(path).whole for path in own):
            return Standing(*_counted(own[0]))
        count = Shard.of_file(max(own, key=lambda path: path.stat().st_mtime_ns)).count      # the newest split
        n = max(_counted(path)[1] for path in own)
        done = {sample["index"] for path in own for sample in _samples(path)[1]}
    except FileNotFoundError:
        return Standing()
    return Standing(len(done), n, count, sum(done.issuperset(part.indexes(n)) for part in split(count)))


def _counted(path: Path) -> tuple[int, int]:
    """(finished, all) problems; only the first line is read as JSON."""
    with path.open("rb") as handle:
        header = handle.readline()
        done = sum(chunk.count(b"\n") for chunk in iter(lambda: handle.read(1 << 20), b""))
    try:
        return done, int(json.loads(header)["n"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, 1, error) from error


def _whole_lines(path: Path) -> bytes:
    """The file without a last line that a crash cut off, or that is being written."""
    text = path.read_bytes()
    return text[:text.rfind(b"\n") + 1]


def _samples(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and samples of one file."""
    rows = []
    for number, line in enumerate(_whole_lines(path).splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise _damaged(path, number, error) from error
    return (rows[0], rows[1:]) if rows else ({}, [])


def _damaged(path: Path, line: int, error: Exception) -> ValueError:
    return ValueError(f"{path}, line {line}: damaged ({error}); allowed: remove the file, its problems are then solved "
                      "again")


def _read(path: Path, identity: str, n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same, of a file that belongs to this run."""
    header, samples = _samples(path)
    if header.get("identity") != identity or header.get("n") != n:
        raise ValueError(f"{path}: not the samples of this run; allowed: remove the file")
    return header, samples


def _last_session(samples: Iterable[dict[str, Any]]) -> int:
    return max((sample["session"] for sample in samples), default=0)
