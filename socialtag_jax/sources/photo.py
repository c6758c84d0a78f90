"""What every source yields: one photo as found on disk, before its tags are given a meaning."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Photo:
    """One tagged photo of a data set.

    Attributes:
      path: the image file.
      image_id: the path relative to the data set's folder, with `/` between its parts; unique in the data set.
      tags: the tags' texts as found, not yet normalised (`socialtag_jax.tags` does that).
      split: "train", "validation" or "test"; None where the source does not say.
      where: the file and row that name the photo, for messages.
    """

    path: Path
    image_id: str
    tags: tuple[str, ...]
    split: str | None = None
    where: str = ""
