"""What `socialtag evaluate` wrote, read again."""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from socialtag_jax import files, json_files, run_folder
from socialtag_jax.curves import ThresholdCurve
from socialtag_jax.errors import UserError
from socialtag_jax.evaluation_report import PER_TAG, PREDICTIONS, SUMMARY, evaluation_folder
from socialtag_jax.json_files import Fields
from socialtag_jax.metrics import TagCounts
from socialtag_jax.report import training_curves
from socialtag_jax.report.training_curves import TrainingCurves
from socialtag_jax.storage import Location

_AGAIN = "run `socialtag evaluate` again"
Found = TypeVar("Found")


@dataclass(frozen=True)
class TagScores:
    """What `per_tag.csv` says of all tags.

    Attributes:
      displays: of each tag.
      frequency: int64 [n_tags], images of training; of the split where training is not known.
      counts: by tag.
      average_precision: float64 [n_tags]; NaN for tags without positives.
    """

    displays: Sequence[str]
    frequency: np.ndarray
    counts: TagCounts
    average_precision: np.ndarray


@dataclass(frozen=True)
class ImageTags:
    """One row of `predictions.csv`: the image's tags, and the predicted ones with confidences."""

    true: Sequence[str]
    predicted: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation as its files have it.

    Attributes:
      folder: of the files.
      summary: the content of `metrics.json`.
      curves: of the run that it is of; None where that is not known.
    """

    folder: Location
    summary: Fields
    curves: TrainingCurves | None

    def score(self, path: str) -> float:
        """One of the model's scores; dots go deeper: `f1.mean`."""
        *outer, name = path.split(".")
        fields = self.summary.fields("scores").fields("model")
        for one in outer:
            fields = fields.fields(one)
        return fields.number(name)

    def threshold_curve(self) -> ThresholdCurve:
        """The scores at other thresholds."""
        fields = self.summary.fields("threshold_curve")
        try:
            columns = [np.array(fields.content[name], np.float64) for name in ThresholdCurve._fields]
        except (KeyError, TypeError, ValueError):
            columns = []
        shapes = {column.shape for column in columns}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise self.summary.refuse("field 'threshold_curve' holds no lists of numbers of one length")
        return ThresholdCurve(*columns)

    def tag_scores(self) -> TagScores:
        """The scores of all tags."""
        rows = self._rows(PER_TAG, lambda row: row)

        def column(name: str, kind: Callable[[str], float]) -> np.ndarray:
            return np.array([kind(row[name]) for row in rows])

        try:
            counts = TagCounts(*(column(name, int) for name in ("true_positives", "predicted", "images")))
            learned = all(row["train_images"] for row in rows)
            return TagScores(
                [row["display"] for row in rows],
                column("train_images", int) if learned else counts.true,
                counts,
                column("average_precision", _number),
            )
        except (KeyError, ValueError) as error:
            raise self._damaged(PER_TAG, error) from error

    def image_scores(self) -> tuple[list[str], Mapping[str, np.ndarray]]:
        """The images in order, and their "f1", "precision" and "recall", float64 [images], NaN without tags."""
        names = ("f1", "precision", "recall")
        rows = self._rows(PREDICTIONS, lambda row: (row["image_id"], *(_number(row[name]) for name in names)))
        columns = np.array([row[1:] for row in rows], np.float64).reshape(-1, len(names)).T
        return [row[0] for row in rows], dict(zip(names, columns, strict=True))

    def image_tags(self, wanted: Collection[int]) -> Mapping[int, ImageTags]:
        """The tags of some images, by their place in the file."""
        places = iter(range(self.summary.count("images")))

        def of(row: Mapping[str, str]) -> tuple[int, ImageTags] | None:
            place = next(places)
            if place not in wanted:
                return None
            true, predicted, confidences = (
                json.loads(row[name]) for name in ("true_tags", "predicted_tags", "confidences")
            )
            pairs = [(str(tag), float(value)) for tag, value in zip(predicted, confidences, strict=True)]
            return place, ImageTags([str(tag) for tag in true], pairs)

        return dict(found for found in self._rows(PREDICTIONS, of) if found is not None)

    def _rows(self, name: str, of: Callable[[Mapping[str, str]], Found]) -> list[Found]:
        try:
            text = files.read_bytes(self.folder / name).decode("utf-8", "surrogateescape")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot be read: {error}", where=self.folder / name, hint=_AGAIN) from error
        try:
            return [of(row) for row in _table(text)]
        except (KeyError, TypeError, ValueError, StopIteration, csv.Error) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> UserError:
        return UserError(f"not what `socialtag evaluate` writes: {error!r}", where=self.folder / name, hint=_AGAIN)


def _table(text: str) -> Iterator[Mapping[str, Any]]:
    return csv.DictReader(io.StringIO(text, newline=""))


def _number(text: str) -> float:
    return float(text) if text else float("nan")


def find(where: Location, split: str) -> SavedEvaluation:
    """The evaluation of a run or a bundle on a split, or the one that lies in the folder `where`.

    Raises:
      UserError: there is none, or its files are damaged.
    """
    folder = where if (where / SUMMARY).exists() else evaluation_folder(where, split)
    try:
        summary = json_files.read(folder / SUMMARY, hint=_AGAIN)
    except (FileNotFoundError, NotADirectoryError):
        hint = f"run `socialtag evaluate {where} --dataset DATASET --split {split}` first"
        raise UserError(f"no evaluation on {split}: no {SUMMARY}", where=folder, hint=hint) from None
    # In a run, evaluations lie in RUN/evaluation/SPLIT.
    run = next((one for one in (where, folder.parent.parent) if (one / run_folder.CONFIG).exists()), None)
    return SavedEvaluation(folder, summary, None if run is None else training_curves.read(run))
