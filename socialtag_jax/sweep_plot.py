"""The plot of a sweep: every head's validation curve, and the best score against each searched field."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from socialtag_jax.search_space import Range, Space, shown
from socialtag_jax.sweep_trials import Trial, ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OTHERS, _BEST = "#5b7fa6", "#d1495b"
_LOGARITHMIC_SPAN = 20
"""Numbers are drawn on a logarithmic axis where the largest is so many times the smallest."""


def draw(trials: Sequence[Trial], space: Space, monitor: Literal["loss", "f1"], path: Path) -> None:
    """Writes a PNG.

    Args:
      trials: of which at least one has trained.
      space: the searched fields, a panel each.
      monitor: what decided.
      path: of the file.
    """
    from matplotlib.figure import Figure

    label = {"loss": "validation loss", "f1": "validation F1"}[monitor]
    trained = [trial for trial in ranked(trials) if trial.outcome.status == "trained"]
    panels = 1 + len(space)
    columns = min(panels, 2 if panels <= 4 else 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * rows), dpi=130, layout="constrained")
    axes: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.set_axis_off()
    _draw_curves(axes[0], trained, monitor)
    axes[0].set(xlabel="epoch", ylabel=label, title=f"{len(trials)} heads")
    for panel, field in zip(axes[1:], space, strict=False):
        _draw_field(panel, trained, field, isinstance(space[field], Range), monitor)
        panel.set(xlabel=shown(field), ylabel=f"best {label}")
    for panel in axes[:panels]:
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    diverged = sum(trial.outcome.status == "diverged" for trial in trials)
    left_out = f"; {diverged} diverged and are not shown" if diverged else ""
    figure.suptitle(f"Sweep: {label}, the best head in red{left_out}", fontsize=11)
    figure.savefig(path, format="png")


def _draw_curves(panel: "Axes", trained: Sequence[Trial], monitor: Literal["loss", "f1"]) -> None:
    from matplotlib.ticker import MaxNLocator

    for trial in reversed(trained):
        best = trial is trained[0]
        values = [getattr(scores, monitor) for scores in trial.curve]
        style: dict[str, Any] = {"color": _BEST, "linewidth": 2.0} if best else {"color": _OTHERS, "alpha": 0.45}
        panel.plot(range(1, len(values) + 1), values, marker="o", markersize=3, **style)
    outcome = trained[0].outcome
    panel.plot(outcome.epoch, getattr(outcome, monitor), "*", color=_BEST, markersize=12)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_field(
    panel: "Axes", trained: Sequence[Trial], field: str, continuous: bool, monitor: Literal["loss", "f1"]
) -> None:
    values = [trial.configuration[field] for trial in trained]
    scores = [getattr(trial.outcome, monitor) for trial in trained]
    if continuous:
        positions = values
        if min(values) > 0 and max(values) >= _LOGARITHMIC_SPAN * min(values):
            panel.set_xscale("log")
    else:
        # Listed values stand side by side, numbers in their order; a little to the left or right, so that all show.
        distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value is None, value or 0))
        places = {value: place for place, value in enumerate(distinct)}
        seen: dict[Any, int] = {}
        positions = []
        for value in values:
            seen[value] = seen.get(value, 0) + 1
            positions.append(places[value] + 0.12 * math.sin(2.4 * seen[value]))
        panel.set_xticks(
            range(len(distinct)), [f"{value:g}" if isinstance(value, float) else str(value) for value in distinct]
        )
        panel.set_xlim(-0.5, len(distinct) - 0.5)
    panel.scatter(positions[1:], scores[1:], s=22, color=_OTHERS, alpha=0.75, linewidths=0)
    panel.scatter(positions[:1], scores[:1], s=60, color=_BEST, zorder=3)
