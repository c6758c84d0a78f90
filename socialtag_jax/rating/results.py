"""What a rating study found: arithmetic over judged tags, exact until the last division.

Subjective precision, by the thesis (its section on subjective evaluation): of a photo's tags, the share that a person
says fit. Its tables give mean, median and standard deviation over photos; its figures, a histogram in tenths.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scipy import special

from socialtag_jax.rating.candidates import Source

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class JudgedTag:
    """A tag of a photo, and what raters said.

    Attributes:
      sources: who named it.
      fits: one answer a rater, in the order of the photo's raters.
    """

    sources: tuple[Source, ...]
    fits: tuple[bool, ...]

    @property
    def score(self) -> Fraction:
        """The share of the raters who say that it fits."""
        return Fraction(sum(self.fits), len(self.fits))


@dataclass(frozen=True, slots=True)
class JudgedPhoto:
    """A photo that at least one rater has finished.

    Attributes:
      raters: their names.
      tags: all that were shown.
    """

    raters: tuple[str, ...]
    tags: tuple[JudgedTag, ...]

    def of(self, source: Source) -> Sequence[JudgedTag]:
        """The tags that the source named."""
        return [tag for tag in self.tags if source in tag.sources]


def subjective_precision(tags: Sequence[JudgedTag]) -> Fraction:
    """The share of a photo's tags that fit, the mean over its raters; there is at least one tag."""
    return _fitting(tags) / len(tags)


@dataclass(frozen=True)
class Distribution:
    """Subjective precision of one source over photos.

    Attributes:
      photos: N, those with a tag of that source.
      photos_without_tags: the others; their precision, 0 / 0, is left out.
      mean: over photos; None without any, as the next three.
      median: between the two middle ones where N is even.
      std: standard deviation of these photos (divided by N), as in the rest of this project.
      interval: of the mean, 95 %; None for fewer than two photos, or where all are equal. See `mean_interval`.
      over_half: photos with a precision over 0.5.
      no_fitting_tag: photos with a precision of 0.
      histogram: photos with a precision from 0 to below 0.1, ..., from 0.9 to 1.
    """

    photos: int
    photos_without_tags: int
    mean: float | None
    median: float | None
    std: float | None
    interval: tuple[float, float] | None
    over_half: int
    no_fitting_tag: int
    histogram: tuple[int, ...]


def distribution(photos: Sequence[JudgedPhoto], source: Source) -> Distribution:
    """The subjective precision of a source over photos.

    The unit is the photo, whatever the number of its raters: two raters of a photo are not two photos.
    """
    by_photo = [tags for photo in photos if (tags := photo.of(source))]
    values = sorted(subjective_precision(tags) for tags in by_photo)
    count, without = len(values), len(photos) - len(by_photo)
    tenths = [min(int(value * 10), 9) for value in values]
    histogram = tuple(tenths.count(tenth) for tenth in range(10))
    over_half, zero = sum(value > Fraction(1, 2) for value in values), values.count(Fraction())
    if not values:
        return Distribution(0, without, None, None, None, None, 0, 0, histogram)
    mean = sum(values, Fraction()) / count
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / count)
    return Distribution(
        photos=count,
        photos_without_tags=without,
        mean=float(mean),
        median=float((values[(count - 1) // 2] + values[count // 2]) / 2),
        std=std,
        interval=mean_interval(float(mean), std, count),
        over_half=over_half,
        no_fitting_tag=zero,
        histogram=histogram,
    )


def mean_interval(mean: float, std: float, count: int) -> tuple[float, float] | None:
    """Student's interval of a mean, cut to 0 .. 1, where a mean of shares must lie.

    mean ± t · std / √(count - 1), with t of count - 1 degrees of freedom; `std` is divided by count, so that this is
    the usual s / √count. It says how far the mean of other photos of the split may lie, with the same raters.

    Args:
      mean: of the values.
      std: their standard deviation, divided by `count`.
      count: of the values.

    Returns:
      low and high; None for fewer than two values, or where all are equal: nothing is known of their spread then, and
      an interval of no width would claim certainty.
    """
    if count < 2 or not std:
        return None
    half = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(count - 1)
    return max(mean - half, 0.0), min(mean + half, 1.0)


@dataclass(frozen=True)
class Agreement:
    """How far raters agree.

    Attributes:
      tags: judged by at least two raters.
      same: share of the pairs of answers to a tag that are equal, the mean over these tags; None without any.
      alpha: Krippendorff's; None where it is undefined: no such tags, or only one kind of answer.
    """

    tags: int
    same: float | None
    alpha: float | None


def agreement(answers: Iterable[Sequence[bool]]) -> Agreement:
    """Krippendorff's alpha for two nominal values, and the plain agreement.

    It was chosen over the kappas since raters need not have rated the same photos: Cohen's takes two raters of every
    unit, Fleiss's an equal number. With n_u0 and n_u1 answers of either kind to unit u, m_u = n_u0 + n_u1 >= 2 of
    them, and sums n_0, n_1 and n over these units:

        alpha = 1 - D_o / D_e = 1 - (n - 1) / (n_0 n_1) · sum_u n_u0 n_u1 / (m_u - 1)

    1 is perfect agreement, 0 that of chance. Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability
    (University of Pennsylvania, 2011), part C (nominal data, any number of observers, missing data), for two values.

    Args:
      answers: of each tag of each photo, one a rater. Those with fewer than two pair with nothing and are left out.
    """
    units = [(answer.count(False), answer.count(True)) for answer in map(list, answers) if len(answer) >= 2]
    if not units:
        return Agreement(0, None, None)
    # Ordered pairs of answers to the same tag that differ, n_u0 n_u1 of each order.
    differing = sum((Fraction(no * yes, no + yes - 1) for no, yes in units), Fraction())
    shares = (1 - Fraction(2 * no * yes, (no + yes) * (no + yes - 1)) for no, yes in units)
    same = sum(shares, Fraction()) / len(units)
    all_no, all_yes = (sum(column) for column in zip(*units, strict=True))
    if not all_no or not all_yes:
        return Agreement(len(units), float(same), None)
    alpha = 1 - (all_no + all_yes - 1) * differing / (all_no * all_yes)
    return Agreement(len(units), float(same), float(alpha))


@dataclass(frozen=True)
class Share:
    """A share of tags, pooled over photos: a tag that two of three raters mark counts as two thirds of a fitting one.

    Attributes:
      part: how many.
      whole: of how many.
    """

    part: Fraction
    whole: Fraction

    @property
    def value(self) -> float | None:
        """`part` / `whole`; None of nothing."""
        return float(self.part / self.whole) if self.whole else None


@dataclass(frozen=True)
class Labels:
    """Predicted tags beside the labels, on the photos that were rated.

    Attributes:
      precision: share of a photo's predicted tags that are in its labels, the mean over photos with predicted tags:
        what evaluation calls precision; None without such photos.
      right_but_not_labelled: of the predicted tags that fit, those not in the labels.
      not_labelled_but_right: of the predicted tags not in the labels, those that fit.
      labelled_but_wrong: of the labels, those that do not fit.
    """

    precision: float | None
    right_but_not_labelled: Share
    not_labelled_but_right: Share
    labelled_but_wrong: Share


def beside_labels(photos: Sequence[JudgedPhoto]) -> Labels:
    """How often people and labels differ about the predicted tags."""
    by_photo = [tags for photo in photos if (tags := photo.of(Source.PREDICTED))]
    by_labels = [Fraction(sum(Source.TRUE in tag.sources for tag in tags), len(tags)) for tags in by_photo]
    predicted = [tag for tags in by_photo for tag in tags]
    not_labelled = [tag for tag in predicted if Source.TRUE not in tag.sources]
    labels = [tag for photo in photos for tag in photo.of(Source.TRUE)]
    return Labels(
        precision=float(sum(by_labels, Fraction()) / len(by_labels)) if by_labels else None,
        right_but_not_labelled=Share(_fitting(not_labelled), _fitting(predicted)),
        not_labelled_but_right=Share(_fitting(not_labelled), Fraction(len(not_labelled))),
        labelled_but_wrong=Share(len(labels) - _fitting(labels), Fraction(len(labels))),
    )


def _fitting(tags: Iterable[JudgedTag]) -> Fraction:
    return sum((tag.score for tag in tags), Fraction())


def of_rater(photos: Iterable[JudgedPhoto], rater: str) -> Sequence[JudgedPhoto]:
    """The photos that this rater has finished, with no other's answers."""
    found = []
    for photo in photos:
        if rater in photo.raters:
            place = photo.raters.index(rater)
            tags = tuple(JudgedTag(tag.sources, (tag.fits[place],)) for tag in photo.tags)
            found.append(JudgedPhoto((rater,), tags))
    return found
