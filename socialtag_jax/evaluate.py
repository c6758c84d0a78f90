"""Scores of a model on every image of a split, beside baselines that always predict the most frequent tags.

One pass over the images, in memory that grows with images and with tags, but not with images x tags: of every image the
most confident tags are kept; all probabilities, which average precision needs tag by tag, go to a temporary file.
"""

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from socialtag_jax import curves, metrics, protocols
from socialtag_jax.column_file import ColumnFile
from socialtag_jax.config import Suggestion
from socialtag_jax.curves import ConfidenceHistogram
from socialtag_jax.dispatch import Fetch, one_ahead
from socialtag_jax.errors import UserError
from socialtag_jax.input_pipeline import Batch, BatchShape, eval_batches
from socialtag_jax.metrics import Ranking, TagCounts
from socialtag_jax.progress import Progress
from socialtag_jax.protocols import SplitLabels
from socialtag_jax.shards.dataset import STATISTICS, Dataset
from socialtag_jax.storage import Location
from socialtag_jax.tagger import Tagger
from socialtag_jax.tags import TagVocabulary

_THRESHOLDS = np.arange(1, 20) / 20


@dataclass(frozen=True)
class Scorer:
    """A model to evaluate.

    Attributes:
      name: for the report.
      vocabulary: the tags of its outputs.
      input_size: of its images, in pixels.
      suggestion: which of its tags count as predicted.
      devices: leading axis of its input.
      score: uint8 [devices, rows, size, size, 3] -> float32 [devices * rows or more, n_tags], 0 to 1, perhaps still
        being computed; what is more pads the batch.
      trained_on: fingerprint of the data set that the model was trained on.
    """

    name: str
    vocabulary: TagVocabulary
    input_size: int
    suggestion: Suggestion
    devices: int
    score: Callable[[np.ndarray], metrics.Array]
    trained_on: str


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation found.

    Attributes:
      summary: the JSON document.
      ranking: of each image, on the host: the tags that the suggestion may hold, and at least five, where there are.
      labels: the truth.
      image_scores: of the model, each [images]; NaN for images without tags.
      tag_counts: of the model.
      average_precision: float64 [n_tags]; NaN for tags without positives.
      confidences: of all pairs of an image and a tag.
    """

    summary: Mapping[str, Any]
    ranking: Ranking
    labels: SplitLabels
    image_scores: metrics.ImageScores
    tag_counts: TagCounts
    average_precision: np.ndarray
    confidences: ConfidenceHistogram


def bundle_scorer(bundle: Location) -> Scorer:
    """An exported bundle for evaluation, on the default device.

    Raises:
      UserError: as `Tagger.load`.
    """
    tagger = Tagger.load(bundle)
    return Scorer(
        name=f"bundle {bundle}",
        vocabulary=tagger.vocabulary,
        input_size=tagger.input_size,
        suggestion=Suggestion(tagger.threshold, tagger.max_tags),
        devices=1,
        score=lambda images: tagger.launch(images[0]),
        trained_on=tagger.description["provenance"]["dataset"]["fingerprint"],
    )


def check_tags(dataset: Dataset, vocabulary: TagVocabulary) -> None:
    """Sees to it that a model's outputs are the data set's tags.

    Raises:
      UserError: they are not.
    """
    if dataset.vocabulary.sha256 != vocabulary.sha256:
        raise UserError(
            f"the data set's {len(dataset.vocabulary)} tags are not the {len(vocabulary)} tags that the model was "
            "trained on",
            where=dataset.location,
            hint="use the data set that it was trained on, or one prepared with the same tags",
        )


def evaluate(
    scorer: Scorer,
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    threads: int,
    stream: TextIO,
    scratch: Path | None = None,
) -> Evaluation:
    """Scores every image of a split once, whatever the batch size.

    Args:
      scorer: the model.
      dataset: with the model's tags.
      split: of the data set.
      batch_size: images that the model sees at once.
      threads: that decode; 0 for one a core.
      stream: where progress is shown.
      scratch: a folder whose file system can hold all probabilities for a while, 4 bytes x images x tags; None for the
        system's folder of temporary files.

    Raises:
      UserError: the data set's tags are not the model's, no image of the split has a tag, an output is no number, or
        the scratch folder has too little space, a record is damaged, or the data set's statistics are not those of its
        records.
    """
    n_tags = len(dataset.vocabulary)
    check_tags(dataset, scorer.vocabulary)
    images, statistics = len(dataset.split(split)), dataset.statistics
    if not statistics[split].counts.any():
        what = f"no image of the split {split!r} has a tag: nothing to score"
        raise UserError(what, where=dataset.location, hint="evaluate another --split")
    training = protocols.training_counts(statistics, split)
    words = protocols.common_words(training, statistics[split].counts)
    suggestion = scorer.suggestion
    hint = f"{'set TMPDIR to a folder' if scratch is None else 'name an --output'} on another disk"
    with ColumnFile(scratch or Path(tempfile.gettempdir()), images, n_tags, hint=hint) as probabilities:
        ranking, best_words, labels = _predict(
            scorer, dataset, split, words, probabilities, batch_size, threads, stream
        )
        precisions, confidences = _by_tag(probabilities, labels, n_tags, stream)
    if not np.array_equal(np.bincount(labels.tag_ids[labels.tag_ids >= 0], minlength=n_tags), statistics[split].counts):
        # The baselines go by the other splits' counts, which were written down with these.
        raise UserError(
            f"the tag counts of {split} are not those of its records",
            where=dataset.folder / STATISTICS,
            hint="run `socialtag prepare` again, or restore the file from a copy",
        )
    image_scores, counts = protocols.judge(
        ranking, labels, n_tags, threshold=suggestion.threshold, max_tags=suggestion.max_tags
    )
    scores = {"model": protocols.summarise(image_scores, counts, precisions)}
    if training is not None:
        scores |= protocols.popularity(training, labels)
    summary = {
        "model": scorer.name,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "trained_on_this_data_set": scorer.trained_on == dataset.fingerprint,
        "split": split,
        "images": images,
        "images_without_tags": int(np.sum(labels.tag_ids[:, 0] < 0)),
        "tags": n_tags,
        "tags_without_positives": int(np.sum(counts.true == 0)),
        "threshold": suggestion.threshold,
        "max_tags": suggestion.max_tags,
        "scores": scores,
        "threshold_curve": curves.threshold_curve(
            ranking, curves.hits(ranking, labels.tag_ids), labels.tag_ids, _THRESHOLDS, suggestion.max_tags
        ).to_json(),
    }
    if training is not None and len(words):
        summary["five_words_an_image"] = {
            "words": len(words),
            "scores": {
                "model": protocols.five_words(best_words, labels, words, n_tags),
                "popularity_5": protocols.five_frequent_words(training, labels, words),
            },
        }
    return Evaluation(summary, ranking, labels, image_scores, counts, precisions, confidences)


@functools.partial(jax.jit, static_argnames=("count",))
def _most_confident(probabilities: jax.Array, words: jax.Array, count: int) -> tuple[Ranking, jax.Array]:
    """The `count` most confident tags of each image, and the five most confident among `words`: int32 [images, 5]."""
    best = metrics.rank(probabilities[:, words], metrics.TOP)
    return metrics.rank(probabilities, count), words[best.tag_ids]


def _predict(
    scorer: Scorer,
    dataset: Dataset,
    split: str,
    words: np.ndarray,
    probabilities: ColumnFile,
    batch_size: int,
    threads: int,
    stream: TextIO,
) -> tuple[Ranking, np.ndarray, SplitLabels]:
    """The one pass over the model: fills `probabilities`; returns rankings, the best five words, and the truth."""
    records = dataset.records(split)
    shape = BatchShape(scorer.devices, max(1, batch_size // scorer.devices), scorer.input_size, dataset.max_tags)
    count = max(scorer.suggestion.max_tags, metrics.TOP)
    tag_ids = np.empty((len(records), dataset.max_tags), np.int32)
    image_ids: list[str] = []
    parts: list[tuple[np.ndarray, ...]] = []
    progress = Progress(f"evaluate {split}", len(records), "images", stream)
    done = 0

    def launch(batch: Batch) -> Fetch[tuple[np.ndarray, Ranking, np.ndarray]]:
        found = scorer.score(batch["images"])
        return functools.partial(jax.device_get, (found, *_most_confident(found, words, count)))

    for batch, (found, ranking, best_words) in one_ahead(eval_batches(records, shape, threads=threads), launch):
        rows = min(shape.size, len(records) - done)
        if not np.all(np.isfinite(found[:rows])):
            raise UserError(
                "the model's outputs hold values that are no numbers", hint="the checkpoint is of a failed run"
            )
        probabilities.write(done, found[:rows])
        parts.append(tuple(np.asarray(column)[:rows] for column in (*ranking, best_words)))
        image_ids += [records[index].image_id for index in range(done, done + rows)]
        tag_ids[done : done + rows] = batch["tag_ids"].reshape(-1, dataset.max_tags)[:rows]
        done += rows
        progress.update(done)
    progress.finish(done)
    ranked_ids, ranked_probabilities, best_words = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Ranking(ranked_ids, ranked_probabilities), best_words, SplitLabels(image_ids, tag_ids)


def _by_tag(
    probabilities: ColumnFile, labels: SplitLabels, n_tags: int, stream: TextIO
) -> tuple[np.ndarray, ConfidenceHistogram]:
    """The average precision of every tag, float64 [n_tags], NaN where no image has it; and all confidences."""
    images, positions = np.nonzero(labels.tag_ids >= 0)
    true_ids = labels.tag_ids[images, positions]
    by_tag = np.split(images[np.argsort(true_ids, kind="stable")], np.cumsum(np.bincount(true_ids, minlength=n_tags)))
    result, confidences = np.full(n_tags, np.nan), ConfidenceHistogram()
    progress = Progress("average precision", n_tags, "tags", stream)
    for tag, column in enumerate(probabilities.columns()):
        if len(by_tag[tag]):
            result[tag] = metrics.average_precision(column, by_tag[tag])
        confidences.add(column, by_tag[tag])
        progress.update(tag + 1)
    progress.finish(n_tags)
    return result, confidences
