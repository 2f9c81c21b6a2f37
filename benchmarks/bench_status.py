"""Scale: `grid status` over 1000 configurations with synthetic records, as a command: seconds from start to exit.

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
from fastdllm.lab.records.identity import CurrentFingerprints, identity

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from lab_support import synthetic


def grid_file(directory: Path, configurations: int) -> Path:
    """A params file of so many configurations that are all different computations."""
    path = directory / "scale.yml"
    path.write_text(
        yaml.safe_dump(
            {
                "experiment": "scale",
                "model": "tests/golden",
                "output": str(directory / "executed"),
                "limit": 20,
                "axes": {"k": [2], "layers": ["first", "middle"], "repeat": list(range(-(-configurations // 2)))},
            }
        ),
        encoding="utf-8",
    )
    return path


def fill(path: Path) -> int:
    """A complete record for each: one is made from samples, the others are its copies under their own identity."""
    current, configurations = CurrentFingerprints(), gridfile.load(path).configurations()
    first = synthetic(configurations[0], current)
    text = (configurations[0].directory / records.SAMPLES).read_bytes()
    for configuration in configurations[1:]:
        own = identity(current.payload(configuration.parameters))
        atomic.write(configuration.directory / records.SAMPLES, text)
        records.write(configuration.directory, first.model_copy(update={
            "config": configuration.name, "identity": own, "parameters": current.resolve(configuration.parameters)}))
        assert not journal.path_of(configuration.directory, own).exists()
    return len(configurations)


def main() -> None:
    """Print the seconds of `grid status`, the best of three."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as directory:
        path = grid_file(Path(directory), count)
        configurations, seconds = fill(path), []
        for _ in range(3):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "fastdllm", "grid", "status", str(path)], check=True,
                                  capture_output=True, text=True)
            seconds.append(time.perf_counter() - began)
        print(done.stdout.splitlines()[-2])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"grid status over {configurations} complete configurations: {min(seconds):.2f} s (target 2 s), "
              f"{(used.ru_utime + used.ru_stime) / 3:.2f} s of processor time")


if __name__ == "__main__":
    main()
