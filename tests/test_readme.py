"""The numbers in the README are those of the published records."""

from pathlib import Path

import pytest
from report_support import shipped_of

from fastdllm.lab.config import grid_file
from fastdllm.report import shipped, tables
from fastdllm.report.results import Results
from tools import readme

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


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
    assert (ROOT / readme.VERDICT).read_bytes() == readme.verdict_figure()[0]
    assert readme.verdict_block() in TEXT


def test_the_first_table_is_the_real_model_s_from_the_shipped_records():
    records = shipped.read(ROOT / "executed" / "published")
    assert readme.real_block(records) in TEXT
    assert readme.codes_block(records, shipped.missing(records)) in TEXT
    assert TEXT.index(readme.REAL[0]) < TEXT.index(readme.BEGIN) < TEXT.index(readme.OTHER_CODES[0])
    assert "| --- |" not in TEXT[:TEXT.index(readme.REAL[0])]


def rows_of(made):
    """The lines of a block's table of configurations, by the first cell."""
    return {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ") for line in made.splitlines()
            if line.startswith("| k") and not line.startswith("| k1 first, ")}


def test_the_words_of_the_log_come_after_what_was_found():
    """Who has never read the log meets its runs and commits where they are explained."""
    before, _, _ = TEXT.partition("## What the log says")
    prose = before.replace(*[before[before.index(readme.REAL[0]):before.index(readme.REAL[1])], ""])
    assert not [word for word in ("January", "Run 1", "Run 2", *readme.CODES) if word in prose]


def test_the_real_model_s_table_says_what_ran_what_did_not_and_what_the_log_published():
    records = shipped_of({("26d6179", 1, "first"): [1, 1, 0, 0], ("26d6179", 2, "middle"): [1, 0, 0, 0]})
    first, made = readme.real_block(records), readme.codes_block(records, shipped.missing(records))
    short, rows = rows_of(first), rows_of(made)
    assert list(short) == list(rows) == ["k1", *(f"k{k} {layers}" for k in (2, 3)
                                                 for layers in ("first", "middle", "last"))]
    assert short["k1"][1:] == ["50.0 (15.0 to 85.0)", "80.4"]
    assert short["k2 middle"][1:] == ["25.0 (4.6 to 69.9)", "73.6"] and short["k3 last"][1:] == ["not run", "67.7"]
    assert rows["k1"][1:] == ["50.0 (15.0 to 85.0)", "not run", "not run", "60.0 / 70.0"]
    assert rows["k2 middle"][1:] == ["25.0 (4.6 to 69.9)", "not run", "not run", "10.0"]
    assert rows["k3 last"][1:] == ["not run", "not run", "not run", "0.0"]
    assert all("n = 4; rule " in each and "commit 0123456; a card; 2026-11-25" in each for each in (first, made))
    assert "k=1 has 2 right answers of 4; reuse has 50 % as many at k=2, over `middle`." in first
    assert "Not run: " in made and "`fastdllm grid run gsm8k_smol`" in made


def test_a_block_takes_the_place_of_the_one_between_its_markers():
    assert readme.between("a <b> old <e> c", ("<b>", "<e>"), "<b> new <e>") == "a <b> new <e> c"
    for text in ("a <b> old", "<e> a <b>"):
        with pytest.raises(ValueError, match="allowed: both, in this order"):
            readme.between(text, ("<b>", "<e>"), "new")
