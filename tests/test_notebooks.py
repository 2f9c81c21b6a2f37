"""Every notebook runs with its small parameters in a real kernel and ends in a verdict."""

import ast
import itertools
import json
import re
from pathlib import Path

import page_support
import pytest
from interval_forms import in_text
from report_support import every_claim

from fastdllm.display.claim import MOST_WORDS, words_before_fold
from fastdllm.lab.jobs import notebooks, suite, worker

pytestmark = pytest.mark.usefixtures("warm_workers")
ROOT = Path(__file__).parent.parent
ENTRIES = suite.entries(smoke=True)


@pytest.fixture(scope="session")
def executed(common):
    """Records of all notebooks: a grid that several read is run once, as it is for a reader, whichever worker they are
    executed by."""
    return common / "executed"


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.path.stem for entry in ENTRIES])
def test_smoke(entry, tmp_path, executed):
    declared, parameters = notebooks.declared(entry.path), dict(entry.parameters)
    if "output" in declared:
        parameters["output"] = str(executed)
    output = tmp_path / entry.path.name
    worker.execute(entry.path, output, parameters)
    cells = json.loads(output.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code if "".join(cell["source"]).strip())
    assert not any(out.get("output_type") == "error" for cell in code for out in cell["outputs"])
    verdict = "".join("".join(out["data"].get("text/markdown", "")) for out in code[-1]["outputs"] if "data" in out)
    assert says_one_of_its_claims(verdict), f"the last cell is not made of claims: {verdict}"
    assert words_before_fold(verdict) <= MOST_WORDS, f"{words_before_fold(verdict)} words before the fold"
    assert captions_of(code) == figures_of(code), "a figure without a sentence under it"
    lines = ["".join(out["text"]) for cell in code for out in cell["outputs"] if out["output_type"] == "stream"]
    left = [text for text in lines if re.search(r"\d+ of \d+ problems,|[▶✓✗] |tokens/s, \d+ s", text)]
    assert not left, f"lines of a run's progress in the executed copy; allowed: progress.passing_lines: {left}"
    pages = ["".join(out.get("data", {}).get("text/html", "")) for cell in code for out in cell["outputs"]]
    raw = [page[:80] for page in pages if "dataframe" in page or 'id="T_' in page]
    assert [fault for table in page_support.tables(cells) for fault in page_support.bare(table)] == []
    shown = [re.sub("<[^>]+>", "", text) for cell in code for out in cell["outputs"]
             for text in (out.get("text", ""), *map("".join, out.get("data", {}).values())) if isinstance(text, str)]
    assert [form for text in [*shown, *lines] for form in in_text(text)] == [], "an interval of another form"
    assert not raw, f"a frame as pandas shows it, with its raw headings and p 0.00; allowed: tables.Html: {raw}"


def says_one_of_its_claims(text):
    """Whether a text holds what some claim of the package says, with numbers in its places."""
    texts = (part for claim in every_claim().values() for part in (claim.holds, claim.fails, claim.unknown))
    return any(says(part, text) for part in texts if len(part) > 20)


def says(claim, text):
    """Whether a text holds a claim's words in their order, with something in each place between them.

    The first place that fits is taken for each of them, which is enough: a regular expression tries all, and a long
    text keeps it busy for minutes.
    """
    at = 0
    for words in re.split(r"\{.*?\}", claim):
        if (found := text.find(words, at)) < 0:
            return False
        at = found + len(words) + 1
    return True


def figures_of(code):
    return sum("image/png" in out.get("data", {}) for cell in code for out in cell["outputs"])


def captions_of(code):
    """Figures that are followed by Markdown in their own cell."""
    count = 0
    for cell in code:
        kinds = [set(out.get("data", {})) for out in cell["outputs"]]
        count += sum("image/png" in one and "text/markdown" in two for one, two in itertools.pairwise(kinds))
    return count


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_opens_with_its_question_and_defines_nothing(path):
    cells = json.loads(path.read_text())["cells"]
    opening = "".join(cells[0]["source"]).split("**Proof.**")[0]
    sentences = re.findall(r"[.?:](?:\s|$)", opening.split("\n", 1)[1])
    assert "?" in opening or "hangs on" in opening, "no question"
    assert 2 <= len(sentences) <= 7
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_a_made_up_verdict_is_not_taken_for_claims():
    assert not says_one_of_its_claims("There is no collapse, and all is well with every published number.")
    assert says_one_of_its_claims("Every answer is the same at every batch size.")


def test_a_claim_is_found_with_something_in_each_of_its_places_and_in_a_long_text_at_once():
    assert says("{n} of {total} are right", "Here 3 of 5 are right.") and says("all of {n}", "all of 5")
    assert not says("{n} of {total} are right", " of 5 are right") and not says("all of {n}", "all of ")
    assert not says("a {x} b {x} c {x} d {x} e {x} f", "a b c d e " * 5000)


def test_every_notebook_has_small_parameters():
    small = {path.stem for path in (ROOT / "params" / "smoke").glob("*.yml")}
    missing = [entry.path.stem for entry in ENTRIES if notebooks.declared(entry.path) and entry.path.stem not in small]
    assert missing in ([], ["07_audit"]), "these would run at full size in the tests"
