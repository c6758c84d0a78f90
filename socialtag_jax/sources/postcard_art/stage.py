"""What every painter is handed: the canvas, the plan, the light, and where things may still go."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Canvas, Colour, Pen, pick
from socialtag_jax.sources.postcard_art.light import Light, choose_light
from socialtag_jax.sources.postcard_art.plan import Plan, Scene

SUPERSAMPLING = 2

Band = tuple[float, float]
"""First and last row of a part of the canvas, in pixels."""


@dataclass
class Stage:
    """A postcard on the easel.

    Attributes:
      plan: what to paint.
      rng: the painter's own randomness.
      light: the palette.
      canvas: where to paint.
      sun_x: the column of the sun or moon; it gives the light its direction even where it cannot be seen.
      taken: (column, half width) of what stands somewhere already, in pixels.
      water, ground: where boats float and where people stand; the backdrop sets them.
    """

    plan: Plan
    rng: np.random.Generator
    light: Light = field(init=False)
    canvas: Canvas = field(init=False)
    sun_x: float = field(init=False)
    taken: list[tuple[float, float]] = field(init=False)
    water: Band | None = field(init=False, default=None)
    ground: Band | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.light = choose_light(self.rng, self.scene.time, self.scene.weather)
        self.canvas = Canvas(self.plan.height * SUPERSAMPLING, self.plan.width * SUPERSAMPLING)
        self.sun_x = self.canvas.width * self._sun_place()
        # Nothing should hide the sun, but it is worse when one thing hides another: a negative width ranks it lower.
        self.taken = [(self.sun_x, -0.2 * self.canvas.width)]

    @property
    def scene(self) -> Scene:
        """Where and when."""
        return self.plan.scene

    @property
    def horizon(self) -> int:
        """Row of the horizon, in pixels."""
        return round(self.plan.horizon * self.canvas.height)

    @property
    def rise(self) -> float:
        """How far the backdrop rises above the horizon, in pixels."""
        return self.plan.rise * self.canvas.height

    @property
    def unit(self) -> int:
        """The canvas's shorter side, in pixels."""
        return self.canvas.unit

    def _sun_place(self) -> float:
        """Where across the picture the sun or moon is: beside a head, or in one of the panes of a window."""
        if self.shows("portrait"):
            return pick(self.rng, (0.14, 0.86))
        if self.shows("window cat"):
            return pick(self.rng, (0.36, 0.64))
        return self.uniform(0.14, 0.86)

    def shows(self, *things: str) -> bool:
        """Whether any of `things` is planned."""
        return any(thing in self.plan.things for thing in things)

    def pen(self, x: float, y: float, size: float, distance: float = 0.0, *, flip: bool | None = None) -> Pen:
        """A pen for something at (x, y), `size` pixels large, in this light; facing either way unless `flip` says."""
        flip = bool(self.rng.random() < 0.5) if flip is None else flip

        def shade(colour: Colour) -> Colour:
            return self.light.shade(colour, distance)

        return Pen(self.canvas, (x, y), size, shade, flip=flip)

    def lit_pen(self, x: float, y: float, size: float, fill: float) -> Pen:
        """A pen for something near, which gets some white light (`fill`, 0 to 1) from the viewer's side."""
        pen = self.pen(x, y, size)
        pen.shade = lambda colour: self.light.fill(colour, fill)
        return pen

    def claim(self, half_width: float) -> float:
        """A column for something `half_width` pixels wide to either side: in the picture, and away from the others."""
        margin = min(half_width, self.canvas.width / 2)
        candidates = self.rng.uniform(margin, self.canvas.width - margin, 9).tolist()
        best = max(candidates, key=lambda x: min(abs(x - other) - half for other, half in self.taken))
        self.taken.append((best, half_width))
        return best

    def uniform(self, low: float, high: float) -> float:
        """A random number between the two."""
        return float(self.rng.uniform(low, high))


def reflect(stage: Stage, before: np.ndarray, foot: float, strength: float = 0.4) -> None:
    """Mirrors in the water, at row `foot`, what was drawn above it since `before` (uint8 [H, W, 3]) was copied."""
    pixels, row = stage.canvas.pixels, round(foot)
    rows = min(row, len(pixels) - row)
    above = pixels[row - rows : row][::-1]
    drawn = np.any(above != before[row - rows : row][::-1], axis=2).astype(np.float32)
    sway = np.sin(np.arange(rows) * 0.55) * np.linspace(0.5, 6, rows)
    x, y = np.meshgrid(np.arange(pixels.shape[1], dtype=np.float32), np.arange(rows, dtype=np.float32))
    x += sway[:, None].astype(np.float32)
    image = cv2.remap(np.ascontiguousarray(above), x, y, cv2.INTER_LINEAR)
    mask = cv2.remap(drawn, x, y, cv2.INTER_LINEAR) * np.linspace(strength, 0.15, rows, dtype=np.float32)[:, None]
    stage.canvas.paint(mask, image.astype(np.float32), top=row)
