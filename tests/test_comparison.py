"""Records held against each other, and one problem of a record played again."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from bs4 import BeautifulSoup
from lab_support import checkpoint, command, invoke, params, write_record
from report_support import fill, healthy, rows, ship

from fastdllm import power, stats
from fastdllm.cli import compare
from fastdllm.display.tables import Html
from fastdllm.lab import atomic, records
from fastdllm.lab.config.grid import Grid
from fastdllm.lab.records import steps
from fastdllm.lab.records.identity import CurrentFingerprints
from fastdllm.report import cell_report, shipped
from fastdllm.report.comparison import page as comparison_page
from fastdllm.report.comparison import replay, sides
from fastdllm.report.comparison import text as comparison_text
from fastdllm.report.comparison.pairs import Comparison
from fastdllm.share import bundle

pytestmark = pytest.mark.usefixtures("warm_workers")
N = 60


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in which a grid has records: k=2 loses ten points, k=3 twenty."""
    monkeypatch.setenv("FASTDLLM_HOME", str(tmp_path))
    fill(study(tmp_path / "executed"), lambda c: (0.95 - 0.1 * (c.parameters.reuse.k - 1), 0.02, 60))
    return tmp_path / "executed"


def study(output, **axes):
    return Grid(experiment="study", output=str(output), limit=N, axes={"k": [1, 2, 3], "layers": ["middle"]} | axes)


def pair(*names):
    return Comparison(tuple(map(sides.find, names))).pairs[0]


def test_a_pair_is_counted_on_the_same_problems(project):
    one = pair("study/k1_middle", "study/k3_middle")
    assert one.paired is not None and one.paired.n == N
    assert one.paired == stats.compare_paired(one.shared["right_a"], one.shared["right_b"])
    assert one.paired.lost - one.paired.gained == 12 and one.difference[0] == pytest.approx(-20)
    assert one.settled and one.difference[2] < 0
    assert set(one.turned("lost").index) == set(one.shared.index[one.shared["right_a"] & ~one.shared["right_b"]])
    assert len(one.turned("won")) == one.paired.gained


def test_what_differs_is_named_and_what_is_equal_is_not(project):
    table = Comparison((sides.find("study/k1_middle"), sides.find("study/k2_middle"))).settings().set_index("")
    assert table.loc["k"].tolist() == [1, 2]
    assert "threshold" not in table.index and "weights" not in table.index
    assert table.loc["policy"].tolist() == ["none: k=1", "output"]


def test_what_differs_is_not_rounded_away(project):
    near, one = sides.find("study/k1_middle"), sides.find("study/k2_middle")
    decoding = near.record.parameters.decoding.model_copy(update={"threshold": 0.99999})
    other = near.record.parameters.model_copy(update={"decoding": decoding})
    near = replace(near, record=near.record.model_copy(update={"parameters": other}))
    table = Html(Comparison((near, one)).settings()).markdown()
    assert "| threshold | 0.99999 | " in table


def test_the_text_has_the_difference_the_problems_and_the_command(project):
    text = command("compare", "study/k1_middle", "study/k2_middle", "study/k3_middle", "--show", 1)
    assert "C - A, strict, on the same problems: -20.0 points" in text and "settled" in text
    assert "Lost: 1 of" in text and "A: right" in text and "C: wrong" in text
    assert "fastdllm explore study/arithmetic_limit_60/k1_middle study/arithmetic_limit_60/k3_middle" in text


def test_tables_and_page_are_written(project, tmp_path):
    command("compare", "study/k1_middle", "study/k3_middle", "--csv", tmp_path / "new/c.csv", "--problems",
            tmp_path / "p.csv", "--html", tmp_path / "c.html", "--show", 0)
    numbers = pd.read_csv(tmp_path / "new/c.csv")
    assert numbers["difference"].tolist()[1] == pytest.approx(-20) and numbers["lost"].tolist()[1] >= 12
    problems = pd.read_csv(tmp_path / "p.csv")
    assert len(problems) == N and problems["right_A"].sum() == 57 and problems["right_B"].sum() == 45
    page = (tmp_path / "c.html").read_text()
    assert "-20.0 points" in page and "http" not in page and page.count("<details>") == numbers["lost"].iloc[1]


def test_a_page_of_many_problems_shows_the_first_and_folds_the_rest(project, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_page, "OPEN", 5)
    command("compare", "study/k1_middle", "study/k3_middle", "--html", tmp_path / "c.html", "--show", 0)
    soup = BeautifulSoup((tmp_path / "c.html").read_text(), "html.parser")
    lost = next(node for node in soup.select("h3") if node.text.startswith("Lost: "))
    count = int(lost.text.split()[1])
    [rest] = soup.select("details.rest")
    assert lost.text.endswith("(right in A, wrong in B)") and rest.summary.text == f"{count - 5} more"
    assert len(rest.select("details")) == count - 5 and len(soup.select("body > details:not(.rest)")) == 5


def test_what_no_record_states_is_no_column(tmp_path):
    text = command("compare", "feb15_run1/k1_first", "feb15_run1/k2_middle", "--html", tmp_path / "c.html")
    assert "| accuracy %, stated | n | tokens/s (one run each) | executor |" in text
    page = (tmp_path / "c.html").read_text()
    assert "2026-02-15, commit 6f96d959" in page


@pytest.fixture
def compact(project):
    """The grid's records as they are published without samples, and as they are published without texts."""
    published = project / "published"
    ship_as(study(project), published / "compact")
    shutil.copytree(published / "compact", published / "bare", ignore=shutil.ignore_patterns(shipped.PROBLEMS))
    return published


def ship_as(grid, target):
    """The grid's records as compact ones of an experiment of another name."""
    ship(grid, target.parent)
    (target.parent / grid.experiment).rename(target)


def test_a_published_record_is_compared_by_what_it_keeps(compact):
    whole, short, bare = (pair(f"{name}/k1_middle", f"{name}/k3_middle") for name in ("study", "compact", "bare"))
    assert short.paired == whole.paired
    assert bare.paired is None and bare.difference[0] == pytest.approx(-20)
    assert bare.difference[2] - bare.difference[1] > whole.difference[2] - whole.difference[1]
    assert any("single answers are not kept" in caution for caution in bare.cautions())
    assert pair("study/k1_middle", "compact/k3_middle").paired == whole.paired


def test_published_texts_stand_beside_each_other(compact):
    for name in ("k1_middle", "k3_middle"):
        home = f"arithmetic_limit_{N}/{name}"
        texts = bundle.answers(compact.parent / "study" / home)
        (compact / "compact" / home / shipped.TEXTS).write_bytes(texts)
    whole, short = (pair(f"{name}/k1_middle", f"{name}/k3_middle") for name in ("study", "compact"))
    assert list(short.b.problems["output"]) == list(whole.b.problems["output"])


def test_an_empty_table_of_problems_says_why(compact, tmp_path):
    for names, said in ((("bare", "bare"), "nothing of A, B: no single answers"),
                        (("study", "bare"), "nothing of B: no single answers"), (("study", "study"), "")):
        text = command("compare", f"{names[0]}/k1_middle", f"{names[1]}/k3_middle", "--problems", tmp_path / "p.csv")
        assert (said in text) and ("nothing of" in text) == bool(said)


def test_the_first_example_of_the_help_has_texts_in_a_fresh_clone():
    """Of the records that ship, read from the repository's own files."""
    example = re.search(r"fastdllm compare (\S+) (\S+)\[/bold\]", compare.EXAMPLES)
    home = Path(__file__).parent.parent / "executed" / shipped.PUBLISHED
    shown = comparison_text.of(Comparison(tuple(sides.find(str(home / name)) for name in example.groups())))
    assert "Lost: 3 of" in shown and "Won: 3 of" in shown and "(no text is kept)" not in shown


def test_compact_answers_that_are_not_the_records_are_refused(compact):
    table = compact / "compact" / f"arithmetic_limit_{N}" / "k1_middle" / shipped.PROBLEMS
    table.write_text(table.read_text().replace(",1,", ",0,", 1))
    with pytest.raises(ValueError, match=r"problems\.csv: right: 56 in all; allowed: 57, as summary"):
        sides.find("compact/k1_middle")


@pytest.fixture
def drafted(project):
    """A record of policy verify, whose every third answer had no draft: with its samples, and compact as `short`."""
    grid, current = study(project, k=[2], policy=["verify"]), CurrentFingerprints()
    [configuration] = grid.configurations()
    samples = rows(configuration, current, healthy(configuration), np.arange(N), "")
    for sample in samples[::3] + samples[1::3]:
        sample |= {"forwards_run": 21, "drafts": [{"depth": 1, "kind": "small after small", "offered": 15,
                                                   "accepted": 12}]}
    write_record(configuration, current, samples)
    ship_as(grid, project / "published" / "short")
    return configuration.name


def test_forwards_of_verify_are_those_that_ran_and_the_nfe_where_nothing_was_drafted(drafted):
    side = sides.find(f"study/{drafted}")
    assert side.problems is not None and side.problems["forwards"].tolist() == [21, 21, 33] * (N // 3)
    assert side.problems["forwards"].sum() == side.record.forwards_run < side.record.forwards


def test_forwards_that_ran_are_missing_where_only_the_nfe_is_kept(drafted, compact):
    short = Comparison((sides.find("compact/k1_middle"), sides.find(f"short/{drafted}"))).problems()
    assert short["forwards_A"].tolist() == [33] * N and short["forwards_B"].isna().all()
    assert short["tokens_B"].tolist() == [60] * N


def test_records_of_other_lengths_are_compared_on_what_they_share(project):
    grid = Grid(experiment="short", output=str(project), limit=20, axes={"k": [2], "layers": ["middle"]})
    fill(grid)
    one = pair("study/k1_middle", "short/k2_middle")
    assert one.paired is not None and one.paired.n == 20
    assert any("20 problems that both solved, of 60 and 20" in caution for caution in one.cautions())


def test_results_of_the_harness_are_paired_by_document(project, tmp_path):
    folder, stamp = tmp_path / "theirs", "2026-11-20T10-00-00"
    folder.mkdir()
    documents = [{"doc_id": i, "filter": "strict", "exact_match": float(i < 30), "resps": [[f"#### {i}"]],
                  "filtered_resps": [str(i)]} for i in range(40)]
    for name, right in (("a", 30), ("b", 20)):
        (folder / name).mkdir()
        results = {"results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict": right / 40}},
                   "n-samples": {"gsm8k": {"effective": 40}}, "config": {"limit": 40}}
        (folder / name / f"results_{stamp}.json").write_text(json.dumps(results))
        rows = [{**each, "exact_match": float(each["doc_id"] < right)} for each in documents]
        (folder / name / f"samples_gsm8k_{stamp}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = pair(str(folder / "a" / f"results_{stamp}.json"), str(folder / "b"))
    assert one.paired is not None and (one.paired.n, one.paired.lost, one.paired.gained) == (40, 10, 0)
    assert one.shared.loc["gsm8k-25", "output_b"] == "#### 25"
    for samples in folder.rglob("samples*"):
        samples.unlink()
    assert pair(str(folder / "a"), str(folder / "b")).paired is None


def test_figures_of_the_log_can_be_compared(project):
    text = command("compare", "feb15_run1/k1_first", "feb15_run1/k2_middle")
    assert "-50.0 points" in text and "single answers are not kept" in text


@pytest.mark.parametrize(("names", "answer"), [
    (("study/k1_middle",), "allowed: two or more"),
    (("study/k1_midle", "study/k2_middle"), "did you mean study/k1_middle"),
    (("study/k1_middle", "feb15_run1/k1_first"), "allowed: records of one task"),
    (("jan_full/k1_first", "study/k1_middle"), "allowed: one of")])
def test_what_cannot_be_compared_is_said(project, names, answer):
    status, text = invoke("compare", *names)
    assert status and answer in text


def test_a_record_with_a_slip_is_looked_for_in_the_experiment_that_was_typed(project):
    ship(study(project), project / shipped.PUBLISHED, experiment="study")
    shutil.rmtree(project / "study")
    assert "did you mean study/k2_middle?" in invoke("explore", "study/k2_midle")[1]
    assert "did you mean study/k1_middle?" in invoke("explore", "study/k1_first")[1], "as jan_limit/k1_first is called"
    assert "did you mean jan_limit/k1_first?" in invoke("explore", "jan_limt/k1_first")[1]
    text = invoke("compare", "demo/k1_frst", "demo/k2_middle")[1]
    assert "nothing of demo has run here (fastdllm grid run demo would)" in text and "did you mean" not in text


@pytest.mark.parametrize(("what", "names", "caution"), [
    ("executor", ("fast", "eager"), "different executors (fast and eager)"),
    ("executor", ("", "eager"), "different executors (not stated and eager)"),
    ("executor", ("", ""), "the executors are not stated on either side"),
    ("device_name", ("A card", "another"), "different devices (A card and another)"),
    ("device_name", ("", ""), "the devices are not stated on either side")])
def test_speeds_that_measure_different_things_or_unknown_ones_are_not_compared_without_a_word(
        project, what, names, caution):
    home = project / "study" / f"arithmetic_limit_{N}"
    for config, name in zip(("k1_middle", "k2_middle"), names, strict=True):
        as_on_a_card(home / config, **{what: name})
    one = pair("study/k1_middle", "study/k2_middle")
    text = command("compare", "study/k1_middle", "study/k2_middle", "--show", 0)
    assert f"tokens/s are not compared: one run each; {caution}" in text and "(one run each" not in text
    assert f"predicted tokens/s {one.predicted_speed:.2f} times A's" in text


def test_a_published_record_that_names_no_executor_gets_no_ratio_of_tokens_per_second():
    names = [f"gsm8k_smol/gsm8k_words/{name}_26d6179_t1.0" for name in ("k1_first", "k2_first")]
    text = command("compare", *names, "--show", 0)
    assert "the executors are not stated on either side" in text and "(one run each" not in text
    assert " times A's" in text and "predicted tokens/s" in text


def test_two_runs_of_other_nodes_and_commits_get_no_ratio_of_clocks_and_one_line_why():
    names = [f"gsm8k_smol/gsm8k_words/{name}_26d6179_t0.9" for name in ("k2_middle", "k2_last")]
    text = command("compare", *names, "--show", 0)
    [why] = [line for line in text.splitlines() if "tokens/s are not compared" in line]
    assert re.search(r"one run each; different nodes \(\S+ and \S+\); different commits \(\w+ and \w+\)$", why)
    assert re.findall(r"([\w/]+) (\d\.\d\d) times A's", text.split("cost of B")[1]) == [
        ("forwards", "1.00"), ("tokens", "1.00"), ("tokens/s", "1.00")]
    assert "predicted tokens/s 1.00" in text and "| tokens/s" not in text


def as_on_a_card(directory, executor="fast", device_name="A card"):
    record = records.read(directory)
    records.write(directory, record.model_copy(update={
        "executor": executor, "environment": record.environment.model_copy(update={"device_name": device_name}),
        "parameters": record.parameters.model_copy(update={"device": "cuda"})}))


def test_no_ratio_of_clocks_on_a_cpu_is_shown_but_what_the_forwards_predict(project):
    home = project / "study" / f"arithmetic_limit_{N}"
    one = pair("study/k1_middle", "study/k3_middle")
    assert any("on a CPU" in caution for caution in one.cautions())
    text = command("compare", "study/k1_middle", "study/k3_middle", "--show", 0)
    assert f"predicted tokens/s {one.predicted_speed:.2f} times A's" in text and "| tokens/s |" not in text
    assert pair("study/k1_middle", "study/k1_middle").predicted_speed == 1
    for config in ("k1_middle", "k3_middle"):
        as_on_a_card(home / config)
    on_card = command("compare", "study/k1_middle", "study/k3_middle", "--show", 0)
    assert "CPU" not in on_card.split("B against A")[1] and "| tokens/s" not in on_card
    assert "tokens/s are not compared: one run each\n" in on_card
    assert f"predicted tokens/s {one.predicted_speed:.2f} times A's" in on_card


def test_a_value_that_a_run_never_reads_is_no_difference(project):
    grid = study(project, policy=["output", "residual"]).model_copy(update={"experiment": "more"})
    fill(grid, lambda configuration: (0.9, 0.02, 60))
    a, b = (next((project / "more").glob(f"*/{name}")) for name in ("k2_middle_output", "k2_middle_residual"))
    table = Comparison((sides.find(str(a)), sides.find(str(b)))).settings().set_index("")
    assert "policy" in table.index and not {"similarity", "seed", "top_p"} & set(table.index)
    plain = Comparison((sides.find("study/k1_middle"), sides.find(str(b)))).settings().set_index("")
    assert "similarity" not in plain.index and plain.loc["policy"].tolist() == ["none: k=1", "residual"]


def test_a_page_says_what_its_sides_share_once_and_when_they_ran(project, tmp_path):
    command("compare", "study/k1_middle", "study/k3_middle", "--html", tmp_path / "c.html", "--show", 0)
    page = (tmp_path / "c.html").read_text()
    assert f"<h1>study/arithmetic_limit_{N}: k1_middle, k3_middle</h1>" in page
    command("compare", project / "study" / f"arithmetic_limit_{N}" / "k1_middle", "study/k3_middle",
            "--html", tmp_path / "c.html", "--show", 0)
    named = (tmp_path / "c.html").read_text().partition("<h2>")[0]
    assert f"<h1>study/arithmetic_limit_{N}: k1_middle, k3_middle</h1>" in named and str(project) not in named
    assert "<th>accuracy %, strict</th>" in page
    assert page.count(records.read(project / "study" / f"arithmetic_limit_{N}" / "k1_middle").date[:10]) >= 2


@pytest.mark.parametrize(("lost", "gained", "n"), [(10, 2, 100), (30, 10, 200), (3, 0, 50), (1, 0, 8)])
def test_the_number_of_problems_that_is_named_shows_the_difference(lost, gained, n):
    """Drawn again and again at that size, the test finds it in about 80 % of the draws."""
    needed = power.n_needed_paired(lost, gained, n)
    assert needed is not None
    rng = np.random.default_rng(0)
    draws = rng.multinomial(needed, [lost / n, gained / n, 1 - (lost + gained) / n], size=400)
    found = np.mean([stats.mcnemar(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert 0.55 < found < 0.95      # exact McNemar is cautious where few problems turn
    assert power.n_needed_paired(5, 5, 100) is None


def test_few_needed_where_all_turn_and_never_fewer_than_a_test_can_be_made_of():
    assert power.n_needed_paired(10, 0, 10) == 6
    with pytest.raises(ValueError, match="allowed: counts"):
        power.n_needed_paired(6, 6, 10)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project where a grid of two configurations ran on a random checkpoint, one of them with a trace of a problem.
    """
    folder = tmp_path_factory.mktemp("ran")
    model = checkpoint(folder / "model")
    file = params(folder / "run.yml", model, limit=2, axes={"k": [1, 2], "layers": ["middle"]}, record={"trace": 1})
    command("grid", "run", file)
    return folder


@pytest.fixture
def played(ran, monkeypatch):
    monkeypatch.setenv("FASTDLLM_HOME", str(ran))
    return ran


def without_texts(side):
    """As a shipped record's problems are: right or wrong, and no text that this could be said of."""
    return replace(side, problems=side.problems.assign(output=float("nan")))


def test_a_kept_trace_is_played_and_another_problem_is_decoded_again(played, tmp_path):
    kept = command("explore", "run/k2_middle", "--problem", 0, "--output", tmp_path / "kept.html")
    assert "as it was recorded with the run" in kept
    again = command("explore", "run/k2_middle", "--problem", 1)
    assert "decoded again" in again and "the text is the record's" in again and "no longer" not in again
    for problem in ("0", "1"):
        replayed = replay.replay(sides.find("run/k2_middle"), problem)
        said = {True: "right", False: "wrong"}[replayed.recording.meta["right"]]
        assert said in replayed.verdict and replayed.recording.meta["target"] == replayed.problem.target
    assert replay.replay(without_texts(sides.find("run/k2_middle")), "1").recording.meta["right"] is None
    page = (tmp_path / "kept.html").read_text()
    assert "http:" not in page.replace("http://www.w3.org", "") and "k2_middle" in page


def test_two_records_are_played_beside_each_other_and_part_at_a_named_step(played):
    text = command("explore", "run/k1_middle", "run/k2_middle", "--problem", "test-0-00001")
    assert text.count("decoded again") >= 2 and "run-arithmetic_limit_2-k1_middle_run" in text
    one = pair("run/k1_middle", "run/k2_middle")
    assert one.first_steps is not None and one.first_steps["id"].tolist() == ["test-0-00000"]
    assert "first differing step" in command("compare", "run/k1_middle", "run/k2_middle")


def test_a_pair_reads_each_recording_once(tmp_path, monkeypatch):
    """Forty problems traced on both sides: as many files are read as for one."""
    monkeypatch.setenv("FASTDLLM_HOME", str(tmp_path))
    grid = Grid(experiment="many", output=str(tmp_path / "executed"), limit=40,
                axes={"k": [1, 2], "layers": ["middle"]})
    fill(grid)
    token = {"row": 0, "forward": 0, "block": 0, "kind": "full", "start": 0, "confidence": [0.9] * 4,
             "small_block": 0, "step": 0}
    about = {"block": 4, "mask_id": 9, "prompts": {}, "results": {}}
    for configuration, changed in zip(grid.configurations(), (5, 6), strict=True):
        lines = [token | {"row": row, "tokens": [1, 2, 3, changed if row % 2 else 4], "unmasked": [True] * 4}
                 for row in range(40)]
        steps.write(configuration.directory / steps.STEPS, pd.DataFrame(lines), about)
        pd.DataFrame({"row": range(40), "layer": 0}).to_parquet(configuration.directory / "trace.parquet")
    read, table = [], pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, *args, **more: read.append(path) or table(path, *args, **more))
    parted = pair("many/k1_middle", "many/k2_middle").first_steps
    assert parted is not None and len(parted) == 40 and parted["forward"].notna().sum() == 20
    assert 2 <= len(read) <= 4


def test_a_run_that_is_no_longer_todays_says_so(played, tmp_path):
    home = played / "executed" / "run" / "arithmetic_limit_2" / "k2_middle"
    other = played / "executed" / "old" / "arithmetic_limit_2" / "k2_middle"
    shutil.copytree(home, other)
    record = records.read(other)
    records.write(other, record.model_copy(update={
        "identity": "0" * 64, "code": record.code.model_copy(update={"hash": "1" * 64})}))
    text = command("explore", "old/k2_middle", "--problem", 1, "--output", tmp_path / "o.html")
    assert "the run's identity is no longer today's: code 11111111 ->" in text
    shutil.rmtree(other.parents[1])


def test_the_command_that_a_report_prints_under_an_answer_leads_to_its_player(played):
    home = played / "executed" / "run" / "arithmetic_limit_2" / "k2_middle"
    page = cell_report.samples_html(records.read(home), records.samples(home))
    printed = re.findall(r"<code>fastdllm (explore [^<]*)</code>", page)
    assert len(printed) == 2
    assert "open " in command(*shlex.split(printed[0]))


@pytest.mark.parametrize(("arguments", "answer"), [
    (("run/k2_middle", "--problem", "9"), "allowed: 0 to 1, or an id like test-0-00000"),
    (("run/k2_middle", "--problem", "test-0-0001"), "did you mean test-0-00001"),
    (("feb15_run1/k1_first",), "allowed: a record of this suite")])
def test_what_cannot_be_played_is_said(played, arguments, answer):
    status, text = invoke("explore", *arguments)
    assert status and answer in text


def test_a_record_without_its_data_says_which_they_are_and_takes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDLLM_HOME", str(tmp_path))
    file, moved, other = (tmp_path / f"{name}.jsonl" for name in ("here", "moved", "other"))
    file.write_text("".join(f'{{"question": "What is {n} plus 1?", "target": "{n + 1}"}}\n' for n in range(4)))
    grid = Grid(experiment="local", output=str(tmp_path / "executed"), data=str(file),
                decoding={"max_new_tokens": 8}, axes={"k": [1, 2], "layers": ["middle"]})
    fill(grid, lambda c: (1.0 if c.parameters.reuse.k == 1 else 0.5, 0.02, 60))
    assert "--data" not in command("compare", "local/k1_middle", "local/k2_middle")
    other.write_text(file.read_text().replace("plus 1", "plus 2"))
    file.rename(moved)
    about = f"4 problems of arithmetic, fingerprint {sides.find('local/k1_middle').record.dataset.fingerprint[:12]}"
    refused = command("explore", "local/k1_middle", "--problem", 3, code=1)
    assert about in refused and "docs/tasks.md" in refused and "allowed: --data PATH" in refused
    refused = command("explore", "local/k1_middle", "--problem", 3, "--data", other, code=1)
    assert f"--data {other}: 4 problems, fingerprint " in refused
    assert "allowed: those of local/arithmetic/k1_middle: 4, fingerprint " in refused
    text = command("compare", "local/k1_middle", "local/k2_middle")
    [printed] = re.findall(r"fastdllm (explore .*) --data PATH$", text, re.MULTILINE)
    assert text.count(f"for --data: the data of the run are not on this machine ({file}: {about}") == 1
    assert "decoded again" in command(*shlex.split(printed), "--data", moved)


def test_a_page_is_named_by_the_records_last_three_parts_wherever_it_lies(played):
    record = played / "executed" / "run" / "arithmetic_limit_2" / "k2_middle"
    page = played / "executed" / "explore" / "run-arithmetic_limit_2-k2_middle_test-0-00000.html"
    assert f"open {page}" in command("explore", record, "--problem", 0)
    assert "run/arithmetic_limit_2/k2_middle" in page.read_text() and str(played) not in page.read_text()


def test_what_fastdllm_run_leaves_is_compared_like_a_grids(played):
    command("run", "--set", f"model={played / 'model'}", "--limit", 2, "--set", "max_new_tokens=32")
    [single] = (played / "executed" / "single").glob("*/*")
    assert "on the same problems" in command("compare", "run/k1_middle", single)
    assert atomic.file_sha256(single / records.SAMPLES) == records.read(single).samples_sha256
