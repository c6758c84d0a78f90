"""A prepared data set's folder, opened and checked.

The folder is laid out as TFDS does it, so `tfds.builder_from_directory` reads what `socialtag prepare` wrote, and what
TFDS wrote (as TFRecord, with the features image, image_id and tags) trains here.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.pruning import Step
from socialtag_jax.remote_cache import RemoteCopy
from socialtag_jax.shards.example import Record, parse_example
from socialtag_jax.shards.tfrecord import RecordSource
from socialtag_jax.storage import Location, location
from socialtag_jax.tag_statistics import TagStatistics, tag_statistics
from socialtag_jax.tags import TagVocabulary

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
            self.remote.fetch([shard.name for shard in chosen.shards], _sha256s(self.folder))
        return ParsedRecords(RecordSource(chosen.shards, chosen.lengths), len(self.vocabulary))

    def shard_states(self, split: str) -> list[list[Any]]:
        """[name, time of change or checksum] of each shard: what tells a shard that was written anew, of equal size."""
        shards = self.split(split).shards
        if self.remote is not None:
            return [[shard.name, self.remote.objects[shard.name].crc32c] for shard in shards]
        return [[shard.name, shard.stat().st_mtime_ns] for shard in shards]

    @functools.cached_property
    def statistics(self) -> Mapping[str, TagStatistics]:
        """Tag statistics by split: as `prepare` counted them, or counted now where TFDS made the folder."""
        path = self.folder / STATISTICS
        if path.exists():
            return {name: TagStatistics.from_json(value) for name, value in _read_json(path)["splits"].items()}
        return {
            split: tag_statistics((record.tags for record in self.records(split)), len(self.vocabulary))
            for split in self.splits
        }

    @property
    def reports(self) -> Mapping[str, Sequence[Step]]:
        """What `prepare` did to the tags: "pruning" and "balancing"; empty where TFDS made the folder."""
        path = self.folder / STATISTICS
        content = _read_json(path) if path.exists() else {}
        return {name: [Step(**step) for step in content.get(name, ())] for name in ("pruning", "balancing")}

    @property
    def max_tags(self) -> int:
        """The most tags that one image has, over all splits; at least 1."""
        return max(1, *(statistics.max_tags for statistics in self.statistics.values()))

    @property
    def image_size(self) -> int | None:
        """The canonical images' shorter side in pixels, where `prepare` made them; None for a TFDS folder."""
        path = self.folder / STATISTICS
        return _read_json(path)["image_size"] if path.exists() else None


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

    Every metadata file's hash and every shard's size is compared with the manifest.

    Raises:
      UserError: no data set, several, an incomplete one, or files that differ from the manifest.
    """
    found = _find(location(path))
    remote = RemoteCopy(found) if isinstance(found, RemotePath) else None
    if remote is None:
        assert isinstance(found, Path)
        folder, sizes = found, {one.name: one.stat().st_size for one in found.iterdir() if one.is_file()}
    else:
        folder, sizes = remote.folder, {name: stored.size for name, stored in remote.objects.items()}
        remote.fetch([name for name in sizes if not _is_shard(name)])
    info = _read_json(folder / INFO)
    if LABELS not in sizes:
        raise UserError("the tag labels are missing: no tag vocabulary", where=found / LABELS, hint=_PREPARE)
    fingerprint = _check_manifest(found, folder, sizes)
    vocabulary = TagVocabulary.load(folder / LABELS)
    if info.get("fileFormat") != "tfrecord":
        raise UserError(
            f"the shards are {info.get('fileFormat')!r}, expected 'tfrecord'",
            where=found / INFO,
            hint="prepare the data set with file_format=tfrecord",
        )
    splits = {entry["name"]: _split(folder, info, entry) for entry in info.get("splits", [])}
    return Dataset(
        location=found,
        folder=folder,
        name=f"{info['name']}/{info['version']}",
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


def _is_shard(name: str) -> bool:
    return ".tfrecord-" in name and not name.endswith(".index")


def _check_manifest(location: Location, folder: Path, sizes: Mapping[str, int]) -> str:
    """The data set's fingerprint, after its files were compared with the manifest.

    Args:
      location: where the user has it.
      folder: where its metadata can be read.
      sizes: of all files that are there, in bytes.
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
        shards = sorted((name, size) for name, size in sizes.items() if _is_shard(name))
        return hashlib.sha256(metadata + repr(shards).encode()).hexdigest()
    entries = _read_json(folder / MANIFEST)["files"]
    for name, entry in entries.items():
        file = location / name
        if name not in sizes:
            raise UserError(f"the file is missing, but {MANIFEST} lists it", where=file, hint=_PREPARE)
        if sizes[name] != entry["size"]:
            raise UserError(
                f"{sizes[name]} bytes, but {MANIFEST} says {entry['size']}",
                where=file,
                hint=f"restore the file from a copy, or {_PREPARE}",
            )
        # Shards are large, and their records carry checksums that every read checks.
        if not _is_shard(name) and files.sha256(folder / name) != entry["sha256"]:
            raise UserError(
                f"the content is not what {MANIFEST} says (SHA-256 differs)",
                where=file,
                hint=f"restore the file from a copy, or {_PREPARE}",
            )
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _sha256s(folder: Path) -> dict[str, str]:
    """What the manifest says of the files; nothing where TFDS made the folder."""
    path = folder / MANIFEST
    return {name: entry["sha256"] for name, entry in _read_json(path)["files"].items()} if path.exists() else {}


def read_source(manifest: Path) -> Mapping[str, Any] | None:
    """What the manifest says of the photos that the data set was made from; None where there is no manifest."""
    return _read_json(manifest)["source"] if manifest.exists() else None


def _split(folder: Path, info: Mapping[str, Any], entry: Mapping[str, Any]) -> Split:
    lengths = tuple(int(length) for length in entry.get("shardLengths", []))
    template = entry.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    shards = []
    for number in range(len(lengths)):
        name = template
        fields = {
            "DATASET": info["name"],
            "SPLIT": entry["name"],
            "FILEFORMAT": info["fileFormat"],
            "SHARD_X_OF_Y": f"{number:05d}-of-{len(lengths):05d}",
        }
        for key, value in fields.items():
            name = name.replace("{" + key + "}", value)
        shards.append(folder / name)
    return Split(tuple(shards), lengths)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("the file is missing", where=path, hint=_PREPARE) from None
    except ValueError as error:
        raise UserError(f"not valid JSON: {error}", where=path, hint=_PREPARE) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error
