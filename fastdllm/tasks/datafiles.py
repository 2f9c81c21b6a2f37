"""Where a benchmark's rows come from: local files, or the hub's data sets; and what is wrong if they don't."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdllm.tasks.base import Column, read_rows

Rows = list[dict[str, Any]]

GATED = {"Idavidrein/gpqa": "accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa with your account, "
                            "then set HF_TOKEN in the environment or log in with 'hf auth login'"}


def local_splits(data: Path, evaluated: str, examples: str | None, shots: int,
                 columns: Mapping[str, Column]) -> dict[str, Rows]:
    """The rows of every split that is needed, from a .jsonl file or a directory of them.

    A file holds the evaluated split. A directory holds one .jsonl file per split, named after it (a single
    file may have any name); `examples` is read only where worked examples are wanted.
    Raises ValueError naming the file, the line, and the keys that are missing or hold what they may not.
    """
    path = Path(data).expanduser()
    named = path / f"{evaluated}.jsonl"
    splits = {evaluated: read_rows(named if named.is_file() else path, columns)}
    if examples and examples != evaluated:
        wanted = path / f"{examples}.jsonl"
        if shots and not wanted.is_file():
            raise ValueError(f"shots={shots}: the worked examples come from {examples}.jsonl, which is not in {path}; "
                             f"allowed: data as a directory with {evaluated}.jsonl and {examples}.jsonl, or shots: 0")
        splits[examples] = read_rows(wanted, columns) if shots else []
    return splits


def hub_splits(path: str, subset: str | None, task: str) -> dict[str, Any]:
    """A data set of the hub, from the local cache where it is there.

    Raises ValueError that says what to do: fetch it, use local files, or accept the terms of a gated one.
    """
    import datasets
    from datasets.exceptions import DatasetsError
    try:
        return {str(split): rows for split, rows in datasets.load_dataset(path, subset).items()}
    except (DatasetsError, OSError, ValueError) as error:
        way = f"{GATED[path]}; " if path in GATED else ""
        raise ValueError(f"task={task}: the data set {path} ({subset or 'default'}) is neither in the local cache nor "
                         f"to be had from the hub ({type(error).__name__}: {str(error).splitlines()[0]}); allowed: "
                         f"{way}fetch it first on a machine with network, or give local files as 'data:'") from error
