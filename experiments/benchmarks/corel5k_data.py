"""Data sets of Corel5K's photos for the questions: prepared by this project's own code, and as files for the peers."""

import csv
import io
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import jax
import numpy as np

from experiments.benchmarks.harness import Context
from socialtag_jax import config, files, pretrained
from socialtag_jax.config import Experiment
from socialtag_jax.errors import UserError
from socialtag_jax.rules import parse_pruning
from socialtag_jax.run_start import initial_params
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.shards.prepare import PrepareOptions, prepare
from socialtag_jax.sources import tags_csv
from socialtag_jax.steps import build_model

TAGS = 371
_SOURCE_SPLITS = {"train": "train", "validation": "test"}


@dataclass(frozen=True)
class Photos:
    """The same photos for us and for the peers.

    Attributes:
      dataset: with the splits that were asked for, and all of Corel5K's 371 tags.
      folder: `SPLIT/NUMBER.jpg`, byte for byte what the shards hold, in their order, and `SPLIT.json`: the tag indices
        of each.
    """

    dataset: Dataset
    folder: Path


def photos(context: Context, name: str, counts: Mapping[str, int], *, enlarged_to: int | None = None) -> Photos:
    """Photos spread over Corel5K, prepared once and kept in the scratch folder.

    Args:
      context: of the question.
      name: of the data set, to which the counts are added.
      counts: photos of "train" and, if wanted, "validation", which takes those of Corel5K's test split.
      enlarged_to: length of the shorter side in pixels, as Corel5K's own photos are of 192 x 128 pixels.

    Raises:
      UserError: the archive is missing.
    """
    if not context.corel5k.exists():
        raise UserError("no such archive", where=context.corel5k, hint="name Corel5K's photos with --corel5k FILE")
    name = "_".join([name, *map(str, counts.values())])
    source = context.scratch / name / "source"
    if not (source / tags_csv.FILE_NAME).exists():
        _extract(context.corel5k, source, counts, enlarged_to)
    options = PrepareOptions(
        name=name,
        image_size=enlarged_to or IMAGE_SIZE,
        pruning=parse_pruning([f"vocabulary=@{source / 'vocabulary.txt'}"]),
        allow_leaks=True,
    )
    listed = tags_csv.read(source, warn=lambda _: None)
    result = prepare(listed, context.scratch, options, log=lambda _: None, stream=io.StringIO())
    dataset = open_dataset(result.folder)
    return Photos(dataset, _files(dataset, context.scratch / name / "files"))


def initial_weights(context: Context) -> Path:
    """A file of all layers that everybody starts from: ImageNet's convolutions, and a fresh head for 371 tags."""
    path = context.scratch / "initial.safetensors"
    experiment = config.resolve(Experiment(name="initial"), "cpu")
    params = initial_params(build_model(experiment, TAGS), experiment, "", log=lambda _: None)
    pretrained.save_weights({name: jax.tree.map(np.asarray, leaves) for name, leaves in params.items()}, path)
    return path


def _extract(archive: Path, folder: Path, counts: Mapping[str, int], enlarged_to: int | None) -> None:
    print(f"preparing {', '.join(f'{count} {split}' for split, count in counts.items())} photos", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as corel:
        rows = list(csv.DictReader(corel.read("corel5k/tags.csv").decode().splitlines()))
        vocabulary = sorted({tag for row in rows if row["split"] == "train" for tag in row["tags"].split()})
        assert len(vocabulary) == TAGS
        lines = [["path", "tags", "split"]]
        for split, count in counts.items():
            candidates = [row for row in rows if row["split"] == _SOURCE_SPLITS[split]]
            for number in np.linspace(0, len(candidates), count, endpoint=False, dtype=int):
                row = candidates[number]
                data = corel.read(f"corel5k/{row['path']}")
                path = Path(row["path"]).name
                (folder / path).write_bytes(data if enlarged_to is None else _enlarged(data, enlarged_to))
                lines.append([path, row["tags"], split])
    files.write_text(folder / "vocabulary.txt", "".join(f"{tag}\n" for tag in vocabulary))
    buffer = io.StringIO()
    csv.writer(buffer).writerows(lines)
    files.write_text(folder / tags_csv.FILE_NAME, buffer.getvalue())


def _enlarged(data: bytes, shorter: int) -> bytes:
    photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert photo is not None
    scale = shorter / min(photo.shape[:2])
    size = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
    enlarged = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", enlarged)[1].tobytes()


def _files(dataset: Dataset, folder: Path) -> Path:
    done = folder / "done.txt"
    if done.exists() and done.read_text() == dataset.fingerprint:
        return folder
    for split in dataset.splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
        tags = []
        records = dataset.records(split)
        for number in range(len(records)):
            record = records[number]
            (folder / split / f"{number:05d}.jpg").write_bytes(record.image)
            tags.append(record.tags)
        (folder / f"{split}.json").write_text(json.dumps(tags))
    files.write_text(done, dataset.fingerprint)
    return folder
