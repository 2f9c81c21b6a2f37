"""Answer extraction against a table checked by hand, and against every reference answer of GSM8K."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import lm_eval
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from fastdllm.tasks import answers, numbers

TABLE = [json.loads(line) for line in (Path(__file__).parent / "data/answers.jsonl").read_text().split("\n")
         if line]
SHARED = Path(os.environ.get("FASTDLLM_SHARED", Path(__file__).parents[2] / "shared"))
GSM8K = SHARED / "data/gsm8k/test.jsonl"


def extractions(rule: str) -> list[tuple[str, str | None]]:
    return [(row["output"], row[rule]) for row in TABLE if rule in row]


def test_the_table_is_large_enough():
    assert len(TABLE) >= 190
    assert len({row["output"] for row in TABLE}) >= len(TABLE) - 4      # a few stand among numbers and among letters


@pytest.mark.parametrize("rule", sorted(answers.RULES))
def test_every_rule_on_the_table(rule: str):
    wrong = [(output, want, got) for output, want in extractions(rule)
             if (got := answers.RULES[rule](output)) != want]
    assert wrong == []


def test_the_values_of_the_table():
    rows = [row for row in TABLE if "value" in row]
    wrong = [(row["output"], amount) for row in rows
             if (amount := numbers.value(answers.flexible(row["output"])))
             != (None if row["value"] is None else Fraction(row["value"]))]
    assert len(rows) > 60 and wrong == []


@pytest.mark.parametrize(("rule", "name"), [
    ("harness_strict", "strict-match"), ("harness_flexible", "flexible-extract")])
def test_the_harness_s_own_filters_take_what_the_table_says(rule: str, name: str):
    """So that a difference between its rates and ours is known before a table shows one."""
    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    [steps] = [entry["filter"] for entry in config["filter_list"] if entry["name"] == name]
    ensemble = build_filter_ensemble(name, [
        [step["function"], {key: value for key, value in step.items() if key != "function"} or None] for step in steps])
    outputs, wanted = zip(*extractions(rule), strict=True)
    instances = [Instance("generate_until", {}, ("", {}), 0) for _ in outputs]
    for instance, output in zip(instances, outputs, strict=True):
        instance.resps = [output]
    ensemble.apply(instances)
    assert [instance.filtered_resps[name] for instance in instances] == list(wanted)


@pytest.mark.parametrize(("text", "value"), [
    ("1,234", Fraction(1234)), ("$1,250.75", Fraction(5003, 4)), ("-$5", Fraction(-5)), ("\u22125", Fraction(-5)),
    (".5", Fraction(1, 2)), ("3/4", Fraction(3, 4)), ("-\\frac{2}{3}", Fraction(-2, 3)), ("18.", Fraction(18)),
    ("3/0", None), ("eighteen", None), (None, None), ("", None)])
def test_values(text: str | None, value: Fraction | None):
    assert numbers.value(text) == value


def test_a_format_that_differs_shows_side_by_side():
    scores = answers.score_number("so it is \\boxed{1{,}234\\text{ eggs}}.", "1234", ("strict", "flexible", "boxed"))
    assert {rule: score.correct for rule, score in scores.items()} == {
        "strict": False, "flexible": True, "boxed": True}
    assert scores["strict"].extracted is None


def test_equal_values_in_other_forms_are_right():
    assert answers.score_number("#### 18.00", "18", ("strict",))["strict"].correct
    assert answers.score_number("0.75", "3/4", ("flexible",))["flexible"].correct
    assert not answers.score_number("#### 19", "18", ("strict",))["strict"].correct
    assert not answers.score_number("", "18", ("strict",))["strict"].correct


def test_the_stop_string_that_came_first():
    assert answers.stopped_by("abc\n\nQuestion: x", ("Question:", "\n\n")) == "\n\n"
    assert answers.stopped_by("abc\n\n", ("\n", "\n\n")) == "\n\n"
    assert answers.stopped_by("abc", ("\n\n",)) is None


@pytest.mark.skipif(not GSM8K.exists(), reason=f"the real GSM8K test set is not at {GSM8K}")
def test_every_reference_answer_of_gsm8k():
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1319
    for row in rows:
        target = row["answer"].split("#### ")[1]
        scores = answers.score_number(row["answer"], target, ("strict", "flexible"))
        assert all(score.correct for score in scores.values()), row["answer"]
