"""A study's results as text, as JSON, and every answer as CSV."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from socialtag_jax import files
from socialtag_jax.errors import printable
from socialtag_jax.rating import results
from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.results import Agreement, Distribution, JudgedPhoto, Labels, Share
from socialtag_jax.rating.study import Study

_LABEL_WIDTH, _CELL_WIDTH = 28, 13
_BAR_WIDTH = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Findings:
    """All results of a study.

    Attributes:
      photos: finished by at least one rater.
      photos_by_several: finished by at least two.
      raters: name -> (photos finished, mean subjective precision of the predicted tags by their answers alone).
      precision: subjective precision of each source.
      agreement: of the raters, over all tags, and over those of each source.
      labels: the predicted tags beside the labels.
    """

    photos: int
    photos_by_several: int
    raters: Mapping[str, tuple[int, float | None]]
    precision: Mapping[Source, Distribution]
    agreement: Mapping[str, Agreement]
    labels: Labels


def findings(photos: Sequence[JudgedPhoto]) -> Findings:
    """All results over the finished photos of a study."""
    names = dict.fromkeys(name for photo in photos for name in photo.raters)
    alone = {name: results.of_rater(photos, name) for name in names}
    answers = {"all": [tag.fits for photo in photos for tag in photo.tags]}
    answers |= {source.value: [tag.fits for photo in photos for tag in photo.of(source)] for source in Source}
    return Findings(
        photos=len(photos),
        photos_by_several=sum(len(photo.raters) > 1 for photo in photos),
        raters={
            name: (len(theirs), results.distribution(theirs, Source.PREDICTED).mean) for name, theirs in alone.items()
        },
        precision={source: results.distribution(photos, source) for source in Source},
        agreement={name: results.agreement(given) for name, given in answers.items()},
        labels=results.beside_labels(photos),
    )


def as_json(study: Study, found: Findings) -> dict[str, Any]:
    """The JSON document of `socialtag rate --results STUDY --json`."""
    labels = found.labels
    return {
        "study": {**asdict(study.origin), "created_at": study.created_at, "photos": study.photos},
        "rated_photos": found.photos,
        "photos_rated_by_several": found.photos_by_several,
        "raters": [
            {"name": name, "photos": count, "mean_precision_of_predicted": mean}
            for name, (count, mean) in found.raters.items()
        ],
        "subjective_precision": {source.value: asdict(one) for source, one in found.precision.items()},
        "agreement": {name: asdict(one) for name, one in found.agreement.items()},
        "labels": {
            "precision_of_predicted": labels.precision,
            "right_but_not_labelled": _share_json(labels.right_but_not_labelled),
            "not_labelled_but_right": _share_json(labels.not_labelled_but_right),
            "labelled_but_wrong": _share_json(labels.labelled_but_wrong),
        },
    }


def _share_json(share: Share) -> dict[str, float | None]:
    return {"share": share.value, "part": float(share.part), "whole": float(share.whole)}


def as_text(study: Study, found: Findings) -> str:
    """The results as people read them."""
    origin, every = study.origin, list(found.precision.values())
    lines = [
        f"{origin.bundle} on {origin.dataset}, {origin.split}, seed {origin.seed}",
        f"predicted tags: over {origin.threshold:g}, at most {origin.max_tags} a photo",
        f"photos rated: {found.photos:,} of {study.photos:,}, {found.photos_by_several:,} by several raters",
    ]
    if not found.photos:
        return printable("\n".join(lines))
    lines += ["", _row("subjective precision", list(found.precision))]
    lines.append(_row("  photos (N)", [f"{one.photos:,}" for one in every]))
    for name in ("mean", "median", "std"):
        lines.append(_row(f"  {name}", [_number(getattr(one, name)) for one in every]))
    intervals = ["-" if one.interval is None else "{:.3f}–{:.3f}".format(*one.interval) for one in every]
    lines.append(_row("  95 % interval of the mean", intervals))
    lines.append(_row("  photos over 0.5", [_count(one.over_half, one.photos) for one in every]))
    lines.append(_row("  photos with no fitting tag", [_count(one.no_fitting_tag, one.photos) for one in every]))
    lines.append(_row("  photos without such tags", [f"{one.photos_without_tags:,}" for one in every]))
    lines.append("  a photo counts once, with the mean of its raters; the interval is over photos, for these raters")
    lines += ["", _row("histogram (photos)", list(found.precision))]
    for tenth in range(10):
        border = f"  {tenth / 10:.1f} to {'1' if tenth == 9 else f'below {(tenth + 1) / 10:.1f}'}"
        lines.append(_row(border, [_bar(one.histogram[tenth], max(one.histogram)) for one in every]))
    lines += ["", *_raters(found.raters), "", *_agreement(found.agreement), "", *_labels(found.labels)]
    return printable("\n".join(line.rstrip() for line in lines))


def _raters(raters: Mapping[str, tuple[int, float | None]]) -> list[str]:
    """What each would have found alone."""
    lines = [_row("predicted tags, by rater", ["mean", "photos"])]
    for name, (count, mean) in raters.items():
        shown = name if len(name) <= _LABEL_WIDTH - 3 else f"{name[: _LABEL_WIDTH - 4]}…"
        lines.append(_row(f"  {shown}", [_number(mean), f"{count:,}"]))
    return lines


def _agreement(by_name: Mapping[str, Agreement]) -> list[str]:
    if not by_name["all"].tags:
        return ["agreement between raters: no photo has two raters yet"]
    lines = [_row("agreement between raters", ["tags", "alpha *", "equal"])]
    for name, one in by_name.items():
        lines.append(_row(f"  {name} tags", [f"{one.tags:,}", _number(one.alpha), _number(one.same)]))
    return [
        *lines,
        "  * Krippendorff's, nominal: 1 is perfect agreement, 0 that of chance; over tags with two answers or more,",
        "    and - where all answers are alike",
    ]


def _labels(labels: Labels) -> list[str]:
    def line(share: Share, text: str) -> str:
        value = "-" if share.value is None else f"{share.value:.1%}"
        return f"  {value:>6} of the {text} ({_amount(share.part)} of {_amount(share.whole)})"

    return [
        f"beside the labels (precision of predicted tags by the labels alone: {_number(labels.precision)})",
        line(labels.right_but_not_labelled, "predicted tags that fit are not in the labels"),
        line(labels.not_labelled_but_right, "predicted tags that are not in the labels fit"),
        line(labels.labelled_but_wrong, "labels do not fit"),
    ]


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:{_LABEL_WIDTH}}" + "".join(f"{cell:>{_CELL_WIDTH}}" for cell in cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _amount(value: Fraction) -> str:
    """Of tags: whole, or in tenths where raters differ."""
    return f"{float(value):,.{0 if value.denominator == 1 else 1}f}"


def _count(count: int, whole: int) -> str:
    return f"{count:,} ({count / whole:.0%})" if whole else "-"


def _bar(count: int, longest: int) -> str:
    """The number, and a bar in eighths of a character, all of `_BAR_WIDTH` for the longest."""
    eighths = round(count / longest * _BAR_WIDTH * 8) if longest else 0
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"{count:,} {bar:<{_BAR_WIDTH}}"


def write_csv(study: Study, path: Path) -> int:
    """Writes one row a rater, photo and tag: every finished answer, with what raters did not see; all, or no file.

    Returns:
      the number of rows.
    """
    count = 0
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["rater", "photo", "image_id", "tag", "display", "fits", *Source, "confidence", "place", "answered_at"]
        )
        for position, photo, answers in study.finished_answers():
            for name, answer, time in answers:
                for place, one in enumerate(photo.tags):
                    named = [int(source in one.sources) for source in Source]
                    fits, confidence = int(place in answer.fitting), f"{one.confidence:.6f}"
                    what = [name, position, photo.image_id, one.tag, one.display, fits]
                    writer.writerow([*what, *named, confidence, place, time])
                    count += 1
    return count
