"""What `fastdllm publish` copies: summaries and executed notebooks, redacted, without samples and traces; compact, a
line for each problem in the place of the notebooks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from fastdllm.lab import atomic, records
from fastdllm.lab.jobs.notebook_run import RECORD
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records.record import Record
from fastdllm.report.shipped import COUNTS, PROBLEMS, TEXTS
from fastdllm.share.inventory import Executed
from fastdllm.share.redact import Redactor, read_notebook

NOTEBOOK_LIMIT, TOTAL_LIMIT = 400_000, 12_000_000      # bytes


@dataclass(frozen=True)
class Item:
    """One file as it will stand below the target."""

    path: Path
    content: bytes

    @property
    def packed(self) -> int:
        """Bytes that it takes in git, which compresses every file by itself."""
        return len(zlib.compress(self.content))


def items(directory: Path, configurations: Iterable[ConfigurationState], runs: Iterable[Executed], redactor: Redactor,
          compact: bool = False, texts: Sequence[str] = ()) -> list[Item]:
    """The redacted files of an experiment, paths relative to it. `compact`: see `problems`, and `answers` for the
    configurations whose TASK/NAME matches one of `texts`, shell patterns.
    """
    files = []
    for state in configurations:
        if state.record is None:
            continue
        home = state.configuration.directory.relative_to(directory)
        record = redactor.record(state.record)
        content = {**record.content(), "checksum": record.checksum}
        files.append(Item(home / records.SUMMARY, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()))
        if compact:
            files.append(Item(home / PROBLEMS, problems(state.configuration.directory, state.record)))
            if any(fnmatch(str(state.configuration.path), pattern) for pattern in texts):
                files.append(Item(home / TEXTS, answers(state.configuration.directory)))
            continue
        files += [Item(home / path.name, notebook(path, redactor))
                  for path in executed_notebooks(state.configuration.directory)]
    for run in runs:
        home = run.path.parent.relative_to(directory)
        files.append(Item(home / run.path.name, notebook(run.path, redactor)))
        if (note := run.path.parent / RECORD).exists():
            values = redactor.values(json.loads(note.read_text(encoding="utf-8")))
            files.append(Item(home / RECORD, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()))
    return sorted(set(files), key=lambda item: item.path)


def problems(directory: Path, record: Record) -> bytes:
    """One line for each problem: its id, whether the headline's rule finds it right, tokens, forwards. No texts."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("id", *COUNTS))
    for sample in records.samples(directory).to_dict("records"):
        writer.writerow((sample["id"], int(sample["correct"][record.metric]), sample["tokens"],
                         records.forwards(sample["nfe"])))
    return table.getvalue().encode()


def answers(directory: Path) -> bytes:
    """The answers of a run as the model wrote them, a JSON line for each problem with its id and text, packed."""
    lines = [json.dumps({"id": sample["id"], "text": sample["output"]}, ensure_ascii=False) + "\n"
             for sample in records.samples(directory).to_dict("records")]
    return gzip.compress("".join(lines).encode(), mtime=0)


def executed_notebooks(directory: Path) -> list[Path]:
    """The executed notebooks in a cell's directory; failed and unfinished ones are left out."""
    return [path for path in sorted(directory.glob("*.ipynb"))
            if ".part" not in path.name and not path.name.endswith(".failed.ipynb")]


def notebook(path: Path, redactor: Redactor) -> bytes:
    """A notebook, redacted, as compact as the format allows."""
    return (json.dumps(redactor.notebook(read_notebook(path)), indent=1, ensure_ascii=False) + "\n").encode()


def too_large(files: Iterable[Item], elsewhere: int) -> list[str]:
    """What breaks a limit; `elsewhere` are the bytes that other experiments have published."""
    files = list(files)
    problems = [f"{item.path}: {len(item.content) / 1000:.0f} kB; allowed: {NOTEBOOK_LIMIT // 1000} kB a notebook"
                for item in files if item.path.suffix == ".ipynb" and len(item.content) > NOTEBOOK_LIMIT]
    total = elsewhere + sum(len(item.content) for item in files)
    if total > TOTAL_LIMIT:
        problems.append(f"{total / 1e6:.1f} MB with what is published; allowed: {TOTAL_LIMIT // 10**6} MB in all")
    return problems


def write(files: Iterable[Item], target: Path) -> None:
    """Replace `target` by these files; what was there before stays until the new ones are whole."""
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    for item in files:
        atomic.write(fresh / item.path, item.content)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
