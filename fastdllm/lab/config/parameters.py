"""Everything that one run needs to know, and what a grid file may say besides."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fastdllm.errors import SettingsError, did_you_mean, message
from fastdllm.lab.config.yaml_file import set_path
from fastdllm.model.files import embedded
from fastdllm.settings import Decoding, Execution, ExecutorName, Reuse, Settings
from fastdllm.tasks.base import TaskOptions

SECTIONS: dict[str, type[Settings]] = {"decoding": Decoding, "reuse": Reuse}
SECTION = {name: section for section, settings in SECTIONS.items() for name in settings.model_fields}
FAST_POLICIES = ("output", "residual", "replay", "verify")      # those that the fast executor knows, decode/fast.py
OF_TASK = ("max_new_tokens", "stop_strings")      # where they are not given, the task has its own


def path_of(name: str) -> tuple[str, ...]:
    """Where a parameter stands in a configuration: `k` at ("reuse", "k"), `task` at ("task",)."""
    return (SECTION[name], name) if name in SECTION else (name,)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Flat parameters in the shape that a params file has; what the task decides and is None is left out."""
    values: dict[str, Any] = {}
    for name, value in flat.items():
        if value is not None or name not in OF_TASK:
            set_path(values, path_of(name), value)
    return values


def _of_tasks(name: str) -> str | None:
    return TaskOptions.model_fields[name].description


class RunFields(Settings):
    """What a run needs besides its sections `decoding` and `reuse`: common to one run and to a grid of them."""

    model: str = Field(default="tiny", min_length=1,
                       description=f"{', '.join(embedded())}, a checkpoint directory, or a hub id")
    model_revision: str | None = None
    engine: Literal["diffusion", "autoregressive"] = "diffusion"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = Field(default=32, ge=1, description="rows that are denoised together, at least 1")
    task: str = "arithmetic"
    limit: int | None = Field(default=None, ge=1, description="problems per subtask, at least 1; none: all")
    prompt: str = Field(default="own", pattern="^(own|boxed)$", description=_of_tasks("prompt"))
    shots: int | None = Field(default=None, ge=0, description=_of_tasks("shots"))
    multiturn: bool = Field(default=True, description=_of_tasks("multiturn"))
    allow_code_execution: bool = Field(default=False, description=_of_tasks("allow_code_execution"))
    revision: str = Field(default="fixed", description="of the historical code, as in fastdllm.decode.revisions")
    executor: ExecutorName = Field(
        default="auto", description="auto: fast wherever it can do what is asked; a record names the one that ran")
    seed: int = Field(default=0, ge=0, description="a whole number from 0 up")
    repeat: int = Field(default=0, ge=0, description="0, 1, 2 ...: the same computation again, to measure its noise")


class Parameters(RunFields):
    """One run, resolved or not: "auto" is still allowed here, and the task's own `max_new_tokens` may be missing."""

    data: str | None = Field(default=None, description="a local data file of the task")
    decoding: Decoding = Decoding()
    reuse: Reuse = Reuse()

    @model_validator(mode="after")
    def _reuse_can_act(self) -> Parameters:
        self.reuse.check(self.decoding)
        if self.reuse.active and self.engine == "autoregressive":
            raise ValueError(f"reuse.k={self.reuse.k} with engine='autoregressive' reuses nothing; "
                             "allowed: k=1, or engine='diffusion'")
        if self.executor == "fast" and self.decoding.temperature > 0:
            raise ValueError(f"executor='fast' with decoding.temperature={self.decoding.temperature} (a generator for "
                             "each row); allowed: temperature 0, or executor='eager'")
        if self.executor == "fast" and self.reuse.active and self.reuse.policy not in FAST_POLICIES:
            raise ValueError(f"executor='fast' with reuse.policy={self.reuse.policy!r}, which decides inside the "
                             f"layers; allowed: {', '.join(FAST_POLICIES)}, or executor='eager'")
        return self

    @classmethod
    def of(cls, **flat: Any) -> Parameters:
        """From flat values, as a notebook's parameters cell holds them; unknown names are refused.

        None means what it means in a params file: of `limit` all problems, of `max_new_tokens` and `stop_strings` the
        task's own, of the others what their description says. [] is an empty list: no stop strings, no stop ids.
        """
        try:
            return cls(**nested(flat))
        except ValueError as error:
            raise ValueError(message(error)) from error

    def flat(self) -> dict[str, Any]:
        """The values a notebook's parameters cell takes: the inverse of `of`."""
        dumped = self.model_dump(mode="json")
        flat = {name: value for name, value in dumped.items() if name not in SECTIONS}
        flat |= {name: dumped[section][name] for name, section in SECTION.items()}
        flat |= {name: None for name in OF_TASK if name not in self.given}
        layers = flat["layers"]
        flat["layers"] = ",".join(map(str, layers)) if isinstance(layers, list) else layers
        return flat

    @property
    def given(self) -> list[str]:
        """Which of `OF_TASK` the run has values of its own for; an empty list of stop strings is one."""
        return [name for name in OF_TASK if name in self.decoding.model_fields_set]

    @property
    def execution(self) -> Execution:
        """How the run is executed: as many rows at once as it says, its seed and executor, one thread."""
        return Execution(seed=self.seed, batch_size=self.batch_size, executor=self.executor)

    def key(self) -> str:
        """Two runs with the same key are the same computation: without reuse, what would be reused is no matter."""
        reuse = self.reuse if self.reuse.active else Reuse()
        return f"{self.given} {self.model_copy(update={'reuse': reuse}).model_dump_json()}"


class Criteria(Settings):
    """The success criterion of a hypothesis: more than `speedup` at less than `points_lost`, and what rejects it."""

    speedup: float = Field(default=1.2, gt=0, description="tokens/s against k=1 that counts as success")
    points_lost: float = Field(default=5.0, ge=0, description="accuracy points lost against k=1 that are acceptable")
    negligible_speedup: float = Field(default=1.05, gt=0, description="a speed-up below this rejects")
    catastrophic_loss: float = Field(default=20.0, ge=0, description="a loss above this many points rejects")


class RecordOptions(Settings):
    """What a run keeps besides its samples."""

    trace: int = Field(default=0, ge=0, description="so many problems are decoded again with a trace, untimed")
    token_ids: bool = Field(default=True, description="keep the token ids of every output")


# Fields of `Slurm`: in words of their own in jobs/job.sh.j2, and what a job that computes nothing does without.
WORDED = ("profile", "time", "cpus", "throttle", "requeue", "signal_seconds", "setup")
OF_GPU_NODES = ("gres", "constraint")


class Slurm(Settings):
    """How a grid is submitted. A profile (params/slurm/NAME.yml) holds the same keys; the grid's own win.

    A field is an option of sbatch by its name (`mail_user` is --mail-user, but `memory` is --mem; a switch that is on
    is an option without a value), if it isn't one of `WORDED`.
    """

    profile: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    time: str = Field(default="04:00:00", pattern=r"^(\d+-)?\d+(:\d\d){0,2}$",
                      description="minutes, H:MM:SS or D-HH:MM:SS")
    memory: str | None = Field(default=None, pattern=r"^\d+[KMGT]?$", description="like 32G")
    cpus: int = Field(default=2, ge=1, description="CPU cores per task")
    throttle: int = Field(default=4, ge=1, description="array tasks that run at once")
    requeue: bool = True
    signal_seconds: int = Field(
        default=120, ge=1, description="so long before the time limit a configuration is told to stop"
    )
    setup: tuple[str, ...] = Field(default=(), description="shell lines run before the configuration")
    mail_user: str | None = None

    def options(self) -> list[str]:
        """What is handed to sbatch as it is: `["partition=gpu", "mem=32G"]`."""
        given = {"mem" if name == "memory" else name.replace("_", "-"): value
                 for name, value in self if name not in WORDED and value is not None and value is not False}
        return [name if value is True else f"{name}={value}" for name, value in given.items()]

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, time: Any) -> Any:
        return str(time) if type(time) is int else time


def check(name: str, value: Any) -> None:
    """Check one value by itself, whatever it would need besides. Raises ValueError: `name=value; allowed: ...`."""
    model = SECTIONS[SECTION[name]] if name in SECTION else Parameters
    try:
        model(**{name: value})
    except SettingsError as error:
        for key, text in error.problems:
            if key:
                raise ValueError(text) from error


def check_revision(revision: str) -> None:
    """Raises ValueError for a revision of the historical code that there is none of: `revision=name; allowed: ...`."""
    from fastdllm.decode.revisions import REVISIONS, get
    name = revision.partition("+")[0]
    if name not in REVISIONS:
        raise ValueError(f"revision={name!r}; {did_you_mean(name, REVISIONS)}allowed: {', '.join(REVISIONS)}")
    get(revision)
