"""Runs a program that a model wrote: in a process of its own, with time, memory and no network, never in ours.

What holds everywhere: another process (group), a new empty working directory, no environment variables beyond a
plain PATH, CPU and wall time, address space, file size and number of open files limited by the kernel, and the
whole group killed at the end. Where the system allows it (`unshare`), a network name space of its own, without
any network. What does not hold: the program runs as the same user and can read what that user can read. Run
such tasks on a machine where this is acceptable, or in a container; `network_isolated()` says what is in force.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 24
OUTPUT_SHOWN = 500           # characters of the error output that are kept

# Sets its own limits before it touches the program: soft and hard, so that they can't be raised without privilege.
DRIVER = """
import resource, runpy, sys
seconds, memory, size = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size),
                     (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
runpy.run_path("program.py", run_name="__main__")
"""


@dataclass(frozen=True)
class Outcome:
    """`passed`: the program ran to its end. `reason`: passed, failed, timed out; `detail`: the end of its errors."""

    passed: bool
    reason: str
    detail: str = ""


@cache
def network_isolated() -> tuple[str, ...]:
    """The command prefix that takes the network away, () where the system permits none."""
    unshare = shutil.which("unshare")
    for flags in (("--net",), ("--map-root-user", "--net")) if unshare else ():
        prefix = (str(unshare), *flags, "--")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return ()


def run(program: str, seconds: float = 10.0, memory_bytes: int = MEMORY_BYTES) -> Outcome:
    """Run Python source; it passes if its last line is reached (leaving early with code 0 doesn't count)."""
    if seconds <= 0:
        raise ValueError(f"seconds={seconds}; allowed: a time above 0")
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="fastdllm-") as directory:
        Path(directory, "program.py").write_text(f"{program}\n\nprint({nonce!r})\n", encoding="utf-8")
        command = [*network_isolated(), sys.executable, "-I", "-c", DRIVER, str(int(seconds) + 1), str(memory_bytes),
                   str(FILE_BYTES)]
        with Path(directory, "output").open("w+b") as output, Path(directory, "errors").open("w+b") as errors:
            process = subprocess.Popen(command, cwd=directory, env={"PATH": os.defpath}, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=errors, start_new_session=True)
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_group(process)
            output.seek(max(0, output.seek(0, os.SEEK_END) - 200))
            finished = output.read().decode(errors="replace").rstrip().endswith(nonce)
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - OUTPUT_SHOWN))
            detail = errors.read().decode(errors="replace").strip()
    if code is None or code == -signal.SIGXCPU:
        return Outcome(False, "timed out", f"{seconds} s")
    return Outcome(True, "passed") if code == 0 and finished else Outcome(False, "failed", detail)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
