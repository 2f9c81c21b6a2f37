"""lm-evaluation-harness and the embedded checkpoint: its driver, our grid configurations, and both the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path

import pytest
from harness_support import DATA, lm_eval_command
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from fastdllm import Decoding, Reuse, tasks
from fastdllm.cli import main
from fastdllm.lab import records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.evaluation.evaluate import evaluate as run_configuration
from fastdllm.lab.evaluation.prepare import PreparedRun
from fastdllm.tasks import harness, registration

SHARED = Path(os.environ.get("FASTDLLM_SHARED", Path(__file__).parents[2] / "shared"))
GSM8K = SHARED / "data/gsm8k/test.jsonl"
SHORT = {"threshold": 0.5, "max_new_tokens": 40}


@pytest.fixture(scope="module")
def model(tiny):
    return harness.FastDLLM(tiny, batch_size=4, **SHORT)


def request(text: str, number: int = 0, task: str = "local", **generation) -> Instance:
    return Instance("generate_until", {}, (text, generation), number, metadata=(task, number, 1))


def chat(model, *questions: str) -> list[str]:
    return [model.apply_chat_template([{"role": "user", "content": question}]) for question in questions]


# -- through the harness's own driver

@pytest.mark.parametrize(("name", "data", "metrics", "counts"), [
    ("gsm8k", "gsm8k", {"exact_match,strict-match", "exact_match,flexible-extract"}, {"gsm8k": 2}),
    ("minerva_math", "minerva_math.jsonl", {"exact_match,none", "math_verify,none"},
     {"minerva_math_algebra": 2, "minerva_math_prealgebra": 1, "minerva_math_counting_and_prob": 1}),
    ("mmlu", "mmlu", {"acc,none"}, {"mmlu_astronomy": 2, "mmlu_high_school_computer_science": 2}),
    ("gpqa_main_n_shot", "gpqa.jsonl", {"acc,none", "acc_norm,none"}, {"gpqa_main_n_shot": 2}),
    ("ifeval", "ifeval.jsonl", {f"{level}_level_{way}_acc,none" for level in ("prompt", "inst")
                                for way in ("strict", "loose")}, {"ifeval": 2})])
def test_benchmarks_run_and_a_grid_configuration_scores_the_same(model, name, data, metrics, counts):
    results = harness.evaluate(model, name, data=DATA / data, limit=2, shots=0)
    assert {task: samples["effective"] for task, samples in results["n-samples"].items()} == counts
    for values in results["results"].values():
        assert {key for key in values if "," in key and "stderr" not in key} == metrics
    task = tasks.get(name, shots=0)
    problems = task.problems(2, DATA / data)
    ours = Counter()
    for problem in problems:
        samples = [sample for sample in results["samples"][problem.subtask or name]
                   if sample["doc_id"] == int(problem.id.rsplit("-", 1)[1])]
        prompt = model.apply_chat_template(problem.prompt)
        assert all(sample["arguments"][0][0] == prompt for sample in samples)
        if task.generative:
            output = samples[0]["resps"][0][0]
        else:
            output = json.dumps({"loglikelihood": [response[0][0] for response in samples[0]["resps"]]})
        scores = task.score(problem, output)
        ours.update({rule: sum(score.parts) if score.parts else score.correct for rule, score in scores.items()})
    theirs = Counter()
    for samples in results["samples"].values():
        for sample in samples:
            theirs.update({f"{metric},{sample['filter']}": sum(sample[metric]) if isinstance(sample[metric], list)
                           else sample[metric] for metric in sample["metrics"]})
    assert {metric: ours[metric] for metric in metrics} == {metric: theirs[metric] for metric in metrics}


def test_the_harness_s_own_command_runs_our_model(tmp_path, capsys):
    """`fastdllm lm-eval` with options of the harness's; the model's settings stand in what the harness writes."""
    results, samples = lm_eval_command(tmp_path, 3, pretrained="tiny", k=2, layers="middle", threshold=0.9,
                                       max_new_tokens=32)
    assert "|sums " in capsys.readouterr().out and len(samples) == 3
    assert (results["config"]["reuse"]["k"], results["config"]["reuse"]["layers"]) == (2, "middle")
    assert results["config"]["nfe"]["small"] > 0 and results["n-samples"]["sums"] == {"original": 4, "effective": 3}


def test_the_command_answers_with_the_harness_s_own_help_and_errors(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fastdllm", "lm-eval", "run", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "--num_fewshot" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["fastdllm", "lm-eval", "run", "--zork"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "--zork" in capsys.readouterr().err


def test_registering_twice_leaves_one_model_of_that_name():
    registration.register()
    registration.register()
    assert get_model("fastdllm") is harness.FastDLLM


def test_torch_alone_imports_neither_the_harness_nor_this_package(tmp_path):
    """Installing this package changes no other program: it adds to no group of entry points but the scripts."""
    assert {point.group for point in distribution("fastdllm").entry_points} == {"console_scripts"}
    code = "import sys, torch; print(sorted({name.split('.')[0] for name in sys.modules} & {'lm_eval', 'fastdllm'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"


# -- the model's own methods

def test_answers_come_back_in_the_order_of_the_requests(model):
    questions = ["How much is 4 + 5?", "There are 18 boxes with 6 stones each. 91 of them are sold. How many is that?",
                 "A book costs 12 dollars. Ben buys 3. What does he pay?"]
    prompts = chat(model, *questions)
    together = model.generate_until([request(text, i) for i, text in enumerate(prompts)], disable_tqdm=True)
    assert together == [model.generate_until([request(text)], disable_tqdm=True)[0] for text in prompts]
    assert len(set(together)) == 3


def test_stop_strings_are_each_requests_own_and_end_the_work(model):
    prompt = chat(model, "There are 18 boxes with 6 stones each. 91 of them are sold. How many is that?")[0]
    free, cut = model.generate_until([request(prompt), request(prompt, 1, until=["\n"])], disable_tqdm=True)
    assert "\n" in free and cut == free.split("\n")[0]
    whole, ended = model.results[-2:]
    assert ended.finish == "stop_string"
    assert ended.tokens == whole.tokens[:len(ended.tokens)]
    forwards = [sum(row.nfe.values()) for row in (whole, ended)]
    assert forwards[1] < forwards[0], "nothing is denoised behind the text that ends the answer"


def test_the_boxed_instruction_reaches_the_model(tiny):
    boxed = harness.FastDLLM(tiny, prompt="boxed")
    text = "Question: How much is 1 + 1?\nAnswer:"
    assert "\\boxed{{}}" in tiny.decode(boxed.encode(request(text, task="gsm8k")))
    assert "\\boxed" not in tiny.decode(boxed.encode(request(text, task="ifeval")))


@pytest.mark.parametrize(("arguments", "says"), [
    ({"tresh": 1}, "tresh unknown; allowed: .*threshold"), ({"engine": "mamba"}, "engine='mamba'"),
    ({"batch_size": "auto"}, "batch_size='auto'"), ({"k": 2}, "layers=None with k=2"),
    ({"engine": "autoregressive", "k": 2, "layers": "first"}, "k=2"), ({"threshold": 2}, "threshold=2")])
def test_bad_model_args(tiny, arguments, says):
    with pytest.raises(ValueError, match=says):
        harness.FastDLLM(tiny, **arguments)


def test_what_is_not_offered_says_why(model, tiny):
    with pytest.raises(NotImplementedError, match="no one probability"):
        model.loglikelihood_rolling([])
    with pytest.raises(ValueError, match="num_beams unknown"):
        model.generate_until([request("x", num_beams=4)])
    reusing = harness.FastDLLM(tiny, k=2, layers="middle")
    with pytest.raises(ValueError, match=r"k=2 .*mmlu_generative"):
        reusing.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)])


@pytest.mark.parametrize(("name", "data", "shots", "says"), [
    ("mmlu", "mmlu", 5, "shots=5: mmlu_astronomy has 4 worked examples; allowed: 0 to 4"),
    ("gsm8k", "gsm8k", 8, "shots=8: gsm8k has 7 worked examples; allowed: 0 to 7"),
    ("minerva_math", "minerva_math.jsonl", 5, r"shots=5: minerva_math_\w+ has 4 worked examples; allowed: 0 to 4")])
def test_too_few_worked_examples(model, name, data, shots, says):
    with pytest.raises(ValueError, match=says):
        harness.evaluate(model, name, data=DATA / data, limit=1, shots=shots)


def test_as_many_worked_examples_as_there_are(model):
    results = harness.evaluate(model, "mmlu", data=DATA / "mmlu", limit=1, shots=4)
    assert results["n-samples"]["mmlu_astronomy"]["effective"] == 1


# -- as grid configurations, with the record of any other configuration

def configuration(directory: Path, task: str, data: str, **settings) -> records.Record:
    decoding = Decoding(**{**SHORT, **settings.pop("decoding", {})})
    parameters = Parameters(task=task, data=str(DATA / data), limit=2, device="cpu", batch_size=4, decoding=decoding,
                            **{"shots": 0, **settings})
    prepared = PreparedRun(Configuration("test", "configuration", parameters, directory))
    return run_configuration(prepared, log=lambda line: None)


def test_a_reuse_configuration_of_gsm8k(tmp_path):
    record = configuration(tmp_path, "gsm8k", "gsm8k", prompt="boxed", decoding={"threshold": 1.0},
                           reuse=Reuse(k=2, layers="middle"))
    assert (record.n, record.metric) == (2, "exact_match,flexible-extract")
    assert set(record.accuracy) == {"exact_match,strict-match", "exact_match,flexible-extract", "strict", "flexible",
                                    "boxed"}
    assert record.decisions["reuse"] > 0 and record.parameters.prompt == "boxed"
    assert record.parameters.decoding.stop_strings == ("Question:", "</s>", "<|im_end|>")


def test_an_empty_answer_names_the_string_that_cut_it(tmp_path, monkeypatch):
    """Whatever the model writes first is made a stop string: every answer is then empty, as in the log."""
    free = configuration(tmp_path / "free", "gsm8k", "gsm8k", decoding={"stop_strings": ()})
    first = sorted({row["output"][0] for row in map(json.loads, (tmp_path / "free/samples.jsonl").open())})
    assert free.empty == 0
    record = configuration(tmp_path / "cut", "gsm8k", "gsm8k", decoding={"stop_strings": tuple(first)})
    assert (record.empty, record.finish["stop_string"]) == (2, 2)
    assert sum(record.notes["empty_by"].values()) == 2 and set(record.notes["empty_by"]) <= set(first)


def test_a_likelihood_configuration_counts_tokens_and_time(tmp_path):
    record = configuration(tmp_path, "mmlu", "mmlu")
    assert record.subtasks == {"mmlu_astronomy": 2, "mmlu_high_school_computer_science": 2}
    assert record.n == 4 and record.tokens == 16 and record.nfe["prefill"] == 16
    assert record.tokens_per_second == pytest.approx(16 / record.seconds)
    with pytest.raises(ValueError, match=r"reuse.k=2 on mmlu.*nothing to reuse"):
        configuration(tmp_path / "k2", "mmlu", "mmlu", reuse=Reuse(k=2, layers="middle"))


def test_ifeval_rates_have_their_own_counts(tmp_path):
    record = configuration(tmp_path, "ifeval", "ifeval.jsonl")
    counts = {rule: accuracy.n for rule, accuracy in record.accuracy.items()}
    assert counts["prompt_level_strict_acc,none"] == record.n == 2
    assert counts["inst_level_strict_acc,none"] == counts["inst_level_loose_acc,none"] == 3


def test_the_autoregressive_engine_makes_the_same_record(tmp_path):
    record = configuration(tmp_path, "gsm8k", "gsm8k", engine="autoregressive")
    assert record.n == 2 and record.nfe["prefill"] == 2 and record.nfe["full"] == record.nfe["small"] == 0
    assert record.tokens == record.nfe["commit"] + 2


def test_missing_data_is_said_before_the_model_is_loaded(tmp_path):
    parameters = Parameters(task="gsm8k", data=str(tmp_path / "none.jsonl"), model="tiny")
    prepared = PreparedRun(Configuration("test", "configuration", parameters, tmp_path))
    with pytest.raises(ValueError, match="does not exist"):
        run_configuration(prepared)
    assert not list(tmp_path.glob("*.json*"))


@pytest.mark.skipif(not GSM8K.exists(), reason=f"the real GSM8K test set is not at {GSM8K}")
def test_gsm8k_on_the_real_file(model):
    results = harness.evaluate(model, "gsm8k", data=GSM8K, limit=2, shots=0)
    assert results["n-samples"]["gsm8k"] == {"original": 1319, "effective": 2}
    assert all(sample["resps"][0][0] for sample in results["samples"]["gsm8k"])
