"""A part of a run's problems: how a run is executed, never what. No identity and no directory's name holds it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PATTERN = re.compile(r"(\d+)of(\d+)")


@dataclass(frozen=True, order=True)
class Shard:
    """Part `number` of `count`, counted from 1: every count-th problem. Part 1 of 1 is the whole run."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        """As options and file names have it: 2of4."""
        return f"{self.number}of{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2of4`. Raises ValueError for anything else."""
        match = PATTERN.fullmatch(text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise ValueError(f"shard={text!r}; allowed: a part and how many there are, like 1of4 or 4of4")
        return shard

    @classmethod
    def of_file(cls, path: Path) -> Shard:
        """Whose file this is, by its name."""
        match = PATTERN.fullmatch(path.stem.rpartition(".")[2])
        return cls(*map(int, match.groups())) if match else cls()

    @property
    def whole(self) -> bool:
        return self.count == 1

    def indexes(self, n: int) -> range:
        """Which of n problems it has, by index from 0."""
        return range(self.number - 1, n, self.count)

    def file(self, name: str) -> str:
        """The shard's own file of a kind: `failed.json` is failed.2of4.json, and failed.json for the whole run."""
        return name if self.whole else f"{name[:name.rindex('.')]}.{self}{name[name.rindex('.'):]}"

    @staticmethod
    def files(directory: Path, name: str) -> list[Path]:
        """The files of a kind that a run and its shards have in a directory."""
        return sorted(directory.glob(f"{name[:name.rindex('.')]}*{name[name.rindex('.'):]}"))


WHOLE = Shard()


def split(count: int) -> list[Shard]:
    """All parts of a run in `count` shards."""
    return [Shard(number, count) for number in range(1, count + 1)]
