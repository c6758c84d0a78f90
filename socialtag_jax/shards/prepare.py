"""Photos -> a data set's folder: parallel, resumable, and complete or absent.

All work happens in a hidden folder beside the final one, which is renamed into place at the very end. A killed run is
continued by the same command: the chunks of images that are done stay done.
"""

import csv
import hashlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.progress import Progress
from socialtag_jax.shards import chunks
from socialtag_jax.shards.dataset import LABELS, MANIFEST, REJECTS, STATISTICS, SplitShards, read_source
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.shards.tfrecord import RecordSource, write_shard
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS, assign_splits, content_groups, find_leaks
from socialtag_jax.tags import TagVocabulary, build_vocabulary, tag_statistics

_SHARD_BYTES = 128 * 2**20
_PLAN = "plan.json"


@dataclass(frozen=True)
class PrepareOptions:
    """How photos become a data set.

    Attributes:
      name: the data set's name: lower-case letters, digits and underscores, as TFDS wants it.
      version: the data set's version, `major.minor.patch`.
      image_size: the shorter side of the stored images, in pixels.
      seed: of the random split and of the order of the records.
      min_images: drops tags that fewer photos have.
      only_tags: keeps only these tags; None keeps all.
      allow_leaks: goes on when byte-identical photos stand in two splits.
      workers: processes that decode; None for one a core.
    """

    name: str
    version: str = "1.0.0"
    image_size: int = IMAGE_SIZE
    seed: int = 0
    min_images: int = 1
    only_tags: tuple[str, ...] | None = None
    allow_leaks: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UsageError(f"data set name {self.name!r} is not lower-case letters, digits and _", where="--name")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise UsageError(f"version {self.version!r} is not of the form 1.0.0", where="--version")
        for flag, value, low in (("--image-size", self.image_size, 32), ("--min-images", self.min_images, 1)):
            if value < low:
                raise UsageError(f"{value} is too small, expected at least {low}", where=flag)
        if self.seed < 0:
            raise UsageError(f"{self.seed} is negative, expected 0 or more", where="--seed")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} is too small, expected at least 1", where="--workers")


@dataclass(frozen=True)
class PrepareResult:
    """Where the data set lies, and what became of the photos: `photos == written + rejected`."""

    folder: Path
    photos: int
    written: int
    rejected: int


def prepare(
    photos: Sequence[Photo], output: Path, options: PrepareOptions, *, log: Callable[[str], None], stream: TextIO
) -> PrepareResult:
    """Writes the data set `output/NAME/VERSION`.

    Args:
      photos: with unique image ids.
      output: the folder of all data sets.
      options: what to keep, and how.
      log: takes one line of text at a time: warnings, and what is going on.
      stream: where progress is shown.

    Raises:
      UserError: leaks between the splits, an existing data set made of other photos or options, no decodable photo, a
        split none of whose photos can be decoded, or another `prepare` at work on the same data set.
    """
    if not photos:
        raise UserError("the source has no photos", where=output)
    folder = output / options.name / options.version
    photos = _in_record_order(photos, options.seed)
    files_state = _files_state(photos)
    fingerprint = _fingerprint(files_state, photos, options)
    if folder.exists():
        return _existing(folder, fingerprint, options)
    partial = folder.with_name(f".{options.version}.partial")
    with files.exclusive(partial):
        _open_partial(partial, hashlib.sha256(f"{files_state} {options.image_size}".encode()).hexdigest(), log)
        paths = [photo.path for photo in photos]
        with chunks.ChunkPool(paths, partial, options.image_size, options.workers, stream) as pool:
            # All that can be wrong with the tags or the splits is found while the first photos are being decoded.
            splits = _splits(photos, options, log)
            _vocabulary([photo.tags for photo in photos], options)
            # Half a second of imports, which the wait hides.
            from socialtag_jax.shards import metadata

            pool.wait()
        final = partial / "final"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        kept, rejected = _read_chunks(pool.files, photos)
        _write_rejects(final / REJECTS, rejected)
        if not kept:
            raise _nothing_left(photos, rejected, final, folder)
        _check_splits(splits, photos, kept, log)
        split_of = {photo.image_id: split for photo, split in zip(photos, splits, strict=True)}
        _write_dataset(kept, split_of, final, options, stream)
        counts = {"photos": len(photos), "written": len(kept), "rejected": len(rejected)}
        metadata.write_manifest(final, fingerprint, counts)
        final.rename(folder)
        shutil.rmtree(partial)
    return PrepareResult(folder, **counts)


def _in_record_order(photos: Sequence[Photo], seed: int) -> list[Photo]:
    """Shuffled, and independent of the order of the rows; readers that only read forward profit from it."""
    by_id = sorted(photos, key=lambda photo: photo.image_id)
    return [by_id[position] for position in np.random.default_rng(seed).permutation(len(by_id))]


def _files_state(photos: Sequence[Photo]) -> str:
    """SHA-256 of the files in their order, by size and time of change: what the chunks depend on."""
    digest = hashlib.sha256()
    for photo in photos:
        try:
            status = photo.path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = None
        digest.update(repr((photo.image_id, state)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _fingerprint(files_state: str, photos: Sequence[Photo], options: PrepareOptions) -> str:
    """SHA-256 of all that decides the data set: files, tags, splits, options."""
    digest = hashlib.sha256(files_state.encode())
    for photo in photos:
        digest.update(repr((photo.tags, photo.split)).encode())
    kept = (options.image_size, options.seed, options.min_images, options.only_tags, options.allow_leaks)
    digest.update(repr(kept).encode())
    return digest.hexdigest()


def _existing(folder: Path, fingerprint: str, options: PrepareOptions) -> PrepareResult:
    source = read_source(folder / MANIFEST)
    if source is not None and source["fingerprint"] == fingerprint:
        return PrepareResult(folder, source["photos"], source["written"], source["rejected"])
    raise UserError(
        "the folder exists and was made from other photos, tags or options",
        where=folder,
        hint=f"choose another --name or --version than {options.name} {options.version}, or delete the folder",
    )


def _splits(photos: Sequence[Photo], options: PrepareOptions, log: Callable[[str], None]) -> list[str]:
    groups = content_groups([photo.path for photo in photos])
    splits = assign_splits(photos, seed=options.seed, groups=groups, warn=lambda text: log(f"warning: {text}"))
    leaks = find_leaks(groups, splits)
    if leaks:
        first, second = leaks[0]
        message = (
            f"the same photo stands in two splits ({len(leaks)} such pairs): "
            f"{photos[first].image_id} ({splits[first]}) and {photos[second].image_id} ({splits[second]}) "
            "are byte-identical"
        )
        if not options.allow_leaks:
            hint = "put both in one split or remove one; --allow-leaks goes on, with scores that are too good"
            raise UserError(message, where=photos[first].where or None, hint=hint)
        log(f"warning: {message}; going on because of --allow-leaks")
    return splits


def _vocabulary(tag_lists: Iterable[Iterable[str]], options: PrepareOptions) -> TagVocabulary:
    vocabulary = build_vocabulary(tag_lists, min_images=options.min_images, only=options.only_tags)
    if not len(vocabulary):
        raise UserError("no tag is left", hint="lower --min-images, or check the tags column")
    return vocabulary


def _open_partial(partial: Path, plan: str, log: Callable[[str], None]) -> None:
    """Empties the work folder, unless an interrupted run of the same files and image size left its chunks there."""
    path = partial / _PLAN
    if path.exists() and path.read_text(encoding="utf-8") == plan:
        log("continuing an interrupted run")
        return
    for left in [*partial.glob("chunk-*"), path]:
        left.unlink(missing_ok=True)
    files.write_text(path, plan)


def _read_chunks(paths: Sequence[Path], photos: Sequence[Photo]) -> tuple[list["_Kept"], list[tuple[Photo, str]]]:
    """All photos, kept and rejected, in record order."""
    kept: list[_Kept] = []
    rejected: list[tuple[Photo, str]] = []
    for number, path in enumerate(paths):
        chunk = photos[number * chunks.CHUNK_PHOTOS : (number + 1) * chunks.CHUNK_PHOTOS]
        result, source = chunks.read_chunk(path)
        kept.extend(_Kept(chunk[position], source, record) for record, position in enumerate(result.kept, start=1))
        rejected.extend((chunk[position], reason) for position, reason in result.rejected)
    if len(kept) + len(rejected) != len(photos):
        raise AssertionError(f"{len(photos)} photos in, {len(kept)} kept + {len(rejected)} rejected")
    return kept, rejected


def _nothing_left(
    photos: Sequence[Photo], rejected: Sequence[tuple[Photo, str]], final: Path, folder: Path
) -> UserError:
    reasons = folder.with_name(REJECTS)
    shutil.copyfile(final / REJECTS, reasons)
    photo, reason = rejected[0]
    return UserError(
        f"none of the {len(photos)} photos can be decoded; the first one: {photo.path}: {reason}",
        where=photo.where or None,
        hint=f"all reasons are in {reasons}",
    )


def _check_splits(
    splits: Sequence[str], photos: Sequence[Photo], kept: Sequence["_Kept"], log: Callable[[str], None]
) -> None:
    """A split must not vanish without a word because its photos could not be decoded."""
    left = {one.photo.image_id for one in kept}
    for split in SPLITS:
        wanted = [photo for photo, its in zip(photos, splits, strict=True) if its == split]
        if wanted and not any(photo.image_id in left for photo in wanted):
            raise UserError(
                f"none of the {len(wanted)} {split} photos can be decoded, for example {wanted[0].path}",
                where=wanted[0].where or None,
                hint="repair them, or give the split other photos",
            )
    if len(left) < 0.9 * len(photos):
        log(f"warning: {len(photos) - len(left)} of {len(photos)} photos cannot be decoded")


def _write_dataset(
    kept: Sequence["_Kept"], split_of: Mapping[str, str], final: Path, options: PrepareOptions, stream: TextIO
) -> None:
    """Writes shards, TFDS metadata, labels and statistics. Rejected photos count for nothing in any of them."""
    from socialtag_jax.shards import metadata

    vocabulary = _vocabulary((one.photo.tags for one in kept), options)
    progress = Progress("write", len(kept), "images", stream)
    shards, statistics = {}, {}
    done = 0
    for split in SPLITS:
        members = [one for one in kept if split_of[one.photo.image_id] == split]
        if members:
            tags = [vocabulary.encode(one.photo.tags) for one in members]
            shards[split] = _write_split(split, members, tags, final, options)
            statistics[split] = tag_statistics(tags, len(vocabulary))
            done += len(members)
            progress.update(done)
    vocabulary.save(final / LABELS)
    metadata.write_tfds(final, options.name, options.version, vocabulary, shards)
    content: Mapping[str, Any] = {
        "image_size": options.image_size,
        "vocabulary_sha256": vocabulary.sha256,
        "splits": {split: value.to_json() for split, value in statistics.items()},
    }
    files.write_text(final / STATISTICS, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A photo whose canonical image is record `record` of `source`."""

    photo: Photo
    source: RecordSource
    record: int


def _write_split(
    split: str, kept: Sequence[_Kept], tags: Sequence[tuple[int, ...]], final: Path, options: PrepareOptions
) -> SplitShards:
    def encoded() -> Iterator[bytes]:
        previous = None
        for one, its_tags in zip(kept, tags, strict=True):
            # A large data set has more chunk files than a process may hold open.
            if previous is not None and previous is not one.source:
                previous.close()
            previous = one.source
            yield encode_example(Record(one.source[one.record], one.photo.image_id, its_tags))

    # Sizes are needed before the first byte is written, since the number of shards is part of every name.
    total = sum(one.source.frame_size(one.record) for one in kept)
    count = max(1, min(len(kept), -(-total // _SHARD_BYTES)))
    lengths = [len(part) for part in np.array_split(np.arange(len(kept)), count)]
    records = encoded()
    size = 0
    for number, length in enumerate(lengths):
        shard = final / f"{options.name}-{split}.tfrecord-{number:05d}-of-{count:05d}"
        write_shard(shard, itertools.islice(records, length))
        size += shard.stat().st_size
    return SplitShards(lengths, size)


def _write_rejects(path: Path, rejected: Sequence[tuple[Photo, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "reason", "where"))
    for photo, reason in sorted(rejected, key=lambda item: item[0].image_id):
        writer.writerow((photo.image_id, reason, photo.where))
    files.write_text(path, text.getvalue())
