"""The report of two evaluations of the same photos."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from socialtag_jax import metrics
from socialtag_jax.errors import UserError
from socialtag_jax.json_files import Fields
from socialtag_jax.report import figures, page, photos, tag_groups
from socialtag_jax.report.evaluation_files import SavedEvaluation, TagScores
from socialtag_jax.report.page import shown
from socialtag_jax.shards.dataset import Dataset

_PHOTOS = 8
"""Of each kind."""
_SCORES = (
    ("F1 mean", "f1.mean"),
    ("F1 median", "f1.median"),
    ("Recall mean", "recall.mean"),
    ("Precision mean", "precision.mean"),
    ("Share of photos with F1 0", "f1.zero_share"),
    ("Precision at 1", "precision_at_1"),
    ("Recall at 5", "recall_at_5"),
    ("Accuracy at 5", "accuracy_at_5"),
    ("Macro F1, over tags", "macro_f1"),
    ("Micro F1, over tags", "micro_f1"),
    ("Mean average precision", "mean_average_precision"),
    ("Predicted tags a photo", "tags_per_image"),
)


class Difference(NamedTuple):
    """How far the scores of the same images differ on average.

    Attributes:
      mean: of second less first.
      low: of the 95 % interval of the mean, by Student's distribution; NaN for a single image.
      high: of the interval.
      better: images whose second score is higher.
      worse: images whose second score is lower.
      equal: images whose scores are equal.
    """

    mean: float
    low: float
    high: float
    better: int
    worse: int
    equal: int


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """The paired difference of two scores, float64 [images]; images whose scores are NaN are left out."""
    values = (second - first)[~np.isnan(first) & ~np.isnan(second)]
    mean = float(np.mean(values))
    # With one image, nothing is known of how far means scatter.
    half = math.nan
    if len(values) > 1:
        half = float(special.stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1)) / math.sqrt(len(values))
    better, worse = int(np.sum(values > 0)), int(np.sum(values < 0))
    return Difference(mean, mean - half, mean + half, better, worse, len(values) - better - worse)


def check_same_photos(first: SavedEvaluation, second: SavedEvaluation) -> None:
    """Refuses two evaluations that are not of the same photos.

    Raises:
      UserError: they are not.
    """
    for key, word in (("dataset_fingerprint", "data set"), ("split", "split")):
        a, b = first.summary.text(key), second.summary.text(key)
        if a != b:
            names = (a, b) if key == "split" else (first.summary.text("dataset"), second.summary.text("dataset"))
            raise UserError(
                f"not the same photos: the {word} was {names[0]} for {first.folder}, {names[1]} here"
                + (", with another content" if names[0] == names[1] else ""),
                where=second.folder,
                hint="evaluate both on the same split of the same data set",
            )


def comparison_page(first: SavedEvaluation, second: SavedEvaluation, dataset: Dataset | None) -> str:
    """The comparison, as HTML.

    Args:
      first: an evaluation, "A".
      second: another one of the same photos, "B".
      dataset: that they are of, for its photos; None for a page without.

    Raises:
      UserError: the evaluations are not of the same photos, or of `dataset`; or their files are damaged.
    """
    check_same_photos(first, second)
    both = {"A": first, "B": second}
    image_ids, scores = first.image_scores()
    other_ids, other_scores = second.image_scores()
    if image_ids != other_ids:
        raise UserError("lists other photos", where=second.folder, hint="evaluate both again")
    tags = [one.tag_scores() for one in both.values()]
    if tags[0].displays != tags[1].displays:
        raise UserError("lists other tags", where=second.folder, hint="evaluate both again")
    f1 = difference(scores["f1"], other_scores["f1"])
    content = {
        "runs": {name: _run(one.summary) for name, one in both.items()},
        "dataset": shown(first.summary.text("dataset")),
        "split": first.summary.text("split"),
        "notices": _notices(both),
        "f1": f1,
        "scores": [_score(label, path, first, second) for label, path in _SCORES],
        "intervals": [
            {"label": label, **difference(scores[name], other_scores[name])._asdict()}
            for label, name in (("F1", "f1"), ("Precision", "precision"), ("Recall", "recall"))
        ],
        "training": _training(both),
        "image_figures": _image_figures(scores, other_scores, f1),
        "threshold_figure": _thresholds(both),
        "groups": _groups(tags),
        "photos": _photos(both, image_ids, other_scores["f1"] - scores["f1"], dataset),
        "with_pictures": dataset is not None,
        "tags": _tags(tags),
    }
    return page.render("comparison.html", content)


def _notices(both: Mapping[str, SavedEvaluation]) -> list[str]:
    """What to know before comparing."""
    found = [
        f"{name} was trained on another data set: it may have been trained on these photos."
        for name, one in both.items()
        if not one.summary.flag("trained_on_this_data_set")
    ]
    limits = {(one.summary.number("threshold"), one.summary.count("max_tags")) for one in both.values()}
    if len(limits) > 1:
        found.append(
            "A and B predict tags by other limits: F1, precision and recall differ by these too; precision at 1, "
            "recall and accuracy at 5, and average precision do not depend on them."
        )
    return found


def _run(summary: Fields) -> Mapping[str, Any]:
    return {
        "model": shown(summary.text("model")),
        "threshold": summary.number("threshold"),
        "max_tags": summary.count("max_tags"),
    }


def _score(label: str, path: str, first: SavedEvaluation, second: SavedEvaluation) -> Mapping[str, Any]:
    a, b = first.score(path), second.score(path)
    return {"label": label, "a": a, "b": b, "difference": b - a}


def _training(both: Mapping[str, SavedEvaluation]) -> list[Mapping[str, str]]:
    curves = {name: one.curves for name, one in both.items() if one.curves is not None and one.curves.validated}
    if len(curves) < len(both):
        return []
    losses, f1 = figures.training(curves)
    last = ", ".join(f"{name} {page.score(one.validation_loss[-1])}" for name, one in curves.items())
    best = ", ".join(f"{name} {page.score(one.best[1])}" for name, one in curves.items())
    return [
        page.figure(losses, f"Validation loss by epoch; in the last one {last}"),
        page.figure(f1, f"F1 on the validation photos by epoch; at best {best}"),
    ]


def _image_figures(
    scores: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], f1: Difference
) -> list[Mapping[str, str]]:
    (histogram,) = figures.image_scores({"F1": [scores["f1"], others["f1"]]}, ["A", "B"])
    values = (others["f1"] - scores["f1"])[~np.isnan(scores["f1"])]
    words = f"higher for {f1.better} photos, lower for {f1.worse}, equal for {f1.equal}"
    return [
        page.figure(histogram, "Histograms of F1 over photos, of A and of B"),
        page.figure(figures.differences(values), f"Histogram of F1 of B less F1 of A: {words}"),
    ]


def _thresholds(both: Mapping[str, SavedEvaluation]) -> Mapping[str, str]:
    curves = {
        name: (one.threshold_curve(), (one.summary.number("threshold"), one.score("f1.mean")))
        for name, one in both.items()
    }
    best = (
        f"{name} {curve.f1.max():.3f} at {curve.threshold[curve.f1.argmax()]:g}" for name, (curve, _) in curves.items()
    )
    return page.figure(
        figures.compared_thresholds(curves), f"Mean F1 over photos by threshold; highest: {', '.join(best)}"
    )


def _groups(tags: Sequence[TagScores]) -> list[Mapping[str, Any]]:
    frequency = tags[0].frequency
    found = [tag_groups.group_scores(one.counts, one.average_precision, frequency) for one in tags]
    return [{"name": a.name, "a": a, "b": b} for a, b in zip(*found, strict=True)]


def _photos(
    both: Mapping[str, SavedEvaluation], image_ids: Sequence[str], change: np.ndarray, dataset: Dataset | None
) -> Mapping[str, list[Mapping[str, Any]]]:
    order = np.argsort(np.where(np.isnan(change), 0.0, change), kind="stable")
    rows = {
        "better": [int(row) for row in order[::-1][:_PHOTOS] if change[row] > 0],
        "worse": [int(row) for row in order[:_PHOTOS] if change[row] < 0],
    }
    wanted = {row for found in rows.values() for row in found}
    found = {name: one.image_tags(wanted) for name, one in both.items()}
    records = None
    if dataset is not None:
        summary = both["A"].summary
        if dataset.fingerprint != summary.text("dataset_fingerprint"):
            what = "not the data set that both were evaluated on"
            raise UserError(what, where=dataset.location, hint="give that one, or leave --dataset out")
        records = dataset.records(summary.text("split"))
    displays = {} if dataset is None else dict(zip(dataset.vocabulary.tags, dataset.vocabulary.displays, strict=True))

    def shown_photo(row: int) -> Mapping[str, Any]:
        its_chips = {name: photos.chips(tags[row].predicted, tags[row].true, displays) for name, tags in found.items()}
        return photos.photo(records, row, image_ids[row], its_chips, page.signed(float(change[row])))

    return {kind: [shown_photo(row) for row in its_rows] for kind, its_rows in rows.items()}


def _tags(tags: Sequence[TagScores]) -> Mapping[str, Any]:
    """The table of tags, those with the most photos first."""
    first, second = tags
    f1 = [metrics.tag_precision_recall_f1(one.counts)[2] for one in tags]
    average = [one.average_precision for one in tags]
    true = first.counts.true
    rows, there = [], int(np.count_nonzero(true))
    for tag in map(int, np.argsort(-true, kind="stable")[: min(there, page.MOST_ROWS)]):
        numbers = [round(float(value), 3) for values in (f1, average) for value in _with_change(values, tag)]
        predicted = [int(one.counts.predicted[tag]) for one in (first, second)]
        rows.append([shown(first.displays[tag]), int(true[tag]), *predicted, *numbers])
    columns = [("tag", "text"), ("photos", "count"), ("predicted, A", "count"), ("predicted, B", "count")]
    for name in ("F1", "AP"):
        columns += [(f"{name}, A", "ratio"), (f"{name}, B", "ratio"), (f"{name}, B − A", "signed")]
    return page.tag_table(columns, rows, sort=1, left_out=there - len(rows))


def _with_change(values: Sequence[np.ndarray], tag: int) -> tuple[float, float, float]:
    a, b = (float(one[tag]) for one in values)
    return a, b, b - a
