"""What ran, crash-safe: the record, the journal of samples, identity, locks, the importer.

The record's own names are to be had here: `from fastdllm.lab import records; records.read(directory)`.
"""

from fastdllm.lab.records.record import (
    LOG,
    SAMPLES,
    SCHEMA,
    SUMMARY,
    TRACE,
    Accuracy,
    Checkpoint,
    Code,
    Dataset,
    Environment,
    Record,
    accuracy,
    forwards,
    frame,
    layers_text,
    read,
    row,
    samples,
    samples_path,
    share,
    write,
)

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
