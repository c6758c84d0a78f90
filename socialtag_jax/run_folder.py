"""A run's folder: the resolved configuration, the metrics, TensorBoard files; `checkpoints.py` does the rest."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from socialtag_jax import experiment_files, files, json_files, lease
from socialtag_jax.config import Experiment
from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.position import Position
from socialtag_jax.shards.dataset import Dataset
from socialtag_jax.storage import Location, upload

CONFIG, METRICS, CHECKPOINTS, TENSORBOARD = "config.json", "metrics.jsonl", "checkpoints", "tensorboard"
DIVERGED = "diverged.json"
_PACKAGES = ("socialtag-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class RunConfig:
    """What `config.json` holds.

    Attributes:
      experiment: resolved.
      dataset: path, name, fingerprint, vocabulary hash and stored image size.
      versions: of the packages that decide numbers.
      device: platform, kind and number of devices.
    """

    experiment: Experiment
    dataset: Mapping[str, Any]
    versions: Mapping[str, str]
    device: Mapping[str, Any]

    def to_json(self) -> str:
        """JSON text, as `load_run` reads it."""
        content = dataclasses.asdict(self)
        return json.dumps(content, indent=1) + "\n"


def describe(experiment: Experiment, dataset: Dataset, device: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run that starts now."""
    return RunConfig(
        experiment=experiment,
        dataset={
            "path": str(dataset.location),
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "vocabulary_sha256": dataset.vocabulary.sha256,
            "image_size": dataset.image_size,
        },
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        device=device,
    )


def load_run(folder: Location) -> RunConfig:
    """Reads the configuration of a run folder.

    Raises:
      UserError: not a run folder, or a damaged configuration.
    """
    path = folder / CONFIG
    try:
        content = json_files.read(path, hint="restore the file from a copy, or train again in a new --workdir")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"not a run folder: no {CONFIG}", where=folder, hint="give the --workdir of a run") from None
    experiment, dataset, versions, device = map(content.fields, ("experiment", "dataset", "versions", "device"))
    for key in ("fingerprint", "vocabulary_sha256", "name", "path"):
        dataset.text(key)
    if dataset.content.get("image_size", 0) is not None:
        dataset.count("image_size", least=1)
    return RunConfig(
        experiment_files.from_dict(experiment.content, path), dataset.content, versions.content, device.content
    )


def compute_dtype(folder: Location) -> str | None:
    """What the run in a folder computes in; None where there is no run that has saved anything."""
    if not (folder / CONFIG).exists() or not (folder / CHECKPOINTS).is_dir():
        return None
    return load_run(folder).experiment.model.compute_dtype


def check_free(folder: Location) -> None:
    """Refuses a folder that holds something, but no run.

    Raises:
      UserError: so it is.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError("is a file, not a folder", where=folder, hint="choose another --workdir")
    if folder.exists() and not (folder / CONFIG).exists() and any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError("the folder is not empty and holds no run", where=folder, hint="choose another --workdir")


@contextlib.contextmanager
def held(folder: Location, log: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Holds the folder against other processes, on this computer or, on `gs://`, anywhere.

    Yields:
      a check, for `RunLog`: raises `UserError` where another process has taken the folder over.

    Raises:
      UserError: another process holds it.
    """
    if isinstance(folder, RemotePath):
        with lease.held(folder, log) as check:
            yield check
    else:
        # The system keeps it held for as long as this process lives.
        with files.exclusive(folder):
            yield lambda: None


def record_start(folder: Location, current: RunConfig, *, has_checkpoint: bool) -> None:
    """Writes `config.json`, or checks that the run in the folder can go on with the current configuration.

    Where nothing has been saved yet, there is nothing to go on with, and any configuration will do.

    Raises:
      UserError: the run was started with another experiment or data set, or its checkpoints are gone.
    """
    if not has_checkpoint:
        # A run may have been killed while it saved for the first time; but the third epoch waits for the first's save.
        validated = sum(values["kind"] == "validation" for values in read_metrics(folder))
        if validated >= 3:
            raise UserError(
                f"the run has done {validated} epochs, but its checkpoints are gone",
                where=folder / CHECKPOINTS,
                hint="restore them from a copy, or choose another --workdir",
            )
    else:
        first = load_run(folder)
        _check_same(first, current, folder)
        # What the first start ran on stays on record.
        current = dataclasses.replace(current, versions=first.versions, device=first.device)
    files.write_text(folder / CONFIG, current.to_json())


def _check_same(old: RunConfig, new: RunConfig, folder: Location) -> None:
    if old.dataset["fingerprint"] != new.dataset["fingerprint"]:
        raise UserError(
            f"the run was trained on another data set: {old.dataset['name']} at {old.dataset['path']}, "
            f"not {new.dataset['name']} as it is now at {new.dataset['path']}",
            where=folder,
            hint="go on with the same data set, or choose another --workdir",
        )
    before, now = _flat(dataclasses.asdict(old.experiment)), _flat(dataclasses.asdict(new.experiment))
    # Training longer is going on, unless the learning rate falls towards the old end; all else would be another run.
    # How fast input is read, and where features are kept, changes no result.
    last = len(old.experiment.stages) - 1
    # So does how often is saved and what is kept; but early stopping compares one kind of score with itself.
    kept = ("keep_latest", "keep_best", "every_minutes", "patience")
    free = ["name", "input.threads", "input.max_bad_records", "cache.folder", *(f"checkpoints.{one}" for one in kept)]
    longer = f"stages.{last}.epochs"
    falling = old.experiment.optimizer.schedule.kind != "constant"
    if now.get(longer, 0) >= before[longer] and not falling:
        free.append(longer)
    changed = [
        key
        for key in sorted(set(before) | set(now))
        if before.get(key) != now.get(key)
        and not key.startswith(tuple(free))
        and not (key.startswith("stages.") and key not in before)  # a further stage
    ]
    if changed:
        key = changed[0]
        hint = "repeat the first command to go on, or choose another --workdir"
        if key == longer and falling:
            hint += "; to train longer, add a stage: the learning rate falls over the epochs of this one"
        raise UserError(
            f"the run was started with {key} = {before.get(key)!r}, now it is {now.get(key)!r}"
            + (f" (and {len(changed) - 1} more fields differ)" if len(changed) > 1 else ""),
            where=folder,
            hint=hint,
        )


def facts(current: RunConfig) -> dict[str, Any]:
    """What all processes of a run must agree on, by field; where input lies and how it is read is each one's own."""
    own = ("experiment.input.threads", "experiment.cache.folder", "dataset.path")
    return {key: value for key, value in _flat(dataclasses.asdict(current)).items() if key not in own}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in _flat(item, f"{path}.{name}".lstrip(".")).items()}


class RunLog:
    """Writes metrics to `metrics.jsonl` and to TensorBoard files.

    Nothing can be appended to an object: for a folder on `gs://`, both are written to a temporary folder here, and
    uploaded whole by `publish`. What was not yet uploaded when a process is killed is of steps after its last
    checkpoint, and is written again.

    Args:
      folder: the run folder.
      position: where the run goes on: what an interrupted run wrote of later ones is dropped.
      check: called before anything is uploaded; raises where the folder is another process's now.
    """

    def __init__(self, folder: Location, position: Position, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._remote: RemotePath | None = None
        path, step = folder / METRICS, position.step
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _place_of(line) <= (step, position.current.steps == 0)]
        if isinstance(folder, RemotePath):
            self._temporary = tempfile.TemporaryDirectory(prefix="socialtag-")
            self._remote, folder = folder, Path(self._temporary.name)
        self._folder = folder
        files.write_text(folder / METRICS, "".join(f"{line}\n" for line in kept))
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        self._board.close()
        if self._remote is not None:
            # Of two errors, the first counts.
            with self._temporary, contextlib.nullcontext() if kind is None else contextlib.suppress(UserError):
                self._upload()

    def publish(self) -> None:
        """Makes what was written so far last; to be called before a checkpoint of the same step is saved.

        Raises:
          UserError: another process has taken the folder over, and nothing may be saved; the storage does not answer.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()
        if self._remote is not None:
            self._upload()

    def _upload(self) -> None:
        assert self._remote is not None
        self._check()
        upload([path for path in self._folder.rglob("*") if path.is_file()], self._folder, self._remote)

    def write(self, kind: str, step: int, values: Mapping[str, float | str]) -> None:
        """Appends one line; every value that is no word becomes a TensorBoard scalar `kind/name`."""
        # JSON has no NaN: a value that is no number is written as null.
        shown = {
            name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in values.items()
        }
        self._file.write(json.dumps({"kind": kind, "step": step, **shown}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if not isinstance(value, str):
                self._board.add_scalar(f"{kind}/{name}", value, step)


class NoRunLog(RunLog):
    """That of a process that writes none."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def publish(self) -> None:
        """Publishes nothing."""

    def write(self, kind: str, step: int, values: Mapping[str, float | str]) -> None:
        """Writes nothing."""


def read_metrics(folder: Location) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, but for any that was cut off; none where there is no such file."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    # A line that was cut off in the middle has no step.
    return [json.loads(line) for line in lines if math.isfinite(_place_of(line)[0])]


def last_epoch_rate(folder: Location) -> float | None:
    """Images a second of the last training epoch of a run; None where the folder has none."""
    rates = [values["images_per_second"] for values in read_metrics(folder) if values["kind"] == "epoch"]
    # An epoch of which nothing was left to do had none.
    return next((rate for rate in reversed(rates) if rate is not None), None)


def _place_of(line: str) -> tuple[float, bool]:
    """The step of a metrics line, and whether an epoch ends with it; infinite for a line that was cut off."""
    try:
        values = json.loads(line)
        return values["step"], values["kind"] != "train"
    except (ValueError, KeyError, TypeError):
        return math.inf, False
