"""HARRISON as a TFDS data set; `tfrecords/README.md` has the commands."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from socialtag_jax.shards.tfds_builder import TaggedPhotosBuilder, TaggedPhotosConfig
from socialtag_jax.sources import harrison
from socialtag_jax.sources.photo import Photo


@dataclasses.dataclass(eq=False, kw_only=True)
class HarrisonConfig(TaggedPhotosConfig):
    """`TaggedPhotosConfig`, and what the source wants to know.

    Attributes:
      overlay: a folder of images that replace others by the same relative path.
    """

    overlay: str | None = None


class Builder(TaggedPhotosBuilder):
    """57,383 Instagram photos with 997 hashtags."""

    DESCRIPTION = (
        "HARRISON: Instagram photos with hashtags, split at random into 80 % train, 10 % validation, 10 % test."
    )
    HOMEPAGE = "https://github.com/minstone/HARRISON-Dataset"
    CITATION = """@article{park2016harrison,
  title={{HARRISON}: A Benchmark on {HA}shtag {R}ecommendation for {R}eal-world {I}mages in {S}ocial {N}etworks},
  author={Park, Minseok and Li, Hanxiang and Kim, Junmo},
  journal={arXiv preprint arXiv:1605.05054},
  year={2016}
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder of data_list.txt, tag_list.txt and vocab_index.txt, with the images below it."
    )
    BUILDER_CONFIGS = [HarrisonConfig(name="default", description="All tags.")]  # noqa: RUF012

    def _read(self, folder: Path) -> Sequence[Photo]:
        overlay = self.builder_config.overlay
        return harrison.read(
            folder, overlay=None if overlay is None else Path(overlay), warn=logging.getLogger(__name__).warning
        )
