"""Data sets as found on disk -> photos."""

import re
from pathlib import Path

SOURCES = ("tags-csv", "postcards")
"""What `socialtag prepare --source` reads."""


def dataset_name(source: str, path: Path) -> str:
    """A TFDS name for a data set that was given none: from the CSV file's folder, or the folder itself."""
    if source == "postcards":
        return source
    folder = path.parent if path.is_file() else path
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    return name if name[:1].isalpha() else f"photos_{name}".rstrip("_")
