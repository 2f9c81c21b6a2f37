"""Scale: `grid status` over 1000 cells with synthetic records, as a command: seconds from start to exit.

    python -m benchmarks.bench_status [CELLS]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from fastdllm.lab import atomic, records
from fastdllm.lab.config import grid_file as gridfile
from fastdllm.lab.records import journal
from fastdllm.lab.records.identity import Today, identity

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from lab_support import synthetic


def grid_file(directory: Path, cells: int) -> Path:
    """A params file of so many cells that are all different computations."""
    path = directory / "scale.yml"
    path.write_text(yaml.safe_dump({
        "experiment": "scale", "model": "tests/golden", "output": str(directory / "executed"), "limit": 20,
        "axes": {"k": [2], "layers": ["first", "middle"], "repeat": list(range(-(-cells // 2)))}}), encoding="utf-8")
    return path


def fill(path: Path) -> int:
    """A complete record for every cell: one is made from samples, the others are the same under their own identity."""
    today, cells = Today(), gridfile.load(path).cells()
    first = synthetic(cells[0], today)
    text = (cells[0].directory / records.SAMPLES).read_bytes()
    for cell in cells[1:]:
        own = identity(today.payload(cell.parameters))
        atomic.write(cell.directory / records.SAMPLES, text)
        records.write(cell.directory, first.model_copy(update={
            "config": cell.name, "identity": own, "parameters": today.resolve(cell.parameters)}))
        assert not journal.path_of(cell.directory, own).exists()
    return len(cells)


def main() -> None:
    """Print the seconds of `grid status`, the best of three."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as directory:
        path = grid_file(Path(directory), count)
        cells, seconds = fill(path), []
        for _ in range(3):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "fastdllm", "grid", "status", str(path)], check=True,
                                  capture_output=True, text=True)
            seconds.append(time.perf_counter() - began)
        print(done.stdout.splitlines()[-2])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"grid status over {cells} complete cells: {min(seconds):.2f} s (target 2 s), "
              f"{(used.ru_utime + used.ru_stime) / 3:.2f} s of processor time")


if __name__ == "__main__":
    main()
