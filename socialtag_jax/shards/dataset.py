"""A prepared data set's folder, opened and checked.

The folder is laid out as TFDS does it, so `tfds.builder_from_directory` reads what `socialtag prepare` wrote, and what
TFDS wrote (as TFRecord, with the features image, image_id and tags) trains here.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socialtag_jax import files, json_files
from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.json_files import Fields
from socialtag_jax.pruning import Step
from socialtag_jax.remote_cache import RemoteCopy
from socialtag_jax.shards.example import Record, parse_example
from socialtag_jax.shards.tfrecord import RecordSource
from socialtag_jax.storage import Location, location
from socialtag_jax.tag_statistics import TagStatistics, tag_statistics
from socialtag_jax.tags import TagVocabulary, display_path

INFO, FEATURES, LABELS = "dataset_info.json", "features.json", "tags.labels.txt"
STATISTICS, REJECTS, MANIFEST = "statistics.json", "rejects.csv", "manifest.json"
NEAR_DUPLICATES = "near_duplicates.csv"
_PREPARE = "run `socialtag prepare` again"


@dataclass(frozen=True, slots=True)
class SplitShards:
    """What was written for one split: the number of records in each shard, and all shards' size in bytes."""

    lengths: Sequence[int]
    size: int


@dataclass(frozen=True)
class Split:
    """One split's shards and the number of records in each."""

    shards: tuple[Path, ...]
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class Dataset:
    """A complete data set.

    Attributes:
      location: `DIR/NAME/VERSION`, where the user has it: on disk, or on `gs://`.
      folder: where it is read: the same, or a local copy, to which a split's shards are fetched at the first use.
      name: the data set's name and version.
      vocabulary: its tags.
      splits: the splits that have records.
      fingerprint: SHA-256 over the hashes of all files: equal content, equal fingerprint, whenever and wherever it was
        prepared. Where TFDS made the folder: over its metadata and the shards' sizes.
      remote: holds the local copy; None where there is none.
    """

    location: Location
    folder: Path
    name: str
    vocabulary: TagVocabulary
    splits: Mapping[str, Split]
    fingerprint: str
    remote: RemoteCopy | None = None

    @property
    def content_hashed(self) -> bool:
        """Whether the fingerprint is one of the records' content; where TFDS made the folder, it is of their sizes."""
        return (self.folder / MANIFEST).exists()

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
          UserError: there is none.
        """
        if name not in self.splits:
            raise UserError(
                f"the data set has no split {name!r}, only {', '.join(self.splits)}",
                where=self.location,
                hint="name one of these, or prepare the data set again with that split",
            )
        return self.splits[name]

    def records(self, split: str) -> "ParsedRecords":
        """The records of a split, by index."""
        chosen = self.split(split)
        if self.remote is not None:
            self.remote.fetch([shard.name for shard in chosen.shards], shard_hashes(self.folder))
        return ParsedRecords(RecordSource(chosen.shards, chosen.lengths), len(self.vocabulary))

    def shard_states(self, split: str) -> list[list[Any]]:
        """[name, time of change or checksum] of each shard: what tells a shard that was written anew, of equal size."""
        shards = self.split(split).shards
        if self.remote is not None:
            return [[shard.name, self.remote.objects[shard.name].crc32c] for shard in shards]
        return [[shard.name, shard.stat().st_mtime_ns] for shard in shards]

    @functools.cached_property
    def statistics(self) -> Mapping[str, TagStatistics]:
        """Tag statistics by split, as `prepare` counted them, or counted now where TFDS made the folder.

        Raises:
          UserError: they cannot be those of this data set.
        """
        content = self._statistics_file
        if content is not None:
            return _checked_statistics(content, self)
        return {
            split: tag_statistics((record.tags for record in self.records(split)), len(self.vocabulary))
            for split in self.splits
        }

    @property
    def reports(self) -> Mapping[str, Sequence[Step]]:
        """What `prepare` did to the tags: "pruning" and "balancing"; empty where TFDS made the folder."""
        content = self._statistics_file
        names = ("pruning", "balancing")
        if content is None:
            return {name: [] for name in names}
        return {name: [_step(one) for one in content.objects(name)] if name in content else [] for name in names}

    @property
    def max_tags(self) -> int:
        """The most tags that one image has, over all splits; at least 1."""
        return max(1, *(statistics.max_tags for statistics in self.statistics.values()))

    @property
    def image_size(self) -> int | None:
        """The canonical images' shorter side in pixels, where `prepare` made them; None for a TFDS folder."""
        content = self._statistics_file
        return None if content is None else content.count("image_size", least=1)

    @functools.cached_property
    def _statistics_file(self) -> Fields | None:
        path = self.folder / STATISTICS
        return _read(path) if path.exists() else None


class ParsedRecords:
    """A split's records as a random-access sequence of `Record`."""

    def __init__(self, source: RecordSource, n_tags: int) -> None:
        self._source, self._n_tags = source, n_tags

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        data = self._source[index]
        try:
            return parse_example(data, n_tags=self._n_tags)
        except UserError as error:
            raise UserError(error.what, where=self.where(index), hint=error.hint) from error

    def where(self, index: int) -> str:
        """The file, record and offset, for messages."""
        return self._source.where(index)

    def frame_size(self, index: int) -> int:
        """A record's size on disk, in bytes."""
        return self._source.frame_size(index)


def open_dataset(path: str | Location) -> Dataset:
    """Opens a data set's folder, or the one data set that lies below `path`, on this computer or on `gs://`.

    Every metadata file's hash and every shard's size is compared with the manifest, which must list them all.

    Raises:
      UserError: no data set, several, an incomplete one, files that differ from the manifest or are not in it, or
        metadata that contradicts itself.
    """
    found = _find(location(path))
    remote = RemoteCopy(found) if isinstance(found, RemotePath) else None
    if remote is None:
        assert isinstance(found, Path)
        folder, sizes = found, {one.name: one.stat().st_size for one in found.iterdir() if one.is_file()}
    else:
        folder, sizes = remote.folder, {name: stored.size for name, stored in remote.objects.items()}
        remote.fetch([name for name in sizes if not _is_shard(name)])
    info = _read(folder / INFO)
    if LABELS not in sizes:
        raise UserError("the tag labels are missing: no tag vocabulary", where=found / LABELS, hint=_PREPARE)
    if info.content.get("fileFormat") != "tfrecord":
        raise UserError(
            f"the shards are {info.content.get('fileFormat')!r}, expected 'tfrecord'",
            where=found / INFO,
            hint="prepare the data set with file_format=tfrecord",
        )
    entries = info.objects("splits") if "splits" in info else []
    splits = {entry.text("name"): _split(folder, info, entry) for entry in entries}
    if len(splits) < len(entries):
        raise info.refuse("lists a split twice")
    shards = {shard.name for split in splits.values() for shard in split.shards}
    fingerprint = _check_manifest(found, folder, sizes, shards)
    vocabulary = TagVocabulary.load(folder / LABELS)
    return Dataset(
        location=found,
        folder=folder,
        name=f"{info.text('name')}/{info.text('version')}",
        vocabulary=vocabulary,
        splits={name: split for name, split in splits.items() if len(split)},
        fingerprint=fingerprint,
        remote=remote,
    )


def _find(path: Location) -> Location:
    if (path / INFO).exists():
        return path
    if not path.exists():
        raise UserError("no such data set", where=path, hint="make one with `socialtag prepare`")
    # Hidden folders are those that `prepare` is still at work in.
    found = [one.parent for pattern in (f"*/{INFO}", f"*/*/{INFO}") for one in path.glob(pattern)]
    below = sorted(one for one in found if "/." not in str(one).removeprefix(str(path)))
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(str(folder) for folder in below[:5])
        raise UserError(f"holds {len(below)} data sets", where=path, hint=f"name one of them: {names}")
    raise UserError(f"not a data set: no {INFO}", where=path, hint="make one with `socialtag prepare`")


def _check_manifest(location: Location, folder: Path, sizes: Mapping[str, int], shards: Set[str]) -> str:
    """The data set's fingerprint, after what can be checked of its content without reading the shards.

    Args:
      location: where the user has it.
      folder: where its metadata can be read.
      sizes: of all files that are there, in bytes.
      shards: those of all splits.
    """
    if MANIFEST not in sizes:
        # Rejects alone are left by the TFDS builders as well.
        if STATISTICS in sizes:
            raise UserError(
                f"incomplete data set: {MANIFEST} is missing, which is written last",
                where=location,
                hint=f"it was copied or deleted in part; {_PREPARE}",
            )
        metadata = b"".join((folder / name).read_bytes() for name in (INFO, LABELS))
        present = sorted((name, size) for name, size in sizes.items() if _is_shard(name))
        return hashlib.sha256(metadata + repr(present).encode()).hexdigest()
    listed = _read(folder / MANIFEST).fields("files")
    for name in listed:
        entry, file = listed.fields(name), location / name
        if Path(name).name != name:
            raise listed.refuse(f"lists {name!r}, which is no file's name")
        if name not in sizes:
            raise UserError(f"the file is missing, but {MANIFEST} lists it", where=file, hint=_PREPARE)
        if sizes[name] != entry.count("size"):
            raise UserError(
                f"{sizes[name]} bytes, but {MANIFEST} says {entry.count('size')}",
                where=file,
                hint=f"restore the file from a copy, or {_PREPARE}",
            )
        # Shards are large, and their records carry checksums that every read checks; `verification` reads them whole.
        expected = entry.text("sha256")
        if not _is_shard(name) and files.sha256(folder / name) != expected:
            raise UserError(
                f"the content is not what {MANIFEST} says (SHA-256 differs)",
                where=file,
                hint=f"restore the file from a copy, or {_PREPARE}",
            )
    needed = {INFO, FEATURES, LABELS, display_path(Path(LABELS)).name, STATISTICS, *shards}
    unlisted = needed - set(listed)
    if unlisted:
        raise listed.refuse(f"does not list {min(unlisted)}")
    strangers = {one for one in (*listed, *sizes) if _is_shard(one)} - shards
    if strangers:
        raise UserError(
            f"no split in {INFO} has this shard", where=location / min(strangers), hint=f"delete it, or {_PREPARE}"
        )
    return hashlib.sha256(json.dumps(listed.content, sort_keys=True).encode()).hexdigest()


def _is_shard(name: str) -> bool:
    return ".tfrecord-" in name and not name.startswith(".") and not name.endswith(".index")


def read_source(manifest: Path) -> Fields | None:
    """What the manifest says of the photos that the data set was made from; None where there is no manifest."""
    return _read(manifest).fields("source") if manifest.exists() else None


def shard_hashes(folder: Path) -> Mapping[str, str]:
    """The SHA-256 that the manifest has of each shard, by its name; empty where TFDS made the folder."""
    if not (folder / MANIFEST).exists():
        return {}
    listed = _read(folder / MANIFEST).fields("files")
    return {name: listed.fields(name).text("sha256") for name in listed if _is_shard(name)}


def _split(folder: Path, info: Fields, entry: Fields) -> Split:
    lengths = _shard_lengths(entry)
    template = entry.content.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    if not isinstance(template, str):
        template = entry.text("filepathTemplate")
    shards = []
    for number in range(len(lengths)):
        name = template
        fields = {
            "DATASET": info.text("name"),
            "SPLIT": entry.text("name"),
            "FILEFORMAT": info.text("fileFormat"),
            "SHARD_X_OF_Y": f"{number:05d}-of-{len(lengths):05d}",
        }
        for key, value in fields.items():
            name = name.replace("{" + key + "}", value)
        if Path(name).name != name or "\0" in name:
            raise info.refuse(f"a shard is called {name!r}, which is no file's name")
        shards.append(folder / name)
    if len(set(shards)) < len(shards):
        raise info.refuse(f"two shards of a split are called alike: {template!r}")
    return Split(tuple(shards), lengths)


def _shard_lengths(entry: Fields) -> tuple[int, ...]:
    """TFDS writes 64-bit numbers as texts, as protobuf's JSON does."""
    found = entry.content.get("shardLengths", [])
    if isinstance(found, list) and all(isinstance(one, str) and one.isdecimal() for one in found):
        return tuple(int(one) for one in found)
    return tuple(entry.counts("shardLengths"))


def _checked_statistics(content: Fields, dataset: Dataset) -> Mapping[str, TagStatistics]:
    if content.text("vocabulary_sha256") != dataset.vocabulary.sha256:
        raise content.refuse(f"was counted for other tags than {LABELS} has")
    by_split = content.fields("splits")
    if set(by_split) != set(dataset.splits):
        raise content.refuse(f"has the splits {', '.join(by_split)}; {INFO} has {', '.join(dataset.splits)}")
    statistics = {}
    for split in by_split:
        part = by_split.fields(split)
        counts, histogram = part.counts("counts"), part.counts("histogram")
        pairs = sum(tags * images for tags, images in enumerate(histogram))
        if len(counts) != len(dataset.vocabulary) or sum(counts) != pairs:
            raise content.refuse(f"the counts of {split} contradict themselves: {len(counts)} tags, {sum(counts)} uses")
        if sum(histogram) != len(dataset.splits[split]):
            raise content.refuse(f"counts {sum(histogram)} images of {split}; {INFO} has {len(dataset.splits[split])}")
        statistics[split] = TagStatistics.from_json(part.content)
    return statistics


def _step(fields: Fields) -> Step:
    numbers = ("images", "images_without_tags", "unique_tags", "tags_used_once", "max_tags", "most_images")
    return Step(
        rule=fields.text("rule"),
        mean_tags=fields.number("mean_tags"),
        median_tags=fields.number("median_tags"),
        **{name: fields.count(name) for name in numbers},
    )


def _read(path: Path) -> Fields:
    try:
        return json_files.read(path, hint=_PREPARE)
    except FileNotFoundError:
        raise UserError("the file is missing", where=path, hint=_PREPARE) from None
    except NotADirectoryError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error
