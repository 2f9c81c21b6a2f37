"""Files that are whole or absent: temporary name, fsync, rename; lines that are on disk when `append` returns."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(data: str | bytes) -> str:
    """Hexadecimal SHA-256 of text (as UTF-8) or bytes."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines, each ended by \\n and nothing else (U+2028 and U+0085 are text); a BOM is
    no part of the first. Raises ValueError naming file and line.
    """
    values = []
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            if line.strip():
                values.append(json.loads(line.decode()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON in UTF-8 ({error}); "
                             "allowed: JSON lines ended by \\n") from error
    return values


def write(path: Path, data: str | bytes) -> None:
    """Replace `path` by `data`, atomically: a reader, or a crash, sees the old file or the new one.

    Raises OSError that names the file (a full disk, no permission); the old file is untouched then.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as handle:
            handle.write(data.encode() if isinstance(data, str) else data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
        sync_directory(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _named(error, path) from error


def append(path: Path, line: str) -> None:
    """Add one line and wait until it is on disk. Raises OSError that names the file."""
    try:
        with path.open("ab") as handle:
            handle.write(line.encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise _named(error, path) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` for what a library writes; at the end it takes the place of `path`, after an error not."""
    part = path.with_name(f"{path.name}.part")
    yield part
    move(part, path)


def move(source: Path, target: Path) -> None:
    """Rename and make the rename durable."""
    os.replace(source, target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, f"{path} could not be written ({error.strerror}); what was there before is unchanged")
