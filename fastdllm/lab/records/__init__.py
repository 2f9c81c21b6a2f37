"""What ran, crash-safe.

- while it runs: journal, locks
- the record: record, provenance, tables, steps
- what makes two runs the same: identity, source_hash, external_code
- results of others and of older code: importer, stated_result, harness_results, old_summary

The names of the record, and of records as tables, are to be had here: `from fastdllm.lab import records;
records.read(directory)`.
"""

from fastdllm.lab.records.provenance import Checkpoint, Code, Dataset, Environment
from fastdllm.lab.records.record import (
    LOG,
    SAMPLES,
    SCHEMA,
    SUMMARY,
    TRACE,
    Accuracy,
    Record,
    accuracy,
    forwards,
    read,
    share,
    write,
)
from fastdllm.lab.records.tables import frame, layers_text, row, samples, samples_path

__all__ = [
    "LOG",
    "SAMPLES",
    "SCHEMA",
    "SUMMARY",
    "TRACE",
    "Accuracy",
    "Checkpoint",
    "Code",
    "Dataset",
    "Environment",
    "Record",
    "accuracy",
    "forwards",
    "frame",
    "layers_text",
    "read",
    "row",
    "samples",
    "samples_path",
    "share",
    "write",
]
