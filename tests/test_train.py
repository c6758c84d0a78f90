"""The loop on four simulated devices: runs, resumes to the bit, refuses what does not fit; evaluation and export."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from socialtag_jax import Tagger, files, trained
from socialtag_jax.checkpoint_folder import MisfitError
from socialtag_jax.checkpoints import RunCheckpoints
from socialtag_jax.config import Augmentation, Checkpoints, Experiment, Input, Model, Optimizer, Stage, resolve
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.evaluate import evaluate
from socialtag_jax.export import export_bundle
from socialtag_jax.parallel import Devices
from socialtag_jax.rules import parse_pruning
from socialtag_jax.run_start import resolved
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.train import Trainer, TrainResult
from socialtag_jax.trained import run_scorer
from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import arrays_of, metrics_of, untimed_metrics_of

EXPERIMENT = Experiment(
    name="colours",
    weights="random",
    model=Model(input_size=48, hidden_units=32),
    optimizer=Optimizer(learning_rate=1e-3),
    input=Input(batch_size=8, eval_batch_size=8),
    stages=(Stage(epochs=2, freeze_layers=19), Stage(epochs=1, freeze_layers=16, learning_rate=1e-4)),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


def train(
    experiment: Experiment, dataset: Dataset, workdir: Path, log: Callable[[str], None] = lambda _: None
) -> TrainResult:
    return Trainer(experiment, dataset, workdir, devices=Devices(), log=log, stream=io.StringIO()).run()


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run, and what it said."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    lines: list[str] = []
    result = train(EXPERIMENT, dataset, workdir, lines.append)
    assert dataclasses.astuple(result.position)[:4] == (1, 1, 3, 9)
    return workdir, lines


def test_run_folder(run: tuple[Path, list[str]]):
    workdir, _ = run
    lines = metrics_of(workdir)
    assert [(line["step"], line["epoch"]) for line in lines if line["kind"] == "validation"] == [(3, 1), (6, 2), (9, 3)]
    assert all(np.isfinite(line["loss"]) for line in lines)
    config = json.loads((workdir / "config.json").read_text())
    assert config["device"] == {"platform": "cpu", "kind": "cpu", "count": 4}
    assert config["experiment"]["stages"][1]["freeze_layers"] == 16
    assert config["versions"]["jax"] == jax.__version__
    assert list((workdir / "tensorboard").iterdir())
    assert {"6", "9"} <= {path.name for path in (workdir / "checkpoints").iterdir()}


def test_what_is_said_before_the_first_step(run: tuple[Path, list[str]]):
    text = "\n".join(run[1])
    assert "devices: 4 x cpu (cpu)" in text
    assert "24 training and 3 validation images, 4 tags" in text
    trainable = 512 * 32 + 32 + 32 * 4 + 4
    assert f"first 19 of 19 layers frozen, learning rate 0.001, {trainable:,} of {14_714_688 + trainable:,}" in text
    assert "GFLOPs an image at 48 px, float32" in text
    assert "estimated time:" in text


def test_frozen_layers_are_those_of_the_start(run: tuple[Path, list[str]]):
    """After both stages, block5_conv1 and all below it are as they were drawn."""
    from socialtag_jax.model import init_params
    from socialtag_jax.steps import build_model

    start = init_params(build_model(resolve(EXPERIMENT, "cpu"), 4), jax.random.key(EXPERIMENT.seed), 48)
    end = arrays_of(run[0], 9)
    moved = {
        name
        for name, data in end.items()
        if np.asarray(start[name.split("/")[0]][name.split("/")[1]]).tobytes() != data
    }
    assert {name.split("/")[0] for name in moved} == {"block5_conv2", "block5_conv3", "tags_hidden", "tags_logits"}


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    run: tuple[Path, list[str]], dataset: Dataset, tmp_path: Path, epoch: int
):
    """Stopped inside a stage, and between two."""

    def interrupt(line: str) -> None:
        if line.startswith(f"epoch {epoch}:"):
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(EXPERIMENT, dataset, tmp_path / "run", interrupt)
    lines: list[str] = []
    train(EXPERIMENT, dataset, tmp_path / "run", lines.append)
    assert f"continuing after epoch {epoch}, step {3 * epoch}" in lines
    assert arrays_of(tmp_path / "run", 9) == arrays_of(run[0], 9)
    whole, again = (untimed_metrics_of(folder) for folder in (run[0], tmp_path / "run"))
    assert whole == again


def test_a_finished_run_is_left_alone(run: tuple[Path, list[str]], dataset: Dataset):
    before = arrays_of(run[0], 9)
    assert train(EXPERIMENT, dataset, run[0]).summary == {}
    assert arrays_of(run[0], 9) == before


def test_more_epochs_of_the_last_stage_go_on(run: tuple[Path, list[str]], dataset: Dataset, tmp_path: Path):
    first, last = EXPERIMENT.stages
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy)
    longer = dataclasses.replace(EXPERIMENT, stages=(first, dataclasses.replace(last, epochs=2)))
    assert train(longer, dataset, copy).position.step == 12
    other = dataclasses.replace(EXPERIMENT, stages=(dataclasses.replace(first, epochs=5), last))
    with pytest.raises(UserError, match=r"started with stages\.0\.epochs = 2, now it is 5"):
        train(other, dataset, copy)


def test_a_run_that_saved_nothing_may_start_over(dataset: Dataset, tmp_path: Path):
    missing = dataclasses.replace(EXPERIMENT, weights=str(tmp_path / "nothing.safetensors"))
    with pytest.raises(UserError, match=r"nothing\.safetensors"):
        train(missing, dataset, tmp_path / "run")
    short = dataclasses.replace(EXPERIMENT, stages=(Stage(epochs=1),), debug_batches=1)
    assert train(short, dataset, tmp_path / "run").position.step == 1


def test_two_runs_in_one_folder_are_refused(dataset: Dataset, tmp_path: Path):
    with files.exclusive(tmp_path / "run"), pytest.raises(UserError, match="another process is at work here"):
        train(EXPERIMENT, dataset, tmp_path / "run")


def test_another_configuration_is_refused(run: tuple[Path, list[str]], dataset: Dataset):
    other = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(learning_rate=0.5))
    with pytest.raises(UserError, match=r"started with optimizer\.learning_rate = 0\.001, now it is 0\.5"):
        train(other, dataset, run[0])


def test_what_early_stopping_goes_by_stays(run: tuple[Path, list[str]], dataset: Dataset):
    """A loss cannot be compared with the best F1; how many epochs to wait, and what to keep, may be changed."""
    other = dataclasses.replace(EXPERIMENT, checkpoints=Checkpoints(monitor="f1", patience=5, keep_latest=1))
    with pytest.raises(UserError, match=r"the run was started with checkpoints\.monitor = 'loss', now it is 'f1' --"):
        train(other, dataset, run[0])


def test_checkpoints_of_another_run_are_refused(run: tuple[Path, list[str]], dataset: Dataset, tmp_path: Path):
    """Put into the folder by hand: the head would be trained on with other tags."""
    shutil.copytree(run[0], tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "9"
    with RunCheckpoints(newest.parent, Checkpoints(), log=lambda _: None) as saved:
        content = {**saved.meta(9).content, "dataset_fingerprint": "another"}
        zeros = {"layer": {"kernel": np.zeros(1, np.float32)}}
        saved.save(12, zeros, zeros, content, {"loss": 1.0, "f1": 0.1})
    with pytest.raises(MisfitError, match="of a run on another data set: its dataset_fingerprint differs"):
        train(EXPERIMENT, dataset, tmp_path / "run")


def test_checkpoints_that_are_gone_are_missed(run: tuple[Path, list[str]], dataset: Dataset, tmp_path: Path):
    shutil.copytree(run[0], tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="the run has done 3 epochs, but its checkpoints are gone"):
        train(EXPERIMENT, dataset, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_a_run_goes_on_in_its_dtype_on_another_kind_of_device(run: tuple[Path, list[str]]):
    """Started on a CPU with "auto"; a TPU's is bfloat16."""
    devices = Devices()
    devices.devices = tuple(FakeTpu() for _ in devices.devices)
    lines: list[str] = []
    assert devices.platform == "tpu"
    assert resolved(EXPERIMENT, Path("nowhere"), devices, lines.append).model.compute_dtype == "bfloat16"
    assert lines == []
    assert resolved(EXPERIMENT, run[0], devices, lines.append).model.compute_dtype == "float32"
    assert lines == ["compute dtype: float32, in which the run was started"]
    chosen = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, compute_dtype="bfloat16"))
    assert resolved(chosen, run[0], devices, lines.append) == chosen


class FakeTpu:
    platform = "tpu"


def test_another_data_set_is_refused(run: tuple[Path, list[str]], source: Path, tmp_path: Path):
    other = open_dataset(prepared(source, tmp_path, seed=7).folder)
    with pytest.raises(UserError, match="trained on another data set"):
        train(EXPERIMENT, other, run[0])


def test_a_folder_with_other_things_is_refused(dataset: Dataset, tmp_path: Path):
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(UserError, match="not empty and holds no run"):
        train(EXPERIMENT, dataset, tmp_path)


def test_batch_must_divide(dataset: Dataset, tmp_path: Path):
    odd = dataclasses.replace(EXPERIMENT, input=Input(batch_size=6))
    with pytest.raises(UsageError, match=r"--input\.batch-size: 6 images do not divide among 4 devices"):
        train(odd, dataset, tmp_path / "run")


def test_a_diverged_run_stops_with_its_step(dataset: Dataset, tmp_path: Path):
    wild = dataclasses.replace(
        EXPERIMENT, stages=(Stage(epochs=9, freeze_layers=0),), optimizer=Optimizer(learning_rate=1e30)
    )
    with pytest.raises(UserError, match=r"the (validation )?loss .*epoch 1,? is (nan|inf): training diverged"):
        train(wild, dataset, tmp_path / "run")


def test_restored_on_fewer_devices(run: tuple[Path, list[str]]):
    one = trained.load(run[0], "latest", Devices(jax.local_devices()[:1]), log=lambda _: None)
    assert len(one.params["tags_logits"]["kernel"].devices()) == 1


@pytest.mark.parametrize("checkpoint", ["7", "newest"])
def test_unknown_checkpoint(run: tuple[Path, list[str]], checkpoint: str):
    with pytest.raises(UsageError, match=r"--checkpoint: .* expected best, latest or one of the steps"):
        trained.load(run[0], checkpoint, Devices(), log=lambda _: None)


@pytest.fixture(scope="module")
def bundle(run: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "colours"
    export_bundle(trained.load(run[0], "latest", Devices(), log=lambda _: None), output)
    return output


def test_evaluation_is_exact_for_every_batch_size(run: tuple[Path, list[str]], dataset: Dataset):
    results = []
    for batch_size in (4, 16):
        scorer = run_scorer(run[0], "latest", Devices(), log=lambda _: None)
        results.append(evaluate(scorer, dataset, "train", batch_size=batch_size, threads=2, stream=io.StringIO()))
    # All four tags are ranked.
    np.testing.assert_allclose(results[0].ranking.probabilities, results[1].ranking.probabilities, atol=1e-6)
    for name in ("f1", "recall", "precision"):
        one, other = (result.summary["scores"]["model"][name] for result in results)
        assert one == pytest.approx(other)
    assert results[0].summary["images"] == 24


def test_tagger_equals_the_training_side(run: tuple[Path, list[str]], bundle: Path, source: Path, dataset: Dataset):
    """On the photo files themselves: the whole way from file to probability is the same."""
    tagger = Tagger.load(bundle)
    scorer = run_scorer(run[0], "latest", Devices(), log=lambda _: None)
    result = evaluate(scorer, dataset, "test", batch_size=8, threads=1, stream=io.StringIO())
    paths = [source / name for name in result.labels.image_ids]
    images = np.stack([tagger.pixels(path) for path in paths])
    np.testing.assert_allclose(-np.sort(-tagger.probabilities(images)), result.ranking.probabilities, atol=1e-5)
    many = tagger.suggest(paths, threshold=0.0)
    for path, tags in zip(paths, many, strict=True):
        (alone,) = tagger.suggest(path, threshold=0.0)
        assert [one.tag for one in alone] == [one.tag for one in tags]
        np.testing.assert_allclose([one.confidence for one in alone], [one.confidence for one in tags], atol=1e-5)


def test_tagger_takes_arrays_and_checks_them(bundle: Path):
    tagger = Tagger.load(bundle)
    image = np.full((60, 90, 3), 200, np.uint8)
    assert len(tagger.suggest([image, image], threshold=0.0, max_tags=2)[1]) == 2
    with pytest.raises(UserError, match=r"photo array: expected RGB pixels as uint8"):
        tagger.suggest(image.astype(np.float32))
    with pytest.raises(UserError, match="expected images as uint8"):
        tagger.probabilities(image[None])


def test_tagger_imports_nothing_of_training(bundle: Path):
    code = (
        "import sys; from socialtag_jax import Tagger; import numpy as np\n"
        f"print(len(Tagger.load({str(bundle)!r}).suggest(np.zeros((50, 50, 3), np.uint8), threshold=0.0)[0]))\n"
        "print(sorted({'flax', 'optax', 'orbax', 'grain', 'tensorflow_datasets', 'tyro'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["4", "[]"]


def test_bundle_files(bundle: Path, dataset: Dataset):
    from safetensors import safe_open

    description = json.loads((bundle / "tagger.json").read_text())
    assert set(description["files"]) == {path.name for path in bundle.iterdir()} - {"tagger.json"}
    assert description["provenance"]["checkpoint_step"] == 9
    with safe_open(bundle / "params.safetensors", framework="numpy") as file:
        assert file.get_tensor("block5_conv3/kernel").shape == (3, 3, 512, 512)
        assert file.metadata()["source"] == "colours, step 9"
    assert (bundle / "tags.txt").read_text().split() == list(Tagger.load(bundle).vocabulary.tags)
    # Where the data set lay is nobody else's business.
    assert not [path for path in bundle.iterdir() if str(dataset.location).encode() in path.read_bytes()]


def test_training_goes_on_from_a_bundle_with_the_same_tags(
    bundle: Path, source: Path, dataset: Dataset, tmp_path: Path
):
    """Both data sets have four tags; only one has the bundle's."""
    others = {name: (["x" + tag for tag in tags], split) for name, (tags, split) in colour_rows(30).items()}
    other = open_dataset(prepared(photo_folder(tmp_path / "source", others), tmp_path / "data").folder)
    assert len(other.vocabulary) == len(dataset.vocabulary) == 4
    experiment = dataclasses.replace(EXPERIMENT, weights=str(bundle / "params.safetensors"), debug_batches=1)
    experiment = dataclasses.replace(experiment, stages=(Stage(epochs=1),))
    for its_dataset, words in ((dataset, "its 4 tags are the data set's"), (other, "the head starts fresh: it was")):
        lines: list[str] = []
        train(experiment, its_dataset, tmp_path / its_dataset.fingerprint, lines.append)
        assert any(words in line for line in lines), lines


@pytest.mark.parametrize("name", ["tags.txt", "model.stablehlo", "params.safetensors"])
def test_a_changed_bundle_is_refused(bundle: Path, name: str):
    path = bundle / name
    before = path.read_bytes()
    try:
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        with pytest.raises(
            UserError, match=rf"{name}: the file was changed: its SHA-256 is not what tagger\.json says"
        ):
            Tagger.load(bundle)
    finally:
        path.write_bytes(before)


def test_export_never_overwrites(run: tuple[Path, list[str]], bundle: Path):
    with pytest.raises(UserError, match="exists already"):
        export_bundle(trained.load(run[0], "latest", Devices(), log=lambda _: None), bundle)


def test_evaluation_knows_the_data_set_it_was_trained_on(
    run: tuple[Path, list[str]], source: Path, dataset: Dataset, tmp_path: Path
):
    """Byte-identical data prepared again is the same data set; another seed's splits are not."""
    scorer = run_scorer(run[0], "latest", Devices(), log=lambda _: None)
    assert scorer.trained_on == dataset.fingerprint
    assert open_dataset(prepared(source, tmp_path / "again").folder).fingerprint == dataset.fingerprint
    assert open_dataset(prepared(source, tmp_path / "other", seed=3).folder).fingerprint != dataset.fingerprint


def test_another_vocabulary_is_refused(run: tuple[Path, list[str]], source: Path, tmp_path: Path):
    other = open_dataset(prepared(source, tmp_path, pruning=parse_pruning(["allow=red,blue"])).folder)
    scorer = run_scorer(run[0], "latest", Devices(), log=lambda _: None)
    with pytest.raises(UserError, match="the data set's 2 tags are not the 4 tags"):
        evaluate(scorer, other, "test", batch_size=8, threads=1, stream=io.StringIO())


def test_augmented_training_runs(dataset: Dataset, tmp_path: Path):
    experiment = dataclasses.replace(EXPERIMENT, augmentation=Augmentation(), stages=(Stage(epochs=1),))
    assert train(experiment, dataset, tmp_path / "run").position.step == 3


def test_a_stage_ends_early(dataset: Dataset, tmp_path: Path):
    """At a learning rate that moves nothing, F1 stays as it is: the first epoch is the best, two more are no better."""
    experiment = dataclasses.replace(
        EXPERIMENT,
        optimizer=Optimizer(learning_rate=1e-12),
        stages=(Stage(epochs=6),),
        checkpoints=Checkpoints(monitor="f1", patience=2),
    )
    lines: list[str] = []
    assert train(experiment, dataset, tmp_path / "run", lines.append).position.epoch == 3
    assert "stage 1: stopped early, 2 epochs no better than the best" in lines
    # A finished run stays finished.
    assert train(experiment, dataset, tmp_path / "run").position.epoch == 3
