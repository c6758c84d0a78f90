"""Scores of a model on every image of a split, beside a baseline that always predicts the most frequent tags."""

import csv
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from socialtag_jax import files, metrics
from socialtag_jax.config import Suggestion
from socialtag_jax.errors import UserError
from socialtag_jax.input_pipeline import BatchShape, eval_batches
from socialtag_jax.losses import multi_hot
from socialtag_jax.metrics import TagCounts
from socialtag_jax.progress import Progress
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.tagger import Tagger
from socialtag_jax.tags import TagVocabulary

BASELINE_SIZES = (5, 15)
"""Tags that the popularity baseline predicts: about as many as photos have, and the reference system's maximum."""

_CHUNK = 512
Scores = dict[str, Any]


@dataclass(frozen=True)
class Scorer:
    """A model to evaluate.

    Attributes:
      name: for the report.
      vocabulary: the tags of its outputs.
      input_size: of its images, in pixels.
      suggestion: which of its tags count as predicted.
      devices: leading axis of its input.
      score: uint8 [devices, rows, size, size, 3] -> float32 [devices * rows, n_tags], 0 to 1.
      trained_on: fingerprint of the data set that the model was trained on.
    """

    name: str
    vocabulary: TagVocabulary
    input_size: int
    suggestion: Suggestion
    devices: int
    score: Callable[[np.ndarray], np.ndarray]
    trained_on: str


@dataclass(frozen=True)
class SplitLabels:
    """The truth of a split, in record order: ids, and ascending tag indices padded with -1 (int32 [images, most])."""

    image_ids: Sequence[str]
    tag_ids: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation found.

    Attributes:
      summary: the JSON document.
      probabilities: float32 [images, n_tags].
      labels: the truth.
      image_scores: of the model, each [images]; NaN for images without tags.
      tag_counts: of the model.
      average_precision: float64 [n_tags]; NaN for tags without positives.
    """

    summary: Mapping[str, Any]
    probabilities: np.ndarray
    labels: SplitLabels
    image_scores: metrics.ImageScores
    tag_counts: TagCounts
    average_precision: np.ndarray


def bundle_scorer(bundle: Path) -> Scorer:
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
        score=lambda images: tagger.probabilities(images[0]),
        trained_on=tagger.description["provenance"]["dataset"]["fingerprint"],
    )


def evaluate(
    scorer: Scorer, dataset: Dataset, split: str, *, batch_size: int, threads: int, stream: TextIO
) -> Evaluation:
    """Scores every image of a split once, whatever the batch size.

    Raises:
      UserError: the data set's tags are not the model's.
    """
    if dataset.vocabulary.sha256 != scorer.vocabulary.sha256:
        raise UserError(
            f"the data set's {len(dataset.vocabulary)} tags are not the {len(scorer.vocabulary)} tags that the model "
            "was trained on",
            where=dataset.folder,
            hint="evaluate on the data set that it was trained on, or on one prepared with the same tags",
        )
    probabilities, labels = _predict(scorer, dataset, split, batch_size, threads, stream)
    suggestion = scorer.suggestion
    scores, image_scores, counts, precisions = _score(
        lambda rows: probabilities[rows], labels, len(scorer.vocabulary), suggestion.threshold, suggestion.max_tags
    )
    summary = {
        "model": scorer.name,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "trained_on_this_data_set": scorer.trained_on == dataset.fingerprint,
        "split": split,
        "images": len(labels.image_ids),
        "images_without_tags": int(np.sum(labels.tag_ids[:, 0] < 0)),
        "tags": len(scorer.vocabulary),
        "tags_without_positives": int(np.sum(counts.true == 0)),
        "threshold": suggestion.threshold,
        "max_tags": suggestion.max_tags,
        "scores": {"model": scores, **_baselines(dataset, labels, len(scorer.vocabulary))},
    }
    return Evaluation(summary, probabilities, labels, image_scores, counts, precisions)


def _predict(
    scorer: Scorer, dataset: Dataset, split: str, batch_size: int, threads: int, stream: TextIO
) -> tuple[np.ndarray, SplitLabels]:
    records = dataset.records(split)
    rows = max(1, batch_size // scorer.devices)
    shape = BatchShape(scorer.devices, rows, scorer.input_size, dataset.max_tags)
    probabilities = np.empty((len(records), len(scorer.vocabulary)), np.float32)
    tag_ids = np.empty((len(records), dataset.max_tags), np.int32)
    progress = Progress(f"evaluate {split}", len(records), "images", stream)
    done = 0
    for batch in eval_batches(records, shape, threads=threads):
        count = min(shape.size, len(records) - done)
        probabilities[done : done + count] = scorer.score(batch["images"])[:count]
        tag_ids[done : done + count] = batch["tag_ids"].reshape(-1, dataset.max_tags)[:count]
        done += count
        progress.update(done)
    progress.finish(done)
    if not np.all(np.isfinite(probabilities)):
        raise UserError("the model's outputs hold values that are no numbers", hint="the checkpoint is of a failed run")
    return probabilities, SplitLabels([records[index].image_id for index in range(len(records))], tag_ids)


@functools.partial(jax.jit, static_argnames=("threshold", "max_tags"))
def _score_chunk(
    probabilities: jax.Array, targets: jax.Array, threshold: float, max_tags: int
) -> tuple[metrics.ImageScores, TagCounts]:
    scores = metrics.image_scores(probabilities, targets, threshold=threshold, max_tags=max_tags)
    chosen = metrics.predicted(probabilities, threshold, max_tags)
    true = targets > 0
    sums = [jnp.sum(flags, axis=0, dtype=jnp.int32) for flags in (chosen & true, chosen, true)]
    return scores, TagCounts(*sums)


def _score(
    probabilities_of: Callable[[slice], np.ndarray],
    labels: SplitLabels,
    n_tags: int,
    threshold: float,
    max_tags: int,
) -> tuple[Scores, metrics.ImageScores, TagCounts, np.ndarray]:
    """All scores of one predictor; `probabilities_of` gives float32 [images, n_tags] for a slice of the images."""
    images = len(labels.image_ids)
    parts: list[metrics.ImageScores] = []
    counts = [np.zeros(n_tags, np.int64) for _ in range(3)]
    for start in range(0, images, _CHUNK):
        rows = slice(start, min(start + _CHUNK, images))
        targets = multi_hot(jnp.asarray(labels.tag_ids[rows]), n_tags)
        scores, sums = jax.device_get(_score_chunk(jnp.asarray(probabilities_of(rows)), targets, threshold, max_tags))
        parts.append(scores)
        counts = [total + part for total, part in zip(counts, sums, strict=True)]
    tagged = labels.tag_ids[:, 0] >= 0
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    image_scores = metrics.ImageScores(*(np.where(tagged, column, np.nan) for column in columns))
    tag_counts = TagCounts(*counts)
    precisions = _average_precisions(probabilities_of(slice(0, images)), labels, n_tags)
    if not tagged.any():
        raise UserError("no image of the split has a tag: nothing to score")
    f1 = metrics.tag_precision_recall_f1(tag_counts)[2]
    positive = tag_counts.true > 0
    ranking = {
        name: float(np.mean(getattr(image_scores, name)[tagged], dtype=np.float64))
        for name in ("precision_at_1", "recall_at_5", "accuracy_at_5")
    }
    summary = {
        **{name: _distribution(getattr(image_scores, name)[tagged]) for name in ("f1", "recall", "precision")},
        **ranking,
        "macro_f1": float(np.mean(f1[positive])),
        "micro_f1": metrics.micro_f1(tag_counts),
        "mean_average_precision": float(np.nanmean(precisions)),
        "tags_predicted": int(np.sum(tag_counts.predicted > 0)),
        "tags_per_image": float(tag_counts.predicted.sum() / images),
    }
    return summary, image_scores, tag_counts, precisions


def _distribution(values: np.ndarray) -> Scores:
    """Mean, median and standard deviation over images, and how many scored 0."""
    values = values.astype(np.float64)
    zero = int(np.sum(values == 0))
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "std": float(np.std(values)),
        "zero": zero,
        "zero_share": zero / len(values),
    }


def _average_precisions(probabilities: np.ndarray, labels: SplitLabels, n_tags: int) -> np.ndarray:
    targets = np.zeros((len(labels.image_ids), n_tags), bool)
    rows, columns = np.nonzero(labels.tag_ids >= 0)
    targets[rows, labels.tag_ids[rows, columns]] = True
    return np.array(
        [
            metrics.average_precision(probabilities[:, tag], targets[:, tag]) if targets[:, tag].any() else np.nan
            for tag in range(n_tags)
        ]
    )


def _baselines(dataset: Dataset, labels: SplitLabels, n_tags: int) -> dict[str, Scores]:
    """Scores of always predicting the K most frequent tags of the train split; none where there is no train split."""
    train = dataset.statistics.get("train")
    if train is None:
        return {}
    frequency = (train.counts / max(train.images, 1)).astype(np.float32)

    def constant(rows: slice) -> np.ndarray:
        return np.broadcast_to(frequency, (rows.stop - rows.start, n_tags))

    # Any frequency over 0 counts: the K most frequent tags are predicted whatever their share is.
    return {f"popularity_{size}": _score(constant, labels, n_tags, 0.0, size)[0] for size in BASELINE_SIZES}


def table(summary: Mapping[str, Any]) -> str:
    """The scores as text: a row a score, a column a predictor."""
    names = {"model": "model", **{f"popularity_{size}": f"top {size} tags" for size in BASELINE_SIZES}}
    columns = {title: summary["scores"][key] for key, title in names.items() if key in summary["scores"]}
    lines = [f"{'':28}" + "".join(f"{title:>14}" for title in columns)]
    for name in ("f1", "recall", "precision"):
        for part in ("mean", "median", "std"):
            lines.append(_row(f"{name} {part}", [scores[name][part] for scores in columns.values()]))
    zero = [f"{scores['f1']['zero']} ({scores['f1']['zero_share']:.0%})" for scores in columns.values()]
    lines.append(f"{'images with F1 0':28}" + "".join(f"{cell:>14}" for cell in zero))
    others = ("precision_at_1", "recall_at_5", "accuracy_at_5", "macro_f1", "micro_f1", "mean_average_precision")
    for name in others:
        lines.append(_row(name.replace("_", " "), [scores[name] for scores in columns.values()]))
    return "\n".join(lines)


def _row(name: str, values: Sequence[float]) -> str:
    return f"{name:28}" + "".join(f"{value:14.3f}" for value in values)


def write_results(evaluation: Evaluation, dataset: Dataset, scorer: Scorer, output: Path) -> None:
    """Writes `metrics.json`, `per_tag.csv` and `predictions.csv`, each atomically."""
    output.mkdir(parents=True, exist_ok=True)
    files.write_text(output / "metrics.json", json.dumps(evaluation.summary, indent=1) + "\n")
    files.write_text(output / "per_tag.csv", _per_tag(evaluation, dataset))
    files.write_text(output / "predictions.csv", _predictions(evaluation, scorer))


def _per_tag(evaluation: Evaluation, dataset: Dataset) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = "tag,display,train_images,images,predicted,true_positives,precision,recall,f1,average_precision"
    writer.writerow(header.split(","))
    counts, vocabulary = evaluation.tag_counts, dataset.vocabulary
    ratios = metrics.tag_precision_recall_f1(counts)
    train = dataset.statistics.get("train")
    for tag, (name, display) in enumerate(zip(vocabulary.tags, vocabulary.displays, strict=True)):
        average = evaluation.average_precision[tag]
        numbers = (counts.true[tag], counts.predicted[tag], counts.true_positives[tag])
        writer.writerow(
            [
                name,
                display,
                "" if train is None else train.counts[tag],
                *numbers,
                *(f"{ratio[tag]:.6f}" for ratio in ratios),
                "" if np.isnan(average) else f"{average:.6f}",
            ]
        )
    return text.getvalue()


def _predictions(evaluation: Evaluation, scorer: Scorer) -> str:
    """One row an image; lists are JSON arrays, since a tag may hold any separator."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "true_tags", "predicted_tags", "confidences", "precision", "recall", "f1"])
    tags, suggestion, scores = scorer.vocabulary.tags, scorer.suggestion, evaluation.image_scores
    for row, image_id in enumerate(evaluation.labels.image_ids):
        probabilities = evaluation.probabilities[row]
        chosen = metrics.ranked(probabilities, suggestion.threshold, suggestion.max_tags)
        true = [tags[tag] for tag in evaluation.labels.tag_ids[row] if tag >= 0]
        found = [column[row] for column in (scores.precision, scores.recall, scores.f1)]
        writer.writerow(
            [
                image_id,
                json.dumps(true, ensure_ascii=False),
                json.dumps([tags[tag] for tag in chosen], ensure_ascii=False),
                json.dumps([round(float(probabilities[tag]), 4) for tag in chosen]),
                *("" if np.isnan(value) else f"{value:.6f}" for value in found),
            ]
        )
    return text.getvalue()
