"""What a run leaves that did not end well: `failed.json` with its error, `open.json` where it was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastdllm.lab import atomic
from fastdllm.lab.config.shard import WHOLE, Shard
from fastdllm.lab.records import locks

FAILED, OPEN = "failed.json", "open.json"      # of a shard: failed.2of4.json, open.2of4.json


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised: `error` is its last line, `where` the cell's name, `ename` the exception's."""

    def __init__(self, error: str, where: str, ename: str):
        super().__init__(f"{error} [in cell {where}]")
        self.error, self.where, self.ename = error, where, ename


def fail(directory: Path, error: str, where: str = "", shard: Shard = WHOLE) -> None:
    """Mark a configuration, or a shard of it, as failed: the last error line and the notebook cell that failed."""
    text = json.dumps({"error": error, "cell": where}, ensure_ascii=False) + "\n"
    atomic.write(directory / shard.file(FAILED), text)


@contextmanager
def failure_kept(directory: Path, shard: Shard = WHOLE) -> Iterator[None]:
    """Mark a configuration, or a shard of it, as failed by whatever ends the block, and let the error go on.

    A held lock is no failure.
    Inside runs code that is not the package's (a notebook's cells, a policy's or a generation file), which may raise
    anything; here alone all of it is caught. A run that ended before it had a directory leaves no mark.
    """
    try:
        yield
    except locks.Locked:
        raise
    except NotebookFailed as error:
        fail(directory, error.error, error.where, shard)
        raise
    except Exception as error:
        if directory.is_dir():
            fail(directory, f"{type(error).__name__}: {error}", shard=shard)
        raise


def clear(directory: Path, shard: Shard = WHOLE) -> None:
    """Take the marks of failures and kills away: the shard's own, and what other splits of the run left."""
    for path in [*Shard.files(directory, FAILED), *Shard.files(directory, OPEN)]:
        if (other := Shard.of_file(path)) == shard or other.count != shard.count:
            path.unlink(missing_ok=True)


def last_error(path: Path) -> str | None:
    """What a mark of a failure says; None if it went meanwhile, for then the next attempt has begun."""
    shard = Shard.of_file(path)
    part = "" if shard.whole else f"shard {shard}: "
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return f"{part}{values['error']}" + (f" [in cell {values['cell']}]" if values["cell"] else "")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return f"unknown ({path} can't be read)"
