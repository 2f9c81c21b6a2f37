"""The record of a run: `summary.json` and `samples.jsonl`, whole or absent, with a checksum.

Scores come from the samples of the run that wrote them and from nothing else; nothing is ever found by
listing a directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from fastdllm.lab import atomic
from fastdllm.lab.config.parameters import Parameters
from fastdllm.settings import Reuse, Settings

if TYPE_CHECKING:
    import pandas as pd  # half a second: imported where a table is made, so that status is quick

SCHEMA = 1
STATED_NUMBERS = ("tokens", "seconds", "tokens_per_second", "n")      # what an imported record's source may leave open
SUMMARY, SAMPLES, TRACE, LOG = "summary.json", "samples.jsonl", "trace.parquet", "run.log"


def forwards(nfe: Mapping[str, int]) -> int:
    """NFE: the forwards that ran, of counts by kind. A replayed step runs none."""
    return sum(count for kind, count in nfe.items() if kind != "replay")


class DraftTotal(Settings):
    """Policy `verify`: drafts of one depth and kind (decode/verify.py) that were run, and those that were right."""

    depth: int
    kind: str
    offered: int
    accepted: int


class Checkpoint(Settings):
    """The weights by name and by content."""

    name: str
    fingerprint: str


class Dataset(Settings):
    """The problems by name and by content, and how many."""

    name: str
    fingerprint: str
    n: int


class Code(Settings):
    """`hash`: what settings, model, decode and tasks do; `policy`: a policy's own file, or code that is not ours.

    Version and commit are for people.
    """

    version: str
    commit: str | None = None
    dirty: bool | None = None
    hash: str
    policy: str | None = None


class Environment(Settings):
    """Where it ran. No variables of the environment ever stand here."""

    python: str
    torch: str
    transformers: str
    platform: str
    device_name: str
    node: str
    slurm_job: str | None = None


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
    executor: str = Field(default="", description="how the forwards were computed: fast, eager; '' in older records")
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
        return (f"accuracy {100 * score.value:.1f} % of {score.n} [{100 * score.low:.1f}, {100 * score.high:.1f}], "
                f"rule {self.metric}")


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


def samples_path(directory: Path) -> Path:
    """Where the samples of a record lie; a shared record has none of its own."""
    record = read(directory)
    home = directory if record.shared_from is None else directory.parent / record.shared_from
    return home / SAMPLES


def samples(directory: Path) -> pd.DataFrame:
    """The samples of a complete record, one row per problem, in the task's order.

    Raises ValueError if they are not the ones that the record was made from.
    """
    record, path = read(directory), samples_path(directory)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no samples are kept here (published records leave them out)")
    if record.samples_sha256 is not None and atomic.file_sha256(path) != record.samples_sha256:
        raise ValueError(f"{path}: these are not the samples that {SUMMARY} was made from; "
                         "allowed: records as they were written")
    import pandas as pd
    return pd.DataFrame(atomic.json_lines(path))


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per configuration, flat columns: what tables and plots start from."""
    import pandas as pd
    return pd.DataFrame([row(record) for record in records])


def row(record: Record) -> dict[str, Any]:
    """One record as flat columns. `layers` is text; `nfe` counts all forwards; `tokens_per_forward`
    divides by those that ran, which is fewer with policy verify (`forwards_run`, `acceptance`).

    What an imported record's source does not state is NaN (a number) or None.
    """
    parameters, reuse, headline = record.parameters, record.parameters.reuse, record.headline
    run = record.forwards if record.forwards_run is None else record.forwards_run
    offered = sum(draft.offered for draft in record.drafts)
    accepted = sum(draft.accepted for draft in record.drafts)
    flat = {
        "experiment": record.experiment, "model": record.checkpoint.name, "task": record.task, "config": record.config,
        "status": record.status,
        "shared_from": record.shared_from, "k": reuse.k, "layers": layers_text(record),
        "policy": Path(reuse.policy).stem, "revision": parameters.revision, "engine": parameters.engine,
        "threshold": parameters.decoding.threshold, "batch_size": parameters.batch_size,
        "small_block": parameters.decoding.small_block, "block_cache": parameters.decoding.block_cache,
        "dtype": parameters.dtype, "device": parameters.device, "seed": parameters.seed, "repeat": parameters.repeat,
        "shards": record.shards,
        "limit": record.limit, "n": record.n, "metric": record.metric, "accuracy": headline.value,
        "low": headline.low, "high": headline.high, "correct": headline.correct, "empty": record.empty,
        "tokens": record.tokens, "seconds": record.seconds, "tokens_per_second": record.tokens_per_second,
        **{f"nfe_{kind}": record.nfe.get(kind, 0) for kind in ("prefill", "full", "small", "commit", "replay")},
        "nfe": record.forwards, "forwards_run": run, "tokens_per_forward": record.tokens / (run or float("nan")),
        "drafts_offered": offered, "drafts_accepted": accepted, "acceptance": accepted / (offered or float("nan")),
        **{kind: record.decisions.get(kind, 0) for kind in ("recompute", "reuse", "fallback", "bypass")},
        "reused_nothing": record.reused_nothing, "node": record.environment.node,
        "slurm_job": record.environment.slurm_job, "device_name": record.environment.device_name,
        "executor": record.executor,
        "load_seconds": record.load_seconds, "date": record.date, "identity": record.identity,
    }
    return flat | {name: float("nan") if isinstance(flat[name], (int, float)) else None
                   for name in record.unknown if name in flat}


def layers_text(record: Record) -> str:
    """The reused layers as text; for k=1 the name that the configuration carries (k1_middle -> middle), or ""."""
    layers = record.parameters.reuse.layers
    if layers is None:
        return ""
    return layers if isinstance(layers, str) else "+".join(map(str, layers))


def accuracy(correct: int, n: int) -> Accuracy:
    """Share with a 95 % Wilson interval."""
    from fastdllm import stats  # a second of imports: only a run that is finished needs it
    low, high = stats.wilson(correct, n)
    return Accuracy(correct=correct, n=n, value=correct / n, low=low, high=high)
