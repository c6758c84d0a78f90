"""Any folder of photos with a tags.csv as a TFDS data set; `tfrecords/README.md` has the commands."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from socialtag_jax.shards.tfds_builder import TaggedPhotosBuilder, TaggedPhotosConfig
from socialtag_jax.sources import tags_csv
from socialtag_jax.sources.photo import Photo


@dataclasses.dataclass(eq=False, kw_only=True)
class TagsCsvConfig(TaggedPhotosConfig):
    """`TaggedPhotosConfig`, and what the source wants to know.

    Attributes:
      tag_separator: between the tags of a cell; a space means any run of white space.
    """

    tag_separator: str = " "


class Builder(TaggedPhotosBuilder):
    """Photos and tags of one's own."""

    DESCRIPTION = "Tagged photos of one's own, listed in a CSV file with their tags and, optionally, their splits."
    MANUAL_DOWNLOAD_INSTRUCTIONS = "--manual_dir is the folder of tags.csv (columns path, tags, split) and its photos."
    BUILDER_CONFIGS = [TagsCsvConfig(name="default", description="All tags.")]  # noqa: RUF012

    def _read(self, folder: Path) -> Sequence[Photo]:
        return tags_csv.read(
            folder, tag_separator=self.builder_config.tag_separator, warn=logging.getLogger(__name__).warning
        )
