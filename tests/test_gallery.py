"""The gallery in a real browser, from the file system: nothing missing, nothing logged, sorts and filters."""

from __future__ import annotations

import re
import shutil
import zipfile
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from browser import CHROMIUM, DRIVER, FLAGS, contrast
from lab_support import ROOT, command
from share_support import leaking

from fastdllm.share import gallery

needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER),
                                   reason="no Chromium here: bash .ci/install-system.sh")
SMALL = 'tbody tr[data-experiment="small"]'


@pytest.fixture(scope="module")
def site(finished, warm_kernels):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        leak = leaking(finished)
        yield gallery.build()
        shutil.rmtree(finished / "executed" / "gallery")
        (finished / "executed" / "gallery.zip").unlink(missing_ok=True)
        shutil.rmtree(leak.parents[1])


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield browser
    browser.quit()


class Links(HTMLParser):
    """Every href and src of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value and tag != "a"]
        self.found += [value for name, value in attrs if name == "href" and value and tag == "a"]


def open_page(driver, path) -> list[str]:
    """Open a file; what its console says."""
    driver.get_log("browser")
    driver.get(path.as_uri())
    return [entry["message"] for entry in driver.get_log("browser")]


def test_every_local_address_is_there_and_no_other_is_loaded(site):
    pages = list(site.folder.rglob("*.html"))
    assert len(pages) == site.pages >= 5
    for page in pages:
        links = Links()
        links.feed(page.read_text(encoding="utf-8"))
        for address in links.found:
            if address.startswith(("data:", "#")):
                continue
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
            assert (page.parent / unquote(address.split("#")[0])).exists(), f"{page.name} misses {address}"


@needs_browser
def test_the_index_sorts_and_filters(site, driver):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select
    assert open_page(driver, site.index) == []

    def column(index: int) -> list[str]:
        rows = driver.find_elements(By.CSS_SELECTOR, f"#cells {SMALL}")
        return [row.find_elements(By.TAG_NAME, "td")[index].get_attribute("data-value")
                or row.find_elements(By.TAG_NAME, "td")[index].text for row in rows if row.is_displayed()]

    heads = driver.find_elements(By.CSS_SELECTOR, "#cells thead button")
    names = [head.text for head in heads]
    config = names.index("Configuration")
    assert sorted(column(config)) == ["k1_first", "k1_middle", "k2_last_fails", "k2_middle"]
    heads[names.index("Predicted tokens/s")].click()
    up = [float(value) for value in column(names.index("Predicted tokens/s")) if value]
    assert up == sorted(up)
    assert len(up) == 3
    assert column(config)[-1] == "k2_last_fails", "cells without a value come last"
    heads[names.index("Predicted tokens/s")].click()
    down = [float(value) for value in column(names.index("Predicted tokens/s")) if value]
    assert down == up[::-1]
    assert column(config)[-1] == "k2_last_fails"
    assert driver.find_elements(By.CSS_SELECTOR, 'th[aria-sort="descending"]')[0].text.startswith("Predicted tokens/s")

    driver.find_element(By.ID, "text").send_keys("k2 middle")
    assert column(config) == ["k2_middle"]
    assert driver.find_element(By.ID, "shown").text.startswith("1 of ")
    driver.find_element(By.ID, "clear").click()
    Select(driver.find_element(By.ID, "state")).select_by_visible_text("failed")
    assert column(config) == ["k2_last_fails"]
    assert "planted fault" in driver.find_element(By.CSS_SELECTOR, f"#cells {SMALL}[data-state=failed]").text
    assert driver.get_log("browser") == []


@needs_browser
def test_an_index_of_800_configurations_stays_a_page_that_can_be_read(site, driver, tmp_path):
    """The first rows and a button for the rest; what is searched and sorted is all of them."""
    from selenium.webdriver.common.by import By
    shutil.copytree(site.folder / "assets", tmp_path / "assets")
    index = site.index.read_text(encoding="utf-8")
    one = re.search(r'<tr data-experiment="small".*?</tr>', index, re.S)[0]
    many = "".join(one.replace("</small>", f" case{number:03}</small>", 1) for number in range(800))
    (tmp_path / "index.html").write_text(re.sub(r"(<tbody>).*(</tbody>)", lambda kept: kept[1] + many + kept[2], index,
                                                flags=re.S), encoding="utf-8")

    def seen() -> int:
        return driver.execute_script("return [...document.querySelectorAll('#cells tbody tr')]"
                                     ".filter((row) => row.offsetHeight).length")

    assert open_page(driver, tmp_path / "index.html") == []
    everything, said = driver.find_element(By.ID, "all"), driver.find_element(By.ID, "shown")
    assert seen() == 50 and said.text == "800 of 800 match, the first 50 are shown"
    assert driver.execute_script("return document.documentElement.scrollHeight") < 9000
    driver.find_element(By.ID, "text").send_keys("case799")
    assert seen() == 1 and not everything.is_displayed(), "what is searched is not only what is shown"
    driver.find_element(By.ID, "clear").click()
    assert everything.text == "Show all 800"
    everything.click()
    assert seen() == 800 and not everything.is_displayed() and said.text == "800 of 800 match"


@needs_browser
def test_the_index_leads_to_an_experiment_s_configurations(site, driver):
    from selenium.webdriver.common.by import By
    open_page(driver, site.index)
    link = driver.find_element(By.CSS_SELECTOR, 'a.of[data-experiment="small"]')
    assert link.text == "4 configurations" and "3 complete" in link.find_element(By.XPATH, "..").text
    driver.find_element(By.ID, "text").send_keys("no such configuration")
    assert driver.find_element(By.ID, "shown").text.startswith("0 of ")
    link.click()
    assert driver.find_element(By.ID, "shown").text.startswith("4 of ")
    assert driver.find_element(By.ID, "experiment").get_property("value") == "small"
    assert driver.find_element(By.LINK_TEXT, "widgets"), "not widgets/widgets"


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_results_are_seen_at_1200_pixels_and_legible(site, driver, scheme):
    from selenium.webdriver.common.by import By
    size = {"width": 1200, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        open_page(driver, site.index)
        for head in driver.find_elements(By.CSS_SELECTOR, "#cells thead th")[:6]:
            assert head.rect["x"] + head.rect["width"] <= 1200, head.text
        seen = [head.text for head in driver.find_elements(By.CSS_SELECTOR, "#cells thead th")[:6]]
        assert {"Accuracy", "Predicted tokens/s"} <= set(seen)
        style = "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]"
        _, paper = driver.execute_script(style, driver.find_element(By.TAG_NAME, "body"))
        assert (contrast(paper, "rgb(0, 0, 0)") < 2) == (scheme == "dark")
        for css in ("h1", ".soft", "#cells td a", "#cells td small", "td.failed", "td.complete"):
            ink, _ = driver.execute_script(style, driver.find_element(By.CSS_SELECTOR, css))
            assert contrast(ink, paper) > 4.5, (css, ink, paper)
        assert driver.execute_script("""const cell = document.querySelector('#cells td.state');
            cell.append(Object.assign(document.createElement('small'), {textContent: 'k1_first+'.repeat(9)}));
            return cell.scrollWidth <= cell.clientWidth"""), "a long detail lies over the next column"
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_every_figure_has_a_text(site):
    texts = [alt for page in site.folder.rglob("*.html")
             for alt in re.findall(r'<img\b[^>]*?alt="([^"]*)"', page.read_text(encoding="utf-8"))]
    figures = [tag for page in site.folder.rglob("*.html") for tag in re.findall(r"<img\b", page.read_text())]
    assert len(texts) == len(figures) > 0
    assert all(re.match(r"Figure \d+: \w|Denoising and decision map of \w", text) for text in texts), texts


@needs_browser
def test_a_cell_s_page_shows_figures_and_hides_its_code(site, driver):
    from selenium.webdriver.common.by import By
    open_page(driver, site.index)
    driver.find_element(By.LINK_TEXT, "k2_middle").click()
    assert driver.current_url.endswith("/k2_middle/10_cell.html")
    pictures = driver.find_elements(By.TAG_NAME, "img")
    assert pictures
    assert all(driver.execute_script("return arguments[0].naturalWidth", picture) > 100 for picture in pictures)
    code = driver.find_element(By.CSS_SELECTOR, ".highlight")
    assert not code.is_displayed()
    driver.find_element(By.ID, "code").click()
    assert code.is_displayed()
    assert "strict" in driver.find_element(By.CSS_SELECTOR, ".tags").text
    assert driver.get_log("browser") == []


@needs_browser
def test_a_failed_cell_has_its_traceback(site, driver):
    from selenium.webdriver.common.by import By
    open_page(driver, site.index)
    driver.find_element(By.LINK_TEXT, "traceback").click()
    assert "RuntimeError: planted fault" in driver.find_element(By.ID, "notebook").text.replace("\n", " ")


@needs_browser
def test_widgets_show_their_last_state(site, driver):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    page = next(site.folder.rglob("widgets.html"))
    open_page(driver, page)
    slider = WebDriverWait(driver, 60).until(lambda page: page.find_element(By.CSS_SELECTOR, ".widget-slider"))
    assert "steps" in slider.text
    assert len(driver.find_elements(By.CSS_SELECTOR, ".widget-slider")) == 1
    assert WebDriverWait(driver, 60).until(lambda page: page.find_element(By.ID, "word")).text == "alive"
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_the_zip_is_small_and_whole(site):
    path = gallery.pack(site)
    assert path.stat().st_size < 3_000_000
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert "gallery/index.html" in names
    assert names == {f"gallery/{file.relative_to(site.folder)}" for file in site.folder.rglob("*") if file.is_file()}
    assert not {name for name in names if name.endswith((".jsonl", ".parquet", ".log", ".sh"))}


def test_a_zip_too_large_for_a_mailbox_is_refused(site, monkeypatch):
    monkeypatch.setattr(gallery, "ZIP_LIMIT", 1000)
    with pytest.raises(ValueError, match="allowed: 0 MB, so name fewer experiments"):
        gallery.pack(site)


def test_the_command(site, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(gallery, "LINES", 2)
    printed = command("gallery", "small", "--output", tmp_path / "site", "--zip")
    assert (tmp_path / "site.zip").exists() and "small: 4 configurations, " in printed
    text = (tmp_path / "site" / "index.html").read_text()
    assert "Reuse costs nothing." in text and "run here" in text and "same run as k1_first" in text
    assert "3 of 4 configurations complete" in text and re.search(r"The first 2 of \d configurations\.", text)
    assert not (tmp_path / "site" / "assets" / "embed-amd.js").exists(), "no widgets, no 3.6 MB"
    with pytest.raises(ValueError, match=r"allowed: .*small"):
        gallery.build(["nope"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        gallery.build(["small"], tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(("text", "asked"), [
    ("# Does `x` reach?\n\nSo: what is it?", "Does `x` reach?"), ("# A\n\nIt falls. How far? And then?", "How far?"),
    ("# A\n\nWhere do `old.py` and it part? It runs.", "Where do `old.py` and it part?"), ("# A\n\nB.", "A")])
def test_a_notebook_s_question_is_one_that_can_be_read_alone(text, asked):
    assert gallery.question({"cells": [{"cell_type": "markdown", "source": [text]}]}) == asked


def test_a_hypothesis_has_its_names_as_code_and_nothing_else_as_markup():
    assert gallery.code("`first` < <b>") == "<code>first</code> &lt; &lt;b&gt;"


def test_a_hypothesis_that_failed_is_said_to_have_failed(tmp_path):
    """Beside the hypothesis of an experiment that ships, by its records; nothing where no claim decides it."""
    for name in ("arc_easy_smol", "demo"):
        shutil.copytree(ROOT / "executed" / "published" / name, tmp_path / "published" / name)
    site = gallery.build(["published/arc_easy_smol", "published/demo"], tmp_path / "site", folder=tmp_path)
    text = site.index.read_text()
    assert "The hypothesis failed: 24.9% of 2376 are right" in text and text.count("The hypothesis ") == 1
