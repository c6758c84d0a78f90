"""Data sets and evaluations of them that tests make without preparing photos or training."""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from socialtag_jax.config import Suggestion
from socialtag_jax.evaluate import Evaluation, Scorer, evaluate
from socialtag_jax.shards.dataset import Dataset, SplitShards, open_dataset
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.metadata import write_tfds
from socialtag_jax.shards.tfrecord import write_shard
from socialtag_jax.tags import TagVocabulary

_PICTURES = 8


def noise_jpeg(seed: int, size: tuple[int, int], quality: int = 60) -> bytes:
    """The worst that a JPEG can be asked to hold; size: (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def written_dataset(
    folder: Path,
    vocabulary: TagVocabulary,
    labels: Sequence[Sequence[int]],
    image_ids: Sequence[str],
    training: Sequence[Sequence[int]],
    size: tuple[int, int] = (48, 32),
) -> Dataset:
    """A data set as TFDS leaves one, of pictures that repeat; `labels` and `image_ids` are of its test split."""
    folder.mkdir(parents=True)
    pictures = [noise_jpeg(seed, size) for seed in range(_PICTURES)]
    splits = {}
    for split, its_labels in (("train", training), ("test", labels)):
        ids = image_ids if split == "test" else [f"train{number}.jpg" for number in range(len(its_labels))]
        shard = folder / f"tiny-{split}.tfrecord-00000-of-00001"
        records = (
            encode_example(Record(pictures[number % _PICTURES], image_id, tuple(tags)))
            for number, (image_id, tags) in enumerate(zip(ids, its_labels, strict=True))
        )
        write_shard(shard, records)
        splits[split] = SplitShards([len(its_labels)], shard.stat().st_size)
    vocabulary.save(folder / "tags.labels.txt")
    write_tfds(folder, "tiny", "1.0.0", vocabulary, splits)
    return open_dataset(folder)


def evaluation_of(dataset: Dataset, confidences: np.ndarray, suggestion: Suggestion | None = None) -> Evaluation:
    """Of a model whose confidences, float32 [images, n_tags], are given; on the test split."""
    rows = iter(confidences)

    def score(images: np.ndarray) -> np.ndarray:
        found = [row for row, _ in zip(rows, images[0], strict=False)]
        padding = [np.zeros(confidences.shape[1], np.float32)] * (images.shape[1] - len(found))
        return np.stack([*found, *padding])

    scorer = Scorer(
        name="given confidences",
        vocabulary=dataset.vocabulary,
        input_size=32,
        suggestion=suggestion or Suggestion(),
        devices=1,
        score=score,
        trained_on=dataset.fingerprint,
    )
    return evaluate(scorer, dataset, "test", batch_size=64, threads=1, stream=io.StringIO())
