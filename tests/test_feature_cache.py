"""Cached features: the files themselves, and training from them, which is training from the photos."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialtag_jax import feature_cache, files, memory_check
from socialtag_jax.config import Augmentation, Cache, Experiment, Input, Optimizer, Stage, resolve
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.feature_cache import FeatureView
from socialtag_jax.feature_data import FeatureData, is_cached
from socialtag_jax.model import TagPredictor, frozen_features, init_params, tag_logits
from socialtag_jax.parallel import Devices
from socialtag_jax.run_start import initial_params
from socialtag_jax.shards.dataset import Dataset, open_dataset
from socialtag_jax.steps import build_model
from tests.photos import colour_rows, photo_folder, prepared
from tests.runs import arrays_of, metrics_of, untimed_metrics_of
from tests.test_train import EXPERIMENT as SHORT
from tests.test_train import train

RECORDS, TAGS = 1200, 3


def new_view(root: Path, *, dtype: str = "float32", **key: Any) -> FeatureView:
    return FeatureView(root, "demo-train", key, feature_shape=(2, 4), dtype=dtype, max_tags=TAGS, records=RECORDS)


def parts(rows: range, size: int = 100) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The features of record r begin with r; its tags are r, r + 1, r + 2."""
    for start in range(rows.start, rows.stop, size):
        numbers = np.arange(start, min(start + size, rows.stop))
        features = np.zeros((len(numbers), 2, 4), np.float32)
        features[:, 0, 0], features[:, 1, 3] = numbers, -numbers
        yield features, (numbers[:, None] + np.arange(TAGS)).astype(np.int32)


def write(view: FeatureView) -> int:
    return sum(sum(view.write(rows.start, parts(rows))) for rows in view.missing())


def test_rows_come_back(tmp_path: Path):
    view = new_view(tmp_path, seed=1)
    assert view.missing() == [range(RECORDS)]
    assert view.nbytes == view.missing_bytes == RECORDS * (8 * 4 + TAGS * 4 + 4)
    assert write(view) == RECORDS
    again = new_view(tmp_path, seed=1)
    assert again.missing() == []
    for index in (0, 511, 512, 1199):
        (row,) = again.rows(np.array([index]))
        assert row["features"].tolist() == [[index, 0, 0, 0], [0, 0, 0, -index]]
        assert row["tag_ids"].tolist() == [index, index + 1, index + 2]
    features, tag_ids = again.all()
    assert (features[:, 0, 0] == np.arange(RECORDS)).all()
    assert (tag_ids[:, 2] == np.arange(RECORDS) + 2).all()
    assert features.dtype == np.float32


def test_what_was_written_is_not_written_again(tmp_path: Path):
    """A writer that is stopped keeps its whole shards of 512 rows; a shard that is gone is computed alone."""
    view = new_view(tmp_path)
    stopped = view.write(0, parts(range(RECORDS)))
    for _ in range(11):
        next(stopped)
    stopped.close()
    assert new_view(tmp_path).missing() == [range(1024, RECORDS)]
    assert write(new_view(tmp_path)) == RECORDS - 1024
    (view.folder / "rows-0000000000.bin").unlink()
    cut = view.folder / "rows-0000000512.bin"
    cut.write_bytes(cut.read_bytes()[:-1])
    assert new_view(tmp_path).missing() == [range(1024)]
    assert write(new_view(tmp_path)) == 1024
    assert float(new_view(tmp_path).rows(np.array([700]))["features"][0, 0, 0]) == 700


KILLED_WRITING = """
import os, signal, sys
from pathlib import Path
from socialtag_jax import files
with files.atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half a shard")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept(tmp_path: Path):
    view = new_view(tmp_path)
    view.folder.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITING, str(view.folder / "rows-0000000512.bin")])
    assert killed.returncode == -signal.SIGKILL
    (left,) = view.folder.iterdir()
    with files.atomic_path(view.folder / "rows-0000001536.bin") as temporary:
        temporary.write_bytes(b"of a living process")
        elsewhere = left.with_name(f"{left.name.rpartition('@')[0]}@another-computer.tmp")
        old, other = elsewhere.with_name(f".old{elsewhere.name}"), left.with_name(".notes.tmp")
        for path in (elsewhere, old, other):
            path.write_bytes(b"x")
        os.utime(old, (0, 0))
        write(view)
        assert temporary.exists()
        found = {path.name for path in view.folder.iterdir()}
    names = {"key.json", "rows-0000000000.bin", "rows-0000000512.bin", "rows-0000001024.bin"}
    assert found == names | {temporary.name, elsewhere.name, other.name}


def test_other_keys_are_other_folders(tmp_path: Path):
    keys: list[dict[str, Any]] = [{}, {"seed": 1}, {"seed": 2}, {"seed": 1, "weights": "ab"}, {"dtype": "float16"}]
    assert len({new_view(tmp_path, **key).folder for key in keys}) == len(keys)


def test_a_key_that_does_not_match_is_refused(tmp_path: Path):
    view = new_view(tmp_path, seed=1)
    write(view)
    key = view.folder / feature_cache.KEY
    key.write_text(key.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(UserError, match=r"key\.json: the features were computed from something else"):
        new_view(tmp_path, seed=1).missing()


@pytest.mark.parametrize("offset", [0, 8 * 4, 8 * 4 + TAGS * 4])
def test_a_damaged_row_is_found(tmp_path: Path, offset: int):
    """In the features, in the tags, and in the checksum itself."""
    view = new_view(tmp_path)
    write(view)
    path = view.folder / "rows-0000000512.bin"
    data = bytearray(path.read_bytes())
    data[(8 * 4 + TAGS * 4 + 4) * 3 + offset] ^= 1
    path.write_bytes(data)
    assert len(new_view(tmp_path).rows(np.array([514, 511]))) == 2
    with pytest.raises(UserError, match=r"rows-0000000512\.bin: the checksum of record 515's features"):
        new_view(tmp_path).rows(np.array([3, 515]))


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path):
    view = new_view(tmp_path, dtype="float16")
    features = np.full((1, 2, 4), 65_536, np.float32)
    with pytest.raises(UserError, match=r"--cache\.dtype: a feature is 65536, which float16 cannot hold"):
        next(view.write(0, iter([(features, np.zeros((1, TAGS), np.int32))])))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(tmp_path: Path, value: float):
    features = np.full((1, 2, 4), value, np.float32)
    with pytest.raises(UserError, match=f"a feature is {value}: the frozen layers overflow"):
        next(new_view(tmp_path).write(0, iter([(features, np.zeros((1, TAGS), np.int32))])))


def test_a_closed_view_holds_no_files_open(tmp_path: Path):
    view = new_view(tmp_path)
    write(view)
    before = len(list(Path("/proc/self/fd").iterdir()))
    view.rows(np.arange(0, RECORDS, 100))
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    view.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(view.rows(np.arange(2))) == 2


def test_many_records_are_few_files(tmp_path: Path):
    view = FeatureView(tmp_path, "x", {}, feature_shape=(512,), dtype="float32", max_tags=10, records=10_000_000)
    assert view.missing() == [range(10_000_000)]
    assert view._shard_rows * 256 >= 10_000_000


EXPERIMENT = dataclasses.replace(
    SHORT, stages=(Stage(epochs=2, freeze_layers=19), Stage(epochs=2, freeze_layers=16, learning_rate=1e-4))
)


def cached(folder: Path, views: int, experiment: Experiment = EXPERIMENT, **options: Any) -> Experiment:
    return dataclasses.replace(experiment, cache=Cache(views=views, folder=str(folder), **options))


def without_augmentation(experiment: Experiment) -> Experiment:
    return dataclasses.replace(experiment, augmentation=Augmentation(enabled=False))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = photo_folder(tmp_path_factory.mktemp("source"), colour_rows(30))
    return open_dataset(prepared(source, tmp_path_factory.mktemp("data")).folder)


@pytest.fixture(scope="module")
def online(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains from the photos."""
    workdir = tmp_path_factory.mktemp("runs") / "online"
    train(EXPERIMENT, dataset, workdir)
    return workdir


def test_as_many_views_as_epochs_train_as_without_a_cache(online: Path, dataset: Dataset, tmp_path: Path):
    """To the bit, in both stages, with augmentation, dropout, an odd last batch, and on four devices."""
    lines: list[str] = []
    train(cached(tmp_path / "cache", 2), dataset, tmp_path / "run", lines.append)
    assert arrays_of(tmp_path / "run", 12) == arrays_of(online, 12)
    one, other = (untimed_metrics_of(folder) for folder in (online, tmp_path / "run"))
    # What the network says of the validation photos is computed in one piece there, and in two here.
    losses = [[line.pop("loss") for line in lines if line["kind"] == "validation"] for lines in (one, other)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    assert one == other
    # 24 photos in 2 views and 3 to validate with: 512 or 3 x 3 x 512 features of 4 bytes, 2 tags and the checksum.
    size = (24 * 2 + 3) * (512 * 4 + 3 * 3 * 512 * 4 + 2 * (2 * 4 + 4))
    assert f"feature cache: {size / 1e6:.1f} MB in {tmp_path / 'cache'}, all of it still to be computed" in lines
    assert len(list((tmp_path / "cache").iterdir())) == 6


def test_one_view_without_augmentation(dataset: Dataset, tmp_path: Path):
    for name, experiment in (("online", EXPERIMENT), ("cached", cached(tmp_path / "cache", 1))):
        train(without_augmentation(experiment), dataset, tmp_path / name)
    assert arrays_of(tmp_path / "cached", 12) == arrays_of(tmp_path / "online", 12)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_accumulated_steps_see_the_same_features(dataset: Dataset, tmp_path: Path):
    """The frozen layers run in parts as large as the training step's."""
    parts = dataclasses.replace(EXPERIMENT, input=Input(batch_size=16, eval_batch_size=8, accumulation_steps=2))
    experiment = dataclasses.replace(parts, stages=(Stage(epochs=2),))
    train(experiment, dataset, tmp_path / "online")
    train(cached(tmp_path / "cache", 2, experiment), dataset, tmp_path / "cached")
    assert arrays_of(tmp_path / "cached", 4) == arrays_of(tmp_path / "online", 4)


def test_features_that_do_not_fit_into_memory_are_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The head's own step fits; 8 photos of 48 px need 4 bytes for 2 x 64 features of 48 x 48 positions each."""
    least = 8 * 4 * 2 * 64 * 48 * 48
    assert least > 9e6
    limit = memory_check.Limit(60_000_000 // 4 + 2_000_000, None, 4)
    monkeypatch.setattr(memory_check, "memory_limit", lambda *_: limit)
    data = feature_data(cached(tmp_path / "cache", 1), dataset)
    with pytest.raises(UserError, match=r"--input\.batch-size: 8 images a step need .* MB on each device"):
        data.complete("train", 0)


def test_fewer_views_than_epochs_are_used_in_turn(online: Path, dataset: Dataset, tmp_path: Path):
    """One augmented view: the first epoch is as without a cache, the second sees the same pixels again."""
    train(cached(tmp_path / "cache", 1), dataset, tmp_path / "run")
    one, other = (
        [line for line in metrics_of(folder) if line["kind"] == "epoch"] for folder in (online, tmp_path / "run")
    )
    assert one[0]["loss"] == other[0]["loss"]
    assert one[1]["loss"] != other[1]["loss"]


def test_features_are_computed_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second run over the same features decodes no photo; other weights, sizes and augmentation find none."""
    experiment = cached(tmp_path / "cache", 1, dataclasses.replace(EXPERIMENT, stages=(Stage(epochs=1),)))
    train(experiment, dataset, tmp_path / "first")
    folders = set((tmp_path / "cache").iterdir())

    others = [
        dataclasses.replace(experiment, seed=1),
        dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, input_size=64)),
        dataclasses.replace(experiment, augmentation=Augmentation(rotation=10.0)),
        without_augmentation(experiment),
        dataclasses.replace(experiment, cache=dataclasses.replace(experiment.cache, dtype="float16")),
    ]
    for one in others:
        views = {view.folder for view in feature_data(one, dataset).needed_views(0) if view.missing()}
        assert views
        assert not views & folders

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr("socialtag_jax.input_pipeline.decode", refuse)
    train(dataclasses.replace(experiment, optimizer=Optimizer(learning_rate=1e-2)), dataset, tmp_path / "second")
    assert set((tmp_path / "cache").iterdir()) == folders


def feature_data(experiment: Experiment, dataset: Dataset, **options: Any) -> FeatureData:
    experiment = resolve(experiment, "cpu")
    model = build_model(experiment, len(dataset.vocabulary))
    params = initial_params(model, experiment, dataset.vocabulary.sha256, lambda _: None)
    stage = options.pop("stage", experiment.stages[0])
    return FeatureData(
        experiment, stage, dataset, model, Devices(), params, first_epoch=0, stream=io.StringIO(), **options
    )


def test_later_stages_use_what_was_trained_before(dataset: Dataset, tmp_path: Path):
    """block5_conv2 trains in the first stage and is frozen in the second, whose features are those of its end."""
    stages = (Stage(epochs=1, freeze_layers=16), Stage(epochs=1, freeze_layers=19))
    experiment = dataclasses.replace(EXPERIMENT, stages=stages)
    train(experiment, dataset, tmp_path / "online")
    train(cached(tmp_path / "cache", 1, experiment), dataset, tmp_path / "cached")
    assert arrays_of(tmp_path / "cached", 6) == arrays_of(tmp_path / "online", 6)


def test_an_interrupted_cache_goes_on(online: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With shards of 8 rows, stopped after two of three."""
    monkeypatch.setattr(feature_cache, "_SHARD_ROWS", 8)
    experiment = cached(tmp_path / "cache", 2)
    write = FeatureView.write

    def stop(view: FeatureView, start: int, rows: Any) -> Iterator[int]:
        for number, count in enumerate(write(view, start, rows)):
            if number == 2:
                raise KeyboardInterrupt
            yield count

    with monkeypatch.context() as patch:
        patch.setattr(FeatureView, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            train(experiment, dataset, tmp_path / "run")
    (view, *_) = feature_data(experiment, dataset).needed_views(0)
    assert len(list(view.folder.glob("rows-*.bin"))) >= 2
    train(experiment, dataset, tmp_path / "run")
    assert arrays_of(tmp_path / "run", 12) == arrays_of(online, 12)


def test_a_disk_that_is_too_small_is_refused(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=700_000))
    expected = rf"{tmp_path}/cache: the features to be computed need 1\.0 MB, but only 0\.7 MB are free"
    with pytest.raises(UserError, match=expected):
        train(cached(tmp_path / "cache", 2), dataset, tmp_path / "run")
    with pytest.raises(UserError, match="run/checkpoints: No space left on device: a checkpoint needs"):
        train(cached(tmp_path / "cache", 1), dataset, tmp_path / "run")


def test_float16_features_are_close(dataset: Dataset, tmp_path: Path):
    """Rounded by at most 1 in 2,048, or 2^-25 near zero; the logits follow within a bound that is worked out here."""
    data = feature_data(cached(tmp_path / "cache", 1, dtype="float16"), dataset)
    full = feature_data(cached(tmp_path / "cache", 1), dataset)
    half_features, _ = data.complete("train", 0).all()
    features, _ = full.complete("train", 0).all()
    assert half_features.dtype == np.float16
    rounding = np.abs(half_features.astype(np.float64) - features)
    assert (rounding <= np.maximum(np.abs(features) * 2.0**-11, 2.0**-25)).all()

    model = build_model(resolve(EXPERIMENT, "cpu"), len(dataset.vocabulary))
    params = init_params(model, jax.random.key(0), 48)
    exact, close = (
        np.asarray(tag_logits(model, params, jnp.asarray(one), first_layer=19), np.float64)
        for one in (features, half_features)
    )
    # A rounded input moves a logit by no more than through the absolute kernels, relu being 1-Lipschitz.
    hidden, logits = (
        np.abs(np.asarray(params[layer]["kernel"], np.float64)) for layer in ("tags_hidden", "tags_logits")
    )
    bound = rounding @ hidden @ logits
    assert (np.abs(exact - close) <= bound + 1e-5).all()
    assert np.abs(exact - close).max() > 0


@pytest.mark.parametrize("freeze_layers", [2, 3, 10, 16, 18, 19])
def test_features_hand_on_what_the_model_computes(freeze_layers: int):
    """Cut at any layer, the network gives the same logits."""
    model = TagPredictor(n_tags=5)
    params = init_params(model, jax.random.key(0), 48)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8))
    features = frozen_features(model, params, images, freeze_layers)
    logits = tag_logits(model, params, features, first_layer=freeze_layers)
    np.testing.assert_allclose(logits, tag_logits(model, params, images), rtol=1e-5, atol=1e-5)


def test_stages_without_frozen_convolutions_are_not_cached():
    experiment = cached(Path("cache"), 1)
    assert [is_cached(experiment, Stage(freeze_layers=n)) for n in (0, 1, 2, 19)] == [
        False,
        False,
        True,
        True,
    ]
    assert not is_cached(EXPERIMENT, Stage())


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"cache\.views: 2: expected 0 or 1, as all views of a photo are equal"):
        cached(Path("cache"), 2, without_augmentation(EXPERIMENT))
    with pytest.raises(UsageError, match=r"cache\.dtype: 'float16': expected 'float32', as it does nothing"):
        Cache(dtype="float16")
