"""Runs a program that a model wrote: in a process of its own, with time, memory and no network, never in ours.

What holds everywhere: another process (group), a new empty working directory, no environment variables beyond a
plain PATH, CPU and wall time, address space, file size and number of open files limited by the kernel, and the
whole group killed at the end; on Linux also what left the group (a child with a session of its own). Where the system
allows it (`unshare`), a network name space of its own, without any network. What does not hold: the program runs as
the same user and can read what that user can read. Run such tasks on a machine where this is acceptable, or in a
container; `without_network()` says what is in force.
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

TIMED_OUT = 124              # the supervisor's exit status, as timeout(1) has it
GRACE = 10.0                 # seconds for the supervisor itself, beyond the program's

# Two processes. The child sets its own limits (soft and hard, so that they can't be raised without privilege), runs the
# program and says that its end was reached: in a file whose name the program doesn't know, with functions kept from
# before it ran, so that it may close or redirect what it likes. The parent adopts what the program leaves behind
# (PR_SET_CHILD_SUBREAPER: also a process with a session of its own) and ends all of it.
SUPERVISOR = """
import ctypes, os, resource, runpy, signal, sys, time
seconds, memory, size = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
reached = os.path.abspath(sys.stdin.readline().strip())
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
child = os.fork()
if child == 0:
    sys.argv, own, pid, make, leave = ["program.py"], os.getpid(), os.getpid, os.open, os._exit
    flags = os.O_WRONLY | os.O_CREAT
    for limit, value in ((resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_AS, memory),
                         (resource.RLIMIT_FSIZE, size), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    runpy.run_path("program.py", run_name="__main__")
    if pid() == own:
        make(reached, flags)
    leave(0)

def children():
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if int(parent) == os.getpid():
            yield int(name)

end, code = time.monotonic() + seconds, None
while code is None and time.monotonic() < end:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
    else:
        time.sleep(0.002)
if code is None:
    os.kill(child, signal.SIGKILL)
while True:
    for left in children():
        os.kill(left, signal.SIGKILL)
    try:
        if os.waitpid(-1, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
    except ChildProcessError:
        break
sys.exit(124 if code in (None, -signal.SIGXCPU) else int(code != 0))
"""


@dataclass(frozen=True)
class Outcome:
    """`passed`: the program ran to its end. `reason`: passed, failed, timed out; `detail`: the end of its errors."""

    passed: bool
    reason: str
    detail: str = ""


@cache
def without_network() -> tuple[str, ...]:
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
    with tempfile.TemporaryDirectory(prefix="fastdllm-", ignore_cleanup_errors=True) as directory:
        Path(directory, "program.py").write_bytes(f"{program}\n".encode(errors="replace"))
        command = [*without_network(), sys.executable, "-I", "-c", SUPERVISOR, str(seconds), str(memory_bytes),
                   str(FILE_BYTES)]
        with Path(directory, "output").open("wb") as output, Path(directory, "errors").open("w+b") as errors:
            process = subprocess.Popen(command, cwd=directory, env={"PATH": os.defpath}, stdin=subprocess.PIPE,
                                       stdout=output, stderr=errors, start_new_session=True)
            try:
                process.communicate(nonce.encode(), timeout=seconds + GRACE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _kill_group(process)
            finished = Path(directory, nonce).exists()
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - OUTPUT_SHOWN))
            detail = errors.read().decode(errors="replace").strip()
    if process.returncode in (TIMED_OUT, -signal.SIGKILL):
        return Outcome(False, "timed out", f"{seconds} s")
    return Outcome(True, "passed") if process.returncode == 0 and finished else Outcome(False, "failed", detail)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
