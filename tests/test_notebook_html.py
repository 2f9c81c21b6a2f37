"""Notebooks as pages: nothing is loaded from elsewhere, figures keep their texts, scripts find their element."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fastdllm.display.notebook_html import to_html
from fastdllm.share.notebook_pages import Writer

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
ALT = 'a "quoted" <text>'
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    outputs = [
        new_output("display_data", data={"image/png": PNG, "text/plain": "fig"}, metadata={"image/png": {"alt": ALT}}),
        new_output("display_data", data={"image/png": PNG}),
        new_output("display_data", data={"application/javascript": "element.textContent = 'drawn'"}),
        new_output("display_data", data={VIEW: {"model_id": "a", "version_major": 2, "version_minor": 0}}),
        new_output("display_data", data={"text/html": "<b>kept</b><script src='//other/x.js'>a</script>"
                                         "<LINK href='https://other/a.css'><script>let kept = 1</script>"})]
    made = new_notebook(cells=[new_markdown_cell("# Title <script src=https://other/y.js></script>"),
                               new_code_cell("secret_code = 1", outputs=outputs)])
    made.metadata["widgets"] = {STATE: {"version_major": 2, "version_minor": 0, "state": {
        "a": {"model_name": "X", "model_module": "m", "model_module_version": "1", "state": {}}}}}
    return made


@pytest.fixture(params=["report", "gallery"])
def page(request, notebook, tmp_path: Path) -> BeautifulSoup:
    if request.param == "gallery":
        return BeautifulSoup(Writer().page(json.loads(nbformat.writes(notebook)), "title", "", "n.ipynb"),
                             "html.parser")
    nbformat.write(notebook, tmp_path / "n.ipynb")
    return BeautifulSoup(to_html(tmp_path / "n.ipynb"), "html.parser")


def test_nothing_of_another_host_is_loaded(page):
    addresses = [str(each.get("src") or each.get("href")) for each in page.select("script[src], link[href], img[src]")]
    assert not [address for address in addresses if address.startswith(("http", "//"))]
    assert "let kept = 1" in str(page) and page.find("b", string="kept")


def test_a_figure_keeps_its_text(page):
    described, plain = page.find_all("img")
    assert described["alt"] == ALT and plain["alt"]


def test_a_script_finds_its_element_without_jquery(page):
    [script] = [each for each in page.find_all("script") if "drawn" in each.text]
    assert f"document.getElementById('{script.parent['id']}')" in script.text and "$(" not in script.text


def test_widget_views_stand_where_they_were(page):
    [view] = page.find_all("script", type=VIEW)
    assert json.loads(view.text)["model_id"] == "a"


def test_code_can_be_left_out(notebook, tmp_path):
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert "secret_code" in BeautifulSoup(to_html(tmp_path / "n.ipynb"), "html.parser").text
    assert "secret_code" not in BeautifulSoup(to_html(tmp_path / "n.ipynb", hide_code=True), "html.parser").text


def test_the_writer_says_what_it_left_out(notebook):
    writer = Writer()
    writer.page(json.loads(nbformat.writes(notebook)), "title", "", "n.ipynb")
    assert writer.notes == ["title: 3 scripts or styles of other hosts were left out"]
