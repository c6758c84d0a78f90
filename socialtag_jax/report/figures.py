"""Figures for a page: SVG whose colours are the page's own, so that they follow it from light to dark.

No figure holds text that a user chose: tags may be in any script, and those are the page's business.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from socialtag_jax.curves import Calibration, PrecisionRecall, ThresholdCurve, weighted_confidence
from socialtag_jax.report.training_curves import TrainingCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib knows no CSS: it draws in colours that stand for the page's, which take their place in its SVG.
_INK, _SOFT, _LINE, _FIRST, _SECOND, _RIGHT, _WRONG = (f"#0000{number:02x}" for number in range(0xA0, 0xA7))
_PAGE = {
    _INK: "var(--ink)",
    _SOFT: "var(--ink-soft)",
    _LINE: "var(--line)",
    _FIRST: "var(--accent)",
    _SECOND: "var(--second)",
    _RIGHT: "var(--right)",
    _WRONG: "var(--wrong)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _SOFT,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.labelcolor": _INK,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}
_PANEL = 3.4, 2.75
"""Inches of a panel."""


def training(runs: Mapping[str, TrainingCurves]) -> list[str]:
    """Loss, and where it is known F1, by epoch: a panel each; of several runs, the validation curves alone."""

    def losses(panel: "Axes") -> None:
        for (name, curves), colour in zip(runs.items(), (_FIRST, _SECOND), strict=False):
            epochs = np.arange(1, len(curves) + 1)
            if len(runs) == 1:
                _curve(panel, epochs, curves.training_loss, _SECOND, "training", "--")
            _curve(panel, epochs, curves.validation_loss, colour, "validation" if len(runs) == 1 else name)
        panel.set(title="Loss" if len(runs) == 1 else "Validation loss", xlabel="epoch")
        if panel.lines:  # not of a run whose losses are all no numbers
            panel.legend()

    def f1(panel: "Axes") -> None:
        for (name, curves), colour in zip(runs.items(), (_FIRST, _SECOND), strict=False):
            _curve(panel, np.arange(1, len(curves) + 1), curves.validation_f1, colour, name)
        panel.set(title="F1 on the validation photos", xlabel="epoch")
        _from_zero(panel)
        if len(runs) > 1:
            panel.legend()

    drawn = [_svg(losses, "losses", epochs=True)]
    return [*drawn, _svg(f1, "validation f1", epochs=True)] if any(one.validated for one in runs.values()) else drawn


def image_scores(scores: Mapping[str, Sequence[np.ndarray]], names: Sequence[str]) -> list[str]:
    """Histograms in tenths: a panel a score.

    Args:
      scores: of each image, by score; an array an evaluation, NaN for images without tags.
      names: of the evaluations.
    """

    def drawn(title: str, columns: Sequence[np.ndarray]) -> str:
        def draw(panel: "Axes") -> None:
            width = 0.086 / len(columns)
            for number, (values, colour) in enumerate(zip(columns, (_FIRST, _SECOND), strict=False)):
                shares = histogram_shares(values)
                offset = (number - (len(columns) - 1) / 2) * width
                panel.bar(np.arange(10) / 10 + 0.05 + offset, 100 * shares, width, color=colour, label=names[number])
                panel.axvline(float(np.nanmean(values)), color=colour if len(columns) > 1 else _INK, linestyle=":")
            panel.set(
                title=title[:1].upper() + title[1:], xlabel=f"{title} of a photo", ylabel="% of photos", xlim=(0, 1)
            )
            panel.set_xticks(np.arange(0, 11, 2) / 10)
            panel.locator_params(axis="y", nbins=6, integer=True)
            panel.grid(axis="x", visible=False)
            if len(columns) > 1:
                panel.legend()

        return _svg(draw, title)

    return [drawn(title, columns) for title, columns in scores.items()]


def histogram_shares(values: np.ndarray) -> np.ndarray:
    """float64 [10]: the share of values in each tenth of 0 to 1, lower edges included, 1 in the last; NaN left out."""
    values = values[~np.isnan(values)].astype(np.float64)
    # Scores are quotients of small numbers, in float32: 0.3 is meant by what is next to it.
    tenths = np.clip(np.floor(values * 10 + 1e-5).astype(np.int64), 0, 9)
    return np.bincount(tenths, minlength=10) / max(len(values), 1)


def thresholds(curve: ThresholdCurve, chosen: float) -> str:
    """Mean precision, recall and F1 over images by threshold."""

    def draw(panel: "Axes") -> None:
        panel.plot(curve.threshold, curve.precision, color=_RIGHT, linestyle="--", label="precision")
        panel.plot(curve.threshold, curve.recall, color=_SECOND, linestyle="-.", label="recall")
        panel.plot(curve.threshold, curve.f1, color=_FIRST, label="F1")
        panel.axvline(chosen, color=_INK, linestyle=":", linewidth=1.4, label=f"chosen: {chosen:g}")
        panel.set(title="Means over photos", xlabel="threshold", xlim=(0, 1), ylim=(0, 1.04))
        panel.legend(loc="best")

    return _svg(draw, "thresholds")


def suggested(curve: ThresholdCurve, chosen: float) -> str:
    """Tags of an image by threshold."""

    def draw(panel: "Axes") -> None:
        panel.plot(curve.threshold, curve.tags_per_image, color=_FIRST)
        panel.axvline(chosen, color=_INK, linestyle=":", linewidth=1.4)
        panel.set(title="Predicted tags a photo", xlabel="threshold", xlim=(0, 1))
        _from_zero(panel)

    return _svg(draw, "suggested")


def precision_recall(curve: PrecisionRecall, chosen: tuple[float, float], base_rate: float) -> str:
    """Precision by recall, over all pairs of a photo and a tag.

    Args:
      curve: the points.
      chosen: (recall, precision) of the predicted tags.
      base_rate: the share of pairs that are true: the precision of predicting everything.
    """

    def draw(panel: "Axes") -> None:
        panel.plot(curve.recall, curve.precision, color=_FIRST)
        panel.axhline(base_rate, color=_SOFT, linestyle="--", linewidth=1.2)
        panel.plot(*chosen, "o", color=_INK, markersize=6, label="as predicted")
        panel.plot([], [], color=_SOFT, linestyle="--", linewidth=1.2, label="every tag for every photo")
        panel.set(title="Over photos and tags", xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.04))
        panel.legend(loc="upper right")

    return _svg(draw, "precision-recall")


def reliability(found: Calibration, positive_weight: float | None) -> list[str]:
    """How often confidences are right, and how many there are: two panels.

    Args:
      found: in groups.
      positive_weight: of the loss; None where it is not known.
    """
    middles = (np.arange(len(found.pairs)) + 0.5) / len(found.pairs)

    def draw(panel: "Axes") -> None:
        panel.plot([0, 1], [0, 1], color=_SOFT, linestyle="--", linewidth=1.2, label="as it says")
        if positive_weight is not None and positive_weight != 1.0:
            shares = np.linspace(0, 1, 101)
            label = f"by a loss weight of {positive_weight:g}"
            panel.plot(weighted_confidence(shares, positive_weight), shares, color=_SECOND, linestyle=":", label=label)
        there = found.pairs > 0
        panel.plot(found.confidence[there], found.share_true[there], "o-", color=_FIRST, markersize=5, label="found")
        panel.set(title="Right, by confidence", xlabel="confidence", ylabel="share that is right")
        panel.set(xlim=(0, 1.02), ylim=(0, 1.04))
        panel.legend(loc="upper left")

    def draw_counts(panel: "Axes") -> None:
        panel.bar(middles, np.maximum(found.pairs, 0.5), 0.86 / len(middles), color=_FIRST, bottom=0)
        panel.set_yscale("log")
        panel.set(title="How many there are", xlabel="confidence", ylabel="photos × tags", xlim=(0, 1))
        panel.set_ylim(bottom=0.5)
        panel.grid(axis="x", visible=False)

    return [_svg(draw, "reliability"), _svg(draw_counts, "confidences")]


def compared_thresholds(curves: Mapping[str, tuple[ThresholdCurve, tuple[float, float]]]) -> str:
    """F1 by threshold of two evaluations; each with the threshold it was made with, and the F1 that it found."""

    def draw(panel: "Axes") -> None:
        for (name, (curve, chosen)), colour in zip(curves.items(), (_FIRST, _SECOND), strict=False):
            panel.plot(curve.threshold, curve.f1, color=colour, label=name)
            panel.plot(*chosen, "o", color=colour, markersize=6)
        panel.set(title="Mean F1 over photos", xlabel="threshold", xlim=(0, 1))
        _from_zero(panel)
        panel.legend()

    return _svg(draw, "compared-thresholds")


def differences(values: np.ndarray) -> str:
    """A histogram of the differences between two evaluations' scores of the same photos, float64 [images]."""

    def draw(panel: "Axes") -> None:
        # The middle bar is of differences that round to 0.
        counts, edges = np.histogram(values, np.linspace(-1.05, 1.05, 22))
        middles = (edges[1:] + edges[:-1]) / 2
        colours = [_FIRST] * 10 + [_SOFT] + [_SECOND] * 10
        panel.bar(middles, 100 * counts / max(len(values), 1), 0.086, color=colours)
        panel.set(title="F1 of B − F1 of A", xlabel="difference for a photo", ylabel="% of photos", xlim=(-1.05, 1.05))
        panel.grid(axis="x", visible=False)

    return _svg(draw, "differences")


def _from_zero(panel: "Axes") -> None:
    # Set limits leave no margin: points at the top would be cut.
    panel.set_ylim(0, 1.05 * panel.get_ylim()[1])


def _curve(panel: "Axes", x: np.ndarray, values: Sequence[float], colour: str, label: str, style: str = "-") -> None:
    if np.all(np.isnan(values)):
        return
    # A single epoch is a point, of which a line would show nothing.
    panel.plot(x, values, style, color=colour, label=label, marker="o", markersize=3.5)


def _svg(draw: Any, name: str, *, epochs: bool = False) -> str:
    """An SVG element, for use in HTML; `name` is its own on the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_PANEL, layout="constrained")
        panel = figure.subplots()
        draw(panel)
        if epochs:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(text.getvalue(), re.sub("[^a-z0-9]+", "-", name.lower()))


def _font(found: re.Match[str]) -> str:
    """Of matplotlib's shorthand, all but the family."""
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"


def _for_page(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _PAGE.items():
        svg = svg.replace(colour, variable)
    # What is unique in a figure must be so on the page.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    # The page sets the font and the width; the picture keeps its proportions. What it shows, the page says beside it.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"font: (?:(bold|\d+) )?([\d.]+)px [^;\"]*", _font, svg)
    return re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
