"""A checkpoint, grids and records small enough to make a lot of: golden weights with a tokenizer of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from fastdllm.cli import app
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.evaluation import evaluate
from fastdllm.lab.records import journal, provenance
from fastdllm.lab.records.identity import CurrentFingerprints, identity
from fastdllm.lab.records.provenance import Code
from fastdllm.lab.records.record import Record, summarise
from fastdllm.tasks.arithmetic import generate
from fastdllm.train.tokenizer import save_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
DATE = "2026-11-21T03:00:00+00:00"       # of every record that is made here


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


def computing_notebook(path: Path) -> Path:
    """The configuration's notebook without its figures."""
    notebook = json.loads((ROOT / "notebooks" / "10_cell.ipynb").read_text())
    cells = {cell["metadata"].get("name"): cell for cell in notebook["cells"]}
    lines = [line for line in "".join(cells["run"]["source"]).splitlines(True)
             if not any(word in line for word in ("display", "fastdllm.report", "clear_output"))]
    notebook["cells"] = [cells["parameters"], cells["run"] | {"source": lines}]
    path.write_text(json.dumps(notebook))
    return path


def synthetic(configuration: Configuration, current: CurrentFingerprints, correct: int = 3, sessions: int = 1,
              seconds: float = 2.0) -> Record:
    """A complete record, samples included, of a configuration that never ran; its identity is today's."""
    problems, _ = current.problems(configuration.parameters)
    reuse = configuration.parameters.reuse.active
    rows = [{"id": problem.id, "output": "#### 1", "extracted": {"strict": "1"}, "correct": {"strict": index < correct},
             "tokens": 10 + index, "nfe": {"prefill": 1, "full": 4, "small": 6, "commit": 1, "replay": 0},
             "decisions": {"recompute": 80, "reuse": 40 if reuse else 0, "fallback": 0, "bypass": 0},
             "seconds": 0.1} for index, problem in enumerate(problems)]
    return write_record(configuration, current, rows, sessions, seconds)


def write_record(configuration: Configuration, current: CurrentFingerprints, rows: list[dict[str, Any]],
                 sessions: int = 1, seconds: float = 2.0) -> Record:
    """These samples and the record made of them, in the configuration's directory, as a run would leave them."""
    directory, parameters = configuration.directory, current.resolve(configuration.parameters)
    _, dataset = current.problems(configuration.parameters)
    own = identity(current.payload(configuration.parameters))
    run = journal.begin(directory, own, parameters, len(rows))
    for index, row in enumerate(rows):
        run.add({"index": index, "subtask": "", "prompt_hash": "0", "finish": "stop", "reused_nothing": False,
                 "session": sessions, "elapsed": seconds * (index + 1) / len(rows), **row})
    environment = provenance.environment(parameters).model_copy(update={"device_name": "cpu", "node": "node-a"})
    record = summarise(
        run, parameters, current.task(parameters), dataset, own, experiment=configuration.experiment,
        config=configuration.name, author="", checkpoint=current.checkpoint(parameters),
        code=Code(version="0", hash=current.code), environment=environment, load_seconds=0.0, warmup_seconds=0.0,
        notes={})
    return evaluate.finish(directory, run, record.model_copy(update={"date": DATE}))


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit status and output of `fastdllm ARGUMENTS`, run in this process. An error that the program would turn into
    one sentence on stderr stands at the end."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    error = done.exception if done.exception and not isinstance(done.exception, SystemExit) else ""
    return done.exit_code, f"{done.output}{error}"


def command(*arguments: object, code: int = 0) -> str:
    """What `fastdllm ARGUMENTS` prints; `code` is the exit status that it must have."""
    status, text = invoke(*arguments)
    assert status == code, text
    return text
