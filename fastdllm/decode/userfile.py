"""A Python file that the user named. Loading it runs it, with the user's rights: only ever a path given by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


def load(path: str | Path, field: str, allowed: str = "a Python file") -> ModuleType:
    """Run the file as a module of its own; it may import modules that stand beside it.

    Raises ValueError, naming `field`, if it is no Python file.
    """
    path = Path(path).expanduser()
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ValueError(f"{field}: no such file; allowed: {allowed}")
    module = importlib.util.module_from_spec(spec)
    with importable(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules in `folder` can be imported, and are forgotten at the end: a file elsewhere may have others of the same
    names, and one that has changed is read anew."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = vars(sys.modules[name]).get("__file__")
            if file and Path(file).is_relative_to(folder):
                del sys.modules[name]
