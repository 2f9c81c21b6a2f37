"""Which configurations run, which take over a record, which are left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.jobs import status
from fastdllm.lab.jobs.slurm import SlurmJob
from fastdllm.lab.jobs.status import ConfigurationState
from fastdllm.lab.records.identity import CurrentFingerprints


@dataclass
class RunPlan:
    """What `run` would do: configurations to run (with the reason), names that share a run, what is left alone."""

    run: list[tuple[Configuration, str, bool]] = field(default_factory=list)      # configuration, reason, forced
    share: list[tuple[Configuration, Configuration]] = field(default_factory=list)         # (from, to)
    busy: list[ConfigurationState] = field(default_factory=list)

    def text(self) -> str:
        """What `--dry-run` prints."""
        lines = [
            f"would run    {configuration.path} ({reason}) -> {configuration.directory}"
            for configuration, reason, _ in self.run
        ]
        lines += [f"would share  {to.path} <- {source.name} (the same computation)" for source, to in self.share]
        lines += [f"leaves alone {state.configuration.path} ({state.state}: {state.detail})" for state in self.busy]
        return "\n".join(lines) or "nothing to do: everything is complete"


def select(
    configurations: list[Configuration], task: str | None = None, config: Iterable[str] = ()
) -> list[Configuration]:
    """The configurations of a task and of some names. Raises ValueError for a name that the grid doesn't have."""
    if task is not None and task not in (known := sorted({configuration.task for configuration in configurations})):
        raise ValueError(f"--task {task!r}; allowed: {', '.join(known)}")
    names = list(dict.fromkeys(configuration.name for configuration in configurations))
    for name in config:
        if name not in names and name not in (configuration.path for configuration in configurations):
            raise ValueError(f"--config {name!r}; allowed: {', '.join(names)}")
    wanted = set(config)
    return [configuration for configuration in configurations if task in (None, configuration.task)
            and (not wanted or configuration.name in wanted or configuration.path in wanted)]


def plan(
    chosen: list[Configuration],
    every: list[Configuration],
    force: bool | Iterable[str] = False,
    current: CurrentFingerprints | None = None,
    queue: Mapping[str, SlurmJob] | None = None,
) -> RunPlan:
    """Decide for each computation whether it runs, is taken over from another name, or is left alone.

    `every` are all configurations of the grid: one that is complete serves the others that are the same computation.
    `queue` says which configurations wait or run in Slurm.
    """
    current = current or CurrentFingerprints()
    forced = {configuration.path for configuration in chosen if force is True
              or (not isinstance(force, bool) and {configuration.name, configuration.path} & set(force))}
    groups: dict[str, list[Configuration]] = {}
    for configuration in every:
        if not configuration.not_applicable:
            groups.setdefault(f"{configuration.directory.parent} {configuration.parameters.key()}", []).append(
                configuration
            )
    wanted, result = {configuration.path for configuration in chosen}, RunPlan()
    for members in groups.values():
        asked = [configuration for configuration in members if configuration.path in wanted]
        if not asked:
            continue
        looks = {
            configuration.path: status.state_of(configuration, current, (queue or {}).get(configuration.path))
            for configuration in members
        }
        if busy := [
            looks[configuration.path]
            for configuration in members
            if looks[configuration.path].state in ("running", "queued")
        ]:
            result.busy += busy
            continue
        force_this = any(configuration.path in forced for configuration in asked)
        missing = [configuration for configuration in asked if looks[configuration.path].state != "complete"]
        source = next(
            (configuration for configuration in members if looks[configuration.path].state == "complete"), None
        )
        if force_this or (missing and source is None):
            candidates = [configuration for configuration in asked if configuration.path in forced] or missing
            source = next(
                (configuration for configuration in candidates if looks[configuration.path].state == "partial"),
                candidates[0],
            )
            look = looks[source.path]
            reason = "forced" if force_this else f"{look.state}{': ' + look.detail if look.detail else ''}"
            result.run.append((source, reason, force_this))
            missing = [
                configuration
                for configuration in members
                if configuration is not source and (configuration in asked or follows(configuration, source))
            ]
        result.share += [
            (source, configuration) for configuration in missing if source is not None and configuration is not source
        ]
    return result


def follows(configuration: Configuration, source: Configuration) -> bool:
    """Whether a configuration's record is a copy of the source's."""
    try:
        return records.read(configuration.directory).shared_from == source.name
    except (FileNotFoundError, ValueError):
        return False
