"""Folders in the form of HARRISON and MIRFLICKR, with small photos, for the commands that take theirs."""

from pathlib import Path

import numpy as np
from PIL import Image

from socialtag_jax.sources.harrison import DATA_LIST, TAG_LIST, VOCABULARY

_TAGS = ("beach", "family", "girl", "happy", "love", "snow")


def _draw(path: Path, number: int) -> None:
    """A photo of one colour, of which every number has its own."""
    colour = np.array([number % 256, number // 256 * 8, 90], np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(colour, (32, 48, 3))).save(path, quality=95)


def _tags(number: int) -> list[str]:
    """Two or three: of three photos in a row, each has another one in common with the next."""
    return sorted({_TAGS[number % 6], _TAGS[(number + 1) % 6], _TAGS[number // 6 % 6]})


def harrison(folder: Path, *, photos: int = 5_300) -> None:
    """Its three lists, and photos; enough for its own split, of which 5,000 are for testing."""
    paths = [f"instagram_dataset/{_TAGS[number % 6]}/{number}.jpg" for number in range(photos)]
    for number, path in enumerate(paths):
        _draw(folder / path, number)
    (folder / DATA_LIST).write_text("".join(f"{path}\n" for path in paths))
    # With the space at the end of a line that HARRISON has.
    (folder / TAG_LIST).write_text("".join(" ".join([*_tags(number), "\n"]) for number in range(photos)))
    (folder / VOCABULARY).write_text("".join(f"{tag} {index}\n" for index, tag in enumerate(_TAGS)))


def mirflickr(folder: Path, *, photos: int = 400) -> None:
    """MIRFLICKR-1M's folders 0 and 99; what its pruning drops is there as well."""
    for place in range(photos):
        number = place if place % 2 else 990_000 + place
        _draw(folder / "images" / str(number // 10_000) / f"{number}.jpg", place)
        tags = folder / "tags" / str(number // 10_000) / f"{number}.txt"
        tags.parent.mkdir(parents=True, exist_ok=True)
        tags.write_text("".join(f"{tag}\n" for tag in [*_tags(place), "nikond80", "2008", f"rare{'e' * place}"]))
