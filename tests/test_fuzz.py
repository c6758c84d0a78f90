"""The fuzzer's targets on its seeds and on what is one byte away; `experiments/fuzz.py` itself needs Atheris."""

from pathlib import Path

import pytest

from experiments import fuzz


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_seeds_and_their_neighbours(name: str, tmp_path: Path):
    seeds = fuzz.record_seeds(tmp_path) if name == "records" else fuzz.SEEDS[name]
    assert len(seeds) >= 5
    for seed in seeds:
        fuzz.TARGETS[name](seed, tmp_path)
        for position in range(0, len(seed), 3):
            fuzz.TARGETS[name](seed[:position] + bytes([seed[position] ^ 1]) + seed[position + 1 :], tmp_path)
            fuzz.TARGETS[name](seed[:position], tmp_path)
