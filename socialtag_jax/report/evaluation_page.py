"""The report of one evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from socialtag_jax import curves, evaluation_report, files, metrics, run_folder
from socialtag_jax.evaluate import Evaluation
from socialtag_jax.report import (
    figures,
    page,
    photo_choice,
    photos,
    published,
    tag_groups,
    tag_pairs,
    training_curves,
)
from socialtag_jax.report.outcomes import Outcomes, outcomes
from socialtag_jax.report.page import shown
from socialtag_jax.report.training_curves import TrainingCurves
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.storage import Location

_PHOTOS = 12
"""Of each kind."""
_THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class Training:
    """What is known of how the model was trained.

    Attributes:
      curves: of the run.
      positive_weight: of its loss.
    """

    curves: TrainingCurves
    positive_weight: float

    @classmethod
    def of(cls, run: Location) -> Self:
        """What a run folder says.

        Raises:
          UserError: it is none, or its metrics are damaged.
        """
        return cls(training_curves.read(run), run_folder.load_run(run).experiment.loss.positive_weight)


def write_report(evaluation: Evaluation, dataset: Dataset, training: Training | None, output: Path) -> None:
    """Writes `report.html` atomically; without the packages that it needs, none, nor leaves an older one.

    Args:
      evaluation: on `dataset`.
      dataset: whose photos are shown.
      training: None for a model that comes without its run.
      output: a folder.
    """
    if page.missing_package() is not None:
        (output / page.REPORT).unlink(missing_ok=True)
        return
    files.write_text(output / page.REPORT, evaluation_page(evaluation, dataset, training))


def evaluation_page(evaluation: Evaluation, dataset: Dataset, training: Training | None) -> str:
    """The report, as HTML.

    Args:
      evaluation: on `dataset`.
      dataset: whose photos are shown.
      training: None for a model that comes without its run.
    """
    summary, labels = evaluation.summary, evaluation.labels
    found = outcomes(evaluation.ranking, labels.tag_ids, threshold=summary["threshold"], max_tags=summary["max_tags"])
    displays = [shown(display) for display in dataset.vocabulary.displays]
    # As in per_tag.csv.
    learned = dataset.statistics["train"].counts if "train" in dataset.statistics else None
    frequency = dataset.statistics[summary["split"]].counts if learned is None else learned
    content = {
        "summary": summary,
        "model": shown(summary["model"]),
        "dataset": shown(summary["dataset"]),
        "headlines": _headlines(summary),
        "predictors": evaluation_report.predictors(summary),
        "sections": evaluation_report.sections(summary),
        "published": _published(summary, dataset),
        "training": _training(training),
        "image_scores": _image_scores(evaluation),
        **_curves(evaluation, found, training),
        "groups": tag_groups.group_scores(evaluation.tag_counts, evaluation.average_precision, frequency),
        "groups_by": "images in training" if learned is not None else f"images of {summary['split']}",
        **_dominance(evaluation, displays),
        **_pairs(found, displays),
        **_photos(evaluation, found, dataset),
        "tags": _tags(evaluation, displays, learned),
    }
    return page.render("evaluation.html", content)


def _headlines(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scores that a reader asks for first, beside the better of the baselines."""
    model = summary["scores"]["model"]
    baselines = [scores for name, scores in summary["scores"].items() if name != "model"]
    names = (
        ("F1", "mean over photos", "f1"),
        ("Precision", "of the predicted tags, mean over photos", "precision"),
        ("Recall", "of the true tags, mean over photos", "recall"),
        ("First tag right", "share of photos (precision@1)", "precision_at_1"),
        ("Mean AP", "average precision, mean over tags", "mean_average_precision"),
    )
    result = []
    for label, words, name in names:
        value, *others = (
            one[name]["mean"] if isinstance(one[name], Mapping) else one[name] for one in (model, *baselines)
        )
        baseline = max(others, default=None)
        result.append({"label": label, "words": words, "value": value, "baseline": baseline})
    return result


def _published(summary: Mapping[str, Any], dataset: Dataset) -> Mapping[str, Any] | None:
    known = published.known_dataset(sum(map(len, dataset.splits.values())), len(dataset.vocabulary))
    if known is None or summary["split"] != "test":
        return None
    tables = [table for table in known.tables if published.our_values(table, summary, "model") is not None]
    return {"name": known.name, "tables": [_published_table(table, summary) for table in tables]}


def _published_table(table: published.PublishedTable, summary: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = [{"name": row.name, "source": row.source, "cells": row.values, "ours": False} for row in table.rows]
    named = {"model": "this model", **{f"popularity_{n}": f"always the {n} most frequent tags" for n in (5, 15)}}
    for predictor, name in named.items():
        values = published.our_values(table, summary, predictor)
        if values is not None:
            cells = [_published_cell(value, path) for value, path in zip(values, table.paths, strict=True)]
            rows.append({"name": name, "source": "", "cells": cells, "ours": True})
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": rows,
        "note": table.note,
        "same_photos": published.same_test_split(table, summary),
    }


def _published_cell(value: float, path: str) -> str:
    if path.endswith("_share"):
        return f"{value:.0%}".replace("%", " %")
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _training(training: Training | None) -> Mapping[str, Any] | None:
    if training is None or not len(training.curves):
        return None
    found = training.curves
    best_epoch, best_f1 = found.best
    last = [page.score(losses[-1]) for losses in (found.training_loss, found.validation_loss)]
    descriptions = [
        f"Loss by epoch, {len(found)} in all; in the last one {last[0]} in training, {last[1]} in validation",
        f"F1 on the validation photos, at best {best_f1:.3f}, in epoch {best_epoch}",
    ]
    return {
        "epochs": len(found),
        "validated": found.validated,
        "best_epoch": best_epoch,
        "best_f1": best_f1,
        "figures": [page.figure(*one) for one in zip(figures.training({"model": found}), descriptions, strict=False)],
    }


def _image_scores(evaluation: Evaluation) -> list[Mapping[str, str]]:
    names = ("F1", "precision", "recall")
    columns = [np.asarray(getattr(evaluation.image_scores, name.lower())) for name in names]
    drawn = figures.image_scores({name: [column] for name, column in zip(names, columns, strict=True)}, ["model"])
    return [
        page.figure(
            svg, f"Histogram of {name} over photos, in tenths: {_percentages(figures.histogram_shares(column))}"
        )
        for svg, name, column in zip(drawn, names, columns, strict=True)
    ]


def _percentages(shares: np.ndarray) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares)


def _curves(evaluation: Evaluation, found: Outcomes, training: Training | None) -> Mapping[str, Any]:
    summary, counts = evaluation.summary, evaluation.tag_counts
    by_threshold = curves.threshold_curve(
        evaluation.ranking, found.correct, found.true_ids, _THRESHOLDS, summary["max_tags"]
    )
    best = int(np.argmax(by_threshold.f1))
    histogram = evaluation.confidences
    curve, reliability = curves.precision_recall(histogram), curves.calibration(histogram)
    hits, predicted, true = (int(column.sum()) for column in counts)
    precision, recall = hits / max(predicted, 1), hits / true
    base_rate = true / int(histogram.pairs.sum())
    mean_confidence = float(found.confidences[found.predicted].mean()) if predicted else math.nan
    weight = None if training is None else training.positive_weight
    right, how_many = figures.reliability(reliability, weight)
    threshold = summary["threshold"]
    return {
        "best_threshold": {"threshold": float(by_threshold.threshold[best]), "f1": float(by_threshold.f1[best])},
        "predicted": {"precision": precision, "recall": recall, "confidence": mean_confidence},
        "base_rate": base_rate,
        "calibration_error": reliability.error,
        "positive_weight": weight,
        "threshold_figures": [
            page.figure(
                figures.thresholds(by_threshold, threshold),
                f"Mean precision, recall and F1 by threshold; F1 is highest, {by_threshold.f1[best]:.3f}, "
                f"at {by_threshold.threshold[best]:g}; the chosen threshold is {threshold:g}",
            ),
            page.figure(
                figures.suggested(by_threshold, threshold),
                f"Predicted tags a photo by threshold; {summary['scores']['model']['tags_per_image']:.1f} as predicted",
            ),
            page.figure(
                figures.precision_recall(curve, (recall, precision), base_rate),
                f"Precision by recall over all photos and tags; as predicted, precision {precision:.3f} and "
                f"recall {recall:.3f}",
            ),
        ],
        "calibration_figures": [
            page.figure(
                right,
                "Share that is right by confidence, in tenths: "
                + ", ".join("none" if math.isnan(share) else f"{share:.2f}" for share in reliability.share_true),
            ),
            page.figure(
                how_many,
                "Pairs of a photo and a tag by confidence, in tenths: " + ", ".join(map(str, reliability.pairs)),
            ),
        ],
    }


def _dominance(evaluation: Evaluation, displays: Sequence[str]) -> Mapping[str, Any]:
    counts, images = evaluation.tag_counts, len(evaluation.image_scores.f1)
    found = tag_groups.dominance(counts)
    precision, recall, _ = metrics.tag_precision_recall_f1(counts)
    rows = [
        {
            "tag": displays[tag],
            "predicted": counts.predicted[tag] / images,
            "true": counts.true[tag] / images,
            "precision": precision[tag],
            "recall": recall[tag],
        }
        for tag in found.tags
    ]
    return {"dominance": {**asdict(found), "rows": rows}}


def _pairs(found: Outcomes, displays: Sequence[str]) -> Mapping[str, Any]:
    confusions = [
        {"missed": displays[one.missed], "said": displays[one.said], "images": one.images, "expected": one.expected}
        for one in tag_pairs.confusions(found, len(displays))
    ]
    conflicts = [
        {
            "first": displays[one.first],
            "second": displays[one.second],
            "predicted": one.predicted,
            "true": one.true,
            "expected": one.expected,
        }
        for one in tag_pairs.conflicts(found, len(displays))
    ]
    return {"confusions": confusions, "conflicts": conflicts}


def _photos(evaluation: Evaluation, found: Outcomes, dataset: Dataset) -> Mapping[str, Any]:
    f1 = np.asarray(evaluation.image_scores.f1)
    choice = photo_choice.choose(found, f1, _PHOTOS, seed=0)
    tags, records = dataset.vocabulary.tags, dataset.records(evaluation.summary["split"])
    displays = dict(zip(tags, dataset.vocabulary.displays, strict=True))

    def shown_photos(rows: Sequence[int]) -> list[Mapping[str, Any]]:
        result = []
        for row in rows:
            predicted = photos.predicted_tags(found.tag_ids[row], found.confidences[row], found.predicted[row], tags)
            true = [tags[tag] for tag in found.true_ids[row].tolist() if tag >= 0]
            its_chips = photos.chips(predicted, true, displays)
            result.append(photos.photo(records, row, evaluation.labels.image_ids[row], its_chips, f"{f1[row]:.2f}"))
        return result

    sure = found.predicted & (found.confidences >= photo_choice.VERY_SURE)
    return {
        "very_sure": {
            "confidence": photo_choice.VERY_SURE,
            "right": float(found.correct[sure].mean()) if sure.any() else math.nan,
        },
        "photos": {kind: shown_photos(rows) for kind, rows in asdict(choice).items()},
    }


def _tags(evaluation: Evaluation, displays: Sequence[str], learned: np.ndarray | None) -> Mapping[str, Any]:
    """The table of tags, those with the most photos first."""
    counts, images = evaluation.tag_counts, len(evaluation.image_scores.f1)
    ratios = (*metrics.tag_precision_recall_f1(counts), evaluation.average_precision)
    order = np.lexsort((-counts.predicted, -counts.true))[: page.MOST_ROWS]
    rows = []
    for tag in order.tolist():
        true, predicted = int(counts.true[tag]), int(counts.predicted[tag])
        precision, recall, f1, average = (round(float(ratio[tag]), 3) for ratio in ratios)
        # Of a tag that was never predicted nothing can be said; of one that no photo has, only that it was wrong.
        lift = round(float(ratios[0][tag]) * images / true, 1) if true and predicted else None
        scores = [precision if predicted else None, *((recall, f1, average) if true else (None, None, None))]
        learned_of = [] if learned is None else [int(learned[tag])]
        rows.append([displays[tag], *learned_of, true, predicted, *scores, lift])
    columns = [
        ("tag", "text"),
        *([] if learned is None else [("training photos", "count")]),
        ("photos", "count"),
        ("predicted", "count"),
        ("precision", "ratio"),
        ("recall", "ratio"),
        ("F1", "ratio"),
        ("AP", "ratio"),
        ("lift", "times"),
    ]
    return page.tag_table(columns, rows, sort=1 if learned is None else 2, left_out=len(displays) - len(rows))
