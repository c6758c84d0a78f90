"""Run state in and out of a run folder: which checkpoints there are, which are kept, and which is the best."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from orbax.checkpoint.checkpoint_managers import preservation_policy

from socialtag_jax.checkpoint_folder import CheckpointFolder, DamagedError
from socialtag_jax.config import Checkpoints
from socialtag_jax.errors import UserError
from socialtag_jax.json_files import Fields
from socialtag_jax.storage import Location

WITHIN_EPOCH = "within_epoch"
"""In the folder of checkpoints, those that have not been validated."""


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


class RunCheckpoints:
    """The checkpoints of a run: parameters, optimizer state, averaged parameters and JSON meta, each its own item.

    Those saved after an epoch have validation metrics: the newest and the best of them are kept by separate rules, so
    that neither evicts the other. The newest that was saved within an epoch, or before its validation was done, has a
    folder of its own: nothing is deleted before what takes its place is there.

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
        kept = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(config.keep_latest),
                preservation_policy.BestN(get_metric_fn=rank, n=config.keep_best),
            ]
        )
        newest = {"preservation_policy": preservation_policy.LatestN(1)}
        within = folder / WITHIN_EPOCH
        self._validated = CheckpointFolder(folder, {"preservation_policy": kept, "best_fn": rank}, read_only=read_only)
        self._within = None
        if not read_only or within.is_dir():
            self._within = CheckpointFolder(within, newest, read_only=read_only)

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._validated.close()
        finally:
            if self._within is not None:
                self._within.close()

    @property
    def steps(self) -> list[int]:
        """All steps that have a checkpoint, ascending."""
        return sorted({step for folder in self._folders for step in folder.steps})

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
          step: no smaller than those of all checkpoints before. The state after it is saved once before it is
            validated, and once after.
          params: of all layers.
          optimizer_state: of the current stage.
          meta: anything that is JSON.
          metrics: "loss" and "f1" of the validation split; None where it was not validated.
          average: of the parameters; None where there is none.

        Raises:
          UserError: the disk has no room for it, or it or the one before cannot be written.
        """
        assert self._within is not None
        for folder in self._folders:
            folder.wait()
        items = {"params": params, "optimizer": optimizer_state}
        if average is not None:  # orbax refuses an empty item
            items["average"] = average
        if metrics is not None:
            self._validated.save(step, items, meta, metrics)
        elif step not in self._within.steps:
            self._within.save(step, items, meta, None)

    def best_step(self) -> int:
        """The best of the steps that are kept."""
        self._require_any()
        best = self._validated.best_step()
        return self.steps[-1] if best is None else best

    def latest_step(self) -> int:
        """The newest step."""
        self._require_any()
        return self.steps[-1]

    def meta(self, step: int) -> Fields:
        """The JSON meta of a checkpoint; raises as `CheckpointFolder.meta`."""
        return self.of(step).meta(step)

    def restore_params(self, step: int, like: Any) -> Any:
        """Only the parameters; `like` and errors as in `CheckpointFolder.restore`."""
        return self.of(step).restore(step, {"params": like})["params"]

    def restore_average(self, step: int, like: Any) -> Any:
        """Only the average of the parameters; `like` and errors as in `CheckpointFolder.restore`."""
        return self.of(step).restore(step, {"average": like})["average"]

    def restore_newest(self, likes: Callable[[Fields], tuple[Any, Any, Any]]) -> Restored | None:
        """The newest checkpoint that can be read whole; None where there is none at all.

        Newer ones that are damaged are named, and moved aside. One that cannot be read now, or is whole but of another
        model or data set, is not passed over.

        Args:
          likes: from a checkpoint's meta to what its parameters, optimizer state and average look like; None for the
            last where there is none.

        Raises:
          UserError: there are checkpoints, but none can be read.
          MisfitError: the newest that can be read has other arrays than `likes` says.
        """
        candidates = [(step, folder is self._validated, folder) for folder in self._folders for step in folder.steps]
        damaged: list[tuple[CheckpointFolder, int]] = []
        for step, _, folder in sorted(candidates, key=lambda one: one[:2], reverse=True):
            try:
                meta = folder.meta(step)
                params_like, optimizer_like, average_like = likes(meta)
                averaged = {} if average_like is None else {"average": average_like}
                items = folder.restore(step, {"params": params_like, "optimizer": optimizer_like, **averaged})
            except DamagedError as error:
                self._log(f"warning: {error}; trying an older one")
                damaged.append((folder, step))
                continue
            for broken, its_step in damaged:
                broken.move_aside(its_step)
            return Restored(step, meta, items["params"], items["optimizer"], items.get("average"))
        if damaged:
            raise UserError("no checkpoint can be read", where=self._folder, hint="start again in a new --workdir")
        return None

    def of(self, step: int) -> CheckpointFolder:
        """Where a step's checkpoint is; where there are two, the validated one."""
        return self._validated if self._within is None or step in self._validated.steps else self._within

    @property
    def _folders(self) -> list[CheckpointFolder]:
        return [self._validated] if self._within is None else [self._validated, self._within]

    def _require_any(self) -> None:
        if not self.steps:
            raise UserError("no checkpoint yet", where=self._folder, hint="train at least one epoch first")


def like(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and dtypes of a tree, to be restored onto `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


class NoCheckpoints(RunCheckpoints):
    """Those of a process that reads and writes none."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def save(self, *_: Any, **__: Any) -> None:
        """Saves nothing."""
