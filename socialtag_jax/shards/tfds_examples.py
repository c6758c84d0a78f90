"""Photos -> the examples that TFDS writes, in this process or in Apache Beam's workers.

Beam's workers may be other machines: they share the folders of the photos and of the data set with this one, and have
this package installed. The graph of the pipeline, which some runners limit to a few megabytes, holds no photos but the
names of plan files in the data set's folder, which the workers read.
"""

import importlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from socialtag_jax.shards.images import ImageError, canonical_jpeg

_PLAN_PHOTOS = 1000


class PlannedPhoto(NamedTuple):
    """A photo whose split and tags are settled.

    Attributes:
      path: the image file.
      image_id: as in `Photo`.
      tags: vocabulary indices, ascending and unique.
      where: as in `Photo`.
    """

    path: str
    image_id: str
    tags: tuple[int, ...]
    where: str


class Reject(NamedTuple):
    """A photo that cannot be decoded, with the reason in words: a row of `rejects.csv`."""

    image_id: str
    reason: str
    where: str


def examples(
    photos: Iterable[PlannedPhoto], image_size: int, reject: Callable[[Reject], object]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key and the features of every photo that can be decoded; `reject` is called with the others."""
    for photo in photos:
        outcome = _outcome(photo, image_size)
        if isinstance(outcome, Reject):
            reject(outcome)
        else:
            yield outcome


def _outcome(photo: PlannedPhoto, image_size: int) -> tuple[str, dict[str, Any]] | Reject:
    try:
        image = canonical_jpeg(Path(photo.path), image_size)
    except ImageError as error:
        return Reject(photo.image_id, error.what, photo.where)
    return photo.image_id, {"image": image, "image_id": photo.image_id, "tags": list(photo.tags)}


# ---- Apache Beam


def write_plan(folder: tfds.core.Path, photos: Iterable[PlannedPhoto]) -> list[str]:
    """Writes the photos as JSON lines to a few files in `folder`, and returns the files' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    remaining = iter(photos)
    paths: list[str] = []
    while part := list(itertools.islice(remaining, _PLAN_PHOTOS)):
        path = folder / f"{len(paths):05d}.jsonl"
        path.write_text("".join(json.dumps(photo) + "\n" for photo in part))
        paths.append(str(path))
    return paths


def read_plan(path: str) -> Iterator[PlannedPhoto]:
    """The photos of one plan file."""
    for line in tfds.core.Path(path).read_text().splitlines():
        file, image_id, tags, where = json.loads(line)
        yield PlannedPhoto(file, image_id, tuple(tags), where)


def beam_examples(plan: Sequence[str], image_size: int, rejects: tfds.core.Path) -> Any:
    """The same examples as a `beam.PTransform`; the rejects are written to the file `rejects`, see `read_rejects`."""
    beam: Any = importlib.import_module("apache_beam")

    def outcomes(photo: PlannedPhoto) -> Iterator[Any]:
        outcome = _outcome(photo, image_size)
        yield beam.pvalue.TaggedOutput("rejects", outcome) if isinstance(outcome, Reject) else outcome

    def write_rejects(found: Sequence[Reject], path: str) -> None:
        tfds.core.Path(path).write_text(json.dumps(found))

    def expand(pipeline: Any) -> Any:
        found = (
            pipeline
            | "Plan" >> beam.Create(plan)
            | "ReadPlan" >> beam.FlatMap(read_plan)
            # Else one worker would decode all the photos of one plan file.
            | "Spread" >> beam.Reshuffle()
            | "Decode" >> beam.FlatMap(outcomes).with_outputs("rejects", main="examples")
        )
        _ = (
            found.rejects
            | "GatherRejects" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "WriteRejects" >> beam.Map(write_rejects, str(rejects))
        )
        return found.examples

    return beam.ptransform_fn(expand)()


def read_rejects(path: tfds.core.Path) -> list[Reject]:
    """What the transform left in `rejects` once the pipeline is done."""
    return [Reject(*values) for values in json.loads(path.read_text())]
