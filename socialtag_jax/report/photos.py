"""Photos on a page: a small picture, and the tags that were predicted, and missed, as chips."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from socialtag_jax.report.page import shown
from socialtag_jax.report.thumbnails import thumbnail
from socialtag_jax.shards.dataset import ParsedRecords

_MOST_CHIPS = 20
"""Of predicted tags, and of missed ones."""


def chips(
    predicted: Sequence[tuple[str, float]], true: Sequence[str], displays: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """The chips of a photo: right and wrong ones as they were predicted, then those that were missed.

    Args:
      predicted: tags and confidences, most confident first.
      true: the photo's tags.
      displays: how each tag is shown; itself, where it is not in here.
    """
    wanted = set(true)
    found = [
        {"state": "right" if tag in wanted else "wrong", "tag": tag, "confidence": round(100 * confidence)}
        for tag, confidence in predicted
    ]
    named = {tag for tag, _ in predicted}
    missed = [{"state": "missed", "tag": tag, "confidence": None} for tag in true if tag not in named]
    return [
        {**chip, "tag": shown(displays.get(chip["tag"], chip["tag"]))}
        for chip in found[:_MOST_CHIPS] + _more(found, "predicted") + missed[:_MOST_CHIPS] + _more(missed, "missed")
    ]


def _more(found: Sequence[Mapping[str, Any]], word: str) -> list[dict[str, Any]]:
    left = len(found) - _MOST_CHIPS
    return [{"state": "more", "tag": f"and {left} more {word}", "confidence": None}] if left > 0 else []


def photo(records: ParsedRecords | None, row: int, image_id: str, its_chips: Any, f1: str) -> Mapping[str, Any]:
    """A photo as the templates take it.

    Args:
      records: of the split; None for no picture.
      row: of the photo.
      image_id: as evaluated.
      its_chips: of `chips`, once or by the name of a model.
      f1: its score, or by how much that differs.
    """
    picture = None if records is None else thumbnail(records[row].image)
    return {"path": shown(image_id), "picture": picture, "chips": its_chips, "f1": f1}


def predicted_tags(
    tag_ids: np.ndarray, confidences: np.ndarray, predicted: np.ndarray, tags: Sequence[str]
) -> list[tuple[str, float]]:
    """One row of `Outcomes` as tags and confidences."""
    return [
        (tags[int(tag)], float(confidence))
        for tag, confidence in zip(tag_ids[predicted], confidences[predicted], strict=True)
    ]
