"""Chromium without a window, and what tests ask of a page."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE = 30.0  # seconds; pages are there much sooner


@contextmanager
def open_browser(profile: Path, downloads: Path | None = None) -> Iterator[Any]:
    """Start Chromium, or skip the test where it, its driver or selenium is missing.

    Args:
        profile: folder of what it keeps.
        downloads: folder that it downloads to.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (PyPI)")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if not (browser and chromedriver):
        pytest.skip("needs Chromium and chromedriver (Debian packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}", "--window-size=1400,900"]:
        options.add_argument(flag)
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def served(folder: str) -> Iterator[str]:
    """Serve a folder over HTTP; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def open_page(driver: Any, address: str) -> None:
    """Open an address afresh and wait until its data are shown."""
    driver.get("about:blank")
    driver.get(address)
    wait(driver, lambda: driver.execute_script("return document.readyState") == "complete")
    if "image.html" in address:
        wait(driver, lambda: text(driver, "#facts"))
    else:
        wait(driver, lambda: text(driver, ".data-table .count"))


def wait(driver: Any, done: Callable[[], object]) -> None:
    """Wait until something is so."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, PATIENCE, poll_frequency=0.05).until(lambda _: done())


def text(driver: Any, selector: str) -> str:
    """Return the text of an element."""
    value: str = driver.execute_script("return document.querySelector(arguments[0]).textContent.trim()", selector)
    return value


def texts(driver: Any, selector: str) -> list[str]:
    """Return the texts of elements."""
    script = "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent)"
    values: list[str] = driver.execute_script(script, selector)
    return values


def ranks_shown(driver: Any) -> list[int]:
    """Return the ranks of the images in the table."""
    return [int(value) for value in texts(driver, "#images td.rank")]


def key(driver: Any, *keys: str) -> None:
    """Press keys where the focus is."""
    driver.switch_to.active_element.send_keys(*keys)
