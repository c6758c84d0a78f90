"""What does always naming the most frequent tags score on HARRISON? The thesis's model has a mean F1 of 0.07.

From the label lists alone: no image is needed. Splits are drawn as `socialtag prepare` draws them, by seed.

Command:  python experiments/benchmarks/harrison_popularity.py --input FOLDER_WITH_THE_LISTS [--seeds 3] [--json FILE]
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from socialtag_jax.labels import normalise, pack
from socialtag_jax.protocols import SplitLabels, popularity
from socialtag_jax.sources import harrison
from socialtag_jax.sources.splits import assign_splits

SPLITS = {"80/10/10": (0.1, 0.1), "52,383/5,000": (0.05, 5000)}
"""Validation and test, as `socialtag prepare --validation --test` takes them; validation counts as training here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    photos = harrison.read(options.input, need_images=False, warn=print)
    labels = normalise(pack(photo.tags for photo in photos)).in_vocabulary_order()
    results: list[dict[str, Any]] = []
    for name, (validation, test) in SPLITS.items():
        for seed in range(options.seeds):
            splits = np.array(assign_splits(photos, seed=seed, validation=validation, test=test, warn=print))
            training = labels.keep_photos(splits != "test").statistics().counts
            tested = np.flatnonzero(splits == "test")
            tag_ids = np.full((len(tested), int(labels.lengths.max())), -1, np.int32)
            for row, photo in enumerate(tested.tolist()):
                tags = labels.of(photo)
                tag_ids[row, : len(tags)] = tags
            truth = SplitLabels([photos[photo].image_id for photo in tested.tolist()], tag_ids)
            for predictor, scores in popularity(training, truth).items():
                results.append({"splits": name, "test_images": len(tested), "seed": seed, "tags": predictor, **scores})
    print(f"{'splits':14}{'seed':>5}{'tags':>15}{'F1 mean':>9}{'median':>8}{'std':>7}{'F1 0':>7}", end="")
    print(f"{'recall':>8}{'precision':>10}{'P@1':>7}{'R@5':>7}{'A@5':>7}")
    for one in results:
        f1 = one["f1"]
        print(f"{one['splits']:14}{one['seed']:5}{one['tags']:>15}{f1['mean']:9.3f}{f1['median']:8.3f}", end="")
        print(
            f"{f1['std']:7.3f}{f1['zero_share']:7.0%}{one['recall']['mean']:8.3f}{one['precision']['mean']:10.3f}",
            end="",
        )
        print(f"{one['precision_at_1']:7.3f}{one['recall_at_5']:7.3f}{one['accuracy_at_5']:7.3f}")
    if options.json:
        content = {"results": results, "python": platform.python_version(), "numpy": np.__version__}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
