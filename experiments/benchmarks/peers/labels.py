"""The tags of a folder of photos, as the peers read them."""

import json
from pathlib import Path

import numpy as np


def multi_hot(path: Path, tags: int) -> np.ndarray:
    """float32 [images, tags], 1 where the image has the tag, from a JSON file of lists of indices."""
    lists = json.loads(path.read_text())
    targets = np.zeros((len(lists), tags), np.float32)
    for row, its in enumerate(lists):
        targets[row, its] = 1.0
    return targets
