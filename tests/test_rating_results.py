"""The arithmetic of rating studies: a study worked out by hand, published examples, and peer libraries."""

import csv
import json
import math
from fractions import Fraction
from pathlib import Path

import krippendorff
import numpy as np
import pytest
import scipy.stats

from socialtag_jax.rating import printout, results
from socialtag_jax.rating.candidates import Source
from socialtag_jax.rating.results import JudgedPhoto, JudgedTag
from socialtag_jax.rating.study import Study
from tests.rating_studies import clock, write_worked


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_worked(tmp_path_factory.mktemp("worked") / "study.sqlite")


@pytest.fixture(scope="module")
def photos(path: Path):
    """Five photos, of `tests/rating_studies.py`. With a mark of one of two raters as a half, the tags score

    photo 1: a 1, b 1/2, c 0, d 0, e 1     photo 2 (Ada alone): a 0, f 1, g 0, h 0     photo 3: all 0
    photo 4 (Ada alone): a 1, b 0, c 0     photo 5: a 1, b 1, c 0

    and so the subjective precision of a source, the mean over its tags, is

    photo       1                       2            3    4    5
    predicted   (1 + 1/2 + 0 + 0) / 4   (0 + 1) / 2  0    -    1
    true        1                       1            0    1    1
    popular     1/2                     0            0    0    1
    random      1                       0            0    0    0
    """
    with Study.open(path, clock) as study:
        return study.judged()


def test_predicted_tags_of_the_worked_study(photos):
    """Values 3/8, 1/2, 0 and 1 of four photos; the fifth has no predicted tag."""
    found = results.distribution(photos, Source.PREDICTED)
    assert (found.photos, found.photos_without_tags) == (4, 1)
    assert found.mean == 15 / 32  # (3 + 4 + 0 + 8) / 8 / 4
    assert found.median == 7 / 16  # between 3/8 and 4/8
    # The mean of the squares, (9 + 16 + 0 + 64) / 64 / 4 = 356/1024, less the squared mean, 225/1024: 131/1024.
    assert found.std == pytest.approx(math.sqrt(131) / 32, rel=1e-15)
    assert found.over_half == 1  # a half is not over it
    assert found.no_fitting_tag == 1
    assert found.histogram == (1, 0, 0, 1, 0, 1, 0, 0, 0, 1)


def test_other_sources_of_the_worked_study(photos):
    true, popular, random = (results.distribution(photos, one) for one in (Source.TRUE, Source.POPULAR, Source.RANDOM))
    # 1, 1, 0, 1, 1: std² = 4/5 - 16/25 = 4/25. t(0.975, 4) = 2.776445 (any table); half 2.776445 · 0.4 / √4 = 0.555289.
    assert (true.mean, true.median, true.over_half, true.no_fitting_tag) == (0.8, 1, 4, 1)
    assert true.std == pytest.approx(0.4, rel=1e-15)
    assert true.interval == pytest.approx((0.8 - 0.555289, 1), abs=1e-6)
    # 1/2, 0, 0, 0, 1: mean 3/10, std² = (1/4 + 1) / 5 - 9/100 = 4/25, the same half.
    assert (popular.mean, popular.median, popular.no_fitting_tag) == (0.3, 0, 3)
    assert popular.interval == pytest.approx((0, 0.3 + 0.555289), abs=1e-6)
    assert popular.histogram == (3, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    assert (random.mean, random.photos, random.photos_without_tags) == (0.2, 5, 0)


def test_agreement_of_the_worked_study(photos):
    """Two raters judged photos 1, 3 and 5: 5 + 4 + 3 = 12 tags, 24 answers, of which 9 are yes and 15 no.

    They differ on b of photo 1 alone: alpha = 1 - 23 · 1 / (15 · 9) = 112/135. Of the 9 predicted tags, 7 of 18 answers
    are yes: 1 - 17 · 1 / (11 · 7) = 60/77.
    """
    found = printout.findings(photos).agreement
    assert (found["all"].tags, found["all"].same) == (12, 11 / 12)
    assert found["all"].alpha == pytest.approx(112 / 135, rel=1e-15)
    assert (found["predicted"].tags, found["predicted"].same) == (9, 8 / 9)
    assert found["predicted"].alpha == pytest.approx(60 / 77, rel=1e-15)


def test_labels_of_the_worked_study(photos):
    """In the labels are 1 of 4, 1 of 2, 0 of 3 and 1 of 2 predicted tags: (1/4 + 1/2 + 0 + 1/2) / 4 = 5/16.

    Predicted tags that fit: a 1 + b 1/2, f 1, a 1 + b 1 = 4 1/2; not in the labels are b and b: 1 1/2. Predicted tags
    that are not in the labels: b c d, a, a b c, b = 8. Of the six labels a e, f, d, a, a, only d does not fit.
    """
    found = results.beside_labels(photos)
    assert found.precision == 5 / 16
    assert found.right_but_not_labelled == results.Share(Fraction(3, 2), Fraction(9, 2))
    assert found.right_but_not_labelled.value == pytest.approx(1 / 3)
    assert found.not_labelled_but_right == results.Share(Fraction(3, 2), Fraction(8))
    assert found.labelled_but_wrong == results.Share(Fraction(1), Fraction(6))


def test_each_rater_of_the_worked_study(photos):
    """Ada: 2/4, 1/2, 0, none, 1; Ben: 1/4, 0, 1."""
    found = printout.findings(photos)
    assert found.raters == {"Ada": (5, 0.5), "Ben": (3, 5 / 12)}
    assert (found.photos, found.photos_by_several) == (5, 3)


def test_the_printout_of_the_worked_study(path: Path, socialtag):
    printed = socialtag("rate", "--results", path)
    assert printed.code == 0
    lines = [line.split() for line in printed.out.splitlines()]
    assert printed.out.startswith("holiday.tagger on holiday/1.0.0, test, seed 0\n")
    assert "photos rated: 5 of 5, 3 by several raters" in printed.out
    assert ["mean", "0.469", "0.800", "0.300", "0.200"] in lines
    assert ["median", "0.438", "1.000", "0.000", "0.000"] in lines
    assert ["std", "0.358", "0.400", "0.400", "0.400"] in lines
    assert ["photos", "with", "no", "fitting", "tag", "1", "(25%)", "1", "(20%)", "3", "(60%)", "4", "(80%)"] in lines
    assert ["all", "tags", "12", "0.830", "0.917"] in lines
    assert ["predicted", "tags", "9", "0.779", "0.889"] in lines
    assert ["Ben", "0.417", "3"] in lines
    assert "33.3% of the predicted tags that fit are not in the labels (1.5 of 4.5)" in printed.out

    document = json.loads(socialtag("rate", "--results", path, "--json").out)
    assert document["subjective_precision"]["predicted"]["mean"] == 15 / 32
    assert document["subjective_precision"]["predicted"]["histogram"] == [1, 0, 0, 1, 0, 1, 0, 0, 0, 1]
    assert document["agreement"]["all"]["alpha"] == pytest.approx(112 / 135)
    assert document["labels"]["not_labelled_but_right"] == {"share": 0.1875, "part": 1.5, "whole": 8}
    assert document["raters"][1] == {"name": "Ben", "photos": 3, "mean_precision_of_predicted": 5 / 12}


def test_every_answer_as_csv(path: Path, socialtag, tmp_path: Path):
    result = socialtag("rate", "--results", path, "--csv", tmp_path / "answers.csv")
    assert result.code == 0
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # Tags of each photo times its raters: 5 · 2 + 4 + 4 · 2 + 3 + 3 · 2.
    assert len(rows) == 31
    assert rows[0] == {
        "rater": "Ada",
        "photo": "0",
        "image_id": "0.jpg",
        "tag": "a",
        "display": "A",
        "fits": "1",
        "predicted": "1",
        "true": "1",
        "popular": "0",
        "random": "0",
        "confidence": "0.500000",
        "place": "0",
        "answered_at": "2026-11-26T12:00:00+00:00",
    }
    assert sum(int(row["fits"]) for row in rows) == 11  # 3 + 2, 1, 0 + 0, 1, 2 + 2


@pytest.mark.parametrize("how", ["itself", "link"])
def test_the_csv_file_is_never_the_study(socialtag, tmp_path: Path, how: str):
    study = write_worked(tmp_path / "study.sqlite")
    before, target = study.read_bytes(), study
    if how == "link":
        target = tmp_path / "answers.csv"
        target.hardlink_to(study)
    result = socialtag("rate", "--results", tmp_path, "--csv", target)
    assert result.code == 2
    assert "--csv: is the study itself" in result.err
    assert study.read_bytes() == before


def test_photos_that_are_all_alike(path: Path):
    """Two photos whose tags all fit: of their spread nothing is known, and an interval from 1 to 1 would be certain."""
    photos = [JudgedPhoto(("Ada",), (JudgedTag((Source.RANDOM,), (True,)),))] * 2
    found = results.distribution(photos, Source.RANDOM)
    assert (found.mean, found.std, found.interval) == (1, 0, None)


def test_amounts_of_tags_are_written_out(path: Path):
    """Of 4,000 photos with five tags each; three raters, of whom one marks the first tag."""
    tags = [JudgedTag((Source.PREDICTED,), (place == 0, False, False)) for place in range(5)]
    photos = [JudgedPhoto(("Ada", "Ben", "Cem"), tuple(tags))] * 4000
    with Study.open(path, clock) as study:
        text = printout.as_text(study, printout.findings(photos))
    assert "6.7% of the predicted tags that are not in the labels fit (1,333.3 of 20,000)" in text


def test_an_unrated_study(photos):
    found = printout.findings([])
    assert found.precision[Source.PREDICTED].mean is None
    assert found.agreement["all"] == results.Agreement(0, None, None)
    assert results.distribution(photos[:1], Source.TRUE).interval is None


def test_tenths_have_no_rounding():
    """0.3 as a float times 10 may fall short of 3; 3 of 10 tags is in the tenth from 0.3, and all tags in the last."""
    photos = [
        JudgedPhoto(("Ada",), tuple(JudgedTag((Source.PREDICTED,), (place < fitting,)) for place in range(10)))
        for fitting in range(11)
    ]
    assert results.distribution(photos, Source.PREDICTED).histogram == (1, 1, 1, 1, 1, 1, 1, 1, 1, 2)


def test_krippendorffs_own_example():
    """Binary data, two observers, ten units: 0.095 (Krippendorff 2011, part A)."""
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    found = results.agreement([(bool(one), bool(other)) for one, other in zip(meg, owen, strict=True)])
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    assert found.same == 0.6


@pytest.mark.parametrize("seed", range(5))
def test_alpha_beside_its_peer(seed: int):
    """Up to five raters of each tag, many answers missing."""
    rng = np.random.default_rng(seed)
    likely = rng.random(60)
    answers = (rng.random((5, 60)) < likely).astype(float)
    answers[rng.random((5, 60)) < 0.4] = np.nan
    ours = results.agreement([[bool(one) for one in unit if not np.isnan(one)] for unit in answers.T])
    assert ours.alpha == pytest.approx(krippendorff.alpha(answers, level_of_measurement="nominal"), rel=1e-12)


def test_alpha_where_it_is_undefined():
    assert results.agreement([(True, True), (True, True, True)]) == results.Agreement(2, 1.0, None)
    assert results.agreement([(True,), (False,)]) == results.Agreement(0, None, None)


def test_moments_and_interval_beside_their_peers():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 16, 200)
    fitting = rng.binomial(counts, 0.57)
    photos = [
        JudgedPhoto(("Ada",), tuple(JudgedTag((Source.PREDICTED,), (place < fits,)) for place in range(count)))
        for count, fits in zip(counts, fitting, strict=True)
    ]
    found, values = results.distribution(photos, Source.PREDICTED), fitting / counts
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.median == pytest.approx(np.median(values), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    expected = scipy.stats.t.interval(0.95, 199, values.mean(), scipy.stats.sem(values))
    assert found.interval == pytest.approx(expected, rel=1e-9)
    assert found.over_half == (values > 0.5).sum()
    # A hair above its edges, since NumPy's bins have floats as edges.
    assert found.histogram == tuple(np.histogram(values + 1e-12, np.append(np.arange(10) / 10, 1.1))[0])
