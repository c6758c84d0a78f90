"""An evaluation as text and as files."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax import files, metrics
from socialtag_jax.evaluate import Evaluation, Scorer
from socialtag_jax.protocols import BASELINE_SIZES
from socialtag_jax.shards.dataset import Dataset

_LABEL_WIDTH, _CELL_WIDTH = 34, 14
_PREDICTORS = {"model": "model", **{f"popularity_{size}": f"top {size} tags" for size in BASELINE_SIZES}}


def table(summary: Mapping[str, Any]) -> str:
    """The scores as text: a section a protocol, a row a score, a column a predictor."""
    columns = [name for name in _PREDICTORS if name in summary["scores"]]
    scores = [summary["scores"][name] for name in columns]
    threshold, max_tags = summary["threshold"], summary["max_tags"]
    lines = [_row("", [_PREDICTORS[name] for name in columns])]
    lines.append(f"over images; the model: over {threshold:g}, at most {max_tags} tags (the thesis's tables 4 and 5)")
    for name in ("f1", "recall", "precision"):
        lines += [_numbers(f"{name} {part}", [one[name][part] for one in scores]) for part in ("mean", "median", "std")]
    lines.append(_row("images with F1 0", [f"{one['f1']['zero']} ({one['f1']['zero_share']:.0%})" for one in scores]))
    lines.append("the most confident tags of an image, whatever the threshold (HARRISON's protocol)")
    for name in ("precision_at_1", "recall_at_5", "accuracy_at_5"):
        lines.append(_numbers(name.replace("_", " "), [one[name] for one in scores]))
    lines.append("over tags")
    for name in ("macro_f1", "micro_f1", "mean_average_precision"):
        lines.append(_numbers(name.replace("_", " "), [one[name] for one in scores]))
    if "five_words_an_image" in summary:
        lines += _five_words(summary["five_words_an_image"], columns)
    return "\n".join(lines)


def _five_words(section: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The baseline of this protocol is made of five words: it has no other size."""
    scores = [section["scores"].get(name) for name in columns]
    lines = [f"five words an image (Corel5K's protocol), {section['words']:,} words"]
    for name in ("precision", "recall", "f1"):
        lines.append(_row(f"mean word {name}" if name != "f1" else "f1 of the two means", _cells(scores, name, ".3f")))
    return [*lines, _row("words with a recall over 0 (N+)", _cells(scores, "words_recalled", ",d"))]


def _cells(scores: Iterable[Mapping[str, Any] | None], name: str, form: str) -> list[str]:
    return ["-" if one is None else format(one[name], form) for one in scores]


def _numbers(label: str, values: Iterable[float]) -> str:
    return _row(label, [f"{value:.3f}" for value in values])


def _row(label: str, cells: Iterable[str]) -> str:
    return f"  {label:{_LABEL_WIDTH - 2}}" + "".join(f"{cell:>{_CELL_WIDTH}}" for cell in cells)


def write_results(evaluation: Evaluation, dataset: Dataset, scorer: Scorer, output: Path) -> None:
    """Writes `metrics.json`, `per_tag.csv` and `predictions.csv`, each atomically."""
    output.mkdir(parents=True, exist_ok=True)
    files.write_text(output / "metrics.json", json.dumps(evaluation.summary, indent=1) + "\n")
    files.write_text(output / "per_tag.csv", _per_tag(evaluation, dataset))
    _write_predictions(evaluation, scorer, output / "predictions.csv")


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


def _write_predictions(evaluation: Evaluation, scorer: Scorer, path: Path) -> None:
    """One row an image; lists are JSON arrays, since a tag may hold any separator."""
    tags, suggestion, scores = scorer.vocabulary.tags, scorer.suggestion, evaluation.image_scores
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", "true_tags", "predicted_tags", "confidences", "precision", "recall", "f1"])
        for row, image_id in enumerate(evaluation.labels.image_ids):
            ranking = (column[row, : suggestion.max_tags] for column in evaluation.ranking)
            chosen = [(tag, value) for tag, value in zip(*ranking, strict=True) if value > suggestion.threshold]
            true = [tags[tag] for tag in evaluation.labels.tag_ids[row] if tag >= 0]
            found = [column[row] for column in (scores.precision, scores.recall, scores.f1)]
            writer.writerow(
                [
                    image_id,
                    json.dumps(true, ensure_ascii=False),
                    json.dumps([tags[tag] for tag, _ in chosen], ensure_ascii=False),
                    json.dumps([round(float(value), 4) for _, value in chosen]),
                    *("" if np.isnan(value) else f"{value:.6f}" for value in found),
                ]
            )
