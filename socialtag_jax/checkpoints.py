"""Run state in and out of a run folder, with orbax."""

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from socialtag_jax.config import Checkpoints
from socialtag_jax.errors import UserError
from socialtag_jax.gcs import RemotePath, first_line
from socialtag_jax.json_files import Fields
from socialtag_jax.progress import format_bytes
from socialtag_jax.storage import Location, checkpoint_folder

_ONE_PROCESS = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix="process-0"
)
"""Process 0 alone reads and writes checkpoints: the others need not see its folder, and it never waits for them."""


_GO_ON = "run the same command again: it goes on from the newest that is complete"
_DAMAGED = "start again in a new --workdir, or from another checkpoint of this one"


class MisfitError(UserError):
    """A checkpoint that can be read, but has other arrays than the model."""


def score(metrics: Mapping[str, float], monitor: str) -> float:
    """How good a checkpoint is, higher being better; a metric that is no number is worse than any.

    Args:
      metrics: "loss" and "f1" of the validation split.
      monitor: which of the two decides.
    """
    value = metrics[monitor] if monitor == "f1" else -metrics[monitor]
    return value if math.isfinite(value) else -math.inf


@dataclass(frozen=True)
class Restored:
    """A checkpoint's content; `average` is None where there is none."""

    step: int
    meta: Fields
    params: Any
    optimizer_state: Any
    average: Any


@dataclass(frozen=True)
class LatestWithMetrics(preservation_policy.PreservationPolicy):
    """Keeps the newest `count` of the checkpoints that have metrics."""

    count: int

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        """Whether each is kept; they come in the order of their steps."""
        del context
        kept = [info.step for info in checkpoints if info.metrics is not None][-self.count :]
        return [info.step in kept for info in checkpoints]


class RunCheckpoints:
    """The checkpoints of a run: parameters, optimizer state, averaged parameters and JSON meta, each its own item.

    Those saved after an epoch have validation metrics: the newest and the best of them are kept by separate rules, so
    that neither evicts the other. One saved within an epoch is kept until there is a newer one.

    Args:
      folder: `RUN/checkpoints`.
      config: how many to keep, and which are the best.
      log: takes one line of text at a time.
      read_only: nothing is written, made or cleaned up.
    """

    def __init__(
        self, folder: Location, config: Checkpoints, *, log: Callable[[str], None], read_only: bool = False
    ) -> None:
        self._folder, self._log = folder, log
        rank = functools.partial(score, monitor=config.monitor)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(1),
                    LatestWithMetrics(config.keep_latest),
                    preservation_policy.BestN(
                        get_metric_fn=rank, n=config.keep_best, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            best_fn=rank,
            read_only=read_only,
            create=False,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=_ONE_PROCESS,
        )
        if not read_only and isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
        handlers = {
            "params": ocp.StandardCheckpointHandler(multiprocessing_options=_ONE_PROCESS),
            "optimizer": ocp.StandardCheckpointHandler(multiprocessing_options=_ONE_PROCESS),
            "average": ocp.StandardCheckpointHandler(multiprocessing_options=_ONE_PROCESS),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=_ONE_PROCESS),
        }
        with self._access():
            self._manager = ocp.CheckpointManager(checkpoint_folder(folder), options=options, item_handlers=handlers)

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        # Saving goes on in the background: every way out waits for it.
        with self._access():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    @property
    def steps(self) -> list[int]:
        """All steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        params: Any,
        optimizer_state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
        *,
        average: Any = None,
    ) -> None:
        """Starts saving; the arrays are copied before this returns, and written in the background.

        Args:
          step: no smaller than those of all checkpoints before; of an equal one, which was saved when the step was done
            but not yet validated, this takes the place.
          params: of all layers.
          optimizer_state: of the current stage.
          meta: anything that is JSON.
          metrics: "loss" and "f1" of the validation split; None within an epoch.
          average: of the parameters; None where there is none.

        Raises:
          UserError: the disk has no room for it, or it or the one before cannot be written.
        """
        with self._access():
            self._manager.wait_until_finished()
        self._require_room(sum(leaf.nbytes for leaf in jax.tree.leaves((params, optimizer_state, average))))
        if self.steps[-1:] == [step]:
            with self._access():
                self._manager.delete(step)
        # orbax refuses an empty item.
        averaged = {} if average is None else {"average": ocp.args.StandardSave(_own_copy(average))}
        saved = self._access()(self._manager.save)(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(_own_copy(params)),
                optimizer=ocp.args.StandardSave(_own_copy(optimizer_state)),
                meta=ocp.args.JsonSave(dict(meta)),
                **averaged,
            ),
            metrics=None if metrics is None else dict(metrics),
        )
        if not saved:  # orbax leaves a step out that is not newer than all others
            raise AssertionError(f"orbax did not save step {step}; its steps are {self.steps}")

    def best_step(self) -> int:
        """The best of the steps that are kept."""
        self._require_any()
        best = self._manager.best_step()
        return self.steps[-1] if best is None else best

    def latest_step(self) -> int:
        """The newest step."""
        self._require_any()
        return self.steps[-1]

    def meta(self, step: int) -> Fields:
        """The JSON meta of a checkpoint."""
        content = self._read(step, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        return Fields(content, self._folder / str(step) / "meta", _DAMAGED)

    def restore_params(self, step: int, like: Any) -> Any:
        """Only the parameters; `like` gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves)."""
        return self._restore(step, params=like)["params"]

    def restore_average(self, step: int, like: Any) -> Any:
        """Only the average of the parameters; `like` as in `restore_params`."""
        return self._restore(step, average=like)["average"]

    def restore_newest(self, likes: Callable[[Fields], tuple[Any, Any, Any]]) -> Restored | None:
        """The newest checkpoint that can be read whole; None where there is none at all.

        Newer ones that are damaged are named, and deleted: they would stand in the way of the run's next checkpoint.
        One that is whole, but of another model, is not passed over.

        Args:
          likes: from a checkpoint's meta to what its parameters, optimizer state and average look like; None for the
            last where there is none.

        Raises:
          UserError: there are checkpoints, but none can be read.
          MisfitError: the newest that can be read has other arrays than `likes` says.
        """
        damaged: list[int] = []
        for step in reversed(self.steps):
            try:
                meta = self.meta(step)
                params_like, optimizer_like, average_like = likes(meta)
                averaged = {} if average_like is None else {"average": average_like}
                items = self._restore(step, params=params_like, optimizer=optimizer_like, **averaged)
            except MisfitError:
                raise
            except UserError as error:
                self._log(f"warning: {error}; trying an older one")
                damaged.append(step)
                continue
            for broken in damaged:
                self._manager.delete(broken)
            return Restored(step, meta, items["params"], items["optimizer"], items.get("average"))
        if damaged:
            raise UserError("no checkpoint can be read", where=self._folder, hint="start again in a new --workdir")
        return None

    def _restore(self, step: int, **likes: Any) -> Mapping[str, Any]:
        with self._reading(step):
            metadata = self._manager.item_metadata(step)
            stored = {item: _arrays(metadata[item].tree) for item in likes}
        for item, like in likes.items():
            _require_same(stored[item], _arrays(like), self._folder / str(step) / item)
        args = {name: ocp.args.StandardRestore(like) for name, like in likes.items()}
        return self._read(step, ocp.args.Composite(**args))

    def _read(self, step: int, args: ocp.args.Composite) -> Mapping[str, Any]:
        with self._reading(step):
            return self._manager.restore(step, args=args)

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # on damaged files orbax and TensorStore raise nearly anything
            what = (str(error).splitlines() or [type(error).__name__])[0]
            where = self._folder / str(step)
            raise UserError(f"the checkpoint is damaged: {what}", where=where, hint=_DAMAGED) from error

    def _require_room(self, nbytes: int) -> None:
        """Before orbax begins: it writes many files at once, and would say much about each that fails."""
        if isinstance(self._folder, RemotePath):
            return
        free = shutil.disk_usage(self._folder).free
        if nbytes > free:
            need = f"a checkpoint needs {format_bytes(nbytes)}, and {format_bytes(free)} are free"
            raise UserError(
                f"No space left on device: {need}",
                where=self._folder,
                hint=f"make room; then {_GO_ON}",
            )

    @contextlib.contextmanager
    def _access(self) -> Iterator[None]:
        """Makes one line of what the libraries below orbax raise, of many kinds, when they cannot write or read."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            what = f"the checkpoints cannot be reached: {first_line(error)}"
            raise UserError(what, where=self._folder, hint=_GO_ON) from error

    def _require_any(self) -> None:
        if not self.steps:
            raise UserError("no checkpoint yet", where=self._folder, hint="train at least one epoch first")


def like(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and dtypes of a tree, to be restored onto `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _arrays(tree: Any) -> dict[str, str]:
    """The path of each array in a tree -> its dtype and shape."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _require_same(stored: Mapping[str, str], expected: Mapping[str, str], where: Location) -> None:
    """Orbax would convert other dtypes without a word, and does not name the array whose shape differs."""
    for path in sorted({*stored, *expected}):
        if stored.get(path) != expected.get(path):
            raise MisfitError(
                f"{path} is {stored.get(path, 'not there')}, expected {expected.get(path, 'no such array')}",
                where=where,
                hint="the checkpoint is of another model; use a new --workdir for this one",
            )


def _own_copy(tree: Any) -> Any:
    """Arrays that other processes have copies of as this process's own: orbax would have all processes write them."""
    return jax.tree.map(
        lambda leaf: np.array(leaf) if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable else leaf, tree
    )


class NoCheckpoints(RunCheckpoints):
    """Those of a process that reads and writes none."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def save(self, *_: Any, **__: Any) -> None:
        """Saves nothing."""
