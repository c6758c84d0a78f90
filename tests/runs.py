"""What runs leave behind, for tests that compare them."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from socialtag_jax import trained
from socialtag_jax.checkpoints import RunCheckpoints
from socialtag_jax.config import Checkpoints
from socialtag_jax.parallel import Devices


def metrics_of(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def untimed_metrics_of(workdir: Path) -> list[dict[str, Any]]:
    """Without what depends on how fast it went."""
    timed = ("images_per_second", "data_wait_share", "host_share", "mfu", "bound")
    return [{key: value for key, value in line.items() if key not in timed} for line in metrics_of(workdir)]


def arrays_of(workdir: Path, step: int) -> dict[str, bytes]:
    model = trained.load(workdir, str(step), Devices(), log=lambda _: None)
    return {
        f"{layer}/{name}": np.asarray(leaf).tobytes()
        for layer, one in model.params.items()
        for name, leaf in one.items()
    }


def outcome(workdir: Path) -> dict[str, Any]:
    """All that a run leaves, but for what depends on how fast it went."""
    with RunCheckpoints(workdir / "checkpoints", Checkpoints(), log=lambda _: None, read_only=True) as saved:
        steps, best = saved.steps, saved.best_step()
        content = {step: saved.of(step)._manager.restore(step) for step in (steps[-1], best)}
    return {
        "metrics": untimed_metrics_of(workdir),
        "best": best,
        "checkpoints": {
            step: {
                "position": items["meta"]["position"],
                **{
                    f"{item}{jax.tree_util.keystr(path)}": np.asarray(leaf).tobytes()
                    for item in sorted({"params", "optimizer", "average"} & set(items.keys()))
                    for path, leaf in jax.tree_util.tree_leaves_with_path(items[item])
                },
            }
            for step, items in content.items()
        },
    }
