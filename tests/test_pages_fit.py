"""In a real browser: the widest tables of the notebooks stand whole on a page of 800 pixels, in each kind of page."""

from __future__ import annotations

import json

import nbformat
import pandas as pd
import pytest
from browser import CHROMIUM, DRIVER, chromium
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fastdllm.display.notebook_html import to_html
from fastdllm.display.tables import Html
from fastdllm.report.cell_report import WORDS
from fastdllm.share.notebook_pages import Writer

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: bash .ci/install-system.sh")
INTERVAL, LOST = "100.0 (94.3 to 100.0)", "-32.8 (-45.5 to -19.7)"
TABLES = {
    "policies": {"config": "k4_middle_refresh_least_similar_t0.9", "accuracy %": "98.0", "points lost": LOST,
                 "NFE": 22571, "forwards run": 22571, "replayed": 2218, "layer calls reused": 42372,
                 "predicted speed-up": "1.03x", "criterion": "not met"},
    "batch": {"way": "k=2 output middle", "batch size": 32, "tokens/s": "1435", "over k=1 at this batch size": "0.95",
              "over its smallest batch": "1.85", "forwards run": "1380",
              "seconds per answer (95th percentile)": "12.27 (10.51)", "peak memory, MB": "638",
              "accuracy %": INTERVAL},
    "front": {"threshold": "0.9", "k": 2, "right of 1319": 105, "points lost": "0.5 (-0.1 to 1.1)",
              "of k=1's right answers": "37%", "full forwards": "35 223", "small forwards": "101 546",
              "commit forwards": "3 783", "tokens / forward": "0.85", "layer calls reused": "559 764",
              "predicted speed-up": "1.15x"},
    "reverted": {"revision": "8e18baac+full_block_every_k=false", "right answers": 40, "n": 64, "tokens": 3376,
                 "NFE": 1587, "reuse": 10632, "same": True, "points": LOST,
                 "of the baseline's right answers, %": "-34.4", "McNemar p": "< 0.0001", "p after Holm": "< 0.0001"},
    "file": {"problem": "test-0-00000", "right": "yes", "tokens": 75, "finish": "stop", "prefill": 1, "full": 15,
             "small": 14, "commit": 2, "recompute": 252, "reuse": 96},
    "switches": {"run_skipped": True, "full_block_every_k": False, "first_subset": "1-11", "on_full_block": "by_step",
                 "layer calls reused": 198,
                 "against the good one": "everything but outcome; first at prompt 0, forward 2",
                 "its tokens (good)": True,
                 "against the bad one": "layer calls, block cache; first at prompt 0, forward 2",
                 "its tokens (bad)": False}}
OUTSIDE = """return [...document.querySelectorAll('.fds')].filter(box => box.scrollWidth > box.clientWidth)
    .map(box => box.querySelector('th').textContent + ' ' + box.scrollWidth + ' > ' + box.clientWidth)"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(params=["report", "gallery"])
def opened(request, driver, tmp_path):
    """The driver on a page, 800 pixels wide, with all tables and an answer that is wider than the page."""
    made = [Html(pd.DataFrame([row] * 3), "caption")._repr_html_() for row in TABLES.values()]
    made.append(f"<pre style='white-space:pre-wrap;{WORDS}'>{'How many are there in the end? ' * 20}</pre>")
    notebook = new_notebook(cells=[new_code_cell("", outputs=[new_output("display_data", data={"text/html": each})
                                                              for each in made])])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    page, writer = tmp_path / "n.html", Writer()
    page.write_text(to_html(tmp_path / "n.ipynb", True) if request.param == "report"
                    else writer.page(json.loads(nbformat.writes(notebook)), "title", "", "n.ipynb"))
    (tmp_path / "assets").mkdir()
    for name, content in writer.assets().items():
        (tmp_path / "assets" / name).write_bytes(content)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": 800, "height": 1000, "deviceScaleFactor": 1, "mobile": False})
    driver.get(page.as_uri())
    yield driver
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_table_scrolls_in_its_box(opened):
    assert len(opened.find_elements("css selector", ".fds")) == len(TABLES)
    assert opened.execute_script(OUTSIDE) == []


def test_an_answer_breaks_between_words(opened):
    style = "return getComputedStyle([...document.querySelectorAll('pre')].at(-1))"
    assert opened.execute_script(f"{style}.wordBreak") == "normal"
    assert opened.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
