"""Processes of their own that start with everything imported: as separate as those of a shell, seconds sooner."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fastdllm.lab.evaluation.evaluate", "fastdllm.decode.generate", "fastdllm.cli",
                                "transformers.models.auto", "scipy.stats", "lab_support"])


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote to standard output and standard error."""

    returncode: int | None
    stdout: str
    stderr: str


def program(*words: str, cwd: Path, typed: bytes = b"", **environment: str) -> Ended:
    """`fastdllm WORDS` in a directory; `typed` is what a pipe brings on standard input."""
    return _ended(_program, ["fastdllm", *words], cwd, environment, typed)


def script(code: str, cwd: Path, **environment: str) -> Ended:
    """Python code, as `python -c` would run it."""
    return _ended(_script, [code], cwd, environment)


def _ended(target: Callable[[list[str]], None], words: list[str], cwd: Path, environment: dict[str, str],
           typed: bytes = b"") -> Ended:
    with (tempfile.NamedTemporaryFile("wb") as stdin, tempfile.NamedTemporaryFile("r") as stdout,
          tempfile.NamedTemporaryFile("r") as stderr):
        stdin.write(typed)
        stdin.flush()
        process = CONTEXT.Process(target=_child, args=(target, words, str(cwd), {**os.environ, **environment},
                                                       stdin.name, (stdout.name, stderr.name)))
        process.start()
        process.join(540)
        process.kill()
        process.join()
        return Ended(process.exitcode, stdout.read(), stderr.read())


def _child(target: Callable[[list[str]], None], words: list[str], cwd: str, environment: dict[str, str], typed: str,
           written: tuple[str, str]) -> None:
    import torch
    torch.set_num_threads(1)
    os.dup2(os.open(typed, os.O_RDONLY), 0)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8:strict").partition(":")
    sys.stdin = open(0, encoding=encoding, errors=errors or "strict", closefd=False)     # noqa: SIM115 (as Python opens it)
    for number, path in enumerate(written, start=1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    target(words)


def _program(words: list[str]) -> None:
    from fastdllm.cli import main
    sys.argv = words
    main()


def _script(words: list[str]) -> None:
    sys.path.insert(0, "")
    exec(compile(words[0], "<script>", "exec"), {"__name__": "__main__"})
