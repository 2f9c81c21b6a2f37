"""Records and their samples as tables: one row per problem, one row per record."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.lab import atomic
from fastdllm.lab.records.record import SAMPLES, SUMMARY, Record, read

if TYPE_CHECKING:
    import pandas as pd  # half a second: imported where a table is made, so that status is quick


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
    """One record as flat columns. `layers` is text; `nfe` counts all forwards; `tokens_per_forward` divides by those
    that ran, fewer with policy verify (`forwards_run`, `acceptance`; `states_verified`: what they carried, drafts too).

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
        "states_verified": run + offered, "drafts_offered": offered, "drafts_accepted": accepted,
        "acceptance": accepted / (offered or float("nan")),
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
