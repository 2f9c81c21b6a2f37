"""What `evaluate` gets, frozen: a prepared run; and what it looks up first: data, checkpoint, code, identity.

`prepare` makes one of the flat parameters of a configuration's notebook.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.lab.config.grid import WHERE, Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.config.single import grid_of
from fastdllm.lab.records.external_code import ExternalCode
from fastdllm.lab.records.identity import CurrentFingerprints, identity, payload, policy_hash
from fastdllm.lab.records.provenance import Checkpoint, Dataset
from fastdllm.tasks import Problem, Task

if TYPE_CHECKING:
    from fastdllm.lab.instrument.generation_file import GenerationFile

NAMES = frozenset({*Parameters().flat(), *WHERE})     # the notebook's parameters that say what runs, and where


@dataclass(frozen=True)
class PreparedRun:
    """One run: a configuration, and how it is run this once.

    `force` starts over; the last good record stays until the new one is whole. `generation` is the user's own loop in
    the place of ours.
    """

    configuration: Configuration
    force: bool = False
    generation: GenerationFile | None = None

    @property
    def parameters(self) -> Parameters:
        """As they were given; `ResolvedRun` has them without "auto"."""
        return self.configuration.parameters

    @property
    def directory(self) -> Path:
        return self.configuration.directory


def prepare(flat: dict[str, Any]) -> PreparedRun:
    """The run of a notebook's parameters. A grid names configuration and directory; without one they follow from the
    parameters.
    """
    if not (flat["directory"] and flat["config"]):
        values = {name: value for name, value in flat.items() if name not in WHERE}
        [own] = grid_of(values, flat["experiment"]).configurations()
        flat = {**flat, **own.parameters.flat(), "config": flat["config"] or own.name,
                "directory": flat["directory"] or str(own.directory)}
    return PreparedRun(Configuration.of(flat), flat["force"])


@dataclass(frozen=True)
class ResolvedRun:
    """A prepared run and everything that its record is made from, as it is now: `identity` is the hash of it all."""

    prepared: PreparedRun
    parameters: Parameters
    task: Task
    problems: list[Problem]
    dataset: Dataset
    checkpoint: Checkpoint
    external: ExternalCode | None      # of a generation file
    policy: str | None                 # the hash of a policy's own file, or what stands for external code
    code: str
    identity: str


def resolve(run: PreparedRun) -> ResolvedRun:
    """Look everything up, before a model is loaded.

    Raises ValueError for parameters, data or a checkpoint that can't be had, and for reuse that can't act
    (docs/decoding.md; Parameters refuses the rest).
    """
    current, given = CurrentFingerprints(), run.parameters
    task = current.task(given)
    if given.reuse.active and not task.generative:
        raise ValueError(f"reuse.k={given.reuse.k} on {task.name}, which is scored by likelihood in one forward: "
                         "nothing to reuse; allowed: k=1, or a generative task")
    parameters, (problems, dataset) = current.resolve(given), current.problems(given)
    checkpoint = current.checkpoint(given)
    external = None
    if run.generation is not None:
        external = ExternalCode(file=str(run.generation.path), own_code=run.generation.own_code, parameters=given)
    policy = external.policy() if external else policy_hash(parameters.reuse)
    own = identity(payload(parameters, checkpoint, dataset, current.code, policy, current.torch))
    return ResolvedRun(run, parameters, task, problems, dataset, checkpoint, external, policy, current.code, own)
