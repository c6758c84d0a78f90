"""Photos -> a data set's folder: parallel, resumable, and complete or absent.

All work happens in a hidden folder beside the final one, which is renamed into place at the very end. A killed run is
continued by the same command: the chunks of images that are done stay done.
"""

import concurrent.futures
import csv
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from socialtag_jax import files
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.progress import Progress
from socialtag_jax.shards import chunks, metadata
from socialtag_jax.shards.dataset import LABELS, MANIFEST, REJECTS, STATISTICS
from socialtag_jax.shards.example import Record, encode_example
from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.shards.tfrecord import RecordSource, write_shard
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS, assign_splits, content_groups, find_leaks
from socialtag_jax.tags import TagVocabulary, build_vocabulary, tag_statistics

_CHUNK_PHOTOS = 64
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
      UserError: leaks between the splits, an existing data set made of other photos or options, no decodable photo.
    """
    if not photos:
        raise UserError("the source has no photos", where=output)
    folder = output / options.name / options.version
    order = _record_order(photos, options.seed)
    photos = [photos[position] for position in order]
    fingerprint = _fingerprint(photos, options)
    if folder.exists():
        return _existing(folder, fingerprint, options)
    splits = _splits(photos, options, log)
    partial = folder.with_name(f".{options.version}.partial")
    _open_partial(partial, fingerprint, log)
    results = _canonicalise(photos, partial, options, stream)
    final = partial / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    result = _write_dataset(photos, splits, results, final, folder, options)
    metadata.write_manifest(final, fingerprint)
    final.rename(folder)
    shutil.rmtree(partial)
    return result


def _record_order(photos: Sequence[Photo], seed: int) -> np.ndarray:
    """A shuffled order that does not depend on the order of the rows; readers that only read forward profit from it."""
    by_id = sorted(range(len(photos)), key=lambda position: photos[position].image_id)
    return np.random.default_rng(seed).permutation(np.array(by_id, np.int64))


def _fingerprint(photos: Sequence[Photo], options: PrepareOptions) -> str:
    """SHA-256 of all that decides the result: photos (with size and time of change), tags, splits, options."""
    digest = hashlib.sha256()
    for photo in photos:
        try:
            status = photo.path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = None
        digest.update(repr((photo.image_id, photo.tags, photo.split, state)).encode())
    kept = (options.image_size, options.seed, options.min_images, options.only_tags, options.allow_leaks)
    digest.update(repr(kept).encode())
    return digest.hexdigest()


def _existing(folder: Path, fingerprint: str, options: PrepareOptions) -> PrepareResult:
    manifest = folder / MANIFEST
    if manifest.exists() and metadata.read_fingerprint(manifest) == fingerprint:
        counts = json.loads((folder / STATISTICS).read_text(encoding="utf-8"))
        return PrepareResult(folder, counts["photos"], counts["written"], counts["rejected"])
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


def _open_partial(partial: Path, fingerprint: str, log: Callable[[str], None]) -> None:
    """Makes the work folder, or keeps the one that an interrupted run with the same photos and options left."""
    plan = partial / _PLAN
    if plan.exists() and json.loads(plan.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
        log("continuing an interrupted run")
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files.write_text(plan, json.dumps({"fingerprint": fingerprint}))


def _canonicalise(
    photos: Sequence[Photo], partial: Path, options: PrepareOptions, stream: TextIO
) -> list[tuple[Path, Sequence[Photo]]]:
    """Writes all chunk files, and returns them with their photos."""
    work = [
        (partial / f"chunk-{start // _CHUNK_PHOTOS:06d}", photos[start : start + _CHUNK_PHOTOS])
        for start in range(0, len(photos), _CHUNK_PHOTOS)
    ]
    missing = [(path, chunk) for path, chunk in work if not path.exists()]
    done = len(photos) - sum(len(chunk) for _, chunk in missing)
    progress = Progress("prepare", len(photos), "images", stream, done=done)
    workers = min(options.workers or os.cpu_count() or 1, max(len(missing), 1))
    # Spawned, not forked: a forked child inherits the locks that other threads of this process happened to hold.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            futures = {
                pool.submit(chunks.write_chunk, [photo.path for photo in chunk], path, options.image_size): len(chunk)
                for path, chunk in missing
            }
            for future in concurrent.futures.as_completed(futures):
                future.result()
                done += futures[future]
                progress.update(done)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory?)",
                hint="run the same command again with fewer --workers: it goes on where it stopped",
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    progress.finish(done)
    return work


def _write_dataset(
    photos: Sequence[Photo],
    splits: Sequence[str],
    work: Sequence[tuple[Path, Sequence[Photo]]],
    final: Path,
    folder: Path,
    options: PrepareOptions,
) -> PrepareResult:
    split_of = {photo.image_id: split for photo, split in zip(photos, splits, strict=True)}
    kept: dict[str, list[_Kept]] = {split: [] for split in SPLITS}
    rejected: list[tuple[Photo, str]] = []
    for path, chunk in work:
        result, source = chunks.read_chunk(path)
        for record, position in enumerate(result.kept, start=1):
            photo = chunk[position]
            kept[split_of[photo.image_id]].append(_Kept(photo, source, record))
        rejected.extend((chunk[position], reason) for position, reason in result.rejected)
    written = sum(map(len, kept.values()))
    if written + len(rejected) != len(photos):
        raise AssertionError(f"{len(photos)} photos in, {written} written + {len(rejected)} rejected")
    _write_rejects(final / REJECTS, rejected)
    if not written:
        files.write_text(folder.with_name(REJECTS), (final / REJECTS).read_text(encoding="utf-8"))
        photo, reason = rejected[0]
        raise UserError(
            f"none of the {len(photos)} photos can be decoded; the first one: {photo.path}: {reason}",
            where=photo.where or None,
            hint=f"all reasons are in {folder.with_name(REJECTS)}",
        )
    vocabulary = build_vocabulary(
        (one.photo.tags for split in SPLITS for one in kept[split]),
        min_images=options.min_images,
        only=options.only_tags,
    )
    if not len(vocabulary):
        raise UserError("no tag is left", hint="lower --min-images, or check the tags column")
    shards = {split: _write_split(split, kept[split], vocabulary, final, options) for split in SPLITS if kept[split]}
    vocabulary.save(final / LABELS)
    metadata.write_tfds(final, options.name, options.version, vocabulary, shards)
    statistics = {
        split: tag_statistics((vocabulary.encode(one.photo.tags) for one in kept[split]), len(vocabulary))
        for split in shards
    }
    content: Mapping[str, Any] = {
        "photos": len(photos),
        "written": written,
        "rejected": len(rejected),
        "image_size": options.image_size,
        "vocabulary_sha256": vocabulary.sha256,
        "splits": {split: value.to_json() for split, value in statistics.items()},
    }
    files.write_text(final / STATISTICS, json.dumps(content, indent=1) + "\n")
    return PrepareResult(folder, len(photos), written, len(rejected))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A photo whose canonical image is record `record` of `source`."""

    photo: Photo
    source: RecordSource
    record: int


def _write_split(
    split: str, kept: Sequence[_Kept], vocabulary: TagVocabulary, final: Path, options: PrepareOptions
) -> metadata.SplitShards:
    def encoded() -> Iterator[bytes]:
        previous = None
        for one in kept:
            # A large data set has more chunk files than a process may hold open.
            if previous is not None and previous is not one.source:
                previous.close()
            previous = one.source
            image = one.source[one.record]
            yield encode_example(Record(image, one.photo.image_id, vocabulary.encode(one.photo.tags)))

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
    return metadata.SplitShards(lengths, size)


def _write_rejects(path: Path, rejected: Sequence[tuple[Photo, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "reason", "where"))
    for photo, reason in sorted(rejected, key=lambda item: item[0].image_id):
        writer.writerow((photo.image_id, reason, photo.where))
    files.write_text(path, text.getvalue())
