"""Batches of what the frozen layers made of the photos, which is computed once; see `training_data.TrainingData`.

Where several processes train together, each has a cache of its own, with the features of all photos: they compute them
together, and give them to each other.
"""

import dataclasses
import functools
import importlib.metadata
import math
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypedDict

import jax
import numpy as np

from socialtag_jax import input_pipeline, machine, memory_check, training_data
from socialtag_jax.bad_records import Damaged, never_skipped
from socialtag_jax.config import Experiment, Stage
from socialtag_jax.dispatch import one_ahead
from socialtag_jax.errors import UserError
from socialtag_jax.feature_cache import SKIPPED, FeatureView, weights_sha256
from socialtag_jax.input_pipeline import BatchShape, batch_count
from socialtag_jax.model import VGG16_LAYERS, Params, TagPredictor, frozen_features
from socialtag_jax.parallel import Agreement, CompiledStep, Devices
from socialtag_jax.progress import Progress, format_bytes
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.stopping import Stopped, StopRequest
from socialtag_jax.storage import local_path


class FeatureBatch(TypedDict):
    """A batch of features, split over the local devices by its leading axis.

    Keys:
      features: float32 or float16 [devices, rows, ...], see `model.frozen_features`.
      tag_ids: int32 [devices, rows, most tags of an image], ascending, padded with -1.
      weight: float32 [devices, rows]: 1, or 0 for the rows that pad the last batch, and those of skipped records.
    """

    features: np.ndarray
    tag_ids: np.ndarray
    weight: np.ndarray


class FeatureData:
    """Batches of cached features; see `TrainingData`.

    Views are computed when they are first needed: where the first epoch trains, the others need not be there yet.

    Args:
      experiment: whose compute dtype is resolved, with `cache.views` of at least 1.
      stage: which freezes at least one convolution.
      dataset: with a train and a validation split.
      devices: where features are computed.
      params: as they stand when the stage starts; what is frozen is used.
      first_epoch: epochs of the run before this stage: the first view is that of the epoch after them.
      stream: where progress is shown.
      stop: looked at between two batches of features; None where nobody asks.
      damaged_of: what to do with the damaged records of a split; those that are skipped have no features.
    """

    def __init__(
        self,
        experiment: Experiment,
        stage: Stage,
        dataset: Dataset,
        model: TagPredictor,
        devices: Devices,
        params: Params,
        *,
        first_epoch: int,
        stream: TextIO,
        stop: StopRequest | None = None,
        damaged_of: Callable[[str], Damaged] = never_skipped,
    ) -> None:
        self._experiment, self._dataset, self._devices = experiment, dataset, devices
        self._stop, self._damaged_of = stop or StopRequest(), damaged_of
        self._model, self._first_epoch, self._stream = model, first_epoch, stream
        self.first_layer = stage.freeze_layers
        self._train_shape = training_data.train_shape(experiment, dataset, devices)
        self._eval_shape = training_data.eval_shape(experiment, dataset, devices)
        part = self._train_shape.rows // experiment.input.accumulation_steps
        self._compute_shape = dataclasses.replace(self._train_shape, rows=part)
        row = jax.ShapeDtypeStruct(self._feature_shape(params), np.dtype(experiment.cache.dtype))
        self.train_shapes = training_data.shapes(row, self._train_shape, self.first_layer)
        self.eval_shapes = training_data.shapes(row, self._eval_shape, self.first_layer)
        self.views, self._epochs = min(experiment.cache.views, stage.epochs), stage.epochs
        frozen = {layer.name for layer in VGG16_LAYERS[: self.first_layer]}
        # A copy: the training step donates its state's arrays.
        self._params = jax.device_get({layer: leaves for layer, leaves in params.items() if layer in frozen})
        weights = weights_sha256(self._params)
        self._views = {
            (split, number): self._view(split, number, weights, row.shape)
            for split, count in (("train", self.views), ("validation", 1))
            for number in range(count)
        }

    @functools.cached_property
    def _compute(self) -> CompiledStep:
        """Features of a batch, in the parts in which the training step takes it: they run as the same kernels there.

        Raises:
          UserError: it does not fit into memory.
        """
        shape, devices = self._compute_shape, self._devices
        step = functools.partial(_features_step, model=self._model, freeze_layers=self.first_layer)

        def images(rows: int) -> dict[str, jax.ShapeDtypeStruct]:
            return {
                "images": jax.ShapeDtypeStruct((len(devices), rows, shape.input_size, shape.input_size, 3), np.uint8)
            }

        def compiled(rows: int) -> CompiledStep:
            return devices.compile_eval_step(step, self._params, images(rows))

        def need(rows: int, program: CompiledStep) -> memory_check.Need:
            return memory_check.step_need(
                program,
                self._params,
                images(rows),
                devices=devices,
                queued_batches=input_pipeline.batches_ahead(
                    memory_check.array_bytes(images(rows)), self._experiment.input.threads
                ),
                scratch=memory_check.library_scratch(
                    devices.platform, rows=rows, input_size=shape.input_size, freeze_layers=self.first_layer
                ),
            )

        program, count = compiled(shape.rows), len(devices)
        memory_check.check(
            need(shape.rows, program),
            lambda size: need(size // count, compiled(size // count)),
            batch_size=shape.size,
            multiple=count,
            limit=memory_check.memory_limit(devices, {}),
            where="--input.batch-size",
            hint="--input.accumulation-steps takes a batch in parts, when features are computed as well",
        )
        return program

    def needed_views(self, stage_epoch: int) -> list[FeatureView]:
        """What the stage needs from this epoch on, counted from its start, if it does not end early."""
        turns = {epoch % self.views for epoch in range(stage_epoch, self._epochs)}
        return [*(self._views["train", turn] for turn in sorted(turns)), self._views["validation", 0]]

    def train(self, epoch: int, stage_epoch: int, start: int = 0) -> Iterator[FeatureBatch]:
        """Features in the order of this epoch, of the view whose turn it is."""
        turn = stage_epoch % self.views
        view = self.complete("train", turn)
        for number in range(self.views):
            if number != turn:
                # A view holds hundreds of files open.
                self._views["train", number].close()
        order = input_pipeline.train_order(len(view), self._experiment.seed, epoch)
        return self._batches(view, self._train_shape, order, start)

    def validation(self) -> Iterator[FeatureBatch]:
        """Features of photos that were only resized."""
        view = self.complete("validation", 0)
        return self._batches(view, self._eval_shape, np.arange(len(view)), 0)

    def complete(self, split: str, number: int) -> FeatureView:
        """A view of a split ("train" or "validation"), after what is missing of it was computed.

        Raises:
          UserError: the disk is full, a feature is too large for the dtype on disk, or a record is damaged that may not
            be skipped.
          Stopped: so it was asked; of what was computed, whole files are kept.
        """
        view = self._views[split, number]
        self._look_again(view, split)
        # What any process misses, all compute.
        missing = view.runs(np.asarray(self._devices.any_process(view.absent().tolist())) > 0)
        if not missing:
            return view
        views = f" (view {number + 1} of {self.views})" if split == "train" and self.views > 1 else ""
        done = len(view) - sum(map(len, missing))
        progress = Progress(f"features of {split}{views}", len(view), "images", self._stream, done=done)
        for rows in missing:
            for count in view.write(rows.start, self._computed(split, number, rows)):
                done += count
                progress.update(done)
        progress.finish(done)
        return view

    def _look_again(self, view: FeatureView, split: str) -> None:
        """Records that were skipped when features were computed: they may be whole by now, or too many for this run."""
        skipped = view.skipped()
        if not skipped:
            return
        records = self._dataset.records(split)
        for index in skipped:
            error = input_pipeline.problem(records, index, self._compute_shape)
            if error is None:
                view.forget(index)
            else:
                self._damaged_of(split)(index, error)

    def _computed(self, split: str, number: int, rows: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features, tag ids) of consecutive records, a batch at a time; see `FeatureView.write`."""
        experiment = self._experiment
        augmentation = experiment.augmentation
        if split != "train":
            augmentation = dataclasses.replace(augmentation, enabled=False)
        params = self._devices.replicate(self._params)
        batches = input_pipeline.view_batches(
            self._dataset.records(split),
            self._compute_shape,
            rows,
            seed=experiment.seed,
            epoch=self._first_epoch + number,
            augmentation=augmentation,
            threads=experiment.input.threads,
            damaged=self._damaged_of(split),
        )
        compute, left = self._compute, len(rows)

        def launch(batch: input_pipeline.Batch) -> Callable[[], Any]:
            features = compute(params, self._devices.shard({"images": batch["images"]}))
            labels = self._devices.shard((batch["tag_ids"], batch["weight"]))
            return functools.partial(jax.device_get, self._devices.gather((features, *labels)))

        agreed = Agreement(self._devices)
        for _, (features, tag_ids, weight) in one_ahead(batches, launch):
            if agreed(self._stop.signal is not None)[0]:
                raise Stopped(self._stop.signal or signal.SIGTERM)
            tag_ids = np.where(weight[..., None] > 0, tag_ids, SKIPPED)
            tag_ids = tag_ids.reshape(-1, tag_ids.shape[-1])
            count = min(left, len(tag_ids))  # the last batch is padded
            left -= count
            yield features.reshape(-1, *features.shape[2:])[:count], tag_ids[:count]

    def _feature_shape(self, params: Params) -> tuple[int, ...]:
        size = self._experiment.model.input_size
        images = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
        compute = functools.partial(frozen_features, self._model, freeze_layers=self.first_layer)
        return jax.eval_shape(compute, params, images).shape[1:]

    def _view(self, split: str, number: int, weights: str, feature_shape: tuple[int, ...]) -> FeatureView:
        experiment, dataset = self._experiment, self._dataset
        key: dict[str, Any] = {
            "dataset": dataset.fingerprint,
            "split": split,
            "weights": weights,
            "freeze_layers": self.first_layer,
            "input_size": experiment.model.input_size,
            "compute_dtype": experiment.model.compute_dtype,
            # Each kind of accelerator has kernels of its own.
            "device": self._devices.platform if self._devices.platform == "cpu" else self._devices.kind,
            "versions": {name: importlib.metadata.version(name) for name in ("jaxlib", "opencv-python-headless")},
        }
        if not dataset.content_hashed:
            key["shards"] = dataset.shard_states(split)
        if split == "train" and experiment.augmentation.enabled:
            drawn = {"seed": experiment.seed, "epoch": self._first_epoch + number}
            key["augmentation"] = {**dataclasses.asdict(experiment.augmentation), **drawn}
        return FeatureView(
            cache_folder(experiment),
            f"{dataset.name.replace('/', '-')}-{split}",
            key,
            feature_shape=feature_shape,
            dtype=experiment.cache.dtype,
            max_tags=dataset.max_tags,
            records=len(dataset.split(split)),
        )

    def _batches(self, view: FeatureView, shape: BatchShape, order: np.ndarray, start: int) -> Iterator[FeatureBatch]:
        row = self.train_shapes["features"]

        def assemble(number: int) -> FeatureBatch:
            rows = view.rows(order[shape.own(number)])
            features = np.zeros((shape.local_size, *row.shape[2:]), row.dtype)
            tag_ids = np.full((shape.local_size, shape.max_tags), -1, np.int32)
            weight = np.zeros(shape.local_size, np.float32)
            skipped = rows["tag_ids"] == SKIPPED
            features[: len(rows)], tag_ids[: len(rows)] = rows["features"], np.where(skipped, -1, rows["tag_ids"])
            weight[: len(rows)] = ~skipped[:, 0]
            lead = (shape.devices, shape.rows)
            return FeatureBatch(
                features=features.reshape(*lead, *features.shape[1:]),
                tag_ids=tag_ids.reshape(*lead, -1),
                weight=weight.reshape(lead),
            )

        numbers = range(start, batch_count(len(view), shape.size, self._experiment.debug_batches))
        batch_bytes = shape.local_size * math.prod(row.shape[2:]) * row.dtype.itemsize
        threads = self._experiment.input.threads
        return input_pipeline.in_threads(assemble, numbers, batch_bytes=batch_bytes, threads=threads)


def _features_step(
    params: Params, batch: Mapping[str, jax.Array], *, model: TagPredictor, freeze_layers: int
) -> jax.Array:
    return frozen_features(model, params, batch["images"], freeze_layers).astype(np.float32)


def cache_folder(experiment: Experiment) -> Path:
    """Where features are kept."""
    folder = experiment.cache.folder
    return machine.cache_folder() / "features" if folder is None else local_path(folder)


def is_cached(experiment: Experiment, stage: Stage) -> bool:
    """Whether a stage trains from cached features."""
    frozen = VGG16_LAYERS[: stage.freeze_layers]
    return experiment.cache.views > 0 and any(layer.kind == "convolution" for layer in frozen)


def check_disk(views: list[FeatureView], folder: Path, log: Callable[[str], None]) -> None:
    """Says how much will be computed, and refuses it where the disk cannot hold it.

    Raises:
      UserError: so it is.
    """
    distinct = {view.folder: view for view in views}
    total = sum(view.nbytes for view in distinct.values())
    missing = sum(view.missing_bytes for view in distinct.values())
    left = "all" if missing == total else format_bytes(missing) if missing else "nothing"
    log(f"feature cache: {format_bytes(total)} in {folder}, {left} of it still to be computed")
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if missing > free:
        raise UserError(
            f"the features to be computed need {format_bytes(missing)}, but only {format_bytes(free)} are free",
            where=folder,
            hint="free some, name another --cache.folder, choose fewer --cache.views or --cache.dtype float16, or go "
            "without a cache (--cache.views 0)",
        )
