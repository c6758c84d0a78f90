"""Photos -> a data set's folder: parallel, resumable, and complete or absent.

All work happens in a hidden folder beside the final one, which is renamed into place at the very end. A killed run is
continued by the same command: the chunks of images that are done stay done.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from socialtag_jax import files
from socialtag_jax.balancing import balance
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.labels import Labels, normalise
from socialtag_jax.progress import Progress
from socialtag_jax.pruning import Step, prune, require_listed, table
from socialtag_jax.rules import Rule
from socialtag_jax.shards import chunks, near_duplicates
from socialtag_jax.shards.dataset import LABELS, MANIFEST, NEAR_DUPLICATES, REJECTS, STATISTICS, read_source
from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.shards.writing import CanonicalImages, read_chunks, rejects_csv, write_split
from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS, leak_free_splits
from socialtag_jax.sources.table import PhotoTable

_PLAN = "plan.json"


@dataclass(frozen=True)
class PrepareOptions:
    """How photos become a data set.

    Attributes:
      name: the data set's name: lower-case letters, digits and underscores, as TFDS wants it.
      version: the data set's version, `major.minor.patch`.
      image_size: the shorter side of the stored images, in pixels.
      seed: of the random split, of the balancing and of the order of the records.
      validation: share (below 1) or number of the photos that are drawn for validation, where the source does not say.
      test: the same for test.
      pruning: rules that drop tags and photos, in order.
      balancing: of the tags in the train split.
      allow_leaks: goes on when byte-identical photos stand in two splits.
      workers: processes that decode; None for one a core.
    """

    name: str
    version: str = "1.0.0"
    image_size: int = IMAGE_SIZE
    seed: int = 0
    validation: float = 0.1
    test: float = 0.1
    pruning: tuple[Rule, ...] = ()
    balancing: tuple[Rule, ...] = ()
    allow_leaks: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UsageError(f"data set name {self.name!r} is not lower-case letters, digits and _", where="--name")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise UsageError(f"version {self.version!r} is not of the form 1.0.0", where="--version")
        if self.image_size < 32:
            raise UsageError(f"{self.image_size} is too small, expected at least 32", where="--image-size")
        if self.seed < 0:
            raise UsageError(f"{self.seed} is negative, expected 0 or more", where="--seed")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} is too small, expected at least 1", where="--workers")


@dataclass(frozen=True)
class PrepareResult:
    """Where the data set lies, and what became of the photos: `photos == written + rejected + left_out`.

    Attributes:
      folder: of the data set.
      photos: that the source lists.
      written: to the shards.
      rejected: could not be decoded.
      left_out: dropped by pruning or balancing.
    """

    folder: Path
    photos: int
    written: int
    rejected: int
    left_out: int


def prepare(
    photos: Iterable[Photo], output: Path, options: PrepareOptions, *, log: Callable[[str], None], stream: TextIO
) -> PrepareResult:
    """Writes the data set `output/NAME/VERSION`.

    Args:
      photos: with unique image ids; are consumed one by one.
      output: the folder of all data sets.
      options: what to keep, and how.
      log: takes one line of text at a time: warnings, and what is going on.
      stream: where progress is shown.

    Raises:
      UserError: leaks between the splits, an existing data set made of other photos or options, no decodable photo, a
        split none of whose photos can be decoded, or another `prepare` at work on the same data set.
    """
    listed = PhotoTable(photos)
    if not listed:
        raise UserError("the source has no photos", where=output, hint="check --source and --input")
    folder = output / options.name / options.version
    listed = _in_record_order(listed, options.seed)
    found = listed.labels()
    normalised = normalise(found)
    report = [Step.of("as found", found), Step.of("normalised", normalised)]
    del found  # the texts of a million photos
    require_listed(normalised, options.pruning)
    labels, steps = prune(normalised, options.pruning)
    kept = listed.take(np.flatnonzero(np.isin(listed.positions, labels.photos)))
    files_state, fingerprint = _states(listed, np.isin(listed.positions, kept.positions), options)
    if folder.exists():
        return _existing(folder, fingerprint, options)
    if options.pruning:
        log(table([*report, *steps]))
    if labels.fixed and (unused := int(np.sum(labels.counts == 0))):
        log(f"warning: {unused:,} of the {len(labels.tags):,} tags of the vocabulary are on no photo")
    partial = folder.with_name(f".{options.version}.partial")
    with files.exclusive(partial):
        _open_partial(partial, _plan(files_state, options), log)
        with chunks.ChunkPool(kept, partial, options.image_size, options.workers, stream) as pool:
            # All that can be wrong with the splits is found while the first photos are being decoded.
            splits = leak_free_splits(
                kept,
                seed=options.seed,
                validation=options.validation,
                test=options.test,
                allow_leaks=options.allow_leaks,
                hint="put both in one split or remove one; --allow-leaks goes on, with scores that are too good",
                warn=lambda text: log(f"warning: {text}"),
            )
            # Balancing is done at the end, when it is known which photos are left: here, only to find wrong rules.
            training = kept.positions[np.array(splits) == "train"]
            balance(labels.in_vocabulary_order(), training, options.balancing, options.seed)
            # Half a second of imports, which the wait hides.
            from socialtag_jax.shards import metadata

            pool.wait()
        final = partial / "final"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        images = read_chunks(pool.files, len(kept))
        rejects = ((kept.image_id(index), reason, kept[index].where) for index, reason in images.rejected)
        files.write_text(final / REJECTS, rejects_csv(rejects))
        if not len(images):
            raise _nothing_left(kept, images, final, folder)
        if len(images) < 0.9 * len(kept):
            log(f"warning: {len(kept) - len(images)} of {len(kept)} photos cannot be decoded")
        if images.rejected:
            # What cannot be decoded counts for nothing: not in the vocabulary, nor in any statistics.
            rejected = kept.positions[[index for index, _ in images.rejected]]
            decodable = normalised.keep_photos(~np.isin(normalised.photos, rejected))
            report.append(Step.of("without rejected photos", decodable))
            labels, steps = prune(decodable, options.pruning)
        written = _write_dataset(kept, splits, images, labels, [*report, *steps], final, options, log, stream)
        counts = {"photos": len(listed), "written": written, "rejected": len(images.rejected)}
        counts["left_out"] = counts["photos"] - counts["written"] - counts["rejected"]
        metadata.write_manifest(final, fingerprint, counts)
        final.rename(folder)
        shutil.rmtree(partial)
    return PrepareResult(folder, **counts)


def _in_record_order(photos: PhotoTable, seed: int) -> PhotoTable:
    """Shuffled, and independent of the order of the rows; readers that only read forward profit from it."""
    image_ids = list(photos.image_ids)
    by_id = np.array(sorted(range(len(photos)), key=image_ids.__getitem__), np.int64)
    return photos.take(by_id[np.random.default_rng(seed).permutation(len(photos))])


def _plan(files_state: str, options: PrepareOptions) -> str:
    """What the chunks are made of; those of another plan are made anew."""
    return hashlib.sha256(f"{files_state} {options.image_size} {chunks.FORMAT}".encode()).hexdigest()


def _states(listed: PhotoTable, kept: np.ndarray, options: PrepareOptions) -> tuple[str, str]:
    """SHA-256 of what the chunks depend on, and of all that decides the data set.

    The first is over the kept files in their order, by size and time of change; the second over that, the tags and the
    splits of all photos, and the options.

    Args:
      listed: all photos.
      kept: bool [photos], which are left after pruning.
      options: for the data set.
    """
    state, whole = hashlib.sha256(), hashlib.sha256()
    for photo, is_kept in zip(listed, kept.tolist(), strict=True):
        whole.update(repr((photo.tags, photo.split)).encode())
        if is_kept:
            try:
                status = photo.path.stat()
                found = (status.st_size, status.st_mtime_ns)
            except (OSError, ValueError):  # ValueError: a path that no file can have
                found = None
            state.update(repr((photo.image_id, found)).encode("utf-8", "surrogateescape"))
    unrelated = {"name", "version", "workers"}
    names = [field.name for field in dataclasses.fields(options) if field.name not in unrelated]
    whole.update(repr([state.hexdigest(), *(getattr(options, name) for name in names)]).encode())
    return state.hexdigest(), whole.hexdigest()


def _existing(folder: Path, fingerprint: str, options: PrepareOptions) -> PrepareResult:
    source = read_source(folder / MANIFEST)
    if source is not None and source.text("fingerprint") == fingerprint:
        counts = {name: source.count(name) for name in ("photos", "written", "rejected", "left_out")}
        return PrepareResult(folder, **counts)
    raise UserError(
        "the folder exists and was made from other photos, tags or options",
        where=folder,
        hint=f"choose another --name or --version than {options.name} {options.version}, or delete the folder",
    )


def _open_partial(partial: Path, plan: str, log: Callable[[str], None]) -> None:
    """Empties the work folder, unless an interrupted run of the same files and image size left its chunks there."""
    path = partial / _PLAN
    if path.exists() and path.read_bytes() == plan.encode():
        log("continuing an interrupted run")
        return
    for left in [*partial.glob("chunk-*"), path]:
        left.unlink(missing_ok=True)
    files.write_text(path, plan)


def _nothing_left(photos: PhotoTable, images: CanonicalImages, final: Path, folder: Path) -> UserError:
    reasons = folder.with_name(REJECTS)
    shutil.copyfile(final / REJECTS, reasons)
    index, reason = images.rejected[0]
    return UserError(
        f"none of the {len(photos)} photos can be decoded; the first one: {photos[index].path}: {reason}",
        where=photos[index].where or None,
        hint=f"all reasons are in {reasons}",
    )


def _check_splits(split_names: np.ndarray, photos: PhotoTable, images: CanonicalImages) -> None:
    """A split must not vanish without a word because its photos could not be decoded, or have no tag left."""
    left = set(split_names[images.photos].tolist())
    for split in SPLITS:
        wanted = np.flatnonzero(split_names == split)
        if len(wanted) and split not in left:
            first = photos[int(wanted[0])]
            rejected = sum(split_names[index] == split for index, _ in images.rejected)
            raise UserError(
                f"none of the {len(wanted)} {split} photos is left, for example {first.path}: {rejected} cannot be "
                f"decoded, {len(wanted) - rejected} have no tag that is kept",
                where=first.where or None,
                hint="repair them, loosen --pruning, or give the split other photos",
            )


def _write_dataset(
    photos: PhotoTable,
    splits: Sequence[str],
    images: CanonicalImages,
    labels: Labels,
    report: Sequence[Step],
    final: Path,
    options: PrepareOptions,
    log: Callable[[str], None],
    stream: TextIO,
) -> int:
    """Writes shards, TFDS metadata, labels, statistics and near-duplicates; returns how many photos were written."""
    from socialtag_jax.shards import metadata

    labels = labels.in_vocabulary_order()
    vocabulary = labels.vocabulary()
    split_names = np.array(splits)
    # Pruning them anew may bring back a photo that was left out before, and so was never decoded.
    labels = labels.keep_photos(np.isin(labels.photos, photos.positions[images.photos]))
    images = images.take(np.isin(photos.positions[images.photos], labels.photos))
    training = images.photos[split_names[images.photos] == "train"]
    labels, balanced = balance(labels, photos.positions[training], options.balancing, options.seed)
    if balanced:
        log(table(balanced))
    images = images.take(np.isin(photos.positions[images.photos], labels.photos))
    _check_splits(split_names, photos, images)
    progress = Progress("write", len(images), "images", stream)
    shards, statistics = {}, {}
    done = 0
    for split in SPLITS:
        members = images.take(split_names[images.photos] == split)
        if len(members):
            shards[split] = write_split(split, members, photos, labels, final, options.name, progress, done)
            inside = np.isin(labels.photos, photos.positions[members.photos])
            statistics[split] = labels.keep_photos(inside).statistics()
            done += len(members)
    progress.finish(done)
    vocabulary.save(final / LABELS)
    metadata.write_tfds(final, options.name, options.version, vocabulary, shards)
    content: Mapping[str, Any] = {
        "image_size": options.image_size,
        "vocabulary_sha256": vocabulary.sha256,
        "splits": {split: value.to_json() for split, value in statistics.items()},
        "pruning": [dataclasses.asdict(step) for step in report],
        "balancing": [dataclasses.asdict(step) for step in balanced],
        "near_duplicates": _write_near_duplicates(final / NEAR_DUPLICATES, photos, splits, images, log),
    }
    files.write_text(final / STATISTICS, json.dumps(content, indent=1) + "\n")
    return done


def _write_near_duplicates(
    path: Path, photos: PhotoTable, splits: Sequence[str], images: CanonicalImages, log: Callable[[str], None]
) -> dict[str, int]:
    """Writes the photos that look the same in two splits, and says how many there are."""
    its_splits: list[str] = np.array(splits)[images.photos].tolist()
    found = near_duplicates.find_near_duplicates(images.hashes, its_splits)
    kept = photos.take(images.photos)
    files.write_text(path, near_duplicates.as_csv(found, kept, its_splits))
    counts = near_duplicates.count_by_split(found, its_splits)
    for (split, other), count in counts.items():
        examples = [one for one in found if (its_splits[one.photo], its_splits[one.other]) == (split, other)]
        first = examples[0]
        log(
            f"warning: {count:,} {split} photos look like one of {other} (perceptual hash), for example "
            f"{kept[first.photo].image_id} and {kept[first.other].image_id}; all are in {path.name}: scores may be "
            "too good; a split column that keeps such photos together avoids it"
        )
    return {f"{split} and {other}": count for (split, other), count in counts.items()}
