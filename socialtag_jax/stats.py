"""What `socialtag stats` shows: tag statistics of a data set by split, or of a source's labels alone."""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socialtag_jax.balancing import balance
from socialtag_jax.labels import normalise, pack
from socialtag_jax.pruning import CameraMaker, Step, camera_makers, prune, require_listed, table
from socialtag_jax.rules import Rule
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.sources.photo import Photo
from socialtag_jax.tag_statistics import TagStatistics
from socialtag_jax.tags import TagVocabulary

_TITLES = ("images", "without tags", "unique tags", "mean tags", "median", "max")


@dataclass(frozen=True)
class Report:
    """What there is to show.

    Attributes:
      vocabulary: of all parts.
      parts: statistics by split, and of the "whole".
      pruning: what each rule left; empty where nothing is known of it.
      balancing: the same for the balancing of the training photos.
      camera_makers: in the tags before pruning; empty for a prepared data set, which no longer has them all.
    """

    vocabulary: TagVocabulary
    parts: Mapping[str, TagStatistics]
    pruning: Sequence[Step] = ()
    balancing: Sequence[Step] = ()
    camera_makers: Sequence[CameraMaker] = ()


def of_dataset(dataset: Dataset) -> Report:
    """The statistics of a prepared data set, as `prepare` found them."""
    parts = dict(dataset.statistics)
    parts["whole"] = functools.reduce(operator.add, parts.values())
    reports = dataset.reports
    return Report(dataset.vocabulary, parts, pruning=reports["pruning"], balancing=reports["balancing"])


def of_source(photos: Iterable[Photo], pruning: Sequence[Rule], balancing: Sequence[Rule], seed: int) -> Report:
    """The statistics of photos as their source lists them, whatever becomes of their images.

    Args:
      photos: are consumed one by one; only their tags are kept.
      pruning: rules to apply.
      balancing: to apply to all photos, as if all were for training.
      seed: of the balancing.
    """
    found = pack(photo.tags for photo in photos)
    labels = normalise(found)
    report = [Step.of("as found", found), Step.of("normalised", labels)]
    del found  # the texts of a million photos
    makers = camera_makers(labels)
    require_listed(labels, pruning)
    labels, steps = prune(labels, pruning)
    labels = labels.in_vocabulary_order()
    vocabulary = labels.vocabulary()
    labels, balanced = balance(labels, labels.photos, balancing, seed)
    return Report(vocabulary, {"whole": labels.statistics()}, [*report, *steps] if pruning else (), balanced, makers)


def as_json(report: Report, top: int) -> dict[str, Any]:
    """The report as plain values, with the `top` most frequent tags of each part."""
    return {
        "splits": {name: _part(part, report.vocabulary, top) for name, part in report.parts.items()},
        "pruning": [dataclasses.asdict(step) for step in report.pruning],
        "balancing": [dataclasses.asdict(step) for step in report.balancing],
        "camera_makers": [dataclasses.asdict(maker) for maker in report.camera_makers],
    }


def _part(part: TagStatistics, vocabulary: TagVocabulary, top: int) -> dict[str, Any]:
    order = sorted(range(len(vocabulary)), key=lambda tag: (-part.counts[tag], tag))
    return {
        "images": part.images,
        "images_without_tags": part.images_without_tags,
        "unique_tags": part.unique_tags,
        "mean_tags": part.mean_tags,
        "median_tags": part.median_tags,
        "max_tags": part.max_tags,
        "most_frequent": [
            {
                "tag": vocabulary.tags[tag],
                "display": vocabulary.displays[tag],
                "images": int(part.counts[tag]),
                "share": int(part.counts[tag]) / max(part.images, 1),
            }
            for tag in order[:top]
            if part.counts[tag]
        ],
    }


def as_text(report: Report, top: int) -> str:
    """The report as tables."""
    lines = []
    if report.camera_makers:
        lines += ["camera makers in tags:", f"  {'':<24}{'tags':>10}{'photos':>10}"]
        lines += [f"  {maker.name:<24}{maker.tags:>10,}{maker.images:>10,}" for maker in report.camera_makers] + [""]
    for title, steps in (("pruning", report.pruning), ("balancing", report.balancing)):
        if steps:
            lines += [f"{title}:", table(steps), ""]
    lines.append(f"{'':12}" + "".join(f"{title:>14}" for title in _TITLES))
    for name, part in report.parts.items():
        numbers = (part.images, part.images_without_tags, part.unique_tags)
        spread = f"{part.mean_tags:14.2f}{part.median_tags:14g}{part.max_tags:14,}"
        lines.append(f"{name:12}" + "".join(f"{number:14,}" for number in numbers) + spread)
    for name, part in report.parts.items():
        lines += ["", f"most frequent tags, {name}:"]
        for entry in _part(part, report.vocabulary, top)["most_frequent"]:
            lines.append(f"  {entry['display']:<24}{entry['images']:>10,}{entry['share']:>10.2%}")
    return "\n".join(lines)
