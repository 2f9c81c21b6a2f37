"""The numbers in the README are those of the published records."""

from pathlib import Path

from fastdllm.lab.config import grid_file
from fastdllm.report import tables
from fastdllm.report.results import Results
from tools import readme

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def published():
    results = Results.of(grid_file.load("demo", ["output=executed/published"]))
    assert len(results.records) == 9
    return tables.grid_table(results), str(results.records[0].environment.device_name)


def test_the_block_is_made_from_the_published_records():
    begin, end = TEXT.index(readme.BEGIN), TEXT.index(readme.END) + len(readme.END)
    assert TEXT[begin:end] == readme.block(*published())


def test_another_number_would_be_seen():
    table, device = published()
    for column in ("accuracy", "speedup", "nfe", "tokens_per_forward"):
        assert readme.block(table.assign(**{column: table[column] * 1.01 + 0.01}), device) not in TEXT, column


def test_the_picture_of_the_verdict_is_the_published_one():
    assert readme.VERDICT in TEXT
    assert (Path(__file__).parent.parent / readme.VERDICT).read_bytes() == readme.verdict_picture()
