"""Tasks: prompts, options, local data, scores; and what is said when something is missing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from fastdllm import tasks
from fastdllm.lab.config import grid_file, single
from fastdllm.tasks import access, answers, likelihood

DATA = Path(__file__).parent / "data/tasks"
LOCAL = {"gsm8k": DATA / "gsm8k", "minerva_math": DATA / "minerva_math.jsonl", "mmlu": DATA / "mmlu",
         "mmlu_generative": DATA / "mmlu", "gpqa_main_n_shot": DATA / "gpqa.jsonl", "ifeval": DATA / "ifeval.jsonl"}


def load(name: str, limit: int | None = None, **options):
    task = tasks.get(name, **({"shots": 0} | options))
    return task, task.problems(limit, LOCAL.get(name))


def verdicts(task, problem, output: str) -> dict[str, bool]:
    return {rule: score.correct for rule, score in task.score(problem, output).items()}


# -- the registry and the embedded tasks

def test_unknown_names_and_options_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"task='sums'; allowed: arithmetic, .*gsm8k.*mbpp"):
        tasks.get("sums")
    with pytest.raises(ValueError, match=r"TaskOptions.prompt='cot'"):
        tasks.get("gsm8k", prompt="cot")
    with pytest.raises(ValueError, match=r"TaskOptions.temperature=1; unknown key; allowed: prompt, "):
        tasks.get("arithmetic", temperature=1)


@pytest.mark.parametrize("ask", [tasks.get, lambda name: single.grid_of({"task": name}, "x"),
                                 lambda name: grid_file.load("demo", [f"task={name}"])], ids=["get", "run", "grid"])
def test_a_task_name_that_is_nearly_one_is_answered_with_that(ask):
    with pytest.raises(ValueError, match=r"task='gsm8'; did you mean gsm8k\? allowed: arithmetic, "):
        ask("gsm8")
    with pytest.raises(ValueError, match="shots=3"):
        tasks.get("arithmetic", shots=3)
    for limit in (0, -1, True):
        with pytest.raises(ValueError, match="limit="):
            tasks.get("arithmetic").problems(limit)


# -- word problems and ARC-Easy: local files, no harness

def test_word_problems_are_asked_for_in_both_forms(tmp_path):
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(
        {"question": "Tim\u2019s  cat ate 2+2 fish. How many?", "answer": "It ate 2+2=<<2+2=4>>4.\n#### 4"}) + "\n")
    (tmp_path / "multiarith.json").write_text(json.dumps(
        [{"instruction": " How many is 6 times 3? ", "answer": "18.0"}]))
    words = tasks.get("gsm8k_words").problems(None, tmp_path / "gsm8k.jsonl")
    assert words == tasks.get("gsm8k_words").problems(1, tmp_path)
    assert [(p.id, p.prompt, p.target) for p in words] == [
        ("gsm8k-0", "Question: Tim's cat ate 2+2 fish. How many?\nAnswer in words.", "4")]
    task = tasks.get("multiarith_equations")
    problem, = task.problems(None, tmp_path / "multiarith.json")
    assert (problem.id, problem.prompt, problem.target) == (
        "multiarith-0", "Question: How many is 6 times 3?\nAnswer with equations.", "18.0")
    assert verdicts(task, problem, "6*3=18\n#### 18") == {"strict": True, "flexible": True, "boxed": False}
    assert not verdicts(task, problem, "6*3=18")["strict"] and task.metric == "strict" and task.max_new_tokens == 256


def test_two_step_needs_no_file():
    problems = tasks.get("two_step").problems()
    assert len({problem.id for problem in problems}) == len(problems) >= 40
    assert all(problem.prompt.endswith("\nAnswer with equations.") for problem in problems)


def test_arc_easy_is_lettered_and_scored_by_likelihood(tmp_path):
    row = {"instruction": "Please choose the correct answer to the question: What falls?\n\nAnswer1: rain "
                          "Answer2: light Answer3: time\n\nAnswer format: answer1/answer2/answer3", "answer": "answer2"}
    (tmp_path / "arc.json").write_text(json.dumps([row]))
    task = tasks.get("arc_easy")
    problem, = task.problems(None, tmp_path / "arc.json")
    assert problem.prompt == "What falls?\nA. rain\nB. light\nC. time\nAnswer:" and problem.target == "B"
    assert problem.meta["choices"] == ["A", "B", "C"] and not task.generative
    assert task.score(problem, json.dumps({"loglikelihood": [-2.0, -1.0, -3.0]}))["acc"] == tasks.Score("B", True)
    (tmp_path / "arc.json").write_text(json.dumps([row | {"answer": "answer4"}]))
    with pytest.raises(ValueError, match=r"arc.json, row 1: 3 choices, answer='answer4'; allowed: 2 to 5 choices"):
        task.problems(None, tmp_path / "arc.json")


@pytest.mark.parametrize(("name", "content", "said"), [
    ("gsm8k_words", None, r"task=gsm8k_words: no data; allowed: GSM8K's test.jsonl as 'data:'"),
    ("arc_easy", None, r"task=arc_easy: no data; allowed: ARC-Easy's test.json"),
    ("multiarith_words", "{}", r"rows.json holds no list of rows"), ("multiarith_words", "[", r"rows.json: no JSON"),
    ("multiarith_words", '[{"instruction": "x"}]', r"rows.json, row 1: answer missing")])
def test_word_problems_say_which_file_and_row_is_wrong(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        tasks.get(name).problems(None, tmp_path / "rows.json" if content is not None else None)


@pytest.mark.parametrize("options", [{"shots": 3}, {"prompt": "boxed"}])
@pytest.mark.parametrize("name", ["two_step", "arc_easy"])
def test_options_that_such_a_task_lacks_are_refused(name, options):
    with pytest.raises(ValueError, match=f"task={name} with .*; allowed: "):
        tasks.get(name, **options)


@pytest.mark.parametrize("name", ["arithmetic", "arithmetic_wordings"])
def test_embedded_tasks(name):
    task, problems = load(name, 40, shots=None)
    assert len({problem.id for problem in problems}) == 40
    assert task.fingerprint(problems) == task.fingerprint(load(name, 40, shots=None)[1])
    assert task.fingerprint(problems) != task.fingerprint(problems[:39])
    right = f"So it is {problems[0].target}.\n#### {problems[0].target}"
    assert verdicts(task, problems[0], right) == {"strict": True, "flexible": True, "boxed": False}
    boxed = tasks.get(name, prompt="boxed").problems(40)
    assert boxed[0].prompt.endswith(answers.BOXED_INSTRUCTION)
    assert task.fingerprint(boxed) != task.fingerprint(problems)


def test_every_headline_is_one_of_the_rules():
    for name in LOCAL:
        task, problems = load(name, 1)
        output = '{"loglikelihood": [-1, -2, -3, -4]}' if not task.generative else "#### 1"
        assert task.metric in task.score(problems[0], output), name


# -- the benchmarks' prompts

def test_the_boxed_instruction_replaces_the_tasks_own_and_enters_the_fingerprint():
    own, boxed = load("gsm8k"), load("gsm8k", prompt="boxed")
    assert own[1][0].prompt[-1]["content"].endswith("\nAnswer:")
    assert boxed[1][0].prompt[-1]["content"].endswith("\n" + answers.BOXED_INSTRUCTION)
    assert own[0].fingerprint(own[1]) != boxed[0].fingerprint(boxed[1])
    math = load("minerva_math", prompt="boxed")[1][0].prompt[-1]["content"]
    assert math.startswith("Problem:\n") and math.endswith(answers.BOXED_INSTRUCTION) and "Solution:" not in math


def test_worked_examples_are_turns_of_the_conversation_or_one_message():
    _, problems = load("gsm8k", 1, shots=2)
    assert [message["role"] for message in problems[0].prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert "####" in problems[0].prompt[1]["content"]
    assert problems[0].prompt == load("gsm8k", 1, shots=2)[1][0].prompt
    _, single = load("gsm8k", 1, shots=2, multiturn=False)
    assert [message["role"] for message in single[0].prompt] == ["user"]
    assert single[0].prompt[0]["content"].count("####") == 2


def test_subtasks_have_true_counts_and_limits_hold_for_each():
    _, everything = load("mmlu")
    assert Counter(problem.subtask for problem in everything) == {
        "mmlu_astronomy": 3, "mmlu_high_school_computer_science": 2}
    _, limited = load("mmlu", 1, shots=2)
    assert Counter(problem.subtask for problem in limited) == {
        "mmlu_astronomy": 1, "mmlu_high_school_computer_science": 1}
    assert limited[0].prompt[0]["role"] == "system" and "astronomy" in limited[0].prompt[0]["content"]
    assert limited[0].meta["choices"] == ["A", "B", "C", "D"]
    assert set(Counter(problem.subtask for problem in load("minerva_math")[1])) == {
        "minerva_math_algebra", "minerva_math_counting_and_prob", "minerva_math_prealgebra"}


def test_gpqa_has_the_same_choices_however_often_it_is_read():
    task, problems = load("gpqa_main_n_shot")
    again = task.problems(None, LOCAL["gpqa_main_n_shot"])
    assert again == problems and len({problem.target for problem in problems}) > 1
    for problem in problems:
        right = "ABCD".index(problem.target[1]) + 1
        assert problem.meta["doc"][f"choice{right}"] == problem.meta["doc"]["Correct Answer"]


def test_stop_strings_are_the_harness_tasks_own():
    assert load("gsm8k", 1)[0].stop_strings == ("Question:", "</s>", "<|im_end|>")
    assert load("mmlu_generative", 1)[0].stop_strings == ("</s>", "\n")
    assert load("mmlu", 1)[0].stop_strings == load("ifeval", 1)[0].stop_strings == ()


# -- scores

def test_gsm8k_scores_show_that_the_format_differs():
    task, problems = load("gsm8k")
    shop = problems[2]
    assert shop.target == "1,200"
    assert verdicts(task, shop, "That is \\boxed{1200}") == {
        "exact_match,strict-match": False, "exact_match,flexible-extract": True, "strict": False, "flexible": True,
        "boxed": True}
    assert all(verdicts(task, problems[3], "It reads -25.\n#### -25")[rule] for rule in (
        "exact_match,strict-match", "exact_match,flexible-extract", "strict", "flexible"))
    assert not any(verdicts(task, shop, "").values())


def test_minerva_math_scores_expressions():
    task, problems = load("minerva_math")
    third = next(problem for problem in problems if problem.target == "\\frac{1}{6}")
    assert verdicts(task, third, "It is $\\boxed{\\frac{2}{12}}$.") == {
        "exact_match,none": False, "math_verify,none": True, "boxed": True}
    assert verdicts(task, third, "Final Answer: The final answer is $\\frac{1}{6}$. I hope it is correct.")[
        "exact_match,none"]
    assert not any(verdicts(task, third, "\\boxed{6}").values())


def test_multiple_choice_scores():
    task, problems = load("mmlu")
    output = json.dumps({"loglikelihood": [-3.0, -2.0, -1.0, -4.0]})
    assert [task.score(p, output)["acc,none"].extracted for p in problems] == ["C"] * 5
    assert [task.score(p, output)["acc,none"].correct for p in problems] == [p.target == "C" for p in problems]
    generative, written = load("mmlu_generative")
    assert verdicts(generative, written[0], "A") == {"exact_match,get_response": True, "choice": True}
    assert verdicts(generative, written[0], "The answer is (A).") == {"exact_match,get_response": False, "choice": True}


def test_ifeval_has_four_rates_two_of_them_over_instructions():
    task, problems = load("ifeval")
    scores = task.score(problems[1], "HELLO there you")     # long enough, not in lowercase
    assert {rule: score.correct for rule, score in scores.items()} == {
        "prompt_level_strict_acc,none": False, "inst_level_strict_acc,none": False,
        "prompt_level_loose_acc,none": False, "inst_level_loose_acc,none": False}
    assert scores["inst_level_strict_acc,none"].parts == (True, False)
    assert scores["prompt_level_strict_acc,none"].parts == ()
    assert all(verdicts(task, problems[1], "hello there you").values())


def test_a_fresh_task_scores_what_another_process_generated():
    task, problems = load("gsm8k", 1)
    assert tasks.get("gsm8k", shots=0).score(problems[0], "#### 17") == task.score(problems[0], "#### 17")


# -- what is missing is said before a model is loaded

@pytest.mark.parametrize(("name", "content", "says"), [
    ("gsm8k", None, "does not exist"), ("gsm8k", "", "is empty"), ("gsm8k", "{", "line 1: no JSON"),
    ("gsm8k", '{"question": "q"}', "line 1: answer missing"),
    ("mmlu", '{"question": "q", "choices": ["a", "b", "c", "d"], "answer": 0, "subject": "cooking"}', "='cooking'")])
def test_bad_local_data(tmp_path, name, content, says):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=says):
        tasks.get(name, shots=0).problems(None, path)


ROW = {"gsm8k": {"question": "q", "answer": "So 54.\n#### 54"},
       "minerva_math": {"problem": "p", "solution": "\\boxed{5}", "type": "Algebra"},
       "mmlu": {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 0, "subject": "astronomy"},
       "gpqa_main_n_shot": {"Question": "q", "Correct Answer": "a", "Incorrect Answer 1": "b",
                            "Incorrect Answer 2": "c", "Incorrect Answer 3": "d"},
       "arithmetic": {"question": "q", "target": "54"}, "mbpp": {"task_id": 1, "text": "t", "test_list": ["assert f"]}}


@pytest.mark.parametrize(("name", "change"), [
    ("gsm8k", {"answer": None}), ("gsm8k", {"answer": 54}), ("gsm8k", {"answer": "#### 54 hours"}),
    ("gsm8k", {"answer": "#### fifty-four"}), ("gsm8k", {"answer": "#### 54%"}), ("gsm8k", {"answer": "#### 1/2"}),
    ("gsm8k", {"answer": "####54"}), ("gsm8k", {"answer": "#### 5 or 4"}), ("gsm8k", {"answer": "#### 1.2.3"}),
    ("gsm8k", {"question": ""}), ("minerva_math", {"solution": "It is 5."}), ("minerva_math", {"solution": None}),
    ("mmlu", {"answer": "B"}), ("mmlu", {"answer": 7}), ("mmlu", {"answer": True}), ("mmlu", {"answer": None}),
    ("mmlu", {"choices": ["a", "b"]}), ("mmlu", {"choices": "abcd"}), ("gpqa_main_n_shot", {"Correct Answer": None}),
    ("gpqa_main_n_shot", {"Question": 3}), ("arithmetic", {"target": None}), ("arithmetic", {"target": "fifty"}),
    ("arithmetic", {"target": "1.5 million"}), ("arithmetic", {"target": "2 dozen eggs"}),
    ("arithmetic", {"target": "2 hours 30 minutes"}), ("arithmetic", {"target": True}), ("arithmetic", {"target": []}),
    ("arithmetic", {"target": float("nan")}), ("arithmetic", {"question": 5}), ("mbpp", {"test_list": "assert f"}),
    ("mbpp", {"text": None})])
def test_a_row_without_a_usable_answer_is_named(tmp_path, name, change):
    path, [key] = tmp_path / "rows.jsonl", change
    path.write_text(f"{json.dumps(ROW[name])}\n\n{json.dumps({**ROW[name], **change})}\n")
    options = {"allow_code_execution": True} if name == "mbpp" else {"shots": 0}
    with pytest.raises(ValueError, match=f"rows.jsonl, line 3: {key}=.*; allowed: "):
        tasks.get(name, **options).problems(None, path)


@pytest.mark.parametrize(("target", "right"), [
    ("54 hours", "54"), (54, "54"), (54.5, "54.5"), ("$1,234 in all", "1234"), ("\\frac{3}{4} cup", "0.75"),
    ("25 cm^2", "25"), ("1\u202f234", "1,234"), ("-3 1/2", "-3.5")])
def test_targets_with_units_are_read(tmp_path, target, right):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "target": target}))
    task = tasks.get("arithmetic")
    [problem] = task.problems(None, path)
    assert task.score(problem, f"#### {right}")["strict"].correct
    assert not task.score(problem, "#### 55")["strict"].correct


@pytest.mark.parametrize("answer", ["#### 1,200", "#### -25", "#### $54", "54", "So it is 2.\n#### 54.0"])
def test_targets_that_are_taken_can_be_met(tmp_path, answer):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": answer}))
    task = tasks.get("gsm8k", shots=0)
    [problem] = task.problems(None, path)
    assert task.score(problem, answer)[task.metric].correct


def test_rows_end_in_a_line_feed_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"a{mark}b", "target": "1"} for mark in ("\u2028", "\x85", "\x0b", "\x1c", "\r")]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [problem.prompt for problem in tasks.get("arithmetic").problems(None, path)] == [r["question"] for r in rows]
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match=r"rows.jsonl: not UTF-8"):
        tasks.get("arithmetic").problems(None, path)


def test_worked_examples_need_their_file():
    with pytest.raises(ValueError, match=r"shots=5: .*dev.jsonl"):
        tasks.get("mmlu").problems(None, DATA / "mmlu/test.jsonl")


def test_sentences_need_nltks_data(tmp_path, monkeypatch):
    import nltk
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    path = tmp_path / "ifeval.jsonl"
    row = {"key": 7, "prompt": "Write two sentences.", "instruction_id_list": ["length_constraints:number_sentences"],
           "kwargs": [{"num_sentences": 2, "relation": "at least"}]}
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"1 problems .*key 7.*punkt_tab"):
        tasks.get("ifeval").problems(None, path)


def test_without_network_the_message_says_what_to_do():
    """In another process: the hub's client reads HF_HUB_OFFLINE when it is imported."""
    code = ("from fastdllm.tasks import access\n"
            "for name in ('gsm8k', 'gpqa_main_n_shot'):\n"
            "    try: access.check(name)\n"
            "    except ValueError as error: print(error)\n")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True,
                          cwd=DATA.parents[2])
    first, second = done.stdout.splitlines()
    assert "task=gsm8k" in first and "'data:'" in first
    assert "gated" in second and "huggingface.co/datasets/Idavidrein/gpqa" in second and "HF_TOKEN" in second


def test_local_files_need_no_access():
    assert "scored by acc,none" in access.check("gpqa_main_n_shot", LOCAL["gpqa_main_n_shot"])
    assert "scored by strict" in access.check("arithmetic")


# -- likelihood

@pytest.mark.parametrize(("context", "choice", "expected"), [
    ([1, 2], [3], [1, 2, 99, 98, 99, 99, 99, 99]),
    ([1, 2], [3, 4, 5], [1, 2, 99, 4, 5, 98, 99, 99]),
    ([1, 2, 3, 4, 5, 6], [7], [1, 2, 3, 4, 5, 6, 99, 98]),
    ([1, 2, 3, 4, 5, 6, 7], [8], [1, 2, 3, 4, 5, 6, 7, 99, 98, 99, 99, 99, 99, 99, 99, 99])])
def test_where_the_masks_stand(context, choice, expected):
    assert likelihood.masked_sequence(context, choice, 8, 99, 98) == expected


@pytest.fixture
def marked(golden):
    """The random checkpoint with the ids that its files don't name."""
    return dataclasses.replace(golden, mask_id=511, stop_ids=(510,))


def block_causal_logits(lm, tokens: list[int]) -> torch.Tensor:
    """[width, vocab]: one plain forward over the whole sequence."""
    cache = lm.network.new_cache(1, len(tokens))
    context = lm.network.context(cache, "prefill", (0,), [0], len(tokens), [len(tokens)])
    with torch.inference_mode():
        return lm.network.logits(lm.network(torch.tensor([tokens]), context, cache))[0]


def test_one_forward_scoring_is_the_published_one(marked):
    context, choice = list(range(40, 77)), [3, 4]
    tokens = [*context, 511, 4, 510] + [511] * 24
    assert len(tokens) == 64
    shifted = torch.cat([block_causal_logits(marked, tokens)[:1], block_causal_logits(marked, tokens)[:-1]])
    labels = [*context, *choice] + [-100] * 25
    masked = [position for position, token in enumerate(tokens) if token == 511]
    targets = torch.tensor([labels[i] for i in masked])
    loss = torch.nn.functional.cross_entropy(shifted[masked], targets, reduction="sum")
    score = likelihood.score_batch(marked, [likelihood.ChoiceForward(0, 0, context, choice)])[0]
    assert score.value == pytest.approx(-loss.item(), abs=1e-5)
    assert score.tokens == 1


def test_likelihoods_do_not_depend_on_the_batch(marked):
    pairs = [likelihood.ChoiceForward(i, 0, list(range(1, 2 + 17 * i)), [7, 9][:1 + i % 2]) for i in range(5)]
    for engine in ("diffusion", "autoregressive"):
        together = {i: score.value for i, score, _ in likelihood.score_pairs(marked, pairs, 5, engine)}
        alone = {i: score.value for i, score, _ in likelihood.score_pairs(marked, pairs, 1, engine)}
        assert together == pytest.approx(alone, abs=1e-4)


def test_causal_likelihood_sums_over_all_choice_tokens(golden):
    from fastdllm.decode.autoregressive import causal
    view = causal(golden.network)
    cache = view.new_cache(1, 4)
    with torch.inference_mode():
        context = view.context(cache, "prefill", (0,), [0], 4, [4])
        logits = view.logits(view(torch.tensor([[5, 6, 7, 8]]), context, cache))
    expected = logits[0].log_softmax(-1)[[1, 2, 3], [7, 8, 9]].sum().item()
    score = likelihood.score_batch(golden, [likelihood.ChoiceForward(0, 0, [5, 6], [7, 8, 9])], "autoregressive")[0]
    assert (score.value, score.tokens) == (pytest.approx(expected, abs=1e-4), 3)


def test_likelihood_rows_carry_what_the_score_needs(tiny):
    task, problems = load("mmlu", 1)
    rows = sorted(likelihood.score_rows(tiny, problems, batch_size=3, numbers=[5, 9]), key=lambda row: row.row)
    assert [row.row for row in rows] == [5, 9]
    assert [row.nfe["prefill"] for row in rows] == [4, 4]
    assert [len(row.tokens) for row in rows] == [4, 4]
    values = json.loads(rows[0].text)["loglikelihood"]
    best = "ABCD"[values.index(max(values))]
    assert task.score(problems[0], rows[0].text)["acc,none"].extracted == best
