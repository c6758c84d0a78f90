"""What others published on the data sets of the field, for a report on one of these.

A data set is recognised by how many photos and tags it has, not by its name, which is the user's. All rows of a table
were scored by the protocol that the table names, which is also how this project's row is; whether they were scored on
the same photos, the table says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublishedRow:
    """One published result.

    Attributes:
      name: of the method.
      source: the publication.
      values: by column of the table; text, as published.
    """

    name: str
    source: str
    values: Sequence[str]


@dataclass(frozen=True)
class PublishedTable:
    """Published results under one protocol, and where ours for it stand.

    Attributes:
      title: the protocol.
      columns: names of the scores.
      paths: where an evaluation's summary has the same scores, below a predictor's name; dots go deeper.
      section: of the summary that has the predictors' scores.
      rows: what was published.
      note: what to know before comparing.
      test_split: what a summary says where its test photos are those of the rows, by the path of a number; empty where
        the rows are of a random split that nobody else has.
    """

    title: str
    columns: Sequence[str]
    paths: Sequence[str]
    section: Sequence[str]
    rows: Sequence[PublishedRow]
    note: str
    test_split: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownDataset:
    """A data set of the field.

    Attributes:
      name: as the field calls it.
      photos: over all splits; up to 1 % fewer may be left, where files are damaged.
      tags: of the vocabulary.
      tables: what was published on it.
    """

    name: str
    photos: int
    tags: int
    tables: Sequence[PublishedTable]


_PARK = "Park, Li and Kim, arXiv:1605.05054, 2016"
_THESIS = "the 2018 master's thesis that this project reproduces"


def _thesis(note: str, *values: str) -> PublishedTable:
    """Its table of scores over images."""
    return PublishedTable(
        title="Over photos",
        columns=("F1 mean", "F1 median", "F1 std", "recall mean", "precision mean", "photos with F1 0"),
        paths=("f1.mean", "f1.median", "f1.std", "recall.mean", "precision.mean", "f1.zero_share"),
        section=("scores",),
        rows=(PublishedRow("VGG16, fine-tuned", _THESIS, values),),
        note=f"{note} Tags over a threshold of 0.3 were predicted, at most 15.",
    )


KNOWN = (
    KnownDataset(
        "Corel5K",
        4999,
        374,
        (
            PublishedTable(
                title="Five words a photo, scored by word",
                columns=("mean word precision", "mean word recall", "words with a recall over 0 (N+)"),
                paths=("precision", "recall", "words_recalled"),
                section=("five_words_an_image", "scores"),
                rows=(
                    PublishedRow("MBRM", "Feng, Manmatha and Lavrenko, CVPR 2004", ("0.24", "0.25", "122")),
                    PublishedRow("JEC", "Makadia, Pavlovic and Kumar, ECCV 2008", ("0.27", "0.32", "139")),
                    PublishedRow("TagProp σML", "Guillaumin and others, ICCV 2009", ("0.33", "0.42", "160")),
                    PublishedRow("2PKNN + ML", "Verma and Jawahar, ECCV 2012", ("0.44", "0.46", "191")),
                ),
                note="Published on Corel5K's own split: trained on all of its 4,500 training photos, scored by the 260 "
                "words that its 499 test photos share with them. A model that keeps some of these for validation has "
                "fewer to learn from; one that starts from ImageNet's weights has seen photos that these have not.",
                test_split={"images": 499, "five_words_an_image.words": 260},
            ),
        ),
    ),
    KnownDataset(
        "HARRISON",
        57_383,
        997,
        (
            PublishedTable(
                title="The most confident tags of a photo",
                columns=("precision@1", "recall@5", "accuracy@5"),
                paths=("precision_at_1", "recall_at_5", "accuracy_at_5"),
                section=("scores",),
                rows=(
                    PublishedRow("VGG-Object", _PARK, ("0.2830", "0.2083", "0.5070")),
                    PublishedRow("VGG-Object + VGG-Scene", _PARK, ("0.3016", "0.2138", "0.5252")),
                ),
                note="Published on a random split, 52,383 training and 5,000 test photos.",
            ),
            _thesis("Published on a random split, 5,738 test photos.", "0.07", "0", "0.11", "0.15", "0.05", "59 %"),
        ),
    ),
    KnownDataset(
        "MIRFLICKR-1M",
        910_025,
        12_234,
        (_thesis("Published on a random split, 91,001 test photos.", "0.11", "0.08", "0.13", "0.15", "0.10", "46 %"),),
    ),
)


def known_dataset(photos: int, tags: int) -> KnownDataset | None:
    """The data set of the field with so many photos and tags; None for any other."""
    return next((one for one in KNOWN if one.tags == tags and 0.99 * one.photos <= photos <= one.photos), None)


def our_values(table: PublishedTable, summary: Mapping[str, Any], predictor: str) -> Sequence[float | int] | None:
    """An evaluation's scores for the columns of a table; None where it lacks this protocol or predictor."""
    scores: Any = summary
    for name in (*table.section, predictor):
        if name not in scores:
            return None
        scores = scores[name]
    return [_at(scores, path) for path in table.paths]


def same_test_split(table: PublishedTable, summary: Mapping[str, Any]) -> bool:
    """Whether an evaluation's test photos are those of the table, by how many there are, and how many words."""
    return bool(table.test_split) and all(_at(summary, path) == value for path, value in table.test_split.items())


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value[name]
    return value
