"""A checkpoint, grids and records small enough to make a lot of: golden weights with a tokenizer of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.evaluation import evaluate, summary
from fastdllm.lab.records import journal
from fastdllm.lab.records.identity import CurrentFingerprints, identity
from fastdllm.lab.records.record import Code, Record
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


def synthetic(
    configuration: Configuration,
    current: CurrentFingerprints,
    correct: int = 3,
    sessions: int = 1,
    seconds: float = 2.0,
) -> Record:
    """A complete record, samples included, of a configuration that never ran; its identity is today's."""
    directory, parameters = configuration.directory, current.resolve(configuration.parameters)
    problems, dataset = current.problems(configuration.parameters)
    own = identity(current.payload(configuration.parameters))
    reuse = parameters.reuse.active
    run = journal.begin(directory, own, parameters, len(problems))
    for index, problem in enumerate(problems):
        run.add({"id": problem.id, "index": index, "subtask": "", "prompt_hash": "0", "output": "#### 1",
                 "extracted": {"strict": "1"}, "correct": {"strict": index < correct}, "tokens": 10 + index,
                 "nfe": {"prefill": 1, "full": 4, "small": 6, "commit": 1, "replay": 0},
                 "decisions": {"recompute": 80, "reuse": 40 if reuse else 0, "fallback": 0, "bypass": 0},
                 "finish": "stop", "reused_nothing": False, "seconds": 0.1, "session": sessions,
                 "elapsed": seconds * (index + 1) / len(problems)})
    record = summary.summarise(
        run,
        parameters,
        current.task(parameters),
        dataset,
        own,
        experiment=configuration.experiment,
        config=configuration.name,
        author="",
        checkpoint=current.checkpoint(parameters),
        code=Code(version="0", hash=current.code),
        environment=summary.environment(parameters),
        load_seconds=0.0,
        warmup_seconds=0.0,
        notes={},
    )
    return evaluate.finish(directory, run, record)
