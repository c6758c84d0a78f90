"""Servers that tests start in this process, on a free port, and a browser that opens their pages."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, sync_playwright

from socialtag_jax.web import hosting

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_BROWSER_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextlib.contextmanager
def running(app: FastAPI, *, patience: int = 5, port: int = 0) -> Iterator[str]:
    """Serves an application from a thread; yields its address."""
    with hosting.listen(hosting.LOOPBACK, port) as listener:
        address = hosting.address(listener)
        server = hosting.server(app, patience=patience)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started and thread.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert server.started
            yield address
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextlib.contextmanager
def headless_browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where this computer has none."""
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(_BROWSERS)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_BROWSER_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()
