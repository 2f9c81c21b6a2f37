"""The API pages, from docstrings: python -m tools.api_pages build/api"""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

import fastdllm


def modules() -> list[str]:
    """The rooms (pdoc finds what lies in them) without the commands, whose reference is --help."""
    rooms = [f"fastdllm.{room.name}" for room in pkgutil.iter_modules(fastdllm.__path__)]
    return ["fastdllm", *(room for room in rooms if room not in ("fastdllm.__main__", "fastdllm.cli"))]


def write(directory: Path) -> Path:
    """Render one page a module; returns the page to open."""
    import pdoc
    for name in fastdllm.__all__:       # pdoc looks into the module's dictionary, where lazy names are not yet
        setattr(fastdllm, name, getattr(fastdllm, name))
    pdoc.pdoc(*modules(), output_directory=directory)
    return directory / "fastdllm.html"


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
