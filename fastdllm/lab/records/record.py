"""The record of a run: its fields, how they follow from the samples, and `summary.json`, whole or absent.

Scores come from the samples of the run that wrote them and from nothing else; nothing is ever found by listing a
directory.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fastdllm.lab import atomic
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records.journal import Journal
from fastdllm.lab.records.provenance import Checkpoint, Code, Dataset, Environment
from fastdllm.settings import Reuse, Settings
from fastdllm.stats import span
from fastdllm.tasks import Task

SCHEMA = 1
STATED_NUMBERS = ("tokens", "seconds", "tokens_per_second", "n")      # what an imported record's source may leave open
SUMMARY, SAMPLES, TRACE, LOG = "summary.json", "samples.jsonl", "trace.parquet", "run.log"
FINISHES = ("stop", "length", "stop_string")


def forwards(nfe: Mapping[str, int]) -> int:
    """NFE: the forwards that ran, of counts by kind. A replayed step runs none."""
    return sum(count for kind, count in nfe.items() if kind != "replay")


class DraftTotal(Settings):
    """Policy `verify`: drafts of one depth and kind (decode/verify.py) that were run, and those that were right."""

    depth: int
    kind: str
    offered: int
    accepted: int


class Accuracy(Settings):
    """Share of correct answers under one rule, with a 95 % Wilson interval."""

    correct: int
    n: int
    value: float
    low: float
    high: float


class Record(Settings):
    """`summary.json`, schema 1. `shared_from` names the configuration that ran, where this one is the same run."""

    schema_: int = Field(default=SCHEMA, alias="schema", ge=1, le=SCHEMA)
    identity: str
    checksum: str = ""
    status: Literal["complete", "imported"] = "complete"
    experiment: str
    task: str
    config: str
    limit: int | None
    date: str
    author: str = ""
    shared_from: str | None = None
    redacted: bool = False
    source: str | None = Field(default=None, description="imported records: where they came from")
    unknown: tuple[str, ...] = Field(default=(), description="imported records: the fields and parameters that the "
                                                             "source does not state; they are not written")
    parameters: Parameters
    checkpoint: Checkpoint
    dataset: Dataset
    code: Code
    environment: Environment
    seconds: float
    load_seconds: float
    warmup_seconds: float
    tokens: int
    tokens_per_second: float
    nfe: dict[str, int]
    decisions: dict[str, int]
    n: int
    metric: str
    accuracy: dict[str, Accuracy]
    subtasks: dict[str, int]
    empty: int
    finish: dict[str, int]
    reused_nothing: int
    forwards_run: int | None = Field(default=None, description="policy verify: passes through the network that carried "
                                                               "a row, summed; `nfe` is what k=1 needs")
    drafts: tuple[DraftTotal, ...] = Field(default=(), description="policy verify: drafts by depth and kind")
    executor: str = Field(default="", description="what computed the forwards: fast, eager, or the checkpoint's own "
                                                 "code; '' in older records")
    sessions: int = Field(default=1, description="1 + the number of times the run was interrupted and resumed")
    shards: int = Field(default=1, description="parts that were solved by a process each; seconds is their sum")
    samples_sha256: str | None = None
    notes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _without_unknown(cls, values: Any) -> Any:
        """In memory an unknown number is 0, so that a record has one type; nothing shows it (`row`, `stated`)."""
        if not isinstance(values, dict):
            return values
        return {**{name: 0 for name in values.get("unknown", ()) if name in STATED_NUMBERS}, **values}

    @property
    def day(self) -> str:
        """The date without the time: 2026-01-18, also of a log's stamp like 20260118_104512."""
        return re.sub(r"^(\d{4})(\d\d)(\d\d)_\d+$", r"\1-\2-\3", self.date).partition("T")[0]

    def content(self) -> dict[str, Any]:
        """What the checksum covers, as plain JSON values; unknown fields and parameters are left out."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"checksum"})
        if self.forwards_run is None:
            del content["forwards_run"], content["drafts"]
        for name in ("unknown", "executor"):
            if not content[name]:
                del content[name]
        for part in (content, content["parameters"], *(content["parameters"][name] for name in ("decoding", "reuse"))):
            for name in self.unknown:
                part.pop(name, None)
        return content

    def stated(self) -> dict[str, Any]:
        """The parameters by their flat names, without those that an imported record's source does not state."""
        return {name: value for name, value in self.parameters.flat().items() if name not in self.unknown}

    def sealed(self) -> Record:
        """The same record with its checksum."""
        return self.model_copy(update={"checksum": atomic.sha256(atomic.canonical(self.content()))})

    @property
    def forwards(self) -> int:
        """NFE of all samples."""
        return forwards(self.nfe)

    @property
    def headline(self) -> Accuracy:
        """The accuracy under the task's headline rule."""
        return self.accuracy[self.metric]

    def score(self) -> str:
        """The headline accuracy in words, with its 95 % interval and the rule that it is by."""
        score = self.headline
        return (f"accuracy {100 * score.value:.1f} % of {score.n} ({span(100 * score.low, 100 * score.high)}), "
                f"rule {self.metric}")


# -- from the samples

def summarise(run: Journal, parameters: Parameters, task: Task, dataset: Dataset, identity: str, *, experiment: str,
              config: str, author: str, checkpoint: Checkpoint, code: Code, environment: Environment,
              load_seconds: float, warmup_seconds: float, notes: dict[str, Any], shards: int = 1) -> Record:
    """The record of a finished run.

    Raises ValueError if problems are missing, or if k > 1 and no sample reused anything.
    """
    samples = run.samples()
    if len(samples) != dataset.n:
        raise ValueError(f"{run.path}: {len(samples)} samples; allowed: {dataset.n}, one for each problem")
    idle = sum(sample["reused_nothing"] for sample in samples)
    if parameters.reuse.active and idle == len(samples):
        raise ValueError(f"reuse.k={parameters.reuse.k} reused nothing in any of {len(samples)} problems; allowed: "
                         "a configuration that reuses (a higher threshold gives more steps, see known issues)")
    rules = sorted({rule for sample in samples for rule in sample["correct"]})
    scores = {rule: verdicts(samples, rule) for rule in rules}
    empty = [sample for sample in samples if not sample["output"].strip()]
    if empty:
        notes = {**notes, "empty_by": dict(Counter(sample.get("stop_string") or sample["finish"] for sample in empty))}
    tokens = sum(sample["tokens"] for sample in samples)
    return Record(
        schema=1, identity=identity, experiment=experiment, task=task.name, config=config, limit=parameters.limit,
        date=datetime.now(UTC).isoformat(timespec="seconds"), author=author, parameters=parameters,
        checkpoint=checkpoint, dataset=dataset, code=code, environment=environment, seconds=run.seconds,
        load_seconds=load_seconds, warmup_seconds=warmup_seconds, tokens=tokens,
        tokens_per_second=tokens / run.seconds if run.seconds else 0.0, nfe=total(samples, "nfe"),
        decisions=total(samples, "decisions"), n=len(samples), metric=task.metric,
        accuracy={rule: accuracy(sum(correct), len(correct)) for rule, correct in scores.items()},
        subtasks=dict(Counter(sample["subtask"] for sample in samples if sample["subtask"])),
        empty=len(empty),
        finish={**dict.fromkeys(FINISHES, 0), **Counter(sample["finish"] for sample in samples)},
        reused_nothing=idle if parameters.reuse.active else 0,
        forwards_run=forwards_run(samples) if parameters.reuse.drafts else None, drafts=drafts(samples),
        executor="+".join(sorted({sample.get("executor", "") for sample in samples})),
        sessions=max(sample["session"] for sample in samples), shards=shards, notes=notes)


def total(samples: list[dict[str, Any]], name: str) -> dict[str, int]:
    """Sum of a dictionary of counts over all samples."""
    counts: Counter[str] = Counter()
    for sample in samples:
        counts.update(sample[name])
    return dict(counts)


def forwards_run(samples: list[dict[str, Any]]) -> int:
    """Passes through the network that carried a sample, summed: as many as its NFE where nothing was drafted."""
    return sum(sample.get("forwards_run") or sum(sample["nfe"].values()) for sample in samples)


def drafts(samples: list[dict[str, Any]]) -> tuple[DraftTotal, ...]:
    """Drafts of all samples by depth and kind."""
    totals: dict[tuple[int, str], list[int]] = {}
    for draft in (draft for sample in samples for draft in sample.get("drafts", ())):
        counts = totals.setdefault((draft["depth"], draft["kind"]), [0, 0])
        counts[0] += draft["offered"]
        counts[1] += draft["accepted"]
    return tuple(DraftTotal(depth=depth, kind=kind, offered=offered, accepted=accepted)
                 for (depth, kind), (offered, accepted) in sorted(totals.items()))


def verdicts(samples: list[dict[str, Any]], rule: str) -> list[bool]:
    """What a rule's rate is over: problems, or the parts of problems (IFEval's instructions)."""
    return [verdict for sample in samples if rule in sample["correct"]
            for verdict in sample.get("parts", {}).get(rule) or [sample["correct"][rule]]]


def accuracy(correct: int, n: int) -> Accuracy:
    """Share with a 95 % Wilson interval."""
    from fastdllm import stats  # a second of imports: only a run that is finished needs it
    low, high = stats.wilson(correct, n)
    return Accuracy(correct=correct, n=n, value=correct / n, low=low, high=high)


# -- on disk

def write(directory: Path, record: Record) -> Record:
    """Write `summary.json` atomically, with its checksum; returns what was written."""
    record = record.sealed()
    content = {**record.content(), "checksum": record.checksum}
    atomic.write(directory / SUMMARY, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return record


def read(directory: Path) -> Record:
    """The record of a directory (or of a summary.json).

    Raises FileNotFoundError if there is none, ValueError if it is damaged or was edited by hand.
    """
    path = directory if directory.suffix == ".json" else directory / SUMMARY
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a record ({error}); allowed: a summary.json that a run wrote") from error
    if not isinstance(values, dict) or "schema" not in values or "checksum" not in values:
        raise ValueError(f"{path}: not a record of this suite (no schema or checksum); "
                         "allowed: a summary.json that a run wrote, older results through import")
    if values["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema={values['schema']!r}; allowed: {SCHEMA}")
    checksum = values.pop("checksum")
    if checksum != atomic.sha256(atomic.canonical(values)):
        raise ValueError(f"{path}: the checksum does not fit the content: it was changed after the run wrote it; "
                         "allowed: records as they were written")
    return Record(**values, checksum=checksum)


def share(source: Path, target: Path, config: str, reuse: Reuse) -> Record:
    """Write the record of `source` under another configuration's name and settings: the two are the same run."""
    record = read(source)
    return write(target, record.model_copy(update={
        "config": config, "shared_from": record.shared_from or record.config,
        "parameters": record.parameters.model_copy(update={"reuse": reuse})}))
