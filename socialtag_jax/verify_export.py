"""A bundle's formats, each in the runtime of its consumers, held against one reference on real photos.

The reference is `plain_forward` on the bundle's `params.safetensors`. All get the same pixels.
"""

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import jax
import numpy as np

from socialtag_jax import keras_file, onnx_file, plain_forward, tagger
from socialtag_jax.errors import MissingPackageError, UsageError, UserError
from socialtag_jax.metrics import ranked
from socialtag_jax.progress import Progress
from socialtag_jax.shards.images import ImageError
from socialtag_jax.storage import Location
from socialtag_jax.tagger import FORMATS, MAX_BATCH, PARAMS, Tagger

TOP = 15
"""Most confident tags, whatever their confidence, that are compared as a set."""

REFERENCE = f"{PARAMS}, in plain JAX at full float32 precision"

Score = Callable[[np.ndarray], np.ndarray]
"""uint8 [n, input_size, input_size, 3], RGB -> float32 [n, n_tags]."""


@dataclass
class FormatResult:
    """What was found of one format.

    Attributes:
      format: of `tagger.FORMATS`.
      file: its file in the bundle.
      runtime: what ran it, with its version; empty where nothing did.
      result: "not checked" where the runtime is not installed, which is no pass.
      largest_difference: of a probability, over all photos and tags; None where the file did not run, or gave something
        that is no number.
      top_agreement: share of the reference's `TOP` tags that are among its own, mean over photos.
      why: it failed or was not checked.
    """

    format: str
    file: str
    runtime: str = ""
    result: Literal["passed", "failed", "not checked"] = "passed"
    largest_difference: float | None = None
    top_agreement: float | None = None
    why: str = ""


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
      bundle: its folder.
      tolerance: largest difference that passes.
      photos: that were scored.
      unreadable: photos that were passed over.
      formats: one result each.
      reference: what they were held against.
    """

    bundle: str
    tolerance: float
    photos: int = 0
    unreadable: int = 0
    formats: list[FormatResult] = field(default_factory=list)
    reference: str = REFERENCE

    @property
    def passed(self) -> bool:
        """Whether every format was checked and is within the tolerance."""
        return all(one.result == "passed" for one in self.formats)

    def as_json(self) -> dict[str, Any]:
        """All of it, and `passed`."""
        return {**asdict(self), "passed": self.passed}


def verify(
    bundle: Location,
    photos: Sequence[Path],
    *,
    formats: Collection[str] | None,
    tolerance: float,
    log: Callable[[str], None],
    stream: TextIO,
) -> Verification:
    """Scores photos with every format of a bundle.

    Args:
      bundle: its folder.
      photos: to score; those that cannot be read are logged and left out.
      formats: of `tagger.FORMATS`; None for all that the bundle has.
      tolerance: largest difference of a probability that passes.
      log: takes one line of text at a time.
      stream: where progress is shown.

    Raises:
      UsageError: the bundle has no such format.
      UserError: it is no bundle, or was changed; no photo can be read.
    """
    folder = tagger.local_copy(bundle)
    loaded = Tagger.load(folder)
    listed = loaded.description["files"]
    present = [name for name, file in FORMATS.items() if file in listed or (folder / file).exists()]
    for name in formats or ():
        if name not in present:
            raise UsageError(f"the bundle has {', '.join(present)}, no {name}", where="--formats")
    found = Verification(str(bundle), tolerance)
    running: list[_Running] = []
    for name in present if formats is None else [name for name in present if name in formats]:
        result = FormatResult(name, FORMATS[name])
        found.formats.append(result)
        if result.file not in listed:
            result.result, result.why = "failed", f"{tagger.TAGGER} does not list it: it is of another export"
            continue
        try:
            running.append(_Running(result, _open(name, loaded, folder)))
        except MissingPackageError as error:
            result.result, result.why = "not checked", str(error)
        except UserError as error:
            result.result, result.why = "failed", str(error)
    params = jax.device_put(tagger.read_params(folder / PARAMS)[0])
    reference = jax.jit(plain_forward.probabilities)
    progress = Progress("verify", len(photos), "photos", stream)
    for images, unreadable in _batches(loaded, photos, log, progress):
        found.unreadable += unreadable
        if len(images):
            expected = np.asarray(reference(params, images))
            for one in running:
                one.compare(images, expected)
            found.photos += len(images)
            progress.update(found.photos + found.unreadable)
    progress.finish(len(photos))
    if not found.photos:
        raise UserError("none of the photos can be read", where="--photos", hint="name photos that `predict` reads")
    for one in running:
        one.finish(tolerance)
    return found


def _open(name: str, loaded: Tagger, folder: Path) -> tuple[Score, str]:
    """A format's function, and what runs it."""
    path, size = folder / FORMATS[name], loaded.input_size
    if name == "onnx":
        return onnx_file.open_model(path, loaded.vocabulary, loaded.description), _version("onnxruntime")
    if name == "keras":
        score = keras_file.open_model(path, len(loaded.vocabulary), size)
        return score, f"{_version('keras')} on {keras_file.import_keras().backend.backend()}"
    return loaded.probabilities, _version("jax")


def _version(package: str) -> str:
    """An imported package's own word: what is installed may be called `onnxruntime-gpu`."""
    return f"{package} {sys.modules[package].__version__}"


class _Running:
    """A format at work: what was found of it so far."""

    def __init__(self, result: FormatResult, opened: tuple[Score, str]) -> None:
        self.result = result
        self._score, result.runtime = opened
        self._largest = np.float32(0)
        self._agreement: list[float] = []

    def compare(self, images: np.ndarray, expected: np.ndarray) -> None:
        """Scores images; `expected` are the reference's probabilities, float32 [n, n_tags]."""
        if self.result.result != "passed":
            return
        try:
            scores = self._score(images)
        except UserError as error:
            self._fail(str(error))
            return
        if scores.shape != expected.shape or scores.dtype != expected.dtype:
            self._fail(f"gave {scores.dtype} {list(scores.shape)}, expected float32 {list(expected.shape)}")
            return
        difference = np.max(np.abs(scores - expected))
        if not np.isfinite(difference):
            self._fail("gave a probability that is no number")
            return
        self._largest = max(self._largest, difference)
        self._agreement += top_agreement(scores, expected)

    def finish(self, tolerance: float) -> None:
        """Judges it, all photos scored."""
        if self.result.result != "passed":
            return
        self.result.largest_difference = float(self._largest)
        self.result.top_agreement = math.fsum(self._agreement) / len(self._agreement)
        if self._largest > tolerance:
            self._fail(f"differs by {self._largest:.1e}, more than {tolerance:.1e}")

    def _fail(self, why: str) -> None:
        self.result.result, self.result.why = "failed", why


def top_agreement(scores: np.ndarray, expected: np.ndarray) -> list[float]:
    """Of each photo, which share of the `TOP` most confident tags of `expected` are among those of `scores`.

    Args:
      scores: float32 [n, n_tags].
      expected: likewise.
    """
    top = [[set(ranked(row, -1.0, TOP).tolist()) for row in array] for array in (scores, expected)]
    return [len(own & other) / len(other) for own, other in zip(*top, strict=True)]


def _batches(
    loaded: Tagger, photos: Iterable[Path], log: Callable[[str], None], progress: Progress
) -> Iterator[tuple[np.ndarray, int]]:
    """Photos' pixels, uint8 [n, size, size, 3], up to `MAX_BATCH` at once, and how many before them had none."""
    size = loaded.input_size
    pixels: list[np.ndarray] = []
    unreadable = 0
    for photo in photos:
        try:
            pixels.append(loaded.pixels(photo))
        except ImageError as error:
            unreadable += 1
            progress.clear()
            log(f"socialtag: error: {error}")
        if len(pixels) == MAX_BATCH:
            yield np.stack(pixels), unreadable
            pixels, unreadable = [], 0
    yield np.array(pixels, np.uint8).reshape(-1, size, size, 3), unreadable


def table(found: Verification) -> str:
    """The results as lines of text, in columns."""
    rows = [("format", "file", "runtime", "largest difference", f"top-{TOP} agreement", "result")]
    for one in found.formats:
        difference = "-" if one.largest_difference is None else f"{one.largest_difference:.1e}"
        agreement = "-" if one.top_agreement is None else f"{one.top_agreement:.2%}"
        result = one.result if not one.why else f"{one.result}: {one.why}"
        rows.append((one.format, one.file, one.runtime or "-", difference, agreement, result))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join((*map(str.ljust, row[:-1], widths), row[-1])) for row in rows]
    head = f"reference: {found.reference}; {found.photos:,} photos; tolerance {found.tolerance:.1e}"
    return "\n".join([head, *lines])
