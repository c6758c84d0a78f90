"""Neither a photo's path nor its folder influences what is learnt or scored: in HARRISON, the folder tells the tag."""

import dataclasses
import io
from pathlib import Path

import jax
import numpy as np

from socialtag_jax.config import Augmentation, Experiment, Input, Model, Stage
from socialtag_jax.evaluate import Evaluation, evaluate
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.train import Trainer
from socialtag_jax.trained import load, run_scorer
from tests.photos import COLOURS, photo_folder, prepared

PHOTOS = 30
EXPERIMENT = Experiment(
    name="leaks",
    weights="random",
    model=Model(input_size=48, hidden_units=8),
    stages=(Stage(epochs=1),),
    augmentation=Augmentation(),
    input=Input(batch_size=8, eval_batch_size=8, threads=1),
)


def dataset_called(root: Path, folders: dict[str, str]) -> Dataset:
    """The same photos, tags and splits, in folders that `folders` names by colour; the order of the ids is kept."""
    names = list(COLOURS)
    splits = ["train"] * 8 + ["validation", "test"]
    rows = {}
    for number in range(PHOTOS):
        colour = names[number % 3]
        path = f"{number:03d}/{folders[colour]}/{folders[colour]}.png"
        rows[path] = ([colour], splits[number % 10])
    return open_dataset(prepared(photo_folder(root / "in", rows), root / "out").folder)


def trained_and_scored(dataset: Dataset, run: Path) -> tuple[list[bytes], Evaluation]:
    devices = Devices()
    Trainer(EXPERIMENT, dataset, run, devices=devices, log=lambda _: None, stream=io.StringIO()).run()
    params = load(run, "latest", devices, log=lambda _: None).params
    scorer = run_scorer(run, "latest", devices, log=lambda _: None)
    result = evaluate(scorer, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)], result


def test_folders_that_tell_the_tag_and_folders_that_lie(tmp_path: Path):
    telling = dataset_called(tmp_path / "telling", {colour: colour for colour in COLOURS})
    lying = dataset_called(tmp_path / "lying", {"red": "green", "green": "blue", "blue": "red"})
    records = [dataset.records("train") for dataset in (telling, lying)]
    pairs = [(records[0][index], records[1][index]) for index in range(len(records[0]))]
    assert all(dataclasses.replace(one, image_id="") == dataclasses.replace(other, image_id="") for one, other in pairs)
    assert all(one.image_id != other.image_id for one, other in pairs)
    (params, scores), (other_params, other_scores) = (
        trained_and_scored(dataset, tmp_path / name) for dataset, name in ((telling, "run-a"), (lying, "run-b"))
    )
    assert params == other_params
    assert scores.summary["scores"] == other_scores.summary["scores"]
    assert list(scores.labels.image_ids) != list(other_scores.labels.image_ids)
