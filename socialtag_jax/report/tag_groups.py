"""Tags by how frequent they are, and those that predictions hold too often."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from socialtag_jax import metrics
from socialtag_jax.metrics import TagCounts

GROUPS = ("head", "middle", "tail")


def frequency_groups(frequency: np.ndarray) -> np.ndarray:
    """Splits tags by frequency into head, middle and tail, each with about a third of all uses of tags.

    Thirds of the uses, not of the tags: each group then weighs about the same in scores over images.

    Args:
      frequency: int64 [n_tags], images by tag.

    Returns:
      int8 [n_tags], 0 for the head, 1, and 2 for the tail; a tag that crosses a third is of the more frequent group.
    """
    order = np.argsort(-frequency, kind="stable")
    before = np.cumsum(frequency[order]) - frequency[order]
    groups = np.empty(len(frequency), np.int8)
    groups[order] = np.minimum(3 * before // max(int(frequency.sum()), 1), 2)
    groups[frequency == 0] = 2
    return groups


@dataclass(frozen=True)
class GroupScores:
    """Scores of a group of tags, each tag weighing the same; tags that no image of the split has are left out.

    Attributes:
      name: of `GROUPS`.
      tags: in the group.
      least: images that its rarest tag has in training; of the split where nothing is known of training.
      most: images that its most frequent tag has.
      scored: tags of the group that an image of the split has: the scores are means over these, NaN for none.
      never_predicted: how many of these were predicted for no image.
      precision: mean; 0 for a tag that is never predicted.
      recall: mean.
      f1: mean.
      average_precision: mean.
    """

    name: str
    tags: int
    least: int
    most: int
    scored: int
    never_predicted: int
    precision: float
    recall: float
    f1: float
    average_precision: float


def group_scores(counts: TagCounts, average_precision: np.ndarray, frequency: np.ndarray) -> list[GroupScores]:
    """Scores of head, middle and tail; groups without tags are left out.

    Args:
      counts: by tag.
      average_precision: float64 [n_tags]; NaN for tags without positives.
      frequency: int64 [n_tags], as for `frequency_groups`.
    """
    groups = frequency_groups(frequency)
    ratios = (*metrics.tag_precision_recall_f1(counts), average_precision)
    result = []
    for number, name in enumerate(GROUPS):
        members = groups == number
        if not members.any():
            continue
        scored = members & (counts.true > 0)
        means = [float(np.mean(ratio[scored])) if scored.any() else float("nan") for ratio in ratios]
        result.append(
            GroupScores(
                name,
                int(members.sum()),
                int(frequency[members].min()),
                int(frequency[members].max()),
                int(scored.sum()),
                int(np.sum(scored & (counts.predicted == 0))),
                *means,
            )
        )
    return result


@dataclass(frozen=True)
class Dominance:
    """How far a few tags make up all predictions.

    Attributes:
      tags: the most often predicted ones, most often first.
      share_of_predictions: of all predicted tags, those that are one of `tags`.
      share_of_labels: of all true tags, those that are.
      predicted_tags: how many tags were predicted at all.
    """

    tags: Sequence[int]
    share_of_predictions: float
    share_of_labels: float
    predicted_tags: int


def dominance(counts: TagCounts, most: int = 12) -> Dominance:
    """The tags that dominate predictions, at most `most`."""
    order = np.argsort(-counts.predicted, kind="stable")[:most]
    tags = [int(tag) for tag in order if counts.predicted[tag] > 0]
    said, true = (float(column[tags].sum() / max(int(column.sum()), 1)) for column in (counts.predicted, counts.true))
    return Dominance(tags, said, true, int(np.sum(counts.predicted > 0)))
