"""Predictions as text, CSV, JSON and JSON Lines."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from socialtag_jax import files, sidecars
from socialtag_jax.errors import printable
from socialtag_jax.predict import Prediction
from socialtag_jax.tagger import SuggestedTag

COLUMNS = ("path", "tag", "display", "confidence", "abstained")


def as_json(prediction: Prediction) -> dict[str, Any]:
    """A dict of "path", "abstained", and "tags" with "tag", "display" and "confidence"."""
    tags = [{"tag": one.tag, "display": one.display, "confidence": _rounded(one)} for one in prediction.tags]
    return {"path": str(prediction.path), "tags": tags, "abstained": prediction.abstained}


def as_text(prediction: Prediction) -> str:
    """`photo.jpg: Beach 0.93  sunset 0.41`."""
    tags = "  ".join(f"{one.display} {one.confidence:.2f}" for one in prediction.tags)
    none = "(abstained: no tag is sure enough)" if prediction.abstained else "(no tag over the threshold)"
    path = str(prediction.path).replace("\n", "\\n")
    return printable(f"{path}: {tags or none}")


def write_csv(predictions: Iterable[Prediction], path: Path) -> None:
    """Writes one row a suggestion, in `COLUMNS`; the whole file, or none.

    A photo without suggestions has one row: its path, and `yes` where the tagger abstained.
    """

    def rows() -> Iterator[tuple[object, ...]]:
        yield COLUMNS
        for prediction in predictions:
            for one in prediction.tags:
                yield prediction.path, one.tag, one.display, _rounded(one), ""
            if not prediction.tags:
                yield prediction.path, "", "", "", "yes" if prediction.abstained else ""

    _write_rows(rows(), path)


def write_jsonl(predictions: Iterable[Prediction], path: Path) -> None:
    """Writes one JSON object a photo and line, as `as_json` makes it; the whole file, or none."""
    # File names that are not UTF-8 stay escaped, as JSON can.
    lines = (
        json.dumps(as_json(prediction), ensure_ascii=not _is_unicode(prediction.path)) for prediction in predictions
    )
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def rejects_path(output: Path) -> Path:
    """`tags.csv` -> `tags.rejects.csv`: where what could not be done is listed."""
    return output.with_name(f"{output.stem}.rejects.csv")


def write_rejects(predictions: Iterable[Prediction], path: Path) -> int:
    """Writes one row for each file that could not be read or was left alone: path and reason.

    Without any there is no such file, nor that of an earlier run.

    Returns:
      how many.
    """
    rows: list[tuple[object, ...]] = []
    for prediction in predictions:
        if prediction.unreadable is not None:
            rows.append((prediction.path, prediction.unreadable))
        if prediction.sidecar_left is not None:
            rows.append((sidecars.sidecar_path(prediction.path), prediction.sidecar_left))
    if rows:
        _write_rows([("path", "reason"), *rows], path)
    else:
        path.unlink(missing_ok=True)
    return len(rows)


def _write_rows(rows: Iterable[tuple[object, ...]], path: Path) -> None:
    with (
        files.atomic_path(path) as temporary,
        # As `files.write_text`: file names that are not UTF-8 come back as the bytes that they are.
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def _is_unicode(path: Path) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in str(path))


def _rounded(one: SuggestedTag) -> float:
    return round(one.confidence, 6)
