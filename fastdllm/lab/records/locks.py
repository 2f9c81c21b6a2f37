"""One process per configuration, or per shard of it. The lock is the kernel's (flock): it ends with its holder,
however that ends.

    .run.lock, .samples.lock        held by a worker as long as it lives, and while problems are solved
    .run.2of4.lock, .samples.2of4.lock    the same for a shard
    .record.lock                    held for a moment: to begin, to end, and while the record is written
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fastdllm.lab.config.shard import Shard

POLL = 0.05   # seconds
RUN, SAMPLES, RECORD = ".run.lock", ".samples.lock", ".record.lock"


class Locked(RuntimeError):
    """Another process works on this configuration."""


@contextmanager
def lock(path: Path, wait: float = 2.0, **about: Any) -> Iterator[None]:
    """Hold `path` for the length of the block; `about` tells others what is going on.

    Raises Locked naming the holder after `wait` seconds, OSError where the file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        deadline = time.monotonic() + wait
        while not _try(handle, fcntl.LOCK_EX, path):
            if time.monotonic() > deadline:
                raise Locked(f"{path.parent}: another process works on it ({describe(_read(handle))})")
            time.sleep(POLL)
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(),
                                 "slurm_job": os.environ.get("SLURM_JOB_ID"),
                                 "since": datetime.now(UTC).isoformat(timespec="seconds"), **about}))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)
            handle.flush()


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock (pid, host, slurm_job, since ...); None if nobody does."""
    if not path.exists():
        return None
    with path.open("r", encoding="utf-8") as handle:
        return None if _try(handle, fcntl.LOCK_SH, path) else _read(handle)


@contextmanager
def shard_lock(directory: Path, shard: Shard) -> Iterator[None]:
    """Hold a shard's problems for the length of the block, the record's lock being held at its beginning.

    Raises Locked at once if another process is at them, or if another split of the run is under way.
    """
    for other, about in at_work(directory, SAMPLES).items():
        if other.count != shard.count:
            raise Locked(f"{directory}: another process works on it, on shard {other} ({describe(about)})")
    with lock(directory / shard.file(SAMPLES), wait=0.0):
        yield


def at_work(directory: Path, *names: str) -> dict[Shard, dict[str, Any]]:
    """The shards that processes are at, and who; `names` are the kinds of locks (none: RUN and SAMPLES)."""
    held: dict[Shard, dict[str, Any]] = {}
    for name in names or (RUN, SAMPLES):
        for path in Shard.files(directory, name):
            if (about := holder(path)) is not None:
                held.setdefault(Shard.of_file(path), about)
    return held


def describe(about: dict[str, Any]) -> str:
    """`process 123 on host n1 since 10:15`."""
    if not about:
        return "it has just begun"
    job = f", Slurm job {about['slurm_job']}" if about.get("slurm_job") else ""
    return f"process {about['pid']} on {about['host']}{job} since {about['since']}"


def _try(handle: IO[str], mode: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise OSError(error.errno, f"{path}: this file system knows no locks ({error.strerror}); "
                                   "allowed: an `output:` on one that does") from error
    return True


def _read(handle: IO[str]) -> dict[str, Any]:
    handle.seek(0)
    text = handle.read()
    return json.loads(text) if text.endswith("}") else {}
