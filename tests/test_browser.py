"""The notebooks in a real JupyterLab, and the app in Voila, in a headless Chromium.

Screenshots go to FASTDLLM_SCREENSHOTS, or to pytest's temporary directory; the README's docs/images/debugger.png is
the stage.png among them.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from fastdllm.lab import notebooks

selenium = pytest.importorskip("selenium")
import browser  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None or browser.DRIVER is None,
                       reason="chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")]
ROOT = Path(__file__).parent.parent
LONG = """
import pandas as pd, fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.report import player
run = player.record(fastdllm.load("tests/golden"), [5, 6, 7] * 9, decoding=Decoding(max_new_tokens=64, mask_id=511),
                    reuse=Reuse(k=2, layers="middle"), distance=False)
copies = -(-5000 // len(run.steps))
steps = pd.concat([run.steps.assign(start=run.steps["start"] + 96 * i) for i in range(copies)], ignore_index=True)
steps["forward"] = range(len(steps))
trace = pd.concat([run.trace.assign(forward=run.trace["forward"] + i * len(run.steps)) for i in range(copies)])
fastdllm.explore(player.Run("long", steps, trace.reset_index(drop=True), {**run.meta, "results": {}}))
"""


IN_VIEW = """
const pane = document.querySelector('.fd-player .fd-text').getBoundingClientRect();
const now = document.querySelector('.fd-player .fd-now').getBoundingClientRect();
return now.top >= pane.top - 1 && now.bottom <= pane.bottom + 1;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Copies of the notebooks with smoke parameters, and one with a 5 000-step trace."""
    home = tmp_path_factory.mktemp("lab")
    for name in ("17_debugger", "18_chat"):
        values = yaml.safe_load((ROOT / "params" / "smoke" / f"{name}.yml").read_text())
        if name == "17_debugger":
            values["problem"] = 1       # its answer ends within these few tokens
        nbformat.write(parameterize_notebook(load_notebook_node(str(notebooks.find(name))), values),
                       home / f"{name}.ipynb")
    cell = {"cell_type": "code", "id": "long", "metadata": {}, "execution_count": None, "outputs": [], "source": LONG}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (home / "long.ipynb").write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4,
                                                 "nbformat_minor": 5}))
    for name in ("tests", "params", "notebooks"):
        (home / name).symlink_to(ROOT / name) if name == "tests" else (home / name).mkdir()
    return home


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    chosen = Path(os.environ.get("FASTDLLM_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def lab(folder, tmp_path_factory):
    with browser.lab(folder, tmp_path_factory.mktemp("log") / "lab.log") as address:
        yield address


@pytest.fixture(scope="module")
def debugger(driver, lab):
    """The debugger's notebook, opened and run; each test on it works alone, too."""
    browser.run_all(driver, *lab, "17_debugger.ipynb")


def where(driver):
    """Selected forward, counted from 1, and number of forwards of the first player on the page."""
    text = browser.wait(driver, ".fd-where").text.split()
    return int(text[1]), int(text[3])


def test_lab_wants_its_token(lab):
    assert not browser.answers(f"{lab[0]}/api/contents")
    assert browser.answers(f"{lab[0]}/api/contents?token={lab[1]}")


def test_debugger_notebook(driver, debugger, shots):
    stage = browser.wait(driver, ".fd-player")
    assert not browser.visible_static(driver), "the static figure hides where the widget is alive"
    first, last = where(driver)
    browser.into_view(driver, stage)
    stage.click()
    stage.send_keys(Keys.HOME)
    assert where(driver) == (1, last)
    heads = [int(head.text.split()[0]) for head in driver.find_elements(By.CSS_SELECTOR, ".fd-player .fd-head small")]
    assert last == max(heads), "the position and the heads count alike"
    for _ in range(3):
        stage.send_keys(Keys.ARROW_RIGHT)
    assert where(driver)[0] == 4
    assert f"4 of {heads[0]}: " in browser.wait(driver, ".fd-details").text
    cells = browser.js(driver, "return document.querySelectorAll('.jp-Cell.jp-mod-selected').length")
    assert cells == 1, "the arrow keys stay in the player"
    driver.save_screenshot(str(shots / "debugger.png"))

    stage.send_keys("d")
    assert where(driver)[0] == first, "the notebook opens at the first differing step, and d finds it"
    assert f"First difference: in the text forward {first}, in the layers that run forward " in stage.text
    stage.send_keys("D")
    layers = int(browser.wait(driver, ".fd-said").text.split()[-1].strip("."))
    assert where(driver)[0] == layers <= first, "another token follows from other layers"
    stage.send_keys("d")
    tops = browser.js(driver, "return [...document.querySelectorAll('.fd-player .fd-map')].slice(0, 2)"
                              ".map((map) => map.getBoundingClientRect().top)")
    assert tops[0] == tops[1], "both maps stand at one height"
    stage.screenshot(str(shots / "stage.png"))
    canvas = driver.find_element(By.CSS_SELECTOR, ".fd-player .fd-map")
    browser.click_at(driver, canvas, 30 + 9 * 2 + 5, 18 + 10 * 10 + 5)
    assert "layer 10" in browser.wait(driver, ".fd-details").text, "a click selects the cell"
    stage.send_keys(Keys.ARROW_DOWN)
    assert "layer 11" in browser.wait(driver, ".fd-details").text

    slider = driver.find_element(By.CSS_SELECTOR, ".fd-player input[type=range]")
    browser.js(driver, "arguments[0].value = 7; arguments[0].dispatchEvent(new Event('input'))", slider)
    assert where(driver)[0] == 7
    stage.send_keys(Keys.HOME)
    stage.send_keys(" ")
    heights = set()
    for _ in range(12):
        time.sleep(0.1)
        heights.add(stage.size["height"])
    stage.send_keys(" ")
    assert where(driver)[0] >= 2, "space plays"
    assert len(heights) == 1, "nothing moves while it plays"


def test_panel_runs_and_cancels(driver, debugger, shots):
    """In the same notebook: type a k, run, watch it finish; run a long one and cancel it."""
    box = browser.wait(driver, ".fd-in-new-tokens input")
    browser.into_view(driver, box)
    browser.wait(driver, ".fd-run").click()
    browser.wait(driver, ".fd-status", 60, "tokens in")
    slider = driver.find_element(By.CSS_SELECTOR, ".fd-in-k [role=slider], .fd-in-k .noUi-handle")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.wait(driver, ".fd-in-k .widget-readout", text="3").text == "3", "the slider moves"
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("1500", Keys.ENTER)
    threshold = driver.find_element(By.CSS_SELECTOR, ".fd-in-threshold .widget-readout")
    browser.js(driver, "arguments[0].innerText = ''", threshold)
    threshold.send_keys("1.0", Keys.ENTER)
    prompt = driver.find_element(By.CSS_SELECTOR, ".fd-in-prompt textarea")
    prompt.send_keys(" Tell it again and again, with more boxes.")
    browser.wait(driver, ".fd-run").click()
    browser.wait(driver, ".fd-cancel:not([disabled])").click()
    text = browser.wait(driver, ".fd-status", 60, "after").text
    assert "cancelled" in text
    browser.into_view(driver, driver.find_elements(By.CSS_SELECTOR, ".fd-player")[-1])
    driver.save_screenshot(str(shots / "panel.png"))


def test_long_trace(driver, lab, shots, capsys):
    """5 000 steps: built and painted in under a second, a step in under 100 ms (of the browser's own clock)."""
    browser.run_all(driver, *lab, "long.ipynb")
    stage = browser.wait(driver, ".fd-player")
    assert where(driver)[1] >= 5000
    built = float(stage.get_attribute("data-build-ms"))
    steps = []
    for key in (Keys.END, Keys.ARROW_LEFT, Keys.PAGE_UP, Keys.HOME, Keys.ARROW_RIGHT):
        stage.send_keys(key)
        steps.append(float(stage.get_attribute("data-step-ms")))
        assert browser.js(driver, IN_VIEW), f"the block that is denoised is out of sight after {key!r}"
    driver.save_screenshot(str(shots / "long.png"))
    with capsys.disabled():
        print(f"\n5000 steps: first paint {built:.0f} ms, step {sorted(steps)[2]:.0f} ms, worst {max(steps):.0f} ms",
              end=" ")
    assert built < 1000
    assert sorted(steps)[2] < 100
    slider = driver.find_element(By.CSS_SELECTOR, ".fd-player input[type=range]")
    for forward in (1500, 2501, 4000, 3999, 12):
        browser.js(driver, "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
                   slider, forward)
        assert where(driver)[0] == forward and browser.js(driver, IN_VIEW), forward
    assert "appears" in browser.wait(driver, ".fd-details").text


def test_dark_theme_is_legible(driver, lab, shots):
    """Text of the player against its background: contrast of at least 4.5 in the dark theme."""
    command = "return window.jupyterapp ? 1 : 0"
    browser.js(driver, command)
    browser.menu(driver, "Settings", "Theme", "JupyterLab Dark")
    time.sleep(1.5)
    stage = browser.wait(driver, ".fd-player")
    colours = browser.js(driver, "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]", stage)
    assert browser.contrast(*colours) > 4.5, colours
    driver.save_screenshot(str(shots / "dark.png"))


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """`fastdllm app`, and the address that it prints."""
    port = browser.free_port()
    log = tmp_path_factory.mktemp("app") / "log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "fastdllm", "app", f"--port={port}"], cwd=ROOT,
                                   stdout=output, stderr=subprocess.STDOUT,
                                   env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 60
    while "token=" not in log.read_text() or not browser.listens(port):
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.3)
    yield next(line for line in log.read_text().splitlines() if "token=" in line)
    process.send_signal(2)
    process.wait(30)


def test_app_chats_behind_its_token(driver, app, shots):
    assert app.startswith("http://localhost:")
    driver.get(app.split("/?")[0])
    assert "/login" in driver.current_url, "no page without the token"
    token = app.partition("token=")[2]
    shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert any(b"voila" in line for line in shown)
    assert not any(token.encode() in line for line in shown), "what every user of the machine can read"
    driver.get(app)
    log = browser.wait(driver, ".fd-log", 90, "Model:")
    assert "####" in log.text
    field = browser.wait(driver, ".fd-message input")
    field.send_keys("Zoe has 75 stamps. She finds 150 more. How many stamps does Zoe have?", Keys.ENTER)
    browser.wait(driver, ".fd-log", 60, "Zoe has 75 stamps")
    browser.wait(driver, ".fd-message button:not([disabled])", 60)
    assert "225" in browser.wait(driver, ".fd-log", 30, "####").text
    assert "tokens per forward" in browser.wait(driver, ".fd-status").text
    assert where(driver)[1] > 3
    assert not browser.visible_static(driver)
    driver.save_screenshot(str(shots / "app.png"))


def test_static_page_shows_the_figures(driver, shots, tmp_path):
    """An executed notebook as HTML, no kernel and no network: strip and decision map stand there as figures."""
    shutil.copy(notebooks.find("18_chat"), tmp_path / "in.ipynb")
    subprocess.run([sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "-p", "max_new_tokens", "32",
                    "--no-progress-bar"], cwd=tmp_path, check=True, capture_output=True,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "out.ipynb"], cwd=tmp_path, check=True,
                   capture_output=True)
    driver.get((tmp_path / "out.html").as_uri())
    assert browser.visible_static(driver)
    driver.save_screenshot(str(shots / "static.png"))
