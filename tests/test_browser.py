"""The notebooks in a real JupyterLab, and the app in Voila, in a headless Chromium.

Screenshots go to FASTDLLM_SCREENSHOTS, or to pytest's temporary directory; the README's docs/images/debugger.png is
the stage.png among them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbconvert import HTMLExporter
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from fastdllm.lab.jobs import notebooks, worker

selenium = pytest.importorskip("selenium")
import browser  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = [      # kernels are ordinary ones, as a reader has them: forked ones at times said nothing in JupyterLab
    pytest.mark.skipif(browser.CHROMIUM is None or browser.DRIVER is None,
                       reason="chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")]
ROOT = Path(__file__).parent.parent
LONG = """
import pandas as pd, fastdllm
from fastdllm import Decoding, Reuse
from fastdllm.ui import recording
run = recording.record(fastdllm.load("tests/golden"), [5, 6, 7] * 9, decoding=Decoding(max_new_tokens=64, mask_id=511),
                    reuse=Reuse(k=2, layers="middle"), distance=False)
copies = -(-5000 // len(run.steps))
steps = pd.concat([run.steps.assign(start=run.steps["start"] + 96 * i) for i in range(copies)], ignore_index=True)
steps["forward"] = range(len(steps))
trace = pd.concat([run.trace.assign(forward=run.trace["forward"] + i * len(run.steps)) for i in range(copies)])
fastdllm.explore(recording.Recording("long", steps, trace.reset_index(drop=True), {**run.meta, "results": {}}))
"""


IN_VIEW = """
const pane = document.querySelector('.fd-player .fd-text').getBoundingClientRect();
const now = document.querySelector('.fd-player .fd-now').getBoundingClientRect();
return now.top >= pane.top - 1 && now.bottom <= pane.bottom + 1;
"""


BUSY = "import time\nfrom pathlib import Path\nwhile not Path('go').exists():\n    time.sleep(.1)"
BUSY_NOW = ".jp-Notebook-ExecutionIndicator[data-status=busy]"
PANEL = "from fastdllm.ui.panel import panel\npanel('tiny', max_new_tokens=64)"


def of_cells(*sources):
    """A notebook of these cells, as text."""
    cells = [{"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "execution_count": None, "outputs": [],
              "source": source} for number, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


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
    for name, sources in (("long", [LONG]), ("panel", [PANEL]), ("busy", [PANEL, BUSY])):
        (home / f"{name}.ipynb").write_text(of_cells(*sources))
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
    assert browser.until(lambda: browser.status(f"{lab[0]}/api/contents")) == 403
    assert browser.status(f"{lab[0]}/api/contents?token={lab[1]}") == 200


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
    browser.js(driver, "document.querySelectorAll('.fd-value').forEach((v) => v.append(' more'.repeat(199)))")
    assert {stage.size["height"]} == heights, "a long value takes no more room"


def test_panel_runs_and_cancels(driver, debugger, shots):
    """In the same notebook: type a k, run, watch it finish; run a long one and cancel it."""
    box = browser.wait(driver, ".fd-in-new-tokens input")
    browser.into_view(driver, box)
    browser.wait(driver, ".fd-run").click()
    browser.wait(driver, ".fd-status", text="ended by")      # before that, another run is refused
    slider = driver.find_element(By.CSS_SELECTOR, ".fd-in-k [role=slider], .fd-in-k .noUi-handle")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.wait(driver, ".fd-in-k .widget-readout", text="3").text == "3", "the slider moves"
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("1500", Keys.ENTER)
    threshold = driver.find_element(By.CSS_SELECTOR, ".fd-in-threshold .widget-readout")
    browser.js(driver, "arguments[0].innerText = ''", threshold)
    threshold.send_keys("1.0", Keys.ENTER)
    prompt = driver.find_element(By.CSS_SELECTOR, ".fd-in-prompt textarea")
    prompt.send_keys(Keys.CONTROL, "a")
    prompt.send_keys("How many?")       # the checkpoint finds no end to it
    browser.wait(driver, ".fd-run").click()
    browser.wait(driver, ".fd-cancel:not([disabled])").click()
    text = browser.wait(driver, ".fd-status", text="after").text
    assert "cancelled" in text
    browser.into_view(driver, driver.find_elements(By.CSS_SELECTOR, ".fd-player")[-1])
    driver.save_screenshot(str(shots / "panel.png"))


def panel_fits(driver):
    """Whether no part of the panel reaches beyond it, and the controls use its width."""
    cut, used = browser.js(driver, """const panel = document.querySelector('.fd-run').closest('.jp-OutputArea-output');
       const room = panel.getBoundingClientRect();
       const parts = [...panel.querySelectorAll('.widget-inline-hbox, .widget-button, .fd-player')].filter((e) =>
         e.offsetWidth).map((e) => [e.className, e.getBoundingClientRect().right]);
       return [parts.filter(([, right]) => right > room.right + 1),
               (Math.max(...parts.map(([, right]) => right)) - room.left) / room.width]""")
    return cut == [] and used > 0.9


def test_panel_fits_the_window(driver, lab, shots):
    browser.run_all(driver, *lab, "panel.ipynb")
    try:
        status = browser.wait(driver, ".fd-status")
        browser.wait(driver, ".jp-Notebook", text="Press run.")
        assert not driver.find_elements(By.CSS_SELECTOR, ".fd-player"), "no live controls of an empty player"
        assert not any(node.is_displayed() for node in driver.find_elements(By.CSS_SELECTOR, "p[id^=fd-]"))
        browser.wait(driver, ".fd-run").click()
        browser.wait(driver, ".fd-status", text="ended by")
        for width in (600, 900, 1300):
            driver.set_window_size(width, 1500)
            assert browser.until(lambda: panel_fits(driver)), width
            browser.into_view(driver, status)
            driver.save_screenshot(str(shots / f"panel_{width}.png"))
    finally:
        driver.set_window_size(1300, 1500)


def test_panel_takes_what_is_typed(driver, lab, shots):
    """Whole numbers are refused, not changed; an edited text is an own prompt."""
    browser.run_all(driver, *lab, "panel.ipynb")
    for field, typed, said in (("new-tokens", "3.7", "new tokens: 3.7; allowed"),
                               ("new-tokens", "-5", "new tokens: -5; allowed"), ("new-tokens", "8", "ended by"),
                               ("problem", "3.7", "problem: 3.7; allowed")):
        box = browser.wait(driver, f".fd-in-{field} input")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(typed, Keys.ENTER)
        browser.wait(driver, ".fd-run").click()
        status = browser.wait(driver, ".fd-status", text=said).text
        assert box.get_attribute("value") == typed and (said != "ended by" or status.startswith("8 tokens in"))
        browser.wait(driver, ".fd-in-problem input:not([disabled])")     # what a run frees last
    driver.save_screenshot(str(shots / "panel_refuses.png"))
    chosen = "document.querySelector('.fd-in-task select').selectedOptions[0].label"
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("3", Keys.ENTER)
    browser.wait(driver, ".fd-run").click()
    browser.wait(driver, ".fd-status", text="ended by")
    browser.wait(driver, ".fd-in-problem input:not([disabled])")
    browser.becomes(driver, chosen, "arithmetic")
    driver.find_element(By.CSS_SELECTOR, ".fd-in-prompt textarea").send_keys(" And then?", Keys.TAB)
    browser.wait(driver, ".fd-in-problem input[disabled]")
    browser.becomes(driver, f"{chosen}.split(/\\s+/).join(' ')", "own prompt")


def test_what_is_typed_arrives_before_the_button(driver, lab, folder, shots):
    """While the kernel is busy, a page holds back all but the first change of a field: that one has to be the whole."""
    browser.start_all(driver, *lab, "busy.ipynb")
    typed = {"layers input": "0-3", "prompt textarea": "Zoe has 75 stamps.", "new-tokens input": "12"}
    for field, text in typed.items():
        box = browser.wait(driver, f".fd-in-{field}")
        box.send_keys(Keys.CONTROL, "a")
        for key in text:
            box.send_keys(key)
    slider = driver.find_element(By.CSS_SELECTOR, ".fd-in-k [role=slider], .fd-in-k .noUi-handle")
    slider.send_keys(Keys.ARROW_RIGHT)
    browser.wait(driver, ".fd-run").click()
    browser.wait(driver, BUSY_NOW)
    (folder / "go").touch()     # until now the kernel has taken nothing
    browser.wait(driver, ".fd-status", text="ended by length")
    shown = browser.wait(driver, ".fd-player").text
    assert "k3 0-3 output" in shown and typed["prompt textarea"] in shown
    driver.save_screenshot(str(shots / "panel_busy.png"))


@pytest.fixture(scope="module")
def long_trace(driver, lab):
    """The notebook with the long trace, opened and run; each test on it works alone, too."""
    browser.run_all(driver, *lab, "long.ipynb")


def test_long_trace(driver, long_trace, shots, capsys):
    """5 000 steps: any forward can be reached, the block that is denoised stays in sight; times are printed."""
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
    slider = driver.find_element(By.CSS_SELECTOR, ".fd-player input[type=range]")
    for forward in (1500, 2501, 4000, 3999, 12):
        browser.js(driver, "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
                   slider, forward)
        assert where(driver)[0] == forward and browser.js(driver, IN_VIEW), forward
    assert "appears" in browser.wait(driver, ".fd-details").text


def test_dark_theme_is_legible(driver, long_trace, shots):
    """Text of the player against its background: contrast of at least 4.5 in the dark theme."""
    browser.theme(driver, "dark")
    stage = browser.wait(driver, ".fd-player")
    colours = browser.js(driver, "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]", stage)
    assert browser.contrast(*colours) > 4.5, colours
    driver.save_screenshot(str(shots / "dark.png"))


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """`fastdllm app`: the address that it prints, and its process."""
    log = tmp_path_factory.mktemp("app") / "log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "fastdllm", "app", f"--port={browser.free_port()}"], cwd=ROOT,
                                   stdout=output, stderr=subprocess.STDOUT,
                                   env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
                                        "JUPYTER_PATH": ""})      # ordinary kernels, children of the app
    until = time.monotonic() + browser.PATIENCE
    while "Ctrl-C" not in log.read_text():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.3)
    address = next(line for line in log.read_text().splitlines() if "token=" in line)
    assert browser.status(address.split("/?")[0] + "/login") == 200, "an address that is printed answers"
    yield address, process
    process.send_signal(2)
    assert process.wait(browser.PATIENCE) == 0


def app_page(driver, app):
    """The app's page anew, with the first answer on it."""
    driver.get(app[0])
    assert "####" in browser.wait(driver, ".fd-log", text="Model:").text
    return browser.wait(driver, ".fd-message input")


def app_shown(driver, app):
    """The app's page as it is, or anew where another page is shown: for tests that leave what is said on it alone."""
    if not driver.current_url.startswith(app[0].split("/?")[0]) or not driver.find_elements(By.CSS_SELECTOR, ".fd-log"):
        app_page(driver, app)


def app_answered(driver, text):
    browser.wait(driver, ".fd-log", text=text)
    browser.wait(driver, ".fd-message button:not([disabled])")


def command_of(process):
    """The words of a process's command, each ended by a zero byte; empty for one that has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def app_kernels(app):
    """How many kernels the app's process has started that still run."""
    children = Path(f"/proc/{app[1].pid}/task/{app[1].pid}/children").read_text().split()
    return sum(b"ipykernel" in command_of(Path("/proc", child)) for child in children)


def test_app_chats_behind_its_token(driver, app, shots):
    address = app[0]
    assert address.startswith("http://127.0.0.1:")
    driver.get(address.split("/?")[0])
    assert "/login" in driver.current_url, "no page without the token"
    token = address.partition("token=")[2]
    field = app_page(driver, app)
    shown = [command_of(process) for process in Path("/proc").glob("[0-9]*")]
    assert any(b"fastdllm\0app" in line for line in shown) and app_kernels(app)
    assert not any(token.encode() in line for line in shown), "what every user of the machine can read"
    field.send_keys("Zoe has 75 stamps. She finds 150 more. How many stamps does Zoe have?", Keys.ENTER)
    app_answered(driver, "Zoe has 75 stamps")
    assert field.get_attribute("value") == "", "what was taken leaves the field"
    text = browser.wait(driver, ".fd-log", text="####").text
    assert "225" in text.partition("not seen by the model")[2] and "Tom has 3 apples" in text
    assert "tokens per forward" in browser.wait(driver, ".fd-status").text
    assert where(driver)[1] > 3
    assert not browser.visible_static(driver)
    driver.save_screenshot(str(shots / "app.png"))


def test_app_needs_no_other_host(driver, app):
    """No wait for a network, none told of the page; nor does the console report what the page's policy forbids."""
    driver.get_log("browser")       # what was said before
    app_page(driver, app)
    named = browser.js(driver, """return performance.getEntriesByType('resource').map((entry) => entry.name)
        .filter((name) => !name.startsWith(location.origin) && /^http/.test(name))""")
    assert named == []
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_app_ends_the_kernel_of_a_page_that_closes(driver, app):
    for _ in range(2):
        app_page(driver, app)
    assert browser.until(lambda: 1 <= app_kernels(app) <= 2), "the page's own, and at most the one before, which ends"
    driver.get("about:blank")
    assert browser.until(lambda: not app_kernels(app))


def test_app_log_follows_and_lets_read_back(driver, app, shots):
    field = app_page(driver, app)
    log = browser.wait(driver, ".fd-log")
    bottom = """const box = arguments[0].getBoundingClientRect(), all = arguments[0].querySelectorAll('p');
        return all[all.length - 1].getBoundingClientRect().bottom - box.bottom"""
    for count in range(5):
        field.send_keys(f"Zoe has 75 stamps. She finds {count + 150} more. How many stamps does Zoe have?", Keys.ENTER)
        browser.wait(driver, ".fd-log", text=f"She finds {count + 150} more")
        assert browser.js(driver, bottom, log) < 8, "the newest line is in view while it is written"
        app_answered(driver, f"She finds {count + 150} more")
        assert browser.js(driver, bottom, log) < 8
    high, whole = browser.js(driver, "return [arguments[0].clientHeight, arguments[0].scrollHeight]", log)
    assert whole > high + 60
    first = """const box = arguments[0].getBoundingClientRect();
        return arguments[0].querySelector('p').getBoundingClientRect().top - box.top"""
    browser.js(driver, "arguments[0].scrollTop = -arguments[0].scrollHeight", log)
    assert abs(browser.js(driver, first, log)) < 20, "the first question can be read again"
    driver.save_screenshot(str(shots / "app_read_back.png"))
    browser.js(driver, "arguments[0].scrollTop = -60", log)
    stood = browser.js(driver, first, log)
    field.send_keys("Zoe has 3 stamps. She finds 4 more. How many stamps does Zoe have?", Keys.ENTER)
    app_answered(driver, "She finds 4 more")
    assert abs(browser.js(driver, first, log) - stood) < 3, "who reads back is not moved by a new answer"
    browser.wait(driver, ".fd-clear:not([disabled])").click()
    browser.wait(driver, ".fd-log", text="Nothing said yet")
    assert browser.until(lambda: not driver.find_elements(By.CSS_SELECTOR, ".fd-player .fd-pane")), "nothing is left"


def test_app_keeps_what_it_refuses(driver, app, shots):
    field = app_page(driver, app)
    before = browser.wait(driver, ".fd-log").text
    browser.wait(driver, ".fd-settings .jupyter-widget-Collapse-header, .fd-settings .lm-Collapse-header").click()
    layers = browser.wait(driver, ".fd-in-layers input")
    layers.send_keys(Keys.CONTROL, "a")
    layers.send_keys("outer", Keys.TAB)
    field.send_keys("Zoe has 75 stamps.", Keys.ENTER)
    browser.wait(driver, ".fd-status", text="outer")
    assert field.get_attribute("value") == "Zoe has 75 stamps." and browser.wait(driver, ".fd-log").text == before
    driver.save_screenshot(str(shots / "app_refused.png"))
    layers.send_keys(Keys.CONTROL, "a")
    layers.send_keys("middle", Keys.TAB)
    threshold = driver.find_element(By.CSS_SELECTOR, ".fd-in-threshold .widget-readout")
    browser.js(driver, "arguments[0].innerText = ''", threshold)
    threshold.send_keys("1.0", Keys.ENTER)
    tokens = browser.wait(driver, ".fd-in-new-tokens input")
    tokens.send_keys(Keys.CONTROL, "a")
    tokens.send_keys("1500", Keys.ENTER)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("How many?", Keys.ENTER)        # the checkpoint finds no end to it
    send = browser.wait(driver, ".fd-message button[disabled]")
    browser.wait(driver, ".fd-log", text="How many?")        # taken: the field is empty
    field.send_keys("and then", Keys.ENTER)
    browser.wait(driver, ".fd-message [role=status]", text="stop it first")
    assert field.get_attribute("value") == "and then"
    clear = browser.wait(driver, ".fd-clear[disabled]")
    assert all(float(node.value_of_css_property("opacity")) < .7 for node in (send, clear)), "and looks like it"
    driver.save_screenshot(str(shots / "app_busy.png"))
    browser.wait(driver, ".fd-stop").click()
    browser.wait(driver, ".fd-message button:not([disabled])")
    browser.wait(driver, ".fd-clear:not([disabled])")
    assert browser.wait(driver, ".fd-message [role=status]").text == ""


def chat_cut(driver):
    """Texts of the chat's controls that stand outside the window, or in a box that is too small for them."""
    return browser.js(driver, """const nodes = document.querySelectorAll('.fd-message button, .fd-message input, ' +
        '.fd-stop, .fd-clear, .widget-checkbox, .fd-settings .widget-label, .fd-settings .widget-readout, ' +
        '.fd-settings input, .fd-settings select');
      const right = document.querySelector('.fd-log').getBoundingClientRect().right + 2;
      return [...nodes].filter((node) => { const box = node.getBoundingClientRect();
        return box.right > right || box.width < 15 && node.type !== 'checkbox'
          || node.tagName === 'BUTTON' && node.scrollWidth > node.clientWidth + 1;
      }).map((node) => node.textContent || node.className)""")


def test_chat_fits_the_window(driver, lab, shots):
    browser.run_all(driver, *lab, "18_chat.ipynb")
    browser.wait(driver, ".fd-log", text="Model:")
    browser.wait(driver, ".fd-settings .jupyter-widget-Collapse-header, .fd-settings .lm-Collapse-header").click()
    for theme in ("light", "dark"):
        assert_chat_fits(driver, theme, shots)


def assert_chat_fits(driver, theme, shots):
    """In windows of three widths, legible and whole."""
    size = driver.get_window_size()
    browser.theme(driver, theme)
    log = browser.wait(driver, ".fd-log", text="Model:")
    browser.into_view(driver, log)
    side = driver.find_elements(By.CSS_SELECTOR, ".jp-SideBar.jp-mod-left .lm-TabBar-tab.lm-mod-current")
    for tab in side:        # the file list would leave a narrow window no room for the notebook
        tab.click()
    assert browser.contrast(*browser.js(driver, """const paper = getComputedStyle(document.body)
        .getPropertyValue('--jp-layout-color0'), probe = document.createElement('i');
        probe.style.color = paper; document.body.append(probe);
        const seen = [getComputedStyle(arguments[0].querySelector('p')).color, getComputedStyle(probe).color];
        probe.remove(); return seen""", log)) > 4.5
    assert browser.until(lambda: light_arrow(driver) == (theme == "dark"))
    try:
        for width in (480, 900, 1300):
            driver.set_window_size(width, 1500)
            assert browser.until(lambda: chat_cut(driver) == []), width
            browser.into_view(driver, driver.find_element(By.CSS_SELECTOR, ".fd-message"))
            driver.save_screenshot(str(shots / f"chat_{theme}_{width}.png"))
    finally:
        driver.set_window_size(size["width"], size["height"])


def light_arrow(driver):
    """Whether the arrow of the settings' lists is drawn for a dark ground."""
    arrow = browser.js(driver, "return getComputedStyle(document.querySelector('.fd-settings .widget-dropdown select'))"
                               ".backgroundImage")
    assert "svg" in arrow
    return "fill='%23e0e0e0'" in arrow


def test_app_fits_the_window(driver, app, shots):
    size = driver.get_window_size()
    app_page(driver, app)
    browser.wait(driver, ".fd-settings .jupyter-widget-Collapse-header, .fd-settings .lm-Collapse-header").click()
    try:
        for width in (480, 900, 1300):
            driver.set_window_size(width, 1800)
            assert browser.until(lambda: chat_cut(driver) == []), width
            driver.save_screenshot(str(shots / f"app_{width}.png"))
    finally:
        driver.set_window_size(size["width"], size["height"])


def test_app_follows_the_system_s_theme(driver, app, shots):
    """The page, its fields and the player are dark where the system is, and when it becomes so; legible in both."""
    ink_and_paper = """const paper = document.createElement('i'); paper.style.color =
        getComputedStyle(document.body).getPropertyValue('--jp-layout-color0'); document.body.append(paper);
        const seen = [getComputedStyle(paper).color, getComputedStyle(document.body).backgroundColor];
        paper.remove();
        return [seen, ...['.fd-log p', '.fd-about', '.fd-status', '.fd-player', '.fd-message input'].map((name) =>
            [getComputedStyle(document.querySelector(name)).color, seen[0]])]"""
    app_shown(driver, app)
    app_answered(driver, "Tom has 3 apples")
    try:
        for system, dark in (("dark", True), ("light", False), ("dark", True)):
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
                {"name": "prefers-color-scheme", "value": system}]})
            browser.becomes(driver, "document.body.dataset.jpThemeLight", str(not dark).lower())
            (paper, ground), *inks = browser.js(driver, ink_and_paper)
            assert browser.contrast(paper, "rgb(0, 0, 0)" if dark else "rgb(255, 255, 255)") < 1.5
            assert browser.contrast(ground, paper) < 1.2, "one ground, to the edge of the window"
            assert [pair for pair in inks if browser.contrast(*pair) < 4.5] == []
            assert light_arrow(driver) == dark, "a light arrow on a dark field alone"
            assert browser.until(lambda dark=dark: light_ink(driver) == dark), "on a dark ground alone"
            driver.save_screenshot(str(shots / f"app_{system}.png"))
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def light_ink(driver):
    """Whether more of the map's letters and numbers are light than dark; it is drawn anew a frame after a change."""
    return browser.js(driver, """const map = document.querySelector('.fd-map');
        const seen = map.getContext('2d').getImageData(0, 0, map.width, map.height).data, rest = [0, 0];
        for (let at = 0; at < seen.length; at += 4) {
            const [red, green, blue, solid] = seen.slice(at, at + 4);
            if (solid > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) < 30)
                rest[red > 128 ? 1 : 0] += 1;
        }
        return rest[1] > rest[0]""")


@pytest.mark.parametrize("system", ["light", "dark"])
@pytest.mark.parametrize(("body", "ground"), [
    ('data-jp-theme-light="true"', "#ffffff"), ('data-jp-theme-light="false"', "#111111"),
    ('class="jp-Notebook" data-jp-theme-light="true"', "#ffffff"), ("", None)],
    ids=["lab light", "lab dark", "app", "page without a theme"])
def test_badges_follow_the_theme_that_a_page_names_and_else_the_system(driver, tmp_path, body, ground, system):
    page = tmp_path / "page.html"
    css = (ROOT / "fastdllm" / "ui" / "player.css").read_text()
    page.write_text(f"<style>{css}</style><body {body}><div class=fd-player style='background:transparent'>"
                    "<b class=fd-right>right</b><b class=fd-wrong>wrong</b></div></body>")
    shown = ground or ("#ffffff" if system == "light" else "#16181d")
    try:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": system}]})
        driver.get(page.as_uri())
        for badge in driver.find_elements(By.CSS_SELECTOR, "b"):
            red, green, blue = (int(shown[at:at + 2], 16) for at in (1, 3, 5))
            assert browser.contrast(badge.value_of_css_property("color"), f"rgb({red}, {green}, {blue})") > 4.5
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture
def forked_kernels(kernels, monkeypatch):
    """What papermill executes, without JupyterLab, has a kernel that starts with everything imported."""
    for name, value in kernels.items():
        monkeypatch.setenv(name, value)


def page_of(executed):
    """An executed notebook as a page of nbconvert's: its address."""
    page = executed.with_suffix(".html")
    page.write_text(HTMLExporter().from_filename(str(executed))[0])
    return page.as_uri()


def test_static_page_shows_the_figures(driver, shots, tmp_path, forked_kernels):
    """An executed notebook as HTML, no kernel and no network: strip and decision map stand there as figures."""
    worker.execute(notebooks.find("18_chat"), tmp_path / "out.ipynb", {"max_new_tokens": 32})
    driver.get(page_of(tmp_path / "out.ipynb"))
    assert browser.visible_static(driver)
    driver.save_screenshot(str(shots / "static.png"))


def test_panel_leaves_a_sentence_in_a_static_page(driver, shots, tmp_path, forked_kernels):
    (tmp_path / "in.ipynb").write_text(of_cells(PANEL))
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", cwd=ROOT, progress_bar=False)
    driver.get(page_of(tmp_path / "out.ipynb"))
    assert browser.wait(driver, "p[id^=fd-]").text == "The panel needs JupyterLab with a kernel."
    driver.save_screenshot(str(shots / "panel_static.png"))
