"""An evaluation as text and as files."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from socialtag_jax import files, metrics
from socialtag_jax.evaluate import Evaluation, Scorer
from socialtag_jax.protocols import BASELINE_SIZES
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.storage import Location
from socialtag_jax.tagger import is_bundle

SUMMARY, PER_TAG, PREDICTIONS = "metrics.json", "per_tag.csv", "predictions.csv"
_LABEL_WIDTH, _CELL_WIDTH = 34, 14
_RANKING_SCORES = "precision_at_1", "recall_at_5", "accuracy_at_5"
_TAG_SCORES = "macro_f1", "micro_f1", "mean_average_precision"
_PREDICTORS = {"model": "model", **{f"popularity_{size}": f"top {size} tags" for size in BASELINE_SIZES}}


class Section(NamedTuple):
    """Scores under one protocol: a label and a cell a predictor in each row."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


def predictors(summary: Mapping[str, Any]) -> list[str]:
    """Heads of the columns of `sections`: the model first, then the baselines that there are."""
    return [_PREDICTORS[name] for name in _columns(summary)]


def _columns(summary: Mapping[str, Any]) -> list[str]:
    return [name for name in _PREDICTORS if name in summary["scores"]]


def sections(summary: Mapping[str, Any]) -> list[Section]:
    """The scores, a section a protocol."""
    columns = _columns(summary)
    scores = [summary["scores"][name] for name in columns]
    threshold, max_tags = summary["threshold"], summary["max_tags"]
    images = [
        _numbers(f"{name} {part}", [one[name][part] for one in scores])
        for name in ("f1", "recall", "precision")
        for part in ("mean", "median", "std")
    ]
    images.append(("images with F1 0", [f"{one['f1']['zero']} ({one['f1']['zero_share']:.0%})" for one in scores]))
    ranking, tags = (
        [_numbers(name.replace("_", " "), [one[name] for one in scores]) for name in names]
        for names in (_RANKING_SCORES, _TAG_SCORES)
    )
    found = [
        Section(
            f"over images; the model: over {threshold:g}, at most {max_tags} tags (the thesis's tables 4 and 5)", images
        ),
        Section("the most confident tags of an image, whatever the threshold (HARRISON's protocol)", ranking),
        Section("over tags", tags),
    ]
    if "five_words_an_image" in summary:
        found.append(_five_words(summary["five_words_an_image"], columns))
    return found


def table(summary: Mapping[str, Any]) -> str:
    """The scores as text: a section a protocol, a row a score, a column a predictor."""
    lines = [_row("", predictors(summary))]
    for section in sections(summary):
        lines.append(section.title)
        lines += [_row(label, cells) for label, cells in section.rows]
    return "\n".join(lines)


def _five_words(found: Mapping[str, Any], columns: Sequence[str]) -> Section:
    """The baseline of this protocol is made of five words: it has no other size."""
    scores = [found["scores"].get(name) for name in columns]
    rows = [
        (f"mean word {name}" if name != "f1" else "f1 of the two means", _cells(scores, name, ".3f"))
        for name in ("precision", "recall", "f1")
    ]
    rows.append(("words with a recall over 0 (N+)", _cells(scores, "words_recalled", ",d")))
    return Section(f"five words an image (Corel5K's protocol), {found['words']:,} words", rows)


def _cells(scores: Iterable[Mapping[str, Any] | None], name: str, form: str) -> list[str]:
    return ["-" if one is None else format(one[name], form) for one in scores]


def _numbers(label: str, values: Iterable[float]) -> tuple[str, list[str]]:
    return label, [f"{value:.3f}" for value in values]


def _row(label: str, cells: Iterable[str]) -> str:
    return f"  {label:{_LABEL_WIDTH - 2}}" + "".join(f"{cell:>{_CELL_WIDTH}}" for cell in cells)


def evaluation_folder(model: Location, split: str) -> Location:
    """Where an evaluation goes: in a run, where it is; beside a bundle, whose files are those that it lists."""
    if not is_bundle(model):
        return model / "evaluation" / split
    folder = model.resolve() if isinstance(model, Path) else model
    return folder.with_name(f"{folder.name}-evaluation") / split


def write_results(evaluation: Evaluation, dataset: Dataset, scorer: Scorer, output: Path) -> None:
    """Writes `metrics.json`, `per_tag.csv` and `predictions.csv`, each atomically."""
    output.mkdir(parents=True, exist_ok=True)
    files.write_text(output / SUMMARY, json.dumps(evaluation.summary, indent=1) + "\n")
    files.write_text(output / PER_TAG, _per_tag(evaluation, dataset))
    _write_predictions(evaluation, scorer, output / PREDICTIONS)


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
