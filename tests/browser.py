"""A real JupyterLab (or Voila) and a headless Chromium for the browser tests."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--window-size=1300,1500")


PATIENCE = 180.0      # seconds that a loaded machine may take for what is a moment's work elsewhere


def free_port() -> int:
    """A port that can be bound, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(10000, 16000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def status(url: str) -> int:
    """The HTTP status of a page; 0 if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return 0


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until `what()` is true and return it; it may find that an element was drawn anew meanwhile."""
    end = time.monotonic() + seconds
    while True:
        try:
            if seen := what():
                return seen
        except StaleElementReferenceException:
            seen = None
        if time.monotonic() > end:
            raise TimeoutError(f"{seen!r} after {seconds} s")
        time.sleep(0.2)


@contextmanager
def server(command: list[str], ready: str, folder: Path, log: Path, **environment: str) -> Iterator[None]:
    """A server process that is up when `ready` answers; ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    try:
        end = time.monotonic() + PATIENCE
        while status(ready) != 200:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not come up:\n{log.read_text()[-2000:]}")
            time.sleep(0.3)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def lab(folder: Path, log: Path) -> Iterator[tuple[str, str]]:
    """JupyterLab on `folder`: base address and token."""
    port, token = free_port(), secrets.token_hex(12)
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
               f"--IdentityProvider.token={token}", "--ServerApp.root_dir=" + str(folder),
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    settings = log.parent / "settings"          # the person's own are neither read nor changed
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')
    with server(command, f"{base}/api/status?token={token}", folder, log, JUPYTERLAB_SETTINGS_DIR=str(settings),
                JUPYTERLAB_WORKSPACES_DIR=str(log.parent / "workspaces")):
        yield base, token


@contextmanager
def chromium(profile: Path) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def wait(driver: WebDriver, css: str, seconds: float = PATIENCE, text: str | None = None) -> WebElement:
    """The first element that matches (and contains the text); raises TimeoutError naming it and what there is."""
    try:
        return until(lambda: next((element for element in driver.find_elements(By.CSS_SELECTOR, css)
                                   if text is None or text in element.text), None), seconds)
    except TimeoutError as error:
        raise TimeoutError(f"no {css} {'' if text is None else repr(text)} after {seconds} s at "
                           f"{seen(driver, css)}") from error


def seen(driver: WebDriver, css: str) -> str:
    """What a page shows, for an error's message: address, the elements' texts, its own, the console's last words."""
    there = [element.text for element in driver.find_elements(By.CSS_SELECTOR, css)]
    said = [entry["message"] for entry in driver.get_log("browser")][-5:]
    page = driver.find_element(By.TAG_NAME, "body").text
    return (f"{driver.current_url.partition('?')[0]}; there: {there}; the page: {page[:1500]!r}; "
            f"the console: {said}")


def becomes(driver: WebDriver, expression: str, wanted: object, seconds: float = PATIENCE) -> None:
    """Wait until a JavaScript expression has a value: what a kernel sends arrives field by field."""
    value: object = None

    def there() -> bool:
        nonlocal value
        value = js(driver, f"return {expression}")
        return value == wanted
    try:
        until(there, seconds)
    except TimeoutError as error:
        raise TimeoutError(f"{expression} is {value!r}, not {wanted!r}, after {seconds} s") from error


def start_all(driver: WebDriver, base: str, token: str, notebook: str, seconds: float = PATIENCE) -> None:
    """Open a notebook in JupyterLab and run all its cells.

    Its indicator says "idle" before there is a kernel, and who runs a cell then is asked to select one.
    """
    driver.get(f"{base}/lab/tree/{notebook}?token={token}&reset")
    wait(driver, ".jp-Notebook .jp-Cell", seconds)
    becomes(driver, f"window.jupyterapp.shell.currentWidget?.context?.path === {json.dumps(notebook)} && "
                    "window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.connectionStatus",
            "connected", seconds)
    wait(driver, ".jp-Notebook-ExecutionIndicator[data-status=idle]", seconds)
    js(driver, "document.querySelector('.jp-Notebook').focus()")
    menu(driver, "Run", "Run All Cells")
    try:
        until(lambda: re.search(r"\[(\*|\d+)\]", prompts(driver)), seconds)
    except TimeoutError as error:
        raise TimeoutError(f"{notebook}: no cell begins; {seen(driver, '.jp-Notebook-ExecutionIndicator')}") from error


def prompts(driver: WebDriver) -> str:
    """What stands before the notebook's cells: `[*]:` where one waits or runs, `[2]:` where it has run."""
    return str(js(driver, """return [...document.querySelectorAll('.jp-InputPrompt')]
        .map((prompt) => prompt.textContent).join(' ')"""))


def run_all(driver: WebDriver, base: str, token: str, notebook: str, seconds: float = PATIENCE) -> None:
    """Open a notebook in JupyterLab, run all its cells, wait until the kernel is idle again."""
    start_all(driver, base, token, notebook, seconds)
    until(lambda: "*" not in prompts(driver), seconds)
    wait(driver, ".jp-Notebook-ExecutionIndicator[data-status=idle]", seconds)


def js(driver: WebDriver, code: str, *arguments: object) -> object:
    return driver.execute_script(code, *arguments)


def into_view(driver: WebDriver, element: WebElement) -> None:
    js(driver, "arguments[0].scrollIntoView({block: 'center'})", element)
    time.sleep(0.3)


def click_at(driver: WebDriver, element: WebElement, x: int, y: int) -> None:
    """A click at pixels from the element's upper left corner."""
    js(driver, """const box = arguments[0].getBoundingClientRect();
       arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: box.left + arguments[1],
       clientY: box.top + arguments[2]}))""", element, x, y)


def visible_static(driver: WebDriver) -> int:
    """How many of the player's static figures can be seen."""
    images = driver.find_elements(By.CSS_SELECTOR, "[id^=fd-] img")
    return sum(image.is_displayed() and image.size["height"] > 100 for image in images)


def menu(driver: WebDriver, *labels: str) -> None:
    """Choose from JupyterLab's menus."""
    wait(driver, ".lm-MenuBar-item", text=labels[0]).click()
    for label in labels[1:]:
        until(lambda label=label: next((item for item in driver.find_elements(By.CSS_SELECTOR, ".lm-Menu-item")
                                        if item.text.startswith(label)), None)).click()
        time.sleep(0.4)


def theme(driver: WebDriver, name: str) -> None:
    """JupyterLab's theme, `light` or `dark`, once its style sheets are there."""
    light = str(name == "light").lower()
    if js(driver, "return document.body.dataset.jpThemeLight") != light:
        menu(driver, "Settings", "Theme", f"JupyterLab {name.title()}")
        becomes(driver, "document.body.dataset.jpThemeLight", light)


def contrast(ink: str, paper: str) -> float:
    """WCAG contrast of two CSS colours, 1 to 21."""
    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1:-1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
