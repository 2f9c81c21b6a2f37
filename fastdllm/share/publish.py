"""`fastdllm publish`: what of an experiment may be shown, and the copy of it that git keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdllm.lab.config.paths import executed
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.report import shipped
from fastdllm.report.audit.rules import audit, failing
from fastdllm.report.audit.sources import from_records
from fastdllm.share import bundle, inventory, redact
from fastdllm.share.bundle import Item
from fastdllm.stats import number_of


@dataclass(frozen=True)
class Publication:
    """What would be published, and what speaks against it. `limits` can't be overruled."""

    experiment: str
    target: Path
    items: tuple[Item, ...]
    problems: tuple[str, ...]
    limits: tuple[str, ...]

    def text(self) -> str:
        """One line for people."""
        total, packed = (sum(sizes) for sizes in zip(*((len(i.content), i.packed) for i in self.items), strict=True))
        return (f"{self.experiment}: {number_of(len(self.items), 'file')}, {total / 1e6:.2f} MB "
                f"(git would take {packed / 1e6:.2f} MB) -> {self.target}")


def prepare(experiment: str, folder: Path | None = None, current: CurrentFingerprints | None = None,
            compact: bool = False, texts: Sequence[str] = ()) -> Publication:
    """Everything but the writing. Raises ValueError if there is no such experiment, or nothing in it to publish."""
    folder = folder or executed()
    directory, current = folder / experiment, current or CurrentFingerprints()
    if experiment not in (known := inventory.names(folder)):
        raise ValueError(f"experiment {experiment!r}; allowed: {', '.join(known) or 'none: nothing has run yet'}")
    grid = inventory.grid_of(experiment)
    configurations, runs = inventory.configuration_states(directory, current, grid), inventory.notebook_runs(directory)
    shown = [configuration for configuration in configurations if configuration.state != "not applicable"]
    problems = [
        f"{configuration.configuration.path}: {configuration.state}"
        + (f" ({configuration.detail})" if configuration.detail else "")
        for configuration in shown
        if configuration.state != "complete"
    ]
    problems += [f"{run.name}: {run.problem}" for run in runs if run.problem]
    recorded = [configuration.record for configuration in shown if configuration.record is not None]
    if recorded:
        findings = audit(from_records(recorded))
        bad = failing(findings)
        problems += [f"audit, {finding.rule}: {finding.statement}" for finding in findings
                     if finding.level == "impossible" and bad & set(finding.rows)]
    redactor = redact.redactor(folder, [record.environment.node for record in recorded])
    items = bundle.items(directory, configurations, runs, redactor, compact, texts)
    if not items:
        raise ValueError(
            f"{directory}: nothing to publish; allowed: an experiment with a complete configuration or a notebook"
        )
    target = folder / shipped.PUBLISHED / experiment
    elsewhere = bundle.size(target.parent) - bundle.size(target)
    return Publication(experiment, target, tuple(items), tuple(problems), tuple(bundle.too_large(items, elsewhere)))


def run(experiment: str, anyway: bool = False, dry_run: bool = False, folder: Path | None = None,
        compact: bool = False, texts: Sequence[str] = ()) -> str:
    """Publish an experiment; returns what was done.

    Raises ValueError that lists incomplete, stale and audit-failing ones (unless `anyway`), and files over a limit.
    """
    publication = prepare(experiment, folder, compact=compact, texts=texts)
    against = [*publication.limits, *(() if anyway else publication.problems)]
    if against:
        more = "" if publication.limits else "; allowed: complete configurations that pass the audit, or --anyway"
        raise ValueError(f"{experiment} is not published:\n  " + "\n  ".join(against) + more)
    if not dry_run:
        bundle.write(publication.items, publication.target)
    overruled = [f"published anyway: {problem}" for problem in publication.problems]
    return "\n".join([*overruled, ("would publish " if dry_run else "published ") + publication.text()])
