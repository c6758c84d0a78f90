"""The exported tagger: loads a bundle and suggests tags, with jax, numpy and the image decoders alone."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from socialtag_jax import augment, files, json_files, metrics
from socialtag_jax.dispatch import one_ahead
from socialtag_jax.errors import UserError
from socialtag_jax.exported_program import load_program
from socialtag_jax.gcs import RemotePath
from socialtag_jax.json_files import Fields
from socialtag_jax.remote_cache import RemoteCopy
from socialtag_jax.shards.images import LARGEST_PIXELS, ImageError, canonical_jpeg
from socialtag_jax.shards.pixels import decode
from socialtag_jax.storage import Location, location
from socialtag_jax.tags import VOCABULARY_KEY, TagVocabulary, display_path

FORMAT_VERSION = 2
"""1 had the parameters inside of `model.stablehlo` as well."""
TAGGER, TAGS, STABLEHLO, PARAMS = "tagger.json", "tags.txt", "model.stablehlo", "params.safetensors"
KERAS, ONNX = "model.keras", "model.onnx"
"""Not in every bundle, and not needed here."""
FORMATS = {"stablehlo": STABLEHLO, "keras": KERAS, "onnx": ONNX}
"""What `socialtag export --formats` takes, and the file of each."""
MAX_BATCH = 32
"""Photos that go to the device at once."""
_EXPORT = "export the run again with `socialtag export`"

Photo = str | Path | bytes | np.ndarray
"""An image file, its content, or decoded RGB pixels (uint8 [height, width, 3])."""


@dataclass(frozen=True, slots=True)
class SuggestedTag:
    """One suggestion.

    Attributes:
      tag: the tag's id: normalised and case-folded.
      display: the tag as people write it.
      confidence: the model's probability, 0 to 1.
    """

    tag: str
    display: str
    confidence: float


class Tagger:
    """An exported tag predictor.

    Args:
      description: the content of `tagger.json`.
      vocabulary: the tags of the outputs.
      exported: the model: (params, uint8 [b, input_size, input_size, 3]) -> float32 [b, n_tags].
      params: layer name -> {"kernel", "bias"}, float32.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        vocabulary: TagVocabulary,
        exported: jax.export.Exported,
        params: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        self.description = description
        self.vocabulary = vocabulary
        self.input_size: int = description["input_size"]
        self.image_size: int = description["image_size"]
        self.threshold: float = description["threshold"]
        self.max_tags: int = description["max_tags"]
        self._params = jax.device_put(params)
        self._model = jax.jit(exported.call)

    @classmethod
    def load(cls, bundle: str | Location) -> "Tagger":
        """Loads a bundle, after checking every file's hash, and that its parts belong together.

        Args:
          bundle: its folder; `gs://...`, as text, is fetched into the cache.

        Raises:
          UserError: not a bundle, one of another format version, one whose files were changed or are of several
            bundles, or one whose program would do more than compute.
        """
        folder = local_copy(bundle)
        description = _read_description(folder)
        vocabulary = TagVocabulary.load(folder / TAGS)
        params, trained_for = read_params(folder / PARAMS)
        if not vocabulary.sha256 == description.text("vocabulary_sha256") == trained_for:
            raise UserError("the tags are not those that the model was trained on", where=folder / TAGS, hint=_EXPORT)
        exported = load_program(
            folder / STABLEHLO,
            params,
            input_size=description.count("input_size"),
            n_tags=len(vocabulary),
            hint=_EXPORT,
        )
        return cls(description.content, vocabulary, exported, params)

    def pixels(self, photo: Photo, *, largest_pixels: int = LARGEST_PIXELS) -> np.ndarray:
        """A photo as the network's input, by the very steps of `prepare` and evaluation.

        Pixels that already have the input's size go in as they are.

        Args:
          photo: any.
          largest_pixels: width times height that an image file may have, at most `LARGEST_PIXELS`.

        Returns:
          uint8 [input_size, input_size, 3].

        Raises:
          ImageError: the photo cannot be decoded; names it.
        """
        size = self.input_size
        if isinstance(photo, np.ndarray) and photo.shape == (size, size, 3) and photo.dtype == np.uint8:
            return photo
        source = Path(photo) if isinstance(photo, str) else photo
        try:
            image = decode(canonical_jpeg(source, self.image_size, largest_pixels=largest_pixels), size)
        except ImageError as error:
            where = "photo array" if isinstance(photo, np.ndarray) else "photo" if isinstance(photo, bytes) else photo
            raise type(error)(error.what, where=where) from error
        result = np.empty((size, size, 3), np.uint8)
        augment.warp(image, augment.IDENTITY, result)
        return result

    def launch(self, images: np.ndarray) -> jax.Array:
        """Starts to score images that have the network's input size, all at once, without waiting for the scores.

        The batch is padded to a power of two, so that few batch sizes are ever compiled.

        Args:
          images: uint8 [n, input_size, input_size, 3], RGB, at least one.

        Returns:
          float32 [n or more, n_tags], 0 to 1, on the device; the rows from n on are padding.

        Raises:
          UserError: images of another shape or dtype.
        """
        expected = (self.input_size, self.input_size, 3)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise UserError(f"expected images as uint8 {['n', *expected]}, found {images.dtype} {list(images.shape)}")
        padded = np.zeros((2 ** math.ceil(math.log2(len(images))), *expected), np.uint8)
        padded[: len(images)] = images
        return self._model(self._params, padded)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Scores of images that have the network's input size.

        Args:
          images: uint8 [n, input_size, input_size, 3], RGB.

        Returns:
          float32 [n, n_tags], 0 to 1.

        Raises:
          UserError: as `launch`.
        """
        parts = (images[start : start + MAX_BATCH] for start in range(0, len(images), MAX_BATCH))
        launched = one_ahead(parts, lambda part: functools.partial(np.asarray, self.launch(part)))
        scores = [found[: len(part)] for part, found in launched]
        return np.concatenate([np.empty((0, len(self.vocabulary)), np.float32), *scores])

    def suggest(
        self, photos: Photo | Sequence[Photo], *, threshold: float | None = None, max_tags: int | None = None
    ) -> list[list[SuggestedTag]]:
        """Suggests tags, most confident first.

        Args:
          photos: files, their contents (bytes), or RGB arrays (uint8 [height, width, 3]); a single one counts as a list
            of one.
          threshold: only tags with a confidence over it; None for the bundle's.
          max_tags: at most so many; None for the bundle's.

        Returns:
          one list a photo.

        Raises:
          ImageError: a photo cannot be decoded; names it.
        """
        if isinstance(photos, str | Path | bytes | np.ndarray) and not (
            isinstance(photos, np.ndarray) and photos.ndim == 4
        ):
            photos = [photos]
        results = []
        for start in range(0, len(photos), MAX_BATCH):
            images = np.stack([self.pixels(photo) for photo in photos[start : start + MAX_BATCH]])
            results.extend(self.choose(row, threshold, max_tags) for row in self.probabilities(images))
        return results

    def choose(
        self, probabilities: np.ndarray, threshold: float | None = None, max_tags: int | None = None
    ) -> list[SuggestedTag]:
        """The suggestions from one image's probabilities (float32 [n_tags])."""
        chosen = metrics.ranked(
            probabilities,
            self.threshold if threshold is None else threshold,
            self.max_tags if max_tags is None else max_tags,
        )
        vocabulary = self.vocabulary
        return [
            SuggestedTag(vocabulary.tags[tag], vocabulary.displays[tag], float(probabilities[tag])) for tag in chosen
        ]


def local_copy(bundle: str | Location) -> Path:
    """The bundle's folder on this computer; a remote one is fetched into the cache, unchecked.

    Raises:
      UserError: the remote folder is no bundle, or cannot be fetched.
    """
    found = location(bundle)
    if not isinstance(found, RemotePath):
        return found
    copy = RemoteCopy(found)
    if TAGGER not in copy.objects:
        raise _not_a_bundle(found)
    copy.fetch(list(copy.objects))
    return copy.folder


def is_bundle(folder: Location) -> bool:
    """Whether the folder looks like an exported bundle."""
    return (folder / TAGGER).exists()


def _not_a_bundle(folder: Location) -> UserError:
    return UserError(f"not a bundle: no {TAGGER}", where=folder, hint="make one with `socialtag export`")


def _read_description(folder: Path) -> Fields:
    path = folder / TAGGER
    try:
        description = json_files.read(path, hint=_EXPORT)
    except (FileNotFoundError, NotADirectoryError):
        raise _not_a_bundle(folder) from None
    version = description.content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"format version {version!r}, expected {FORMAT_VERSION}", where=path, hint=_EXPORT)
    for key, least in (("input_size", 32), ("image_size", 32), ("max_tags", 1)):
        description.count(key, least=least)
    if not 0 <= description.number("threshold") < 1:
        raise description.refuse(f"the threshold is {description.number('threshold')}, expected 0 to below 1")
    description.text("vocabulary_sha256")
    description.fields("provenance").fields("dataset").text("fingerprint")
    hashes = description.fields("files")
    for name in hashes:
        file, expected = folder / name, hashes.text(name)
        if Path(name).name != name:
            raise description.refuse(f"lists {name!r}, which is no file's name")
        if not file.is_file():
            raise UserError(f"the bundle's file is missing, but {TAGGER} lists it", where=file, hint=_EXPORT)
        if files.sha256(file) != expected:
            raise UserError(f"the file was changed: its SHA-256 is not what {TAGGER} says", where=file, hint=_EXPORT)
    for name in (TAGS, display_path(Path(TAGS)).name, STABLEHLO, PARAMS):
        if name not in hashes:
            raise UserError(f"lists no hash for {name}", where=path, hint=_EXPORT)
    return description


def read_params(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], str | None]:
    """The parameters (layer name -> {"kernel", "bias"}), and the SHA-256 of the tags they were trained for, in order.

    Raises:
      UserError: the file cannot be read.
    """
    params: dict[str, dict[str, np.ndarray]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 -- it is no dict
                layer, _, leaf = name.partition("/")
                params.setdefault(layer, {})[leaf] = file.get_tensor(name)
            return params, (file.metadata() or {}).get(VOCABULARY_KEY)
    except Exception as error:  # safetensors has an error of its own, NumPy others
        raise UserError(f"cannot be read as safetensors: {error}", where=path, hint=_EXPORT) from error
