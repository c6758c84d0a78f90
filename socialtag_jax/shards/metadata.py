"""The files that make a folder of shards a TFDS data set, and the manifest that makes it complete."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from socialtag_jax import files
from socialtag_jax.shards.dataset import MANIFEST, SplitShards
from socialtag_jax.tags import TagVocabulary


def features(tags: Sequence[str] | None = None) -> tfds.features.FeaturesDict:
    """A record's features; the labels have no names yet where `tags` is None."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image_id": tfds.features.Text(),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=tags)),
        }
    )


def write_tfds(
    folder: Path, name: str, version: str, vocabulary: TagVocabulary, splits: Mapping[str, SplitShards]
) -> None:
    """Writes `dataset_info.json` and `features.json` with TFDS itself, which then agrees with them by construction."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(folder),
        dataset_name=name,
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(vocabulary.tags),
        version=version,
        filename_template=template,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(shards.lengths),
                num_bytes=shards.size,
                filename_template=template.replace(split=split),
            )
            for split, shards in splits.items()
        ],
        # Reading an example back would need TensorFlow.
        check_data=False,
        description="Tagged photos, prepared by socialtag-jax.",
    )


def write_manifest(folder: Path, source_fingerprint: str, counts: Mapping[str, int]) -> None:
    """Writes the manifest: size and SHA-256 of every file in the folder, but for the indexes, which can be rebuilt.

    Args:
      folder: with all other files written.
      source_fingerprint: of the photos and options that the data set was made from.
      counts: "photos", "written" and "rejected".
    """
    entries = {
        path.name: {"size": path.stat().st_size, "sha256": files.sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST and path.suffix != ".index"
    }
    content = {"source": {"fingerprint": source_fingerprint, **counts}, "files": entries}
    files.write_text(folder / MANIFEST, json.dumps(content, indent=1) + "\n")
