"""From samples to a record: sums, scores with intervals, and where it ran."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records.identity import PACKAGE
from fastdllm.lab.records.journal import Journal
from fastdllm.lab.records.record import Checkpoint, Code, Dataset, DraftTotal, Environment, Record, accuracy
from fastdllm.tasks import Task
from fastdllm.version import __version__

FINISHES = ("stop", "length", "stop_string")


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


def code(tree: str, policy: str | None) -> Code:
    """The code of this run; commit and dirty flag where the package lies in a git checkout."""
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=20)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", PACKAGE.name)
    return Code(version=__version__, commit=git("rev-parse", "HEAD"), dirty=None if changed is None else bool(changed),
                hash=tree, policy=policy)


def node() -> str:
    """The name of this machine, as Slurm or it itself has it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def environment(parameters: Parameters, nodes: tuple[str, ...] = ()) -> Environment:
    """Versions, device and node (all of them, where shards ran on several `nodes`). Never the variables of the
    environment: they may hold secrets.
    """
    return Environment(python=sys.version.split()[0], torch=version("torch"), transformers=version("transformers"),
                       platform=platform.platform(), device_name=device_name(parameters.device),
                       node=", ".join(sorted({node(), *nodes} - {""})) if len(nodes) > 1 else node(),
                       slurm_job=slurm_job())


def device_name(device: str) -> str:
    """The GPU's or the processor's name."""
    if device == "cuda":
        import torch
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")
    except OSError:
        return platform.processor() or "cpu"


def peak_memory(device: str) -> dict[str, Any]:
    """The most memory this process has held so far: on the GPU what torch allocated, else resident memory."""
    if device == "cuda":
        import torch
        return {"peak_memory_bytes": torch.cuda.max_memory_allocated(), "peak_memory_of": "GPU"}
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "peak_memory_of": "process"}


def slurm_job() -> str | None:
    """`123_4` for an array task, `123` for a job, None outside Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
