"""Run state in and out of a run folder, with orbax."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from socialtag_jax.config import Checkpoints
from socialtag_jax.errors import UserError

MONITOR = "validation_loss"


def _rank(metrics: Mapping[str, float]) -> float:
    """Higher is better; a loss that is no number ranks below all."""
    loss = metrics[MONITOR]
    return -loss if math.isfinite(loss) else -math.inf


class RunCheckpoints:
    """The checkpoints of a run: parameters, optimizer state and JSON meta, each its own item, by step.

    The newest and the best are kept by separate rules, so that neither evicts the other.

    Args:
      folder: `RUN/checkpoints`.
      config: how many to keep; None opens the folder to read only.
      log: takes one line of text at a time.
    """

    def __init__(self, folder: Path, config: Checkpoints | None, *, log: Callable[[str], None]) -> None:
        self._folder, self._log = folder, log
        policy = None
        if config is not None:
            policy = preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(config.keep_latest),
                    preservation_policy.BestN(get_metric_fn=_rank, n=config.keep_best),
                ]
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=_rank,
            read_only=config is None,
            create=config is not None,
            cleanup_tmp_directories=config is not None,
        )
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        # Saving goes on in the background: every way out waits for it.
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """All steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, params: Any, optimizer_state: Any, meta: Mapping[str, Any], validation_loss: float
    ) -> None:
        """Starts saving; the arrays are copied before this returns, and written in the background."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                optimizer=ocp.args.StandardSave(optimizer_state),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
            metrics={MONITOR: validation_loss},
        )

    def best_step(self) -> int:
        """The step with the lowest validation loss among those kept."""
        self._require_any()
        best = self._manager.best_step()
        return self.steps[-1] if best is None else best

    def latest_step(self) -> int:
        """The newest step."""
        self._require_any()
        return self.steps[-1]

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON meta of a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore_params(self, step: int, like: Any) -> Any:
        """Only the parameters; `like` gives shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves)."""
        return self._restore(step, params=like)["params"]

    def restore(self, step: int, params_like: Any, optimizer_like: Any) -> tuple[Any, Any]:
        """Parameters and optimizer state, likewise."""
        items = self._restore(step, params=params_like, optimizer=optimizer_like)
        return items["params"], items["optimizer"]

    def newest_readable(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest checkpoint whose meta can be read; None where there is no checkpoint."""
        for step in reversed(self.steps):
            try:
                return step, self.meta(step)
            except Exception as error:  # orbax raises many kinds on damaged folders
                self._log(
                    f"warning: checkpoint {self._folder / str(step)} cannot be read ({error}); trying an older one"
                )
        if self.steps:
            raise UserError("no checkpoint can be read", where=self._folder, hint="start again in a new --workdir")
        return None

    def _restore(self, step: int, **likes: Any) -> Mapping[str, Any]:
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(like) for name, like in likes.items()})
        try:
            return self._manager.restore(step, args=args)
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"the checkpoint does not fit the model or is damaged: {error}",
                where=self._folder / str(step),
                hint="was it written by another configuration?",
            ) from error

    def _require_any(self) -> None:
        if not self.steps:
            raise UserError("no checkpoint yet", where=self._folder, hint="train at least one epoch first")


def like(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and dtypes of a tree, to be restored onto `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
