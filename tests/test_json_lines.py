"""Rows of JSON lines end at a newline and nowhere else, whatever their text holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastdllm.lab import atomic, records
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.records import journal
from fastdllm.report.results import read_outcomes
from fastdllm.tasks.base import TEXT, read_rows

PUBLISHED = Path(__file__).parents[1] / "executed" / "published" / "demo" / "arithmetic_limit_200" / "k1_first"
TEXTS = ["line\u2028separator", "paragraph\u2029separator", "next\u0085line", "form\x0cfeed", "\x1cfile\x1d\x1e",
         "\ufeffx"]


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("read", [atomic.json_lines, lambda path: read_rows(path, {"text": TEXT})],
                         ids=["lines", "data"])
def test_text_of_every_kind_stays_in_its_row(read, end, bom, tmp_path):
    path = tmp_path / "data.jsonl"
    text = lines({"text": text} for text in TEXTS)
    path.write_bytes((bom + (text.replace("\n", end) if end else text.rstrip("\n"))).encode())
    assert [row["text"] for row in read(path)] == TEXTS


@pytest.mark.parametrize(("content", "line"), [(b'{"a": 1}\n{"a": \n', 2), (b'{"a": 1}\n\xff\n', 2), (b"\n\n[\n", 3)])
def test_a_damaged_line_is_named(content, line, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"data\.jsonl, line {line}: not JSON"):
        atomic.json_lines(path)


def test_samples_of_a_record_stay_whole(tmp_path):
    record = records.read(PUBLISHED)
    rows = [{"id": str(index), "output": text, "correct": {record.metric: True}, "tokens": 3, "seconds": 0.5,
             "nfe": record.nfe, "decisions": record.decisions}
            for index, text in enumerate(TEXTS)]
    shutil.copy(PUBLISHED / records.SUMMARY, tmp_path)
    (tmp_path / records.SAMPLES).write_text(lines(rows), encoding="utf-8")
    records.write(tmp_path, record.model_copy(update={
        "samples_sha256": atomic.file_sha256(tmp_path / records.SAMPLES), "shared_from": None}))
    assert list(records.samples(tmp_path)["output"]) == TEXTS
    outcomes = read_outcomes(tmp_path / records.SAMPLES, records.read(tmp_path))
    assert outcomes is not None
    assert len(outcomes.ids) == len(TEXTS)


def test_an_interrupted_run_finds_its_samples_again(tmp_path):
    started = journal.begin(tmp_path, "a" * 64, Parameters(), len(TEXTS))
    for index, text in enumerate(TEXTS):
        started.add({"index": index, "output": text, "elapsed": 1.0, "session": 1})
    again = journal.begin(tmp_path, "a" * 64, Parameters(), len(TEXTS))
    assert [row["output"] for row in again.samples()] == TEXTS
