"""Servers that tests start in this process, on a free port, and a browser to open their pages."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from socialtag_jax.web import hosting

CHROMIUM = next((path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/chromium-browser")) if path.exists()), None)


@contextlib.contextmanager
def running(app: FastAPI, *, patience: int = 5) -> Iterator[str]:
    """Serves an application from a thread; yields its address."""
    with hosting.listen(hosting.LOOPBACK, 0) as listener:
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
