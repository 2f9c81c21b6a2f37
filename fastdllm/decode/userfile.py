"""A Python file that the user named. Loading it runs it, with the user's rights: only ever a path given by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(path: str | Path, field: str, allowed: str = "a Python file") -> ModuleType:
    """Run the file as a module of its own. Raises ValueError, naming `field`, if it is no Python file."""
    path = Path(path).expanduser()
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ValueError(f"{field}: no such file; allowed: {allowed}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
