"""Long cells of notebooks say how far they are, and executed copies keep nothing of it."""

import nbformat
import pytest
from nbclient import NotebookClient

from fastdllm.display.notebook_html import to_html
from fastdllm.display.progress import passing_lines, progress

CELL = """
import time
from fastdllm.display.progress import progress
{before}
for item in progress({items}):
    time.sleep(0.6)
    {inside}
"""


LINES = """
from fastdllm.display.progress import passing_lines
print('kept')
with passing_lines() as say:
    say('k1: 1 of 2 <problems>')
    {inside}
"""


def executed(items, before="", inside="pass", errors=False):
    """A notebook of one cell that goes through items, after it ran, and every state of its output on the way."""
    return after(CELL.format(items=items, before=before, inside=inside), errors)


def after(code, errors=False):
    """A notebook of one cell after it ran, and every state of its output on the way."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    seen = []

    class Client(NotebookClient):
        def process_message(self, message, *rest):
            seen.append(message["content"].get("data", {}).get("text/html", ""))
            return super().process_message(message, *rest)

    Client(notebook, timeout=120, allow_errors=errors).execute()
    return notebook, seen


@pytest.mark.parametrize(("items", "line"), [
    ("[1, 2], 'prompts decoded'", "1 of 2 prompts decoded"), ("(x for x in 'ab'), 'prompts', 2", "1 of 2 prompts"),
    ("(x for x in 'ab'), 'forwards'", "<em>1 forwards")])
def test_a_cell_says_how_far_it_is_and_its_copy_keeps_nothing(items, line, tmp_path):
    notebook, seen = executed(items, before="print('kept')")
    assert any(line in text for text in seen)
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook, path)
    assert "<em>" not in path.read_text() and "<em>" not in to_html(path)
    assert notebook.cells[0].outputs[0].text == "kept\n", "what else the cell shows stays"


def test_the_line_goes_when_the_cell_fails():
    notebook, _ = executed("[1, 2], 'prompts decoded'", inside="raise ValueError('x')", errors=True)
    assert "prompts decoded" not in str(notebook.cells[0].outputs[0])


def test_outside_a_notebook_nothing_is_shown(capsys):
    assert list(progress(["a", "b"], "letters")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("inside", ["say('k2: done')", "raise ValueError('x')"])
def test_lines_of_a_run_are_seen_and_go(inside):
    notebook, seen = after(LINES.format(inside=inside), errors=True)
    assert any("k1: 1 of 2 &lt;problems&gt;" in text for text in seen)
    assert notebook.cells[0].outputs[0].text == "kept\n", "what else the cell shows stays"
    assert "k1" not in str(notebook.cells[0].outputs[:2]) and "k2" not in str(notebook.cells[0].outputs[:2])


def test_outside_a_notebook_lines_are_printed(capsys):
    with passing_lines() as say:
        say("k1: 1 of 2")
    assert capsys.readouterr().out == "k1: 1 of 2\n"
