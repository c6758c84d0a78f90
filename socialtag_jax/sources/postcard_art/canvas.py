"""Paper, pen and noise: the few primitives that every postcard is made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import cv2
import numpy as np

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""

Points = Sequence[tuple[float, float]] | np.ndarray
"""[N, 2] x and y."""

T = TypeVar("T")

_FRACTION_BITS = 4  # OpenCV takes sub-pixel coordinates as fixed-point integers.
_ONE = 1 << _FRACTION_BITS


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """The colour `amount` (0 to 1) of the way from `first` to `second`."""
    (r, g, b), (s, h, c) = first, second
    return r + (s - r) * amount, g + (h - g) * amount, b + (c - b) * amount


def jitter(rng: np.random.Generator, colour: Colour, spread: float = 12.0) -> Colour:
    """`colour` with a little of its own character."""
    r, g, b = (channel + offset for channel, offset in zip(colour, rng.normal(0, spread, 3).tolist(), strict=True))
    return r, g, b


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, all equally likely."""
    return options[int(rng.integers(len(options)))]


def smooth(points: Points, *, closed: bool = True, steps: int = 8) -> np.ndarray:
    """The Catmull-Rom curve through `points`: float32 [N * steps, 2] (closed) or [(N - 1) * steps + 1, 2] (open)."""
    knots = np.asarray(points, np.float32)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
    t = (np.arange(steps, dtype=np.float32) / steps)[:, None]
    weights = np.concatenate(
        [
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        ],
        axis=1,
    )
    windows = np.stack([padded[k : len(padded) - 3 + k] for k in range(4)])
    curve = np.einsum("sk,knc->nsc", weights, windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def ribbon(left: np.ndarray, right: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The outline, [2N, 2], of what lies between the columns `left` and `right` at each row `y` (all [N])."""
    return np.concatenate([np.stack([left, y], axis=1), np.stack([right, y], axis=1)[::-1]])


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int = 4) -> np.ndarray:
    """Fractal noise: float32 `shape`, stretched to 0..1; `cells` (rows, columns) is the size of its coarsest grid."""
    height, width = shape
    # Made at the postcard's own resolution: the canvas has twice that, and the difference cannot be seen.
    small = max(1, width // 2), max(1, height // 2)
    total = rng.random(cells, dtype=np.float32)
    for octave in range(1, octaves):
        finer = cells[0] << octave, cells[1] << octave
        total = cv2.resize(total, finer[::-1], interpolation=cv2.INTER_CUBIC)
        total += rng.random(finer, dtype=np.float32) * 0.5**octave
    total = cv2.resize(total, small, interpolation=cv2.INTER_CUBIC)
    total = cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def ridge(rng: np.random.Generator, width: int, cells: float, octaves: int = 5, gain: float = 0.5) -> np.ndarray:
    """A fractal line: float32 [width], stretched to 0..1; `cells` hills across, `gain` from smooth (0.3) to jagged."""
    total = np.zeros(width, np.float64)
    for octave in range(octaves):
        count = max(2, round(cells * 2**octave) + 2)
        position = np.linspace(0, count - 1.001, width)
        knots, left = rng.random(count), position.astype(int)
        step = position - left
        step = step * step * (3 - 2 * step)
        total += gain**octave * (knots[left] * (1 - step) + knots[left + 1] * step)
    return ((total - total.min()) / max(np.ptp(total), 1e-6)).astype(np.float32)


def ramp(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """Smoothstep: 0 where `values` are at or below `low`, 1 at or above `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class Canvas:
    """RGB paper at twice the postcard's size, so that shrinking it smooths every edge.

    Attributes:
      pixels: uint8 [H, W, 3], RGB.
    """

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.zeros((height, width, 3), np.uint8)

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    @property
    def unit(self) -> int:
        """The shorter side: what sizes are measured in, whatever the format."""
        return min(self.height, self.width)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fills the polygon through `points` (pixels)."""
        cv2.fillPoly(self.pixels, [_fixed(points)], _rgb(colour), cv2.LINE_AA, _FRACTION_BITS)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """Draws an open line of `width` pixels (at least 1) through `points`."""
        thickness = max(1, round(width))
        cv2.polylines(self.pixels, [_fixed(points)], False, _rgb(colour), thickness, cv2.LINE_AA, _FRACTION_BITS)

    def oval(self, centre: tuple[float, float], radii: tuple[float, float], colour: Colour, angle: float = 0.0) -> None:
        """Fills an ellipse; `angle` in degrees, clockwise."""
        x, y, a, b = (round(length * _ONE) for length in (*centre, *radii))
        cv2.ellipse(self.pixels, (x, y), (a, b), angle, 0, 360, _rgb(colour), -1, cv2.LINE_AA, _FRACTION_BITS)

    def gradient(self, top: int, bottom: int, stops: Sequence[Colour]) -> None:
        """Fills the rows from `top` to `bottom` with evenly spaced colours, blended downwards."""
        self.pixels[top:bottom] = _sheet(vertical_gradient(bottom - top, stops), (bottom - top, self.width))

    def paint(self, mask: np.ndarray, paint: Colour | np.ndarray, top: int = 0) -> None:
        """Covers the rows from `top` with `paint`, as thickly as `mask` says.

        Args:
          mask: float32 [h, W], 0 (leaves what is there) to 1 (covers it).
          paint: one colour, or float32 [h, 1 or W, 3].
          top: the first row.
        """
        region = self.pixels[top : top + len(mask)]
        cover = _sheet(paint if isinstance(paint, tuple) else paint[: len(region)], region.shape[:2])
        # In bytes: OpenCV multiplies those three times as fast as it blends floats.
        thick = cv2.cvtColor((mask[: len(region)] * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
        kept = cv2.multiply(region, cv2.bitwise_not(thick), scale=1 / 255)
        region[:] = cv2.add(kept, cv2.multiply(cover, thick, scale=1 / 255))

    @contextmanager
    def translucent(self, alpha: float, box: tuple[slice, slice] = (slice(None), slice(None))) -> Iterator[None]:
        """Whatever is drawn inside the `with` block covers the region `box` with this opacity only."""
        before = self.pixels[box].copy()
        yield
        region = self.pixels[box]
        region[:] = cv2.addWeighted(region, alpha, before, 1 - alpha, 0)

    def soften(self, radius: float) -> None:
        """Blurs everything drawn so far, as a lens does with what it is not focused on."""
        small = cv2.resize(self.pixels, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), max(radius / 4, 0.5))
        self.pixels[:] = cv2.resize(small, (self.width, self.height), interpolation=cv2.INTER_CUBIC)


class Pen:
    """Draws in a thing's own coordinates: the origin at its foot, x to the right, y up, its size 1.

    Args:
      canvas: what to draw on.
      foot: the origin, in pixels.
      size: pixels per unit.
      shade: what the light of the scene makes of a colour.
      flip: mirrors left and right.
    """

    def __init__(
        self,
        canvas: Canvas,
        foot: tuple[float, float],
        size: float,
        shade: Callable[[Colour], Colour] = lambda colour: colour,
        *,
        flip: bool = False,
    ) -> None:
        self.canvas, self.foot, self.size, self.shade, self.flip = canvas, foot, size, shade, flip

    @property
    def glowing(self) -> "Pen":
        """The same pen for what shines by itself: its colours do not depend on the light."""
        return Pen(self.canvas, self.foot, self.size, flip=self.flip)

    def at(self, x: float, y: float, size: float, *, flip: bool = False) -> "Pen":
        """A pen for a part: its foot at (x, y), its size relative to this one's."""
        return Pen(self.canvas, self.pixel(x, y), self.size * size, self.shade, flip=self.flip ^ flip)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Where the point (x, y) is on the canvas."""
        return self.foot[0] + (-x if self.flip else x) * self.size, self.foot[1] - y * self.size

    def pixels(self, points: Points) -> np.ndarray:
        """float32 [N, 2]: where `points` (the pen's coordinates) are on the canvas."""
        scale = np.array([-self.size if self.flip else self.size, -self.size], np.float32)
        return np.asarray(points, np.float32) * scale + np.asarray(self.foot, np.float32)

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fills the polygon through `points`."""
        self.canvas.polygon(self.pixels(points), self.shade(colour))

    def curve(self, points: Points, colour: Colour) -> None:
        """Fills the smooth closed outline through `points`."""
        self.canvas.polygon(self.pixels(smooth(points)), self.shade(colour))

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Fills an upright rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fills a circle."""
        self.oval(x, y, radius, radius, colour)

    def oval(self, x: float, y: float, a: float, b: float, colour: Colour, angle: float = 0.0) -> None:
        """Fills an ellipse with half axes a (along x) and b, turned by `angle` degrees anticlockwise."""
        radii, turned = (abs(a) * self.size, abs(b) * self.size), angle if self.flip else -angle
        self.canvas.oval(self.pixel(x, y), radii, self.shade(colour), turned)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """Draws a line through `points`."""
        self.canvas.stroke(self.pixels(points), width * self.size, self.shade(colour))

    def sweep(self, points: Points, width: float, colour: Colour) -> None:
        """Draws a smooth line through `points`."""
        self.stroke(smooth(points, closed=False), width, colour)


def vertical_gradient(rows: int, stops: Sequence[Colour]) -> np.ndarray:
    """float32 [rows, 1, 3]: evenly spaced `stops`, blended downwards."""
    table = np.asarray(stops, np.float32)
    position = np.linspace(0, len(table) - 1, max(rows, 1))
    columns = [np.interp(position, np.arange(len(table)), table[:, channel]) for channel in range(3)]
    return np.stack(columns, axis=1)[:rows, None].astype(np.float32)


def _fixed(points: Points) -> np.ndarray:
    return np.rint(np.asarray(points, np.float32) * _ONE).astype(np.int32)


def _rgb(colour: Colour) -> Colour:
    r, g, b = colour
    return min(max(r, 0.0), 255.0), min(max(g, 0.0), 255.0), min(max(b, 0.0), 255.0)


def _sheet(paint: Colour | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A sheet of paint: uint8 [*shape, 3] from one colour, one per row (float32 [h, 1, 3]), or one per pixel."""
    if isinstance(paint, tuple):
        row = np.tile(np.asarray(_rgb(paint), np.float32).astype(np.uint8), (shape[1], 1))
        return np.ascontiguousarray(np.broadcast_to(row, (*shape, 3)))
    paint = paint.astype(np.uint8)
    return cv2.resize(paint, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST) if paint.shape[1] == 1 else paint
