"""The generated task: right answers, disjoint splits, the same problems everywhere."""

import re
import subprocess
import sys
import time

import pytest

from fastdllm.tasks.arithmetic import generate, held_out
from fastdllm.tasks.problem_writer import LARGEST
from fastdllm.tasks.templates import ANSWER, DAYS, NAMES, QUESTION, THINGS

FIRST = ('test-0-00000',
         'We know that Emma has 80 eggs. Zoe has 27 more than Emma. Max has 8 times as many as '
         'Emma. With 15 more than Max, Leo comes next. How many does Leo own?', '655')
SECOND = ('To Ava from Ben: 3+59=62.\n'
          'To Max from Ava: 4+62=66.\n'
          'For Ben and Ava: 62+59=121.\n'
          'Add Max: 66+121=187.\n'
          '#### 187')
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


@pytest.fixture(scope="module")
def splits():
    return {split: generate(split, 3000, 0) for split in ("train", "test", "wordings")}


def test_splits_are_disjoint_and_without_repetition(splits):
    questions = {split: {problem.question for problem in problems} for split, problems in splits.items()}
    assert all(len(texts) == 3000 for texts in questions.values())
    assert not questions["train"] & questions["test"]
    assert not (questions["train"] | questions["test"]) & questions["wordings"]
    assert all(held_out(question) for question in questions["test"])
    assert not any(held_out(question) for question in questions["train"])
    other_seeds = {problem.question for seed in range(1, 6) for problem in generate("train", 2000, seed)}
    assert not other_seeds & (questions["test"] | questions["wordings"])


def test_held_out_wordings_occur_in_no_training_problem(splits):
    for wordings in QUESTION.values():
        assert not set(wordings.trained) & set(wordings.held_out)
        assert len(wordings.trained) >= 5

    text = "\n".join(problem.question for problem in splits["train"])
    some = {"n": "|".join(NAMES), "m": "|".join(NAMES), "x": "|".join(THINGS), "y": "|".join(THINGS),
            "d": "|".join(DAYS), **dict.fromkeys("abc", r"\d+")}
    for template in (template for wordings in QUESTION.values() for template in wordings.held_out):
        pattern = re.sub(r"\\{(\w)\\}", lambda field: f"(?:{some[field[1]]})", re.escape(template))
        assert not re.search(pattern, text), template
        assert re.search(pattern, "\n".join(problem.question for problem in splits["wordings"]), re.I), template


def test_every_equation_is_right_and_the_last_one_is_the_target(splits):
    for problem in (p for problems in splits.values() for p in problems):
        *lines, last = problem.answer.split("\n")
        assert 2 <= len(lines) <= 5
        by_line = [EQUATION.findall(line) for line in lines]
        assert all(len(equations) == 1 for equations in by_line)
        for left, sign, right, result in (equations[0] for equations in by_line):
            numbers = int(left), int(right), int(result)
            assert all(1 <= number <= LARGEST for number in numbers)
            want = {"+": numbers[0] + numbers[1], "-": numbers[0] - numbers[1], "*": numbers[0] * numbers[1]}
            assert numbers[2] == want[sign] if sign != "/" else numbers[2] * numbers[1] == numbers[0]
        assert last == f"#### {problem.target}" and by_line[-1][0][3] == problem.target


def test_every_number_that_the_answer_starts_from_is_in_the_question(splits):
    for problem in splits["test"]:
        known = set(re.findall(r"\d+", problem.question))
        for left, _, right, result in EQUATION.findall(problem.answer):
            assert {left, right} <= known
            known.add(result)


def test_there_are_thousands_of_templates(splits):
    assert len({re.sub(r"\d+", "#", problem.question) for problem in splits["train"]}) > 2900
    assert len({problem.target for problem in splits["train"]}) > 500
    assert all(any(template in line for problem in splits["train"] for line in problem.answer.split("\n"))
               for template in ("From ", "To ", "It takes ", "Now ", "And "))
    assert all(template.count("{e}") == 1 for ways in ANSWER.values() for template in ways)


def test_families_and_steps(splits):
    compared = generate("train", 300, 0, ("compare",))
    assert all(re.search(r"(From|To) [A-Z][a-z]+ (to|from) [A-Z][a-z]+: ", problem.answer) for problem in compared)
    assert not {problem.question for problem in compared} & {problem.question for problem in splits["test"]}
    steps = [problem.answer.count("\n") for problem in splits["train"]]
    assert all(steps.count(number) > 0.1 * len(steps) for number in (2, 3, 4, 5))


def test_the_order_of_operands_varies(splits):
    sums = [(int(a), int(b)) for p in splits["train"] for a, sign, b, _ in EQUATION.findall(p.answer) if sign == "+"]
    assert 0.4 < sum(a < b for a, b in sums) / len(sums) < 0.6


def test_problems_depend_on_split_seed_and_index_only():
    assert generate("train", 20, 3) == generate("train", 50, 3)[:20]
    assert generate("train", 20, 3) != generate("train", 20, 4)
    program = "from fastdllm.tasks.arithmetic import generate; print(generate('test', 5, 11))"
    outputs = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                              env={"PYTHONHASHSEED": str(seed)}).stdout for seed in (1, 2)}
    assert outputs == {f"{generate('test', 5, 11)}\n"}


def test_problems_are_what_they_were():
    """The held-out problems that published numbers rest on: a change here makes those numbers stale."""
    first, second = generate("test", 2, 0)
    assert (first.id, first.question, first.target) == FIRST
    assert second.answer == SECOND


def test_it_is_fast():
    generate("train", 100, 0)
    began = time.process_time()
    generate("train", 2000, 1)
    assert 2000 / (time.process_time() - began) > 2500  # twice that and more on an idle core


@pytest.mark.parametrize(("arguments", "named"), [(("dev", 1), "split: 'dev'"), (("train", -1), "n: -1"),
                                                  (("train", 1, 0, ("chain", "age")), "families: \\['age'\\]")])
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        generate(*arguments)
