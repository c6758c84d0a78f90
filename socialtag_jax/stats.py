"""What `socialtag stats` shows: tag statistics of a data set by split, or of a source's labels alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from socialtag_jax.sources.photo import Photo
from socialtag_jax.tags import TagStatistics, TagVocabulary, build_vocabulary, tag_statistics

_TITLES = ("images", "without tags", "unique tags", "mean tags", "median", "max")


def count_labels(photos: Sequence[Photo]) -> tuple[TagVocabulary, dict[str, TagStatistics]]:
    """The vocabulary and the statistics of photos as their source lists them, whatever becomes of their images."""
    vocabulary = build_vocabulary(photo.tags for photo in photos)
    return vocabulary, {"whole": tag_statistics((vocabulary.encode(photo.tags) for photo in photos), len(vocabulary))}


def as_json(part: TagStatistics, vocabulary: TagVocabulary, top: int) -> dict[str, Any]:
    """One part's statistics as plain values, with its `top` most frequent tags by images and share."""
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


def as_text(parts: Mapping[str, TagStatistics], vocabulary: TagVocabulary, top: int) -> str:
    """All parts as tables."""
    lines = [f"{'':12}" + "".join(f"{title:>14}" for title in _TITLES)]
    for name, part in parts.items():
        numbers = (part.images, part.images_without_tags, part.unique_tags)
        spread = f"{part.mean_tags:14.2f}{part.median_tags:14g}{part.max_tags:14,}"
        lines.append(f"{name:12}" + "".join(f"{number:14,}" for number in numbers) + spread)
    for name, part in parts.items():
        lines += ["", f"most frequent tags, {name}:"]
        for entry in as_json(part, vocabulary, top)["most_frequent"]:
            lines.append(f"  {entry['display']:<24}{entry['images']:>10,}{entry['share']:>10.2%}")
    return "\n".join(lines)
