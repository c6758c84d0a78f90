"""The files that make a folder of shards a TFDS data set, and the manifest that makes it complete."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from socialtag_jax import files
from socialtag_jax.shards.dataset import MANIFEST
from socialtag_jax.tags import TagVocabulary


@dataclass(frozen=True, slots=True)
class SplitShards:
    """What was written for one split: the number of records in each shard, and all shards' size in bytes."""

    lengths: Sequence[int]
    size: int


def write_tfds(
    folder: Path, name: str, version: str, vocabulary: TagVocabulary, splits: Mapping[str, SplitShards]
) -> None:
    """Writes `dataset_info.json` and `features.json` with TFDS itself, which then agrees with them by construction."""
    # Half a second of imports that only the end of `prepare` needs. TFDS's start-up asks a cloud bucket for a file list
    # unless told not to.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(folder),
        dataset_name=name,
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "image_id": tfds.features.Text(),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=vocabulary.tags)),
        }
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
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


def write_manifest(folder: Path, source_fingerprint: str) -> None:
    """Writes the manifest: size and SHA-256 of every file in the folder."""
    entries = {
        path.name: {"size": path.stat().st_size, "sha256": files.sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    content = {"source_fingerprint": source_fingerprint, "files": entries}
    files.write_text(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def read_fingerprint(manifest: Path) -> str:
    """The fingerprint of the photos and options that the data set was made from."""
    return json.loads(manifest.read_text(encoding="utf-8"))["source_fingerprint"]
