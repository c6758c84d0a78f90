"""Random numbers by position: number n of a stream without the n before it, for many n in one call.

A `numpy.random.Generator` for each image takes longer to make than all that it then draws.
Source: SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
"""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def random_bits(seed: int, positions: np.ndarray) -> np.ndarray:
    """Numbers of the stream that SplitMix64 gives for a seed.

    Args:
      seed: 0 to 2**64 - 1.
      positions: which numbers, counted from 0; integers of any shape.

    Returns:
      uint64, of the same shape.
    """
    # Additions and products are modulo 2**64, as numpy does them on arrays.
    bits = (np.asarray(positions, np.uint64)[..., None] + np.uint64(1)) * _GAMMA + np.uint64(seed)
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return (bits ^ (bits >> np.uint64(31)))[..., 0]


def random_units(seed: int, positions: np.ndarray) -> np.ndarray:
    """The same numbers as multiples of 2**-53 in [0, 1): float64, of the positions' shape."""
    return (random_bits(seed, positions) >> np.uint64(11)) * 2.0**-53
