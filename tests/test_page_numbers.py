"""Numbers that stand in sentences of the pages, typed by hand, are those of the records that the sentences name; what
else the pages name (files, modules, what a block prints) is there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from safetensors import safe_open

from fastdllm.investigation.speed import gpu_measurements
from fastdllm.lab.atomic import json_lines
from fastdllm.lab.config import grid_file
from fastdllm.lab.jobs import notebooks
from fastdllm.report import hypotheses, shipped
from fastdllm.report.audit import rules, sources

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`((?:fastdllm|params|benchmarks|tests|tools|notebooks|docs|lab|cli|model|decode)/[\w./-]+)`")
TO_BE_MADE = ("params/my_7b.yml", "notebooks/NN_name.ipynb")       # by the reader
RESULTS = ROOT / "benchmarks" / "results"
H200 = RESULTS / "h200_2026-11-21.json"


def page(name: str) -> str:
    """A page's text in one line: sentences run over lines."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def measured(name: str) -> dict[str, Any]:
    """A benchmark's stored result."""
    return json.loads((RESULTS / name).read_text())


def published(name: str) -> str:
    """What an executed notebook shows as text, in one line."""
    [path] = (ROOT / "executed" / "published" / "notebooks").glob(f"{name}_*/*.ipynb")
    shown = [text for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])
             for kind, text in output.get("data", {}).items() if kind in ("text/markdown", "text/plain")]
    return " ".join(" ".join(shown).split())


def numbers(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of the one place that fits, or of several that say the same."""
    found = list(dict.fromkeys(re.findall(pattern, text)))
    assert len(found) == 1, f"{pattern}: {found}"
    return found[0] if isinstance(found[0], tuple) else (found[0],)


# (a page, what stands there, the notebook that it names, what stands there): the same groups, in the same order
SAME = [
    ("docs/known_issues.md", r"0 of (\d+) outputs differ in float32 and 0 of (\d+) in half precision, but (\d+) of",
     "08", r"0 of (\d+) answers differ on our path, (\d+) of \d+ in transformers' order .*?float32: 0 of (\d+)\.",
     (2, 0, 1)),
    ("docs/known_issues.md", r"of the real model (\d+) of (\d+) decodes do in float32", "06",
     r"Under refresh \(`26d6179`\) it is (\d+) of (\d+),", (0, 1)),
    ("docs/known_issues.md", r"none of (\d+) in float16", "06", r"none of (\d+) decodes differs by subset in float16",
     (0,)),
    ("docs/known_issues.md", r"embedded checkpoint's forwards: (\S+) and (\S+) with `output` \(n = 24, notebook 13\)",
     "13", r"On the embedded checkpoint: Reuse of 12 layers can't gain 1.2x: (\S+) for k=2 and (\S+) for k=3", (0, 1)),
    ("docs/known_issues.md", r"forwards (\S+) and (\S+) \(n = (\d+), notebook 13\)", "13",
     r"(?<!checkpoint: )Reuse of 12 layers can't gain 1.2x: (\S+) for k=2 and (\S+) for k=3 are predicted at the mix "
     r"of forwards measured on the real model \(gsm8k_words, n = (\d+)", (0, 1, 2)),
    ("docs/known_issues.md", r"It arrives: (\d+) of \d+ calls", "01", r"in all (\d+) reused layer calls", (0,)),
    ("docs/known_issues.md", r"12 of 28 layers are (\S+) % of a forward's bytes", "13",
     r"12 of 28 layers are (\S+)% of a forward's bytes", (0,)),
    ("docs/known_issues.md", r"middle is the best subset in (\d of \d) full runs", "08",
     r"best in (\d of \d) full tables", (0,))]


@pytest.mark.parametrize(("name", "here", "notebook", "there", "order"), SAME, ids=lambda value: str(value)[:40])
def test_a_number_that_names_a_notebook_is_the_notebook_s(name, here, notebook, there, order):
    stated, measured = numbers(here, page(name)), numbers(there, published(notebook))
    assert stated == tuple(measured[place] for place in order)


def test_notebook_09_s_prediction_is_that_of_its_published_records():
    frame = published("09")
    k2, k3, n = numbers(r"(\d\.\d\d)x and (\d\.\d\d)x \(n = (\d+), notebook 09\)", page("docs/known_issues.md"))
    rows = dict(re.findall(r"\| (k[23]_middle_output_t0\.9)\S* \|.*?\| (\d\.\d\d)x? ", frame))
    assert n in re.findall(r"n = (\d+)", frame)
    for name, stated in (("k2_middle_output_t0.9", k2), ("k3_middle_output_t0.9", k3)):
        assert rows.get(name) == stated, rows


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yml")), ids=lambda path: path.stem)
def test_comments_of_params_count_the_runs_that_there_are(path):
    comments = " ".join(line.removeprefix("#") for line in path.read_text().splitlines() if line.startswith("#"))
    grid = grid_file.load(path)
    ran = [each for each in grid.configurations() if not each.not_applicable]
    for count in re.findall(r"(\d+) different runs", comments):
        assert int(count) == len({each.parameters.key() for each in ran})
    for n in re.findall(r"different runs of (\d+) problems", " ".join(comments.split())):
        assert {each.limit for each in ran} == {int(n)}


@pytest.mark.parametrize("name", hypotheses.DECIDED_BY)
def test_a_hypothesis_that_failed_is_said_to_have_failed(name):
    """In its params file and in README, and nowhere where it did not fail."""
    one = hypotheses.judged(name, shipped.read())
    assert one is not None
    assert ("The hypothesis below failed" in (ROOT / "params" / f"{name}.yml").read_text()) == (one.state is False)
    assert (one.text in page("README.md")) == (one.state is False)


def test_the_chance_that_run_2_repeats_run_1_is_the_audit_s():
    [finding] = rules.audit(sources.published(), only=["copied_accuracy"])
    assert numbers(r"a chance of about (\S+) if configurations were independent, (\S+) if one decides the others",
                   page("README.md")) == numbers(r"a chance of about (\S+); they share .*? it is (\S+)$", finding.sure)


def test_training_took_as_long_as_its_record_says():
    run = measured("train_2026-11-21.json")
    minutes, right, n, threshold = numbers(
        r"(\S+) minutes on an H200 .*?then (\d+) of (\d+) held-out .*?threshold (\S+),", page("README.md"))
    assert float(minutes) == round(run["seconds"] / 60, 1)
    [row] = [each for each in run["accuracy"]
             if each["task"] == "arithmetic" and each["threshold"] == float(threshold)]
    assert (int(right), int(n)) == (row["correct"], row["n"])


def test_the_embedded_checkpoint_is_what_the_pages_say_it_is():
    home = ROOT / "fastdllm" / "checkpoints" / "tiny"
    with safe_open(home / "model.safetensors", "np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]      # noqa: SIM118 (it is no dict)
    million = round(sum(map(math.prod, shapes)) / 1e6, 2)
    for name in ("README.md", "docs/your_own.md"):
        assert f"{million} million parameters" in page(name), name
    [row] = [row for row in json.loads((home / "measured.json").read_text())["rows"]
             if row["task"] == "arithmetic_wordings"]
    n, right, threshold = numbers(
        r"of (\d+) problems in other wordings it solves (\d+) \(rule strict, threshold (\S+),", page("README.md"))
    assert (int(n), int(right), float(threshold)) == (row["problems"], row["correct"], row["threshold"])


def test_smol_s_accuracies_are_those_of_its_card():
    card = page("fastdllm/checkpoints/smol/README.md")
    words, n, equations, threshold = numbers(
        r"are (\S+) % of GSM8K's (\d+) test problems in words and (\S+) % with equations at threshold (\S+) \(",
        page("README.md"))
    plain = numbers(r"reaches (\S+) % and (\S+) % autoregressively", page("README.md"))
    row = numbers(rf"\| GSM8K test \| {n} \| {re.escape(threshold)} \| (\S+) % [^|]*\| (\S+) %", card)
    assert row == (equations, words)
    assert numbers(r"GSM8K test, autoregressive \| \d+ \| \| (\S+) % [^|]*\| (\S+) %", card) == plain[::-1]


def test_the_table_of_the_h200_is_its_record():
    table, text = gpu_measurements.runs(str(H200)), page("docs/speed.md")
    own = table[(table["executor"] == "fast") & (table["batch"] == 1) & ~table["full_forwards"].astype(bool)]
    base = own[own["k"] == 1].iloc[0]
    speed = {(row["k"], row["policy"]): row for _, row in own.iterrows()}
    for policy in ("output", "replay"):
        stated = numbers(rf"k=2, k=3 with `{policy}` \| (\d+), (\d+) tokens/s: (\S+), (\S+) times.*?"
                         r"\(predicted (\S+), (\S+)\)", text)
        rows = [speed[k, policy] for k in (2, 3)]
        assert stated[:2] == tuple(f"{row['tokens_per_second']:.0f}" for row in rows)
        assert stated[2:4] == tuple(f"{row['tokens_per_second'] / base['tokens_per_second']:.2f}" for row in rows)
        predicted = [(row["tokens"] / row["predicted"]) / (base["tokens"] / base["predicted"]) for row in rows]
        assert stated[4:] == tuple(f"{value:.2f}" for value in predicted)
    [plain] = [each for each in measured(H200.name)["dtypes"] if each["dtype"] == "torch.bfloat16"]
    times = [value for run in plain["runs"] if run.get("network") == "PlainNetwork"
             for kind, value in run["ms_by_kind"].items() if kind != "prefill"]
    assert numbers(r"That loop took (\S+) to (\S+) ms a", text) == (f"{min(times):.1f}", f"{max(times):.1f}")


def test_the_table_of_verify_is_its_record():
    rows = [row for row in json_lines(ROOT / "fastdllm" / "data" / "verify.jsonl") if row["part"] == "run"]
    text = page("docs/verify.md")
    for threshold, where in ((0.9, "n = 24, threshold 0.9: forwards"), (1.0, "at threshold 1.0, n = 24: forwards")):
        ran = {row["k"]: row for row in rows if row["data"] == "gsm8k_words" and row["dtype"] == "torch.bfloat16"
               and row["threshold"] == threshold}
        *saved, base = numbers(rf"{where} of k=1 over passes \| (\S+) \| (\S+) \| (\S+) \| \| its tokens/s over those "
                               r"of k=1 \((\d+) tokens/s", text)
        faster = numbers(rf"\({base} tokens/s, n = 24, one prompt at a time\) \| (\S+) \| (\S+) \| (\S+) \|", text)
        assert saved == [f"{ran[k]['forwards_saved']:.2f}" for k in (2, 3, 4)]
        assert faster == tuple(f"{ran[k]['speedup']:.2f}" for k in (2, 3, 4))
        assert int(base) == round(ran[1]["tokens_per_second"])


def test_what_verify_keeps_in_bfloat16_and_gains_in_batches_is_recorded():
    text, records = page("docs/verify.md"), shipped.read().where(experiment="verify_bfloat16").frame.sort_values("k")
    right = {row["k"]: shipped.read().right(row["path"]) for _, row in records.iterrows()}
    stated = tuple(map(int, numbers(
        r"strict\) k=1 has (\d+) right, and `verify` (\d+), (\d+) and (\d+) at k = 2, 3 and 4; against k=1 it wins "
        r"(\d+), (\d+) and (\d+) problems and loses (\d+), (\d+) and (\d+)\.", text)))
    won = [int((right[k] > right[1]).sum()) for k in (2, 3, 4)]
    lost = [int((right[k] < right[1]).sum()) for k in (2, 3, 4)]
    assert stated == (*(int(right[k].sum()) for k in (1, 2, 3, 4)), *won, *lost)
    rows = {row["batch"]: row for row in json_lines(ROOT / "fastdllm" / "data" / "verify.jsonl")
            if row["part"] == "batches" and row["n"] == 32}
    *gains, base = numbers(r"k=3 makes (\S+), (\S+), (\S+) and (\S+) times the tokens/s of k=1 at batch 1, 2, 3 and 4; "
                           r"k=1 itself makes (\d+, \d+, \d+ and \d+)\.", text)
    assert gains == [f"{rows[batch]['speedup']:.2f}" for batch in (1, 2, 3, 4)]
    assert re.findall(r"\d+", base) == [f"{rows[batch]['tokens_per_second_k1']:.0f}" for batch in (1, 2, 3, 4)]


def shares(name):
    """Shares of the bound, in per cent, of the packed engine at batch 1, 32 and 128."""
    packed = {run["batch"]: run for run in measured(name)["runs"] if run["engine"] == "packed"}
    return tuple(f"{100 * packed[batch]['share']:.1f}" for batch in (1, 32, 128))


def test_packed_ticks_are_their_record():
    text = page("docs/speed.md")
    runs = {(run["engine"], run["batch"]): run for run in measured("h100_batches_2026-11-27.json")["runs"]}
    for batch in (1, 32, 128):
        speed, share, goal, met, unpacked, plain = numbers(
            rf"\| {batch} \(\d+ prompts\) \| (\d+) tokens/s, (\S+) % of the bound \(goal (\d+) %: (met|not met)\) "
            r"\| (\d+) \| (\d*)", text)
        run, apart = runs["packed", batch], runs["unpacked", batch]
        assert (int(speed), float(share)) == (round(run["tokens_per_second"]), round(100 * run["share"], 1))
        assert int(goal) == round(100 * run["target"]) and (met == "met") == run["met"]
        assert int(unpacked) == round(apart["tokens_per_second"])
        loop = runs.get(("plain loop", batch))
        assert plain == (str(round(loop["tokens_per_second"])) if loop else "")
    files = [f"h100_batches_2026-11-27{which}.json" for which in ("", "_other_card", "_halved", "_before")]
    reports = [measured(file) for file in files]
    assert numbers(r"a slower host, made (\S+), (\S+) and (\S+) %", text) == shares(files[1])
    assert numbers(r"of the host's work made (\S+), (\S+) and (\S+) %", text) == shares(files[2])
    assert numbers(r"a fourth one made (\S+), (\S+) and (\S+) %", text) == shares(files[3])
    assert numbers(r"missed by (\S+) points on the other", text) == (f"{85 - float(shares(files[1])[0]):.1f}",)
    assert numbers(r"two seconds \((\d+) TFLOP/s.*?of its copies \((\S+) TB/s\)", text) == (
        f"{reports[0]['matrix_flops'] / 1e12:.0f}", f"{reports[0]['copy_bandwidth'] / 1e12:.2f}")
    rounds = [{run["batch"]: str(len(run["seconds"])) for run in report["runs"] if run["engine"] == "packed"}
              for report in reports[:2]]
    assert numbers(r"shortest of (\d+) runs counts at batch 1, of (\d+) at the others", text) == (
        rounds[0][1], rounds[0][32]) and rounds[0][32] == rounds[0][128]
    assert set(numbers(r"the shortest of (\d+) runs at each batch", text)) == set(rounds[1].values())
    assert numbers(r"with copies at (\S+) TB/s", text) == (f"{reports[1]['copy_bandwidth'] / 1e12:.2f}",)
    loops = [next(run for run in report["runs"] if run["engine"] == "plain loop") for report in reports]
    assert numbers(r"made (\d+), (\d+), (\d+) and (\d+) tokens/s on these four", text) == tuple(
        f"{loop['tokens_per_second']:.0f}" for loop in loops)


def test_two_gpus_are_their_record():
    text, report = page("docs/speed.md"), measured("h100_gpus_2026-11-27.json")
    (one, two), goal = report["runs"], report["goal"]
    stated = numbers(r"for (\S+) s, two for (\S+) s each: (\S+) times \(goal (\S+): (met|not met)\)", text)
    times = max(one["decode_seconds"]) / max(two["decode_seconds"])
    assert stated == (f"{one['decode_seconds'][0]:.1f}", f"{max(two['decode_seconds']):.1f}", f"{times:.2f}", f"{goal}",
                      "met" if times >= goal else "not met")
    added = numbers(r"added up it is (\S+) times\. With start-up [^:]* it is (\d+) s and (\d+) s: (\S+) times\.", text)
    assert added == (f"{sum(two['decode_seconds']) / max(two['decode_seconds']):.2f}", f"{one['seconds']:.0f}",
                     f"{two['seconds']:.0f}", f"{one['seconds'] / two['seconds']:.2f}")
    assert numbers(r"In bfloat16 (\d+) of (\d+) outputs", text) == (str(two["same_outputs"]), str(two["problems"]))


def test_float16_comes_as_near_to_the_bound_as_bfloat16():
    text = page("docs/speed.md")
    full, small = (re.findall(r"\d+", stated) for stated in numbers(
        r"full forwards of 1 and 32 rows (.*?) small ones (.*?) \(`fastdllm bench", text))
    report = (RESULTS / "h100_bench_2026-11-27.txt").read_text()
    share = {name: {(kind, int(rows)): part for kind, rows, part in
                    re.findall(r"(?m)^(\w+) +(\d+) .* (\d+)%$", report.split(f"== {name}\n")[1].split("==")[0])}
             for name in ("float16", "bfloat16")}
    assert full == [share[name]["full", rows] for name in ("float16", "bfloat16") for rows in (1, 32)]
    assert small == [share[name]["small", rows] for name in ("float16", "bfloat16") for rows in (1, 32)]


def test_papermill_s_own_inspection_leaves_out_what_the_page_says():
    stated = numbers(r"Of the (\d+) parameters of our (\d+) notebooks it leaves out (\d+) ",
                     page("docs/architecture.md"))
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    ours = {path: set(notebooks.declared(path)) for path in paths}
    left_out = sum(len(names - set(papermill.inspect_notebook(str(path)))) for path, names in ours.items())
    assert tuple(map(int, stated)) == (sum(map(len, ours.values())), len(paths), left_out)


def test_readme_s_first_block_prints_what_stands_below_it(monkeypatch):
    code, printed = numbers(r"(?s)```python\n([^`]*?)```\n\nIt prints[^\n]*\n\n```text\n(.*?)```",
                            (ROOT / "README.md").read_text())
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})      # README's own block
    assert out.getvalue() == printed


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_and_modules_that_a_page_names_are_there(path):
    """Paths of the repository in backticks (a page below docs/ names them from the root too), and `python -m NAME`."""
    text = path.read_text()
    for name in NAMED.findall(text):
        assert any((ROOT / start / name).exists() for start in ("", "fastdllm")) or name in TO_BE_MADE, name
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module) is not None, module
