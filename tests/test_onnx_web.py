"""`model.onnx` in onnxruntime-web, in a real browser: the page of docs/consumers.md, and larger batches.

Needs npm, its registry, and Chromium.
"""

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from socialtag_jax import Tagger
from socialtag_jax.export import export_bundle
from tests import bundles, exported
from tests.bundles import SIZE, TAGS
from tests.consumers_page import block

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
FLAGS += ("--disable-sync", "--no-first-run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all that the page loads."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm")
    folder = tmp_path_factory.mktemp("web")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-web@1"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm cannot install onnxruntime-web: {installed.stderr.strip().splitlines()[:1]}")
    export_bundle(bundles.random_model(), folder / "holiday.tagger", formats=["onnx"])
    Image.fromarray(exported.pixels(1)[0]).save(folder / "photo.png")
    (folder / "index.html").write_text(block("A web page, with onnxruntime-web", "html"), encoding="utf-8")
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name in the base class
        pass


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of a server of the folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """The page of the docs, in Chromium, its tags shown. It loads nothing from elsewhere."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
        page.on(
            "request", lambda request: None if request.url.startswith((address, "blob:")) else pytest.fail(request.url)
        )
        page.goto(address)
        page.wait_for_function("document.getElementById('tags').textContent !== ''", timeout=60_000)
        yield page
        browser.close()


def test_the_page_shows_what_the_tagger_suggests(page: Any, folder: Path):
    """To four decimals, as it shows them."""
    lines = [line.rpartition(" ") for line in page.text_content("#tags").splitlines()]
    (tags,) = Tagger.load(folder / "holiday.tagger").suggest(exported.pixels(1))
    assert [display for display, _, _ in lines] == [one.display for one in tags]
    assert 0 < len(lines) < len(TAGS), "the threshold leaves one out"
    np.testing.assert_allclose([float(score) for _, _, score in lines], [one.confidence for one in tags], atol=1e-4)


RUN = """async ([pixels, shape]) => {
  const ort = await import("./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
  const options = { executionProviders: ["wasm"] };
  const session = await ort.InferenceSession.create("holiday.tagger/model.onnx", options);
  const images = new ort.Tensor("uint8", Uint8Array.from(pixels), shape);
  const { probabilities } = await session.run({ images });
  return [probabilities.dims, Array.from(probabilities.data)];
}"""


@pytest.mark.parametrize("count", [1, 3])
def test_the_browser_says_what_onnxruntime_says_in_python(page: Any, folder: Path, count: int):
    """Tolerance: 1e-6 of a probability: WebAssembly adds in another order."""
    images = exported.pixels(count)
    shape, found = page.evaluate(RUN, [images.ravel().tolist(), [count, SIZE, SIZE, 3]])
    session = onnxruntime.InferenceSession(folder / "holiday.tagger" / "model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": images})
    assert isinstance(expected, np.ndarray)
    assert shape == [count, len(TAGS)]
    np.testing.assert_allclose(np.reshape(found, shape), expected, atol=1e-6, rtol=0)
