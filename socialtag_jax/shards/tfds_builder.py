"""What the TFDS builders in `tfrecords/` have in common: photos of a source -> splits, vocabulary, examples.

What `tfds build` writes with them is what `prepare` writes (features, canonical images, splits, labels, `rejects.csv`),
but for statistics, indexes and manifest, and with records in TFDS's own order. Pruning counts the tags of all photos,
those that turn out not to be decodable included.
"""

import abc
import dataclasses
import importlib.util
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.file_adapters import FileFormat

from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import normalise
from socialtag_jax.pruning import Step, prune, require_listed, table
from socialtag_jax.rules import parse_pruning
from socialtag_jax.shards import metadata, tfds_examples
from socialtag_jax.shards.dataset import REJECTS
from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.shards.tfds_examples import PlannedPhoto, Reject
from socialtag_jax.shards.writing import rejects_csv
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS, leak_free_splits
from socialtag_jax.sources.table import PhotoTable
from socialtag_jax.tags import TagVocabulary

_log = logging.getLogger(__name__)
_PLAN = "plan"
_INSTALL = "pip install 'socialtag-jax[tfds]'"


@dataclasses.dataclass(eq=False, kw_only=True)
class TaggedPhotosConfig(tfds.core.BuilderConfig):
    """How photos become a data set; `tfds build --config '{"name": "small", "image_size": 64}'` sets any of these.

    Attributes:
      image_size: the shorter side of the stored images, in pixels.
      seed: of the random split.
      pruning: rules that drop tags and photos, as `socialtag prepare --pruning` has them.
      allow_leaks: goes on when byte-identical photos stand in two splits.
      beam: has Apache Beam generate the examples, with the runner that `--beam_pipeline_options` names.
    """

    image_size: int = IMAGE_SIZE
    seed: int = 0
    pruning: tuple[str, ...] = ()
    allow_leaks: bool = False
    beam: bool = False

    def __post_init__(self) -> None:
        for name, value, low in (("image_size", self.image_size, 32), ("seed", self.seed, 0)):
            if value < low:
                raise UsageError(f"{name} is {value}, expected at least {low}", where="--config")
        if isinstance(self.pruning, str):
            raise UsageError(f"pruning is {self.pruning!r}, expected a list of rules", where="--config")
        parse_pruning(self.pruning, where="--config")


class TaggedPhotosBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of tagged photos; a data set adds what it is called and how it is read."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 -- TFDS declares it so
    DESCRIPTION: str
    HOMEPAGE: str | None = None
    CITATION: str | None = None

    @abc.abstractmethod
    def _read(self, folder: Path) -> Iterable[Photo]:
        """The photos in `--manual_dir`, with unique image ids."""

    @property
    def builder_config(self) -> Any:
        """The configuration: a `TaggedPhotosConfig`, since a builder of this class always has one."""
        return super().builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=metadata.features(),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        self._check_packages()
        photos = PhotoTable(self._read(Path(dl_manager.manual_dir).absolute()))
        if not photos:
            raise UserError("the source has no photos", where=dl_manager.manual_dir)
        rules = parse_pruning(self.builder_config.pruning, where="--config")
        found = photos.labels()
        labels = normalise(found)
        report = [Step.of("as found", found), Step.of("normalised", labels)]
        require_listed(labels, rules)
        labels, steps = prune(labels, rules)
        _log.info("pruning:\n%s", table([*report, *steps]))
        photos = photos.take(labels.photos)
        splits = leak_free_splits(
            photos,
            seed=self.builder_config.seed,
            allow_leaks=self.builder_config.allow_leaks,
            hint="put both in one split or remove one; allow_leaks in --config goes on, with scores that are too good",
            warn=_log.warning,
        )
        labels = labels.in_vocabulary_order()
        self._name_labels(labels.vocabulary())
        planned: defaultdict[str, list[PlannedPhoto]] = defaultdict(list)
        all_tags = (labels.of(position) for position in photos.positions.tolist())
        for photo, split, tags in zip(photos, splits, all_tags, strict=True):
            planned[split].append(PlannedPhoto(str(photo.path), photo.image_id, tags, photo.where))
        self._planned = {split: len(planned[split]) for split in SPLITS if planned[split]}
        self._rejects: list[Reject] = []
        return {split: self._generate_examples(split, planned[split]) for split in self._planned}

    def _check_packages(self) -> None:
        """TFDS itself would find out after all photos are decoded."""
        if self.info.file_format is FileFormat.TFRECORD and importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                "TFDS writes the format tfrecord only with TensorFlow, which is not installed",
                where="--file_format",
                hint=f"{_INSTALL}, or choose array_record, which `socialtag train` does not read",
            )
        if self.builder_config.beam and importlib.util.find_spec("apache_beam") is None:
            raise UserError(
                "Apache Beam is not installed", where="--config", hint=f'{_INSTALL}, or set "beam": false there'
            )

    def _name_labels(self, vocabulary: TagVocabulary) -> None:
        features: Any = self.info.features
        features["tags"].feature.names = list(vocabulary.tags)
        # TFDS writes the labels, but knows nothing of display forms.
        display = self.data_path / "tags.display.txt"
        display.write_bytes("".join(f"{text}\n" for text in vocabulary.displays).encode())

    def _generate_examples(self, split: str, photos: Sequence[PlannedPhoto]) -> Any:
        if not self.builder_config.beam:
            return tfds_examples.examples(photos, self.builder_config.image_size, self._rejects.append)
        plan = tfds_examples.write_plan(self._plan_folder / split, photos)
        return tfds_examples.beam_examples(plan, self.builder_config.image_size, self._rejects_file(split))

    @property
    def _plan_folder(self) -> tfds.core.Path:
        return self.data_path / _PLAN

    def _rejects_file(self, split: str) -> tfds.core.Path:
        return self._plan_folder / f"{split}.rejects.json"

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        if download_config.max_examples_per_split == 0:
            return
        if self.builder_config.beam:
            self._rejects = [
                one for split in self._planned for one in tfds_examples.read_rejects(self._rejects_file(split))
            ]
            self._plan_folder.rmtree()
        (self.data_path / REJECTS).write_bytes(rejects_csv(self._rejects).encode("utf-8", "surrogateescape"))
        self._report(capped=download_config.max_examples_per_split is not None)

    def _report(self, *, capped: bool) -> None:
        photos, rejected = sum(self._planned.values()), len(self._rejects)
        written = sum(split.num_examples for split in self.info.splits.values())
        if photos != written + rejected and not capped:
            raise AssertionError(f"{photos} photos in, {written} written + {rejected} rejected")
        _log.info("%d photos in = %d written + %d rejected", photos, written, rejected)
        if self._rejects:
            first = self._rejects[0]
            _log.warning(
                "%d of %d photos cannot be decoded, see %s; the first one: %s: %s",
                *(rejected, photos, REJECTS, first.image_id, first.reason),
            )
