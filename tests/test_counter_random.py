"""The stream against published numbers, and against what a good stream looks like."""

import numpy as np
import pytest

from socialtag_jax.counter_random import random_bits, random_units

# The first numbers of SplitMix64 with this seed, as Rosetta Code's "Pseudo-random numbers/Splitmix64" lists them.
SEED = 1234567
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_published_numbers():
    assert random_bits(SEED, np.arange(5)).tolist() == PUBLISHED


def test_a_number_depends_on_its_position_alone():
    positions = np.array([[4, 0], [2, 2]])
    assert random_bits(SEED, positions).tolist() == [[PUBLISHED[4], PUBLISHED[0]], [PUBLISHED[2]] * 2]


def test_seeds_and_positions_of_64_bits():
    """Modulo 2**64: position -1 is the number before the first, whose state is the seed itself."""
    last = np.array([2**64 - 1], np.uint64)
    assert random_bits(0, last).tolist() == [0]
    assert random_bits(2**64 - 1, last).tolist() != [0]


def test_units_are_the_upper_53_bits():
    expected = [number // 2**11 / 2**53 for number in PUBLISHED]
    assert random_units(SEED, np.arange(5)).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_units_are_uniform_and_independent(seed: int):
    """Chi-squared over 100 bins, and the correlation of neighbours, each within 5 standard errors."""
    units = random_units(seed, np.arange(100_000))
    counts, _ = np.histogram(units, bins=100, range=(0.0, 1.0))
    assert counts.sum() == 100_000
    statistic = float(((counts - 1000) ** 2 / 1000).sum())
    assert abs(statistic - 99) < 5 * (2 * 99) ** 0.5
    for lag in (1, 7):
        assert abs(np.corrcoef(units[:-lag], units[lag:])[0, 1]) < 5 / 100_000**0.5
