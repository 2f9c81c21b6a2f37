"""Which files of the package are entered, in this process and in those that it starts: `start` in each of them.

A file counts as soon as one of its functions runs, unless that happens while a module of the package is imported.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ENTERED = "FASTDLLM_TEST_ENTERED"       # the file to which every process adds the files that it enters, a line each
PACKAGE = str(Path(__file__).parents[1] / "fastdllm")
FUNCTION = 0x2                          # CO_NEWLOCALS: neither a module nor a class body


def environment(directory: Path) -> dict[str, str]:
    """The variables of a process that is to be traced, with all that it starts."""
    hook = directory / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text("import trace_support\ntrace_support.start()\n", encoding="utf-8")
    tests = Path(__file__).parent
    return {"PYTHONPATH": os.pathsep.join(map(str, (hook, tests, tests.parent))), ENTERED: str(directory / "entered")}


def entered(directory: Path) -> set[str]:
    """The files that were entered, by their paths below fastdllm/."""
    return set((directory / "entered").read_text(encoding="utf-8").split())


def start() -> None:
    """Note from here on what this process enters."""
    seen: set[CodeType] = set()
    noted: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in seen:
            return
        own = code.co_filename.startswith(PACKAGE + os.sep)
        if own and code.co_flags & FUNCTION and code.co_filename not in noted:
            if _importing(frame):
                return
            noted.add(code.co_filename)
            with open(os.environ[ENTERED], "a", encoding="utf-8") as file:
                file.write(os.path.relpath(code.co_filename, PACKAGE) + "\n")
        seen.add(code)

    threading.settrace(note)        # it returns None: calls are noted, and neither lines nor returns
    sys.settrace(note)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module of the package that is not the program itself is being executed."""
    while frame is not None:
        if (frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(PACKAGE + os.sep)
                and frame.f_globals.get("__name__") != "__main__"):
            return True
        frame = frame.f_back
    return False
