"""Processes of their own that start with everything imported: as separate as those of a shell, seconds sooner."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("fork")      # for processes that a test kills, or that talk to it


@dataclass(frozen=True)
class Programs:
    """What runs programs: `python` is the command that stands for it (tests/warm_python.py)."""

    python: list[str]

    def fastdllm(self, *words: str, cwd: Path, typed: bytes = b"",
                 **environment: str) -> subprocess.CompletedProcess[str]:
        """`fastdllm WORDS` in a directory; `typed` is what a pipe brings on standard input."""
        return self._ended(["-m", "fastdllm", *words], cwd, environment, typed)

    def script(self, code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Python code, as `python -c` runs it."""
        return self._ended(["-c", code], cwd, environment)

    def _ended(self, words: list[str], cwd: Path, environment: dict[str, str],
               typed: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.python, *words], cwd=cwd, env={**os.environ, **environment}, input=typed,
                              capture_output=True, timeout=540, check=False)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())
