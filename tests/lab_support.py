"""A checkpoint and grids small enough to run a lot: the golden weights with a tokenizer of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from fastdllm.tasks.arithmetic import generate
from fastdllm.train.tokenizer import save_tokenizer, train_tokenizer

GOLDEN = Path(__file__).parent / "golden"


def checkpoint(directory: Path) -> Path:
    """The golden network (28 layers, random weights) with a tokenizer trained on the task."""
    directory.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, directory / name)
    texts = [f"{problem.question}\n{problem.answer}" for problem in generate("train", 200, 0)]
    save_tokenizer(train_tokenizer(texts), directory)
    return directory


def params(path: Path, model: Path, **changes: object) -> Path:
    """A params file: k = 1, 2 with `middle` on four problems, answers cut at 32 tokens."""
    values: dict[str, object] = {
        "experiment": path.stem, "model": str(model), "output": str(path.parent / "executed"), "limit": 4,
        "batch_size": 2, "decoding": {"threshold": 0.9, "max_new_tokens": 32},
        "axes": {"k": [1, 2], "layers": ["first", "middle"]}, "jobs": 1}
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False), encoding="utf-8")
    return path
