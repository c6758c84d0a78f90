"""MIRFLICKR as a TFDS data set, generated with Apache Beam; `tfrecords/README.md` has the commands."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

from socialtag_jax.shards.tfds_builder import TaggedPhotosBuilder, TaggedPhotosConfig
from socialtag_jax.sources import mirflickr
from socialtag_jax.sources.photo import Photo


@dataclasses.dataclass(eq=False, kw_only=True)
class MirflickrConfig(TaggedPhotosConfig):
    """`TaggedPhotosConfig`, with the defaults of a large set."""

    pruning: tuple[str, ...] = ("mirflickr",)
    beam: bool = True


class Builder(TaggedPhotosBuilder):
    """A million Flickr photos, or 25,000 of them, with the tags that their uploaders gave them."""

    DESCRIPTION = "MIRFLICKR: Flickr photos with tags, split at random into 80 % train, 10 % validation, 10 % test."
    HOMEPAGE = "https://press.liacs.nl/mirflickr/"
    CITATION = """@inproceedings{huiskes2010new,
  title={New Trends and Ideas in Visual Concept Detection: The {MIR} {F}lickr Retrieval Evaluation Initiative},
  author={Huiskes, Mark J. and Thomee, Bart and Lew, Michael S.},
  booktitle={Proceedings of the ACM International Conference on Multimedia Information Retrieval},
  pages={527--536},
  year={2010}
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "--manual_dir is the folder of images/ and tags/ (MIRFLICKR-1M), or of im1.jpg and meta/ (MIRFLICKR-25k)."
    )
    BUILDER_CONFIGS = [  # noqa: RUF012
        MirflickrConfig(name="default", description="No camera makers, no digits, tags of more than 100 photos.")
    ]

    def _read(self, folder: Path) -> Iterator[Photo]:
        return mirflickr.read(folder, warn=logging.getLogger(__name__).warning)
